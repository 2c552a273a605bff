"""Thresholds against order statistics, and false positive rates over many calibrations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_null_rate

from rewarden.errors import RewardenError
from rewarden.training.monitors.calibration import conformal_threshold


@pytest.mark.parametrize(("n", "fpr"), [(99, 0.01), (100, 0.01), (250, 0.01), (19, 0.05), (333, 0.05), (1, 0.5)])
def test_with_one_rollout_a_prompt_it_is_an_order_statistic(n, fpr):
    scores = np.random.default_rng(n).normal(size=n)
    rank = int(np.ceil((n + 1) * (1 - fpr) - 1e-9))
    assert conformal_threshold(scores, np.arange(n), fpr) == np.sort(scores)[rank - 1]


def test_with_groups_it_is_the_smallest_score_that_leaves_enough_mass_above():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, 300)
    scores = rng.normal(size=300).round(1)
    sizes = np.bincount(clusters)
    told = conformal_threshold(scores, clusters, 0.1)
    mass = {value: sum(1 / sizes[c] for s, c in zip(scores, clusters, strict=True) if s <= value) / 41 for value in set(scores)}
    assert told == min(value for value in mass if mass[value] >= 0.9)


def rates(draw, fpr: float, prompts: int, simulations: int = 4000) -> np.ndarray:
    flags = []
    for rng in np.random.default_rng(0).spawn(simulations):
        scores, clusters = draw(rng, prompts + 1)
        new = np.flatnonzero(clusters == prompts)[0]
        old = clusters < prompts
        flags.append(scores[new] > conformal_threshold(scores[old], clusters[old], fpr))
    return np.asarray(flags)


def alone(rng, prompts):
    return rng.standard_cauchy(prompts), np.arange(prompts)


def ties(rng, prompts):
    return rng.poisson(1.0, prompts).astype(float), np.arange(prompts)


def groups(rng, prompts):
    sizes = np.where(rng.random(prompts) < 0.2, 12, 1)
    clusters = np.repeat(np.arange(prompts), sizes)
    own = rng.standard_t(2, prompts) * np.where(sizes > 1, 0.1, 3.0)  # rare prompts with one rollout each have the large scores
    return own[clusters] + 0.1 * rng.normal(size=len(clusters)), clusters


@pytest.mark.parametrize("draw", [alone, ties, groups])
@pytest.mark.parametrize(("fpr", "prompts"), [(0.05, 19), (0.05, 60), (0.01, 120)])
def test_base_rollouts_are_flagged_at_the_stated_rate_at_most(draw, fpr, prompts):
    assert_null_rate(rates(draw, fpr, prompts), fpr)


def test_the_rate_is_used_up_where_ranks_allow_it():
    flags = rates(alone, 0.05, 19, 4000)
    assert stats.binomtest(int(flags.sum()), len(flags), 0.05).pvalue > 0.001


def test_a_threshold_over_rollouts_would_not_hold_over_prompts():
    def pooled(rng):
        scores, clusters = groups(rng, 61)
        new, old = np.flatnonzero(clusters == 60)[0], clusters < 60
        return scores[new] > conformal_threshold(scores[old], np.arange(old.sum()), 0.05)

    found = [pooled(rng) for rng in np.random.default_rng(0).spawn(3000)]
    with pytest.raises(AssertionError):
        assert_null_rate(found, 0.05)


@pytest.mark.parametrize(("scores", "clusters", "fpr", "match"), [
    (np.zeros(98), np.arange(98), 0.01, "98 prompts for a false positive rate of 0.01"),
    (np.zeros(500), np.arange(500) % 50, 0.01, "50 prompts for a false positive rate"),
    (np.zeros(500), np.arange(500), 0.0, "a false positive rate of 0.0"),
    (np.array([1.0, np.nan]), np.arange(2), 0.5, "cannot be ranked")])
def test_what_cannot_hold_is_refused(scores, clusters, fpr, match):
    with pytest.raises(RewardenError, match=match):
        conformal_threshold(scores, clusters, fpr)
