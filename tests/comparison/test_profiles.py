"""Parts side by side: counts against enumeration, correlations against sums over pairs of items, sums against margins."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from tests.comparison.worlds import PAIRS, tiny

from rewarden.comparison import compare, shared_of_top
from rewarden.comparison.profiles import by_prompt, profile_correlation
from rewarden.errors import RewardenError


def test_chance_of_shared_parts_is_what_enumeration_says():
    rng = np.random.default_rng(0)
    first, second, k = rng.normal(size=7), rng.normal(size=7), 3
    strata = ["a", "a", "a", "b", "b", "b", "b"]
    found = shared_of_top(first, second, k, strata)
    tops = [set(np.argsort(-values)[:k].tolist()) for values in (first, second)]
    assert found.count == len(tops[0] & tops[1])
    assert found.jaccard == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    counts = np.array([len(tops[0] & set(draw)) for draw in combinations(range(7), k)])
    assert found.expected == pytest.approx(counts.mean())
    assert found.p == pytest.approx((counts >= found.count).mean())
    in_a = len([part for part in tops[1] if part < 3])
    within = np.array([len(tops[0] & set(draw)) for draw in combinations(range(7), k)
                       if len([part for part in draw if part < 3]) == in_a])
    assert found.expected_by_kind == pytest.approx(within.mean())
    assert found.p_by_kind == pytest.approx((within >= found.count).mean())


def test_p_of_unrelated_rankings_is_no_smaller_than_it_says():
    rng = np.random.default_rng(1)
    p = np.array([shared_of_top(rng.normal(size=40), rng.normal(size=40), 8).p for _ in range(2000)])
    assert (p <= 0.05).mean() <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("k", [0, 5])
def test_an_impossible_top_is_refused(k):
    with pytest.raises(RewardenError, match="parts on top of 4"):
        shared_of_top(np.arange(4.0), np.arange(4.0), k)


def test_profile_correlation_is_the_sum_over_distinct_items():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 9, 6)) + rng.normal(size=(2, 1, 6))

    def slow(x, y):
        x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
        return sum(x[i] @ y[j] for i in range(9) for j in range(9) if i != j)

    assert profile_correlation(a, b) == pytest.approx(slow(a, b) / np.sqrt(slow(a, a) * slow(b, b)))


def test_common_noise_makes_no_correlation():
    rng = np.random.default_rng(3)
    truth = np.array([1.0, 1.0, -1.0, -1.0] * 5), np.array([1.0, -1.0, 1.0, -1.0] * 5)
    found, plain = [], []
    for _ in range(300):
        noise = 2 * rng.normal(size=(30, 20))
        a, b = (noise + rng.normal(size=(30, 20)) + one for one in truth)
        found.append(profile_correlation(a, b))
        plain.append(np.corrcoef(a.mean(axis=0), b.mean(axis=0))[0, 1])
    assert abs(np.mean(found)) < 0.03 < 0.08 < np.mean(plain)


def test_rows_of_a_prompt_are_one_unit():
    assert by_prompt(np.array([[1.0], [3.0], [5.0]]), np.array([7, 7, 9])).tolist() == [[2.0], [5.0]]


def test_shares_are_the_ledger_against_the_margin():
    a, b = tiny(), tiny(seed=1)
    found = compare([a, b], PAIRS, resamples=100, inside_pairs=10).data
    margin, spread = found["margin"].values[:, found["inside"].values], found["spread"].values[:, None]
    np.testing.assert_allclose(found["contribution"].sum("component"), margin / spread, atol=1e-5)
    expected = (found["contribution"].values * (margin / spread)[:, :, None]).sum(1) / ((margin / spread) ** 2).sum(1)[:, None]
    np.testing.assert_allclose(found["share"], expected, atol=1e-5)
    np.testing.assert_allclose(found["share"].sum("component"), 1, atol=1e-5)
    assert bool(found["matched_by_name"])


def test_models_built_differently_are_matched_by_kind_and_depth():
    a, b = tiny(), tiny("gpt2", n_layer=2, num_hidden_layers=2)
    result = compare([a, b], PAIRS, resamples=100, inside_pairs=10)
    data = result.data
    assert data["component"].values.tolist() == ["embedding", "attention 1/2", "MLP 1/2", "attention 2/2", "MLP 2/2"]
    margin = data["margin"].values[:, data["inside"].values] / data["spread"].values[:, None]
    np.testing.assert_allclose(data["contribution"].sum("component"), margin, atol=1e-5)
    assert any("built differently" in text for text in result.warnings)
    assert "their states differ" in str(data["no_frame"].values[0, 1])
    assert np.isfinite(data["cka"].values[0, 1, 1:4, 1:3]).all()
    assert np.isnan(data["cka"].values[0, 1, :, 3:]).all()
