"""Intervals over clusters: coverage by simulation, and equality with plain formulas and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_covers, simulate

from rewarden.statistics.clustered import auc_interval, change_interval, correlation_interval, mean_interval, ratio_interval

MANY = 1500


def clustered(rng: np.random.Generator, count: int, most: int = 4) -> np.ndarray:
    """Cluster of each item; sizes 1 to `most`."""
    return np.repeat(np.arange(count), rng.integers(1, most + 1, count))


def test_single_clusters_give_students_t() -> None:
    values = np.random.default_rng(0).normal(size=17)
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 16, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert mean_interval([*values, np.nan]).missing == 1


def test_mean_covers() -> None:
    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        codes = clustered(rng, 25)
        found = mean_interval(1 + rng.normal(size=25)[codes] + rng.normal(size=len(codes)), codes)
        return found.low, found.high, 1.0
    assert_covers(simulate(one, MANY))


def test_mean_covers_when_seeds_and_templates_both_vary() -> None:
    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        seeds = np.repeat(np.arange(30), 4)
        templates = (seeds + np.tile(np.arange(4) * 3, 30)) % 12
        values = rng.normal(size=30)[seeds] + rng.normal(size=12)[templates] + rng.normal(size=120)
        found = mean_interval(values, seeds, templates)
        return found.low, found.high, 0.0
    assert_covers(simulate(one, MANY))


def test_ratio_covers() -> None:
    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        codes = clustered(rng, 20)
        below = 1 + 0.8 * rng.normal(size=20)[codes] + 0.5 * rng.normal(size=len(codes))
        above = 0.2 * below + 0.3 * rng.normal(size=20)[codes]
        found = ratio_interval(above, below, codes)
        return found.low, found.high, 0.2
    assert_covers(simulate(one, MANY))


@pytest.mark.parametrize(("count", "each", "wordings"), [(30, 4, 12), (20, 1, 10)])
def test_ratio_covers_when_seeds_and_templates_both_vary(count: int, each: int, wordings: int) -> None:
    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        seeds = np.repeat(np.arange(count), each)
        templates = (seeds + np.tile(np.arange(each) * 3, count)) % wordings
        below = 1 + 0.5 * rng.normal(size=count)[seeds] + 0.3 * rng.normal(size=wordings)[templates]
        below += 0.3 * rng.normal(size=len(seeds))
        above = 0.2 * below + 0.3 * (rng.normal(size=count)[seeds] + rng.normal(size=wordings)[templates])
        found = ratio_interval(above, below, seeds, templates)
        return found.low, found.high, 0.2
    assert_covers(simulate(one, MANY))


def test_a_ratio_of_one_way_is_fiellers_formula() -> None:
    rng = np.random.default_rng(4)
    below, above = 3 + rng.normal(size=25), 1 + rng.normal(size=25)
    found = ratio_interval(above, below)
    for end in (found.low, found.high):  # there the mean of above − ρ·below is t standard errors away from 0
        rest = above - end * below
        assert abs(rest.mean() / stats.sem(rest)) == pytest.approx(stats.t.ppf(0.975, 24))


def test_ratio_to_what_may_be_nothing_has_no_interval() -> None:
    found = ratio_interval([1.0, 2.0, 3.0], [1.0, -1.0, 0.5])
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_auc_is_sklearns_and_covers() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=60).round(1), rng.random(60) < 0.4
    assert auc_interval(scores, labels).estimate == pytest.approx(roc_auc_score(labels, scores))
    folds = np.arange(60) % 3
    weights = [(labels & (folds == f)).sum() * (~labels & (folds == f)).sum() for f in range(3)]
    parts = [roc_auc_score(labels[folds == f], scores[folds == f]) for f in range(3)]
    assert auc_interval(scores, labels, None, folds).estimate == pytest.approx(np.average(parts, weights=weights))

    shift = 1.2

    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        codes = np.repeat(np.arange(36), 2)  # pairs that share their content
        labels = np.tile([True, False], 36)
        scores = shift * labels + rng.normal(size=36)[codes] + rng.normal(size=72)
        found = auc_interval(scores, labels, codes, codes % 5)
        return found.low, found.high, float(stats.norm.cdf(shift / 2))  # the few comparisons within clusters aside
    assert_covers(simulate(one, MANY))


def test_an_auc_of_one_is_not_certain() -> None:
    found = auc_interval(np.arange(40.0), np.arange(40) >= 20, np.arange(40) % 20)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 1


def test_correlation_is_numpys_and_covers() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 30))
    assert correlation_interval(x, y).estimate == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)

    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        codes = np.repeat(np.arange(60), 2)
        a, b = (rng.normal(size=60)[codes] + rng.normal(size=120) for _ in range(2))
        found = correlation_interval(a, 0.6 * a + 0.8 * b, codes)
        return found.low, found.high, 0.6
    assert_covers(simulate(one, MANY))


@pytest.mark.parametrize("clusters", [None, np.arange(400) // 4])
@pytest.mark.parametrize(("lost", "won"), [(0.03, 0.03), (0.1, 0.05), (0.01, 0.03)])
def test_change_covers(lost: float, won: float, clusters) -> None:
    def one(rng: np.random.Generator) -> tuple[float, float, float]:
        turned = rng.random(400)
        before = np.where(turned < lost, 1.0, np.where(turned < lost + won, 0.0, 1.0))
        after = np.where(turned < lost, 0.0, 1.0)
        found = change_interval(before, after, clusters)
        return found.low, found.high, won - lost
    assert_covers(simulate(one, MANY))


def test_no_change_is_not_certain() -> None:
    found = change_interval(np.ones(50), np.ones(50))
    assert found.low < 0 < found.high
    assert found.high == pytest.approx(stats.t.ppf(0.975, 51) * np.sqrt(52 / 51) / (50 + 2**0.5))
