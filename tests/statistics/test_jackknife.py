"""The delete-block jackknife, against closed forms, the standard error of a mean, and its coverage for correlations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_covers, coverage

from rewarden.statistics.jackknife import jackknife_ends


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


def test_of_a_correlation_it_is_taken_on_fishers_scale():
    x = np.random.default_rng(0).normal(size=(20, 2)) + np.random.default_rng(1).normal(size=(20, 1))
    whole = np.corrcoef(x.T)[0, 1]
    left_out = np.array([np.corrcoef(np.delete(x, i, 0).T)[0, 1] for i in range(20)])
    half = stats.t.ppf(0.975, 19) * left_out.std() * np.sqrt(19) / (1 - whole**2)
    found = jackknife_ends(np.array(whole), left_out, 0.95, correlation=True)
    np.testing.assert_allclose(found, np.tanh([np.arctanh(whole) - half, np.arctanh(whole) + half]), atol=1e-12)


def test_the_mean_of_many_correlations_stays_above_its_least():
    left_out = np.array([[-0.1], [-0.15], [-0.19], [-0.18]])
    low, high = jackknife_ends(np.array([-0.155]), left_out, 0.95, correlation=True, columns=6)
    assert -0.2 < low[0] < -0.155 < high[0] < 1
    z = [0.5 * np.log((1 + 5 * r) / (1 - r)) for r in (-0.155 - 1e-6, -0.155, -0.155 + 1e-6, high[0])]
    half = stats.t.ppf(0.975, 3) * left_out.std() * np.sqrt(3) * (z[2] - z[0]) / 2e-6
    assert z[3] - z[1] == pytest.approx(half, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_intervals_of_rank_correlations_cover(rho):
    """Of two columns, and of the mean over every two of six, over 30 items."""
    rng, truth = np.random.default_rng(5), 6 / np.pi * np.arcsin(rho / 2)
    pairs, means = [], []
    for _ in range(2000):
        x = rng.normal(size=(30, 6)) * np.sqrt(1 - rho) + rng.normal(size=(30, 1)) * np.sqrt(rho)
        whole, left_out = _rank_correlations(x)
        pairs.append(np.column_stack(jackknife_ends(whole, left_out, 0.95, correlation=True)))
        means.append(jackknife_ends(whole.mean(), left_out.mean(axis=1), 0.95, correlation=True, columns=6))
    for ends in (np.concatenate(pairs), np.array(means)):
        assert_covers(coverage(ends[:, 0], ends[:, 1], truth))


def _rank_correlations(x):
    """Spearman's correlations of every two columns, whole [P] and without each row [n, P]."""
    n = len(x)
    ranks = stats.rankdata(x, axis=0)
    left = np.where(np.eye(n, dtype=bool)[:, :, None], 0.0, ranks - (x > x[:, None]) - n / 2)  # [out, row, column]
    return tuple(_cosines(part) for part in (ranks - ranks.mean(axis=0), left))


def _cosines(columns):
    columns = columns / np.linalg.norm(columns, axis=-2, keepdims=True)
    first, second = np.triu_indices(columns.shape[-1], 1)
    return (columns.swapaxes(-1, -2) @ columns)[..., first, second]
