"""Random blocks: even, and clusters stay together."""

from __future__ import annotations

import numpy as np

from rewarden.tokens.comparison.blocks import random_blocks


def test_clusters_stay_together_and_blocks_are_even():
    clusters = np.repeat(np.arange(10), 3)
    block = random_blocks(30, 5, seed=1, clusters=clusters)
    assert all(len(set(block[clusters == cluster])) == 1 for cluster in range(10))
    assert np.bincount(block).tolist() == [6] * 5
    assert sorted(random_blocks(4, 200, seed=0).tolist()) == [0, 1, 2, 3]
    assert (random_blocks(100, 7, 3) == random_blocks(100, 7, 3)).all()
    assert (random_blocks(100, 7, 3) != random_blocks(100, 7, 4)).any()
