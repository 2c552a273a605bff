"""Which items stand for one block, when a statistic of a whole vocabulary is too slow to resample token by token?

In: a number of items. Out: random blocks. Ignorant of the statistic. The jackknife and the bootstrap stay in
`rewarden.statistics`; they leave out or resample these blocks. Letter: n items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rewarden.statistics.sampling import cluster_codes


def random_blocks(n: int, blocks: int, seed: int, clusters: Any = None) -> np.ndarray:
    """Block number int64 [n] of each item, from 0; blocks hold the same number of items, but for one.

    Args:
        n: items.
        blocks: at most this many; with fewer items every item is a block.
        seed: of a generator of its own.
        clusters: [n], one id per item; a cluster's items share a block, and blocks hold the same number of clusters.

    Example:
        >>> np.bincount(random_blocks(10, 3, seed=0)).tolist()
        [4, 3, 3]
    """
    codes = cluster_codes(np.empty(n), clusters)
    n_clusters = int(codes.max(initial=-1)) + 1
    return (np.random.default_rng(seed).permutation(n_clusters) % max(1, min(blocks, n_clusters)))[codes]
