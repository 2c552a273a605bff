"""Random blocks and the delete-block jackknife, against closed forms and the standard error of a mean."""

from __future__ import annotations

import numpy as np
from scipy import stats

from rewarden.tokens.comparison.blocks import jackknife_ends, random_blocks


def test_clusters_stay_together_and_blocks_are_even():
    clusters = np.repeat(np.arange(10), 3)
    block = random_blocks(30, 5, seed=1, clusters=clusters)
    assert all(len(set(block[clusters == cluster])) == 1 for cluster in range(10))
    assert np.bincount(block).tolist() == [6] * 5
    assert sorted(random_blocks(4, 200, seed=0).tolist()) == [0, 1, 2, 3]
    assert (random_blocks(100, 7, 3) == random_blocks(100, 7, 3)).all()
    assert (random_blocks(100, 7, 3) != random_blocks(100, 7, 4)).any()


def test_of_a_mean_it_is_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    left_out = (values.sum() - values) / 11
    found = jackknife_ends(values.mean(), left_out, 0.9)
    np.testing.assert_allclose(found, stats.t.interval(0.9, 11, values.mean(), stats.sem(values)), atol=1e-12)


def test_of_a_mean_over_independent_pairs_its_variance_is_unbiased():
    rng = np.random.default_rng(0)
    n, error = 8, []
    for _ in range(400):
        pairs = np.triu(rng.normal(size=(n, n)), 1)
        whole = pairs.sum() / 28
        left_out = np.array([np.delete(np.delete(pairs, i, 0), i, 1).sum() / 21 for i in range(n)])
        low, _ = jackknife_ends(np.array(whole), left_out, 0.95, of_pairs=True)
        error.append(((whole - low) / stats.t.ppf(0.975, n - 1)) ** 2)
    assert abs(np.mean(error) * 28 - 1) < 0.05  # the variance of a mean of 28 standard normals


def test_intervals_of_correlations_stay_within_the_scale():
    left_out = np.array([[0.9, 1, -1], [0.99, 1, -1], [1.0, 1, -1]])
    low, high = jackknife_ends(np.array([0.98, 1.0, -1.0]), left_out, 0.95, correlation=True)
    assert -1 < low[0] < 0.98 < high[0] < 1
    assert low[1:].tolist() == high[1:].tolist() == [1, -1]
