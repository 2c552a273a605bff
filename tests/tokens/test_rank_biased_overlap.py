"""RBO against its definition item by item, the average over all orders of tied items, and published values."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.tokens.comparison.rank_biased_overlap import depth_needed, overlap, rank_biased_overlap, ranking


def by_definition(x: np.ndarray, y: np.ndarray, p: float, ties: str) -> float:
    """Corsi & Urbano 2024, from the contribution of each item at each depth."""
    n = len(x)

    def contributions(values):
        out = np.zeros((n, n))
        for item in range(n):
            first = (values > values[item]).sum() + 1
            last = (values >= values[item]).sum()
            for depth in range(1, n + 1):
                part = (depth - first + 1) / (last - first + 1)
                out[item, depth - 1] = depth >= first if ties == "w" else np.clip(part, 0, 1)
        return out

    a, b, depth = contributions(x), contributions(y), np.arange(1, n + 1)
    shared = (a * b).sum(axis=0)
    norm = {"w": (a.sum(axis=0) + b.sum(axis=0)) / 2, "a": depth, "b": np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))}[ties]
    agreement = shared / norm
    return (1 - p) / p * ((agreement * p**depth).sum() + agreement[-1] * p ** (n + 1) / (1 - p))


def rbo(x, y, p, ties):
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return rank_biased_overlap(overlap(ranking(x), ranking(y), len(x), ties).agreement, p)


@pytest.mark.parametrize("ties", ["a", "b", "w"])
def test_equals_the_definition(ties):
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = rng.integers(1, 30)
        x, y = rng.integers(0, rng.integers(1, 30), n), rng.integers(0, rng.integers(1, 30), n)
        p = rng.uniform(0.1, 0.99)
        assert rbo(x, y, p, ties) == pytest.approx(by_definition(x, y, p, ties), abs=1e-12)


def orders(values: np.ndarray) -> list[np.ndarray]:
    """Every untied score that agrees with the given one."""
    items = range(len(values))
    lists = [order for order in permutations(items) if all(values[i] >= values[j] for i, j in pairwise(order))]
    return [np.array([-order.index(i) for i in items], dtype=float) for order in lists]


def test_variant_a_is_the_average_over_all_orders_of_tied_items():
    x, y = np.array([3, 3, 1, 1, 1, 0]), np.array([2, 5, 5, 2, 1, 1])
    every = [(rbo(one, other, 0.8, "a"), overlap(ranking(one), ranking(other), 6, "a").shared)
             for one in orders(x) for other in orders(y)]
    assert len(every) == 12 * 8
    assert rbo(x, y, 0.8, "a") == pytest.approx(np.mean([one for one, _ in every]), abs=1e-12)
    shared = np.mean([one for _, one in every], axis=0)
    np.testing.assert_allclose(overlap(ranking(x), ranking(y), 6, "a").shared, shared, atol=1e-12)


@pytest.mark.parametrize(("x", "y", "p", "expected"), [
    # From the test table of github.com/julian-urbano/sigir2024-rbo: five items each, in groups of tied ones.
    (["3", "157", "9"], ["19", "7", "3", "4"], 0.930093081332594,
     {"w": 0.697096710334179, "a": 0.678580739450433, "b": 0.684614956129899}),
    (["2", "5", "3", "14"], ["5", "8", "2", "39"], 0.968922741966306,
     {"w": 0.580287544332462, "a": 0.580994268838527, "b": 0.583518284931614}),
])
def test_published_values(x, y, p, expected):
    items = sorted(set("".join(x + y)))

    def places(groups):
        # An item that only the other one has comes after all of these: below the depth that is compared.
        return ranking(np.array([next((-at for at, group in enumerate(groups) if item in group), -99) for item in items]))

    for ties, value in expected.items():
        found = overlap(places(x), places(y), 5, ties)
        assert rank_biased_overlap(found.agreement, p) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("ties", ["a", "b", "w"])
def test_chance_is_the_mean_over_all_permutations(ties):
    x, y = np.array([4, 4, 2, 2, 1]), np.array([3, 2, 2, 2, 0])
    every = [overlap(ranking(x), ranking(y[list(order)]), 5, ties).agreement for order in permutations(range(5))]
    np.testing.assert_allclose(overlap(ranking(x), ranking(y), 5, ties).chance, np.mean(every, axis=0), atol=1e-12)


def test_only_variant_a_sees_its_own_ties():
    values = np.array([3, 3, 1, 1, 1, 0])
    assert [round(rbo(values, values, 0.9, ties), 12) for ties in ("b", "w")] == [1, 1]
    assert rbo(values, values, 0.9, "a") < 0.97


def test_what_lies_below_the_depth_needed_does_not_count():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    y = x + rng.normal(size=2000)
    deep = depth_needed(0.9, 2000)
    found = overlap(ranking(x), ranking(y), 2000).agreement
    assert deep < 400
    assert rank_biased_overlap(found[:deep], 0.9) == pytest.approx(rank_biased_overlap(found, 0.9), abs=1e-14)


def test_impossible_persistence():
    with pytest.raises(RewardenError, match="persistence 1"):
        rank_biased_overlap(np.ones(3), 1.0)
