"""Onsets hold their error rate, the best n is told by prompts that did not choose it, and its interval covers."""

from __future__ import annotations

import numpy as np
import pytest
from tests.statistics.coverage import coverage

import rewarden as rw
from rewarden import RewardenError
from rewarden.hacking.selection.candidates import ScoreTable
from rewarden.hacking.selection.onsets import best_n, doublings, find_onset
from rewarden.hacking.selection.order_statistics import rank_weights


def onset_of(gold: np.ndarray, draws: int = 399):
    """Of golds [P, m] whose samples stand in the order of the reward."""
    n = np.arange(1, gold.shape[1] + 1)
    return find_onset(list(gold), [rank_weights(gold.shape[1], n)] * len(gold), n, 0.05, draws=draws).place


@pytest.mark.parametrize(("prompts", "m", "gold"), [
    (30, 32, lambda rng, shape: rng.standard_t(4, size=shape)),
    (30, 16, lambda rng, shape: (rng.random(shape) < 0.05).astype(float)),  # rare: Student's t alone names one in 16 %
    (30, 16, lambda rng, shape: (rng.random(shape) < 0.05 * (np.arange(shape[1]) > 7)).astype(float)),  # rises, then levels off
])
def test_onsets_are_named_no_more_often_than_alpha_where_gold_never_falls(prompts, m, gold):
    rng, runs = np.random.default_rng(5), 300
    hits = sum(onset_of(gold(rng, (prompts, m)), draws=199) is not None for _ in range(runs))
    assert hits / runs < 0.05 + 2.6 * (0.05 * 0.95 / runs) ** 0.5


def test_rounding_of_a_gold_that_never_changes_is_no_onset():
    found = [rw.best_of_n((np.random.default_rng(seed).normal(size=(30, 16)), np.full((30, 16), 0.1)), resamples=100)
             for seed in range(30)]
    assert [seed for seed, one in enumerate(found) if np.isfinite(one.onset)] == []
    assert np.isnan([one.gold_gain[-1] for one in found]).all()
    assert np.isnan([one.agreement for one in found]).all()
    with pytest.raises(RewardenError, match="the same for all samples"):
        rw.best_of_n(np.full((30, 16), 0.1))


def test_a_fall_within_the_noise_of_the_gold_model_is_no_onset():
    proxy = np.random.default_rng(0).normal(size=(40, 8))
    table = ScoreTable.read((proxy, -proxy))
    assert rw.best_of_n(table, resamples=100).onset == 1
    assert np.isnan(rw.best_of_n(table.noted(gold_noise=3.0), resamples=100).onset)


def test_the_best_n_is_worth_less_than_it_seems_when_it_was_chosen_by_luck():
    gold = np.random.default_rng(6).normal(size=(200, 40, 10))
    best = [best_n(one, 40, 0, resamples=10) for one in gold]
    seems, worth = (np.array(values) for values in ([one[:, b.place].mean() for one, b in zip(gold, best, strict=True)],
                                                    [b.held_out.estimate for b in best]))
    error = 4 * worth.std() / 200**0.5
    assert seems.mean() > 0.15
    assert abs(worth.mean()) < error  # the truth is 0
    assert doublings(np.arange(1, 12)).tolist() == [0, 1, 3, 7, 10]


def test_the_gold_at_the_best_n_is_that_of_halves_that_did_not_choose_it():
    gold = np.random.default_rng(7).normal(size=(11, 4))
    found, rng, told, chosen = best_n(gold, 3, 5, resamples=20), np.random.default_rng(5), [], np.zeros(4)
    for _ in range(3):
        one, other = np.split(rng.permutation(11), [5])
        for choosing, telling in ((one, other), (other, one)):
            place = gold[choosing].mean(axis=0).argmax()
            chosen[place] += 1 / 6
            told += gold[telling, place].tolist()
    assert found.held_out.estimate == pytest.approx(np.mean(told))
    np.testing.assert_allclose(found.chosen, chosen)


@pytest.mark.parametrize("prompts", [12, 60])
@pytest.mark.parametrize("kind", ["normal", "labels", "peak"])
def test_the_interval_of_the_gold_at_the_best_n_covers(kind, prompts):
    rng, weights, runs = np.random.default_rng(8), rank_weights(8, np.arange(1, 9)), 400
    samples = {"normal": lambda: rng.normal(size=(prompts, 8)),
               "labels": lambda: (rng.random((prompts, 8)) < 0.3).astype(float),
               "peak": lambda: (rng.normal(size=(prompts, 8)) - 0.3 * np.abs(np.arange(8) - 5)
                                + rng.normal(size=(prompts, 1)))}[kind]
    found = [best_n(samples() @ weights.T, 40, seed, resamples=300).held_out for seed in range(runs)]
    truth = np.mean([one.estimate for one in found])  # what choosing by half of so many prompts is worth on average
    share = coverage([one.low for one in found], [one.high for one in found], truth).share
    assert 0.93 - 2.6 * 0.0125 <= share <= 0.98 + 2.6 * 0.007, share
