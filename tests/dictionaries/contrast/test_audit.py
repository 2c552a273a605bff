"""Labels turned round are found; clean labels, doubtful labels and coins are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, sparse, special, stats
from tests.dictionaries.contrast.formatted import at_random, auroc, organism_of, planted, turned

from rewarden.conversation import Pair
from rewarden.dictionaries.contrast import regression
from rewarden.dictionaries.contrast.audit import audit_labels
from rewarden.dictionaries.contrast.fired import sides_of
from rewarden.dictionaries.contrast.mislabels import find_mislabels, flagged
from rewarden.dictionaries.contrast.regression import (
    chosen_features,
    contrast_evidence,
    fold_of,
    regression_evidence,
    ridge_bradley_terry,
)
from rewarden.dictionaries.contrast.separating import contrast_score
from rewarden.errors import RewardenError
from rewarden.options.contrast import LabelAuditOptions
from rewarden.organisms import noise

HOW = {"positions": "response", "pool": "sum"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["regression", "contrast"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_flips_rank_first(seed: int, method: str, share: float) -> None:
    """Must show: AUROC of at least 0.9."""
    organism = organism_of(seed)
    wrong = np.random.default_rng(seed).random(300) < share
    pairs = turned(organism.pairs(300), wrong)
    found = audit_labels(organism, pairs, planted(organism), method=method, simulations=19, **HOW)
    assert auroc(-found.evidence, wrong) >= 0.9
    if method == "contrast":
        assert not found.flipped.any()
        assert np.isnan([found.p, found.rate, found.rate_low]).all()
        assert "method='regression'" in found.warnings[0]


def test_what_is_called_flipped_was() -> None:
    """Over six organisms: a good part of the flips is called so, and few labels that are right."""
    called, right, rates = 0, 0, []
    for seed in range(6):
        organism = organism_of(seed)
        wrong = np.random.default_rng(seed).random(300) < 0.1
        found = audit_labels(organism, turned(organism.pairs(300), wrong), planted(organism), simulations=39, **HOW)
        called, right = called + int(found.flipped.sum()), right + int((found.flipped & wrong).sum())
        rates.append(float(found.rate))
        assert float(found.rate_low) <= float(found.rate)
    assert right > 40
    assert (called - right) / called < 0.1
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)


def test_clean_labels_and_coins_are_left_alone() -> None:
    """Labels as they are, labels by a coin, and a random model with sides drawn alike: alpha of the runs at most may find."""
    findings = []
    for seed in range(5):
        organism, nothing = organism_of(seed % 4), noise(seed)
        pairs = organism.pairs(150, seed=10 + seed)
        for rm, some in ((organism, pairs), (organism, at_random(pairs, seed)), (nothing, nothing.pairs(100))):
            found = audit_labels(rm, some, planted(organism, 0.3), simulations=39, **HOW)
            findings.append(bool(found.flipped.any()))
            assert len(found.warnings) == 1 or float(found.p) <= 0.05
    assert sum(findings) <= 2  # three of 15 would be p < 0.04


def test_doubtful_labels_are_no_flips() -> None:
    """Labels drawn from σ(evidence): many are lost, none was flipped; the test's p is uniform enough."""
    ps, flags = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits = np.abs(rng.normal(0, 2.5, 300))
        found = find_mislabels(np.where(rng.random(300) < special.expit(logits), logits, -logits), 39, seed)
        ps.append(found.p)
        flags += int(found.p <= 0.05 and flagged(found.probability, 0.05).any())
    assert np.mean(np.asarray(ps) <= 0.05) <= 0.11
    assert flags / 40 <= 0.11


@pytest.mark.parametrize("size", [1, 6])
def test_doubt_shared_by_the_pairs_of_a_prompt_is_no_flip(size: int) -> None:
    """All pairs of a prompt are of one mind: p ≤ 0.05 in no more runs than the binomial band of 5 % holds."""
    prompts, findings, over_pairs = 40, 0, 0
    clusters = np.repeat(np.arange(prompts), size)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        logits = np.abs(rng.normal(0, 2.5, prompts))[clusters]
        evidence = np.where(rng.random(prompts)[clusters] < special.expit(logits), logits, -logits)
        findings += find_mislabels(evidence, 39, seed, clusters).p <= 0.05
        over_pairs += size > 1 and find_mislabels(evidence, 39, seed).p <= 0.05
    assert findings <= stats.binom.ppf(0.99, 60, 0.05)
    if size > 1:
        assert over_pairs > stats.binom.ppf(0.999, 60, 0.05)  # pairs taken for independent would be called flipped


def test_pairs_of_one_prompt_that_agree_weigh_as_one() -> None:
    rng = np.random.default_rng(0)
    evidence = np.abs(rng.normal(0, 6, 100)) * np.where(np.arange(100) < 20, -1, 1)
    prompts = np.repeat(np.arange(100), 6)
    once, often = find_mislabels(evidence, 39), find_mislabels(np.repeat(evidence, 6), 39, clusters=prompts)
    assert (often.rate, often.at_least, often.p) == (once.rate, once.at_least, once.p)
    assert often.slope == pytest.approx(once.slope)
    np.testing.assert_allclose(often.probability, np.repeat(once.probability, 6))
    assert once.p <= 0.05


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_share_of_flips_is_estimated_beside_doubt(rate: float) -> None:
    estimates, lows = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        logits = np.abs(rng.normal(0, 4, 600))
        meant = rng.random(600) < special.expit(logits)
        found = find_mislabels(np.where(meant ^ (rng.random(600) < rate), logits, -logits), 19, seed)
        estimates.append(found.rate)
        lows.append(found.at_least)
        assert found.slope > 0
    assert np.mean(estimates) == pytest.approx(rate, abs=0.02)
    assert np.mean(np.asarray(lows) <= rate) >= 0.8  # 95 %


def test_mislabels_of_nothing_and_of_one_scale() -> None:
    rng = np.random.default_rng(0)
    evidence = np.abs(rng.normal(3, 1, 200)) * np.where(np.arange(200) < 20, -1, 1)
    once, scaled = find_mislabels(evidence, 19), find_mislabels(1000 * evidence, 19)
    np.testing.assert_allclose(once.probability, scaled.probability, atol=1e-9)
    assert scaled.slope == pytest.approx(once.slope / 1000)
    silent = find_mislabels(np.zeros(50), 19)
    assert silent.p == 1
    assert not flagged(silent.probability, 0.05).any()
    probability = rng.random(40)
    order = np.sort(probability)[::-1]
    count = max((n for n in range(41) if n == 0 or np.mean(1 - order[:n]) <= 0.2), default=0)
    assert flagged(probability, 0.2).sum() == count


def test_the_regression_is_the_minimum() -> None:
    rng = np.random.default_rng(0)
    for separated in (False, True):
        x = rng.normal(size=(80, 6)) + (5.0 if separated else 0.4)
        for penalty in (0.1, 10.0):
            found = ridge_bradley_terry(x, penalty)
            slow = optimize.minimize(lambda w, x=x, a=penalty: np.logaddexp(0, -x @ w).sum() + a / 2 * w @ w, np.zeros(6),
                                     method="BFGS", options={"gtol": 1e-9})
            np.testing.assert_allclose(found, slow.x, atol=1e-5)


def test_no_pair_judges_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turning one pair's label round changes the sign of its evidence and nothing else of it; prompts stay in one fold."""
    monkeypatch.setattr(regression, "PENALTIES", (10.0,))  # the penalty, one number of four, is chosen by all labels
    organism = organism_of(2)
    both = sides_of(organism, organism.pairs(80), planted(organism), positions="response", pool="sum")
    clusters = np.arange(80) // 2
    folds = fold_of(clusters, 5, 0)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds).tolist() == [16] * 5
    difference = sparse.csr_array(both.difference)
    score = lambda c, j: contrast_score(c, j, 80)
    sides = [sparse.csr_array(side[:, both.features]) for side in (both.chosen, both.rejected)]
    for row in (0, 17):
        sign = np.where(np.arange(80) == row, -1.0, 1.0)
        other = sparse.csr_array(difference.multiply(sign[:, None]))
        mixed = [sparse.csr_array(sparse.vstack([sides[int(i == row) ^ side][[i]] for i in range(80)])) for side in range(2)]
        for first, second in ((regression_evidence(difference, folds, 30), regression_evidence(other, folds, 30)),
                              (contrast_evidence(*sides, difference, folds, 30, score),
                               contrast_evidence(*mixed, other, folds, 30, score))):
            assert second.held_out[row] == pytest.approx(-first.held_out[row], rel=1e-6)
            same = folds == folds[row]
            np.testing.assert_allclose(second.by_fold[folds[row]], first.by_fold[folds[row]], atol=1e-9)
            np.testing.assert_allclose(second.held_out[same & (sign > 0)], first.held_out[same & (sign > 0)])


def test_reasons_are_terms_of_the_evidence() -> None:
    organism = organism_of(0)
    wrong = np.arange(150) % 10 == 0
    pairs = turned(organism.pairs(150), wrong)
    found = audit_labels(organism, pairs, planted(organism), simulations=19, reasons=200, **HOW)
    assert found.reason.shape == (150, 200)
    both = sides_of(organism, pairs, planted(organism), positions="response", pool="sum")
    evidence = regression_evidence(sparse.csr_array(both.difference), fold_of(both.clusters, 5, 0), 128)
    terms = both.difference.toarray() * evidence.by_fold[evidence.folds]
    np.testing.assert_allclose(terms.sum(1), found.evidence, atol=1e-9)
    against = terms[wrong].mean(0)
    assert both.features[np.argmin(against)] == organism.truth["quality_feature"]  # what speaks most against flipped labels
    np.testing.assert_allclose(found.reason_evidence.sum(1), np.minimum(terms, 0).sum(1), atol=1e-9)
    assert ((found.reason == -1) == (found.reason_evidence == 0)).all()


def test_chosen_features_are_those_with_the_largest_t() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)) + np.linspace(0, 1, 12)
    x[:, 5] = 0
    t = np.divide(np.abs(x.sum(0)), np.sqrt((x**2).sum(0)), out=np.zeros(12), where=x.any(0))
    assert chosen_features(sparse.csr_array(x), 4).tolist() == sorted(np.argsort(-t)[:4].tolist())
    assert 5 not in chosen_features(sparse.csr_array(x), 12)


def test_too_few_prompts_and_impossible_options_are_refused() -> None:
    organism = organism_of(0)
    with pytest.raises(RewardenError, match="too few items") as error:
        audit_labels(organism, [Pair("same", pair.chosen, pair.rejected) for pair in organism.pairs(40)], planted(organism),
                     positions="response")
    assert "29 more" in error.value.fix
    for asked in ({"folds": 2}, {"simulations": 3}, {"features": 0}, {"reasons": 0}, {"method": "magic"}):
        with pytest.raises(RewardenError, match=next(iter(asked))):
            LabelAuditOptions(**asked)
