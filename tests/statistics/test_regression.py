"""Clustered regression against a slow implementation from the definition, and how often its intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats
from tests.statistics.coverage import assert_covers, coverage

from rewarden.errors import RewardenError
from rewarden.statistics.regression import clustered_regression, independent_columns, inflation


def slow(x, y, clusters):
    """Standard errors and degrees of freedom from whole matrices: hat matrix, matrix square roots, GᵀG."""
    inverse = np.linalg.inv(x.T @ x)
    hat = x @ inverse @ x.T
    residual, left = y - hat @ y, np.eye(len(y)) - hat
    meat, parts = np.zeros((x.shape[1], x.shape[1])), []
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        root = np.real(linalg.fractional_matrix_power(left[np.ix_(rows, rows)], -0.5))
        score = x[rows].T @ root @ residual[rows]
        meat += np.outer(score, score)
        parts.append(left[:, rows] @ root @ x[rows] @ inverse)
    variance = inverse @ meat @ inverse
    df = []
    for column in range(x.shape[1]):
        g = np.stack([part[:, column] for part in parts], axis=1)
        values = np.linalg.eigvalsh(g.T @ g)
        df.append(values.sum() ** 2 / np.square(values).sum())
    return np.sqrt(np.diag(variance)), np.array(df)


@pytest.mark.parametrize("clusters", [np.arange(40), np.arange(40) // 2, np.array([0] * 9 + [1] * 4 + list(range(2, 29)))])
def test_it_is_the_definition(clusters):
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 2)), rng.poisson(0.3, size=40)])
    y = x @ [0.5, 1.0, -1.0, 0.0] + rng.normal(size=40) * (1 + x[:, 3])
    shuffled = rng.permutation(40)
    found = clustered_regression(x[shuffled], y[shuffled], clusters[shuffled])
    se, df = slow(x, y, clusters)
    np.testing.assert_allclose(found.coefficient, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-10)
    np.testing.assert_allclose(found.se, se, rtol=1e-8)
    np.testing.assert_allclose(found.df, df, rtol=1e-8)
    np.testing.assert_allclose(found.p, 2 * stats.t.sf(np.abs(found.coefficient) / se, df), rtol=1e-6)
    np.testing.assert_allclose(found.high - found.low, 2 * stats.t.ppf(0.975, df) * se, rtol=1e-8)


def test_a_level_alone_is_the_t_interval_of_the_mean():
    y = np.random.default_rng(0).normal(size=12)
    found = clustered_regression(np.ones((12, 1)), y)
    low, high = stats.t.interval(0.95, 11, y.mean(), stats.sem(y))
    np.testing.assert_allclose([found.low[0], found.high[0], found.df[0]], [low, high, 11], rtol=1e-10)


def test_several_quantities_are_each_by_itself_and_gaps_are_dropped():
    rng = np.random.default_rng(1)
    x, y, clusters = np.column_stack([np.ones(30), rng.normal(size=30)]), rng.normal(size=(30, 3)), np.arange(30) // 3
    together = clustered_regression(x, y, clusters)
    for column in range(3):
        alone = clustered_regression(x, y[:, column], clusters)
        np.testing.assert_allclose(together.low[:, column], alone.low)
        np.testing.assert_allclose(together.r2[column], alone.r2)
    gap = y[:, 0].copy()
    gap[[4, 7]] = np.nan
    found = clustered_regression(x, gap, clusters)
    assert (found.n, found.missing) == (28, 2)
    kept = np.isfinite(gap)
    np.testing.assert_allclose(found.se, clustered_regression(x[kept], gap[kept], clusters[kept]).se)


def test_columns_that_are_sums_of_others_are_found_and_refused():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 20))
    x = np.column_stack([np.ones(20), a, 3 * a - 2, b, np.zeros(20)])
    assert independent_columns(x).tolist() == [True, True, False, True, False]
    with pytest.raises(RewardenError, match="no unique answer"):
        clustered_regression(x, b)
    with pytest.raises(RewardenError, match="3 columns"):
        clustered_regression(x[:, [0, 1, 3]], a, np.arange(20) % 3)


def test_inflation_is_one_over_one_minus_r2():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3)) @ np.array([[1, 0.5, 0.2], [0, 1, 0.7], [0, 0, 1]])
    for column in range(3):
        others = np.column_stack([np.ones(50), np.delete(x, column, axis=1)])
        assert inflation(x)[column] == pytest.approx(1 / (1 - clustered_regression(others, x[:, column]).r2))


@pytest.mark.parametrize("prompts", [40, 120])
def test_intervals_hold_the_truth(prompts):
    """Skewed counts, a rare feature, clusters of one to three, errors that grow with a feature and have heavy tails."""
    rng = np.random.default_rng(prompts)
    clusters = np.repeat(np.arange(prompts), rng.integers(1, 4, size=prompts))
    n = len(clusters)
    # rare: differs in about 20 prompts, the fewest that the regression on style takes
    rare = rng.poisson(2.0, size=n) * (rng.random(n) < 20 / prompts * 0.6)
    x = np.column_stack([np.ones(n), rng.normal(scale=20, size=n), rng.poisson(0.8, n) - rng.poisson(0.8, n), rare])
    simulations = 2000
    errors = rng.standard_t(5, size=(n, simulations)) * (0.5 + 0.02 * np.abs(x[:, 1]))[:, None]
    errors += 0.6 * rng.normal(size=(prompts, simulations))[clusters]
    truth = np.array([0.3, 0.05, -0.2, 0.0])
    found = clustered_regression(x, (x @ truth)[:, None] + errors, clusters)
    for column in range(x.shape[1]):
        assert_covers(coverage(found.low[column], found.high[column], truth[column]))
