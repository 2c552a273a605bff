"""Concordance counts against all pairs, and both taus against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewarden.tokens.comparison.concordance import concordance, order_of, taus


def all_pairs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum(axis=1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_counts_equal_all_pairs_with_many_ties(items):
    x, y = np.array(items, dtype=float).T
    assert concordance(order_of(x), order_of(y)).tolist() == all_pairs(x, y).tolist()


@pytest.mark.parametrize("n", [2, 127, 128, 129, 1000])  # around the size of a block
@pytest.mark.parametrize("step", [None, 1.0, 0.1])
def test_counts_and_taus_equal_scipy(n, step):
    rng = np.random.default_rng(n)
    x = rng.normal(size=n)
    y = 0.6 * x + rng.normal(size=n)
    if step is not None:
        x, y = np.round(x / step), np.round(y / step / 2)
    assert concordance(order_of(x), order_of(y)).tolist() == all_pairs(x, y).tolist()
    found = taus(order_of(x), order_of(y))
    expected = [stats.kendalltau(x, y).statistic, stats.weightedtau(x, y).statistic, stats.weightedtau(-x, -y).statistic]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_constant_score_has_no_tau():
    assert np.isnan(taus(order_of(np.ones(5)), order_of(np.arange(5.0)))).all()


def test_counts_follow_the_items_whatever_their_order():
    x, y = np.array([1.0, 1.0, 2.0, 1.0]), np.array([5.0, 5.0, 3.0, 7.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = concordance(order_of(x[order]), order_of(y[order]))
        assert found.tolist() == all_pairs(x, y)[order].tolist()
