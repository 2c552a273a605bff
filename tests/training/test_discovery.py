"""Rankings against other definitions and planted features; evidence that a ranking cannot have bent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_null_rate
from tests.training.test_gate import beside, rollouts, won

from rewarden.errors import RewardenError
from rewarden.options.training import DiscoveryOptions
from rewarden.training.discovery import contrastive, probe_guided, reason_score
from rewarden.training.gate import gate_features
from rewarden.training.strata import Outcomes, Strata


def planted(seed: int = 0, n: int = 400) -> tuple[np.ndarray, dict[str, Any]]:
    """Features: noise, style, correctness, noise, against correctness."""
    rng, data = rollouts(seed, n)
    values = rng.normal(size=(n, 5))
    values[:, 1] += 2 * (data["styles"] == "worked")
    values[:, 2] += data["labels"]
    values[:, 4] -= 0.8 * data["labels"]
    return values, data


def test_contrastive_is_students_t_without_strata() -> None:
    values, data = planted()
    found = contrastive(values, data["labels"], clusters=data["clusters"], held_out=0.25)
    rows = ~found.held_out
    right, wrong = values[rows & data["labels"]], values[rows & ~data["labels"]]
    t = stats.ttest_ind(right, wrong).statistic
    np.testing.assert_allclose(found.score, t * np.sqrt(1 / len(right) + 1 / len(wrong)), rtol=1e-12)
    assert found.held_out.sum() == 100
    assert set(data["clusters"][found.held_out]).isdisjoint(data["clusters"][rows])


def test_contrastive_within_strata_is_a_regression_beside_strata() -> None:
    values, data = planted(1)
    found = contrastive(values, data["labels"], **beside(data), length_bins=3)
    codes = Strata.of(Outcomes.read(400, data["labels"], **beside(data)), 3).codes
    rows = ~found.held_out
    right, codes, x = data["labels"][rows], codes[rows], values[rows]
    cells = np.unique(codes * 2 + right, return_inverse=True)[1]
    dummies = np.eye(codes.max() + 1)[codes]
    both = [s for s in set(codes) if len(set(right[codes == s])) == 2]
    assert len(both) == codes.max() + 1
    gap = np.linalg.lstsq(np.column_stack([right, dummies]), x, rcond=None)[0][0]
    within = x - np.stack([x[cells == c].mean(0) for c in range(cells.max() + 1)])[cells]
    np.testing.assert_allclose(found.score, gap / np.sqrt((within**2).sum(0) / (len(x) - cells.max() - 1)), rtol=1e-9)


def test_style_ranks_first_without_strata_and_last_within_them() -> None:
    values, data = planted(2)
    plain = contrastive(values, data["labels"], clusters=data["clusters"], top=2)
    within = contrastive(values, data["labels"], **beside(data), top=2)
    assert plain.feature[plain.chosen].tolist() == ["feature 1", "feature 2"]
    assert within.feature[within.chosen].tolist() == ["feature 2", "feature 4"]
    assert within.rank[1] > 2
    held = plain.held_out
    gate = gate_features(values[held][:, plain.chosen], data["labels"][held], **{k: v[held] for k, v in beside(data).items()},
                         length_bins=2, least_each=5)
    assert gate.finding.tolist() == ["style only", "passed"]
    assert gate.provenance["rollouts_sha256"] != plain.provenance["chosen_on"]


def test_evidence_is_of_the_held_out_part_alone() -> None:
    values, data = planted(3)
    found = contrastive(values, data["labels"], **beside(data), top=3)
    codes = Strata.of(Outcomes.read(400, data["labels"], **beside(data)), 4).codes
    held = found.held_out
    for f in range(5):
        if found.chosen[f]:
            assert found.held_auc[f] == pytest.approx(won(values[held, f], data["labels"][held], codes[held]), abs=1e-12)
        else:
            assert np.isnan(found.held_auc[f])
    assert sorted(found.rank) == [1, 2, 3, 4, 5]
    for method in (contrastive, probe_guided):
        before = method(values, data["labels"], **beside(data))
        other = values.copy()
        other[held] = np.random.default_rng(9).normal(size=(int(held.sum()), 5))
        after = method(other, data["labels"], **beside(data))
        np.testing.assert_array_equal(after.score, before.score)
        assert after.provenance["chosen_on"] == before.provenance["chosen_on"]
        other = values.copy()
        other[~held] *= -1
        turned = method(other, data["labels"], **beside(data))
        np.testing.assert_allclose(turned.score, -before.score, atol=1e-9)
        np.testing.assert_array_equal(turned.held_auc, before.held_auc)


def test_probe_guided_is_sklearns_coefficients_over_folds() -> None:
    from sklearn.linear_model import LogisticRegression

    values, data = planted(4)
    values *= [1, 10, 0.1, 1, 1]
    found = probe_guided(values, data["labels"], clusters=data["clusters"], folds=3, ridge=2.0)
    rows = ~found.held_out
    x, right, prompts = values[rows], data["labels"][rows], np.unique(data["clusters"][rows], return_inverse=True)[1]
    folds = (np.random.default_rng(1).permutation(prompts.max() + 1) % 3)[prompts]
    weights = []
    for fold in range(3):
        rest = folds != fold
        scale = x[rest].std(0)
        fit = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit((x[rest] - x[rest].mean(0)) / scale, right[rest])
        weights.append(fit.coef_[0] / scale)
    np.testing.assert_allclose(found.score, np.mean(weights, 0) * x.std(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.score_sd, np.std(np.array(weights) * x.std(0), 0, ddof=1), rtol=1e-3, atol=1e-5)
    score, held = values[found.held_out] @ np.mean(weights, 0), data["labels"][found.held_out]
    assert float(found.probe_held_auc) == pytest.approx(won(score, held, np.zeros(len(score))), abs=2e-3)
    assert 0.6 < float(found.probe_cross_auc_low) < float(found.probe_cross_auc) < 1


def test_two_features_that_say_the_same_share_a_probes_weight() -> None:
    values, data = planted(5)
    alone = probe_guided(values[:, [0, 2]], data["labels"], clusters=data["clusters"])
    twice = probe_guided(values[:, [0, 2, 2]], data["labels"], clusters=data["clusters"])
    assert twice.score[1] == pytest.approx(twice.score[2])
    assert twice.score[1] == pytest.approx(alone.score[1] / 2, rel=0.05)


@pytest.mark.parametrize("method", [contrastive, probe_guided])
def test_the_best_of_random_features_is_no_finding(method) -> None:
    """In the part that ranked, the best of 30 looks real; in the other it is flagged at the stated rate."""
    flags, seen = [], []
    for seed in range(120):
        rng, data = rollouts(3000 + seed, 160)
        values = rng.normal(size=(160, 30))
        found = method(values, data["labels"], clusters=data["clusters"], top=1)
        best = int(np.flatnonzero(found.chosen)[0])
        flags.append(not found.held_auc_low[best] <= 0.5 <= found.held_auc_high[best])
        rows = ~found.held_out
        seen.append(stats.mannwhitneyu(values[rows & data["labels"], best], values[rows & ~data["labels"], best]).pvalue < 0.05)
    assert_null_rate(np.array(flags), 0.05)
    assert np.mean(seen) > 0.5


def tokens(seed: int = 0, n: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents: everywhere, at all of three words, at one word, elsewhere, silent."""
    rng = np.random.default_rng(seed)
    words = rng.choice([-1, -1, -1, 0, 1, 2], n)
    latents = rng.exponential(0.1, (n, 5))
    latents[:, 0] += 1
    latents[:, 1] += words >= 0
    latents[:, 2] += 1.2 * (words == 1)
    latents[:, 3] += words < 0
    latents[:, 4] = 0
    return latents, words, np.arange(n) // 30


def by_hand(latents: np.ndarray, words: np.ndarray, alpha: float) -> list[float]:
    """The published formula, feature by feature."""
    count, features = words.max() + 1, range(latents.shape[1])
    inside = [latents[words >= 0, i].mean() for i in features]
    outside = [latents[words < 0, i].mean() for i in features]
    scores = []
    for i in features:
        mean = [latents[words == r, i].mean() for r in range(count)]
        share = [m / sum(mean) for m in mean] if sum(mean) else []
        entropy = -sum(p * np.log(p) for p in share if p) / np.log(count)
        scores.append(inside[i] / sum(inside) * entropy**alpha - outside[i] / sum(outside))
    return scores


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
def test_reason_score_is_the_published_formula(alpha: float) -> None:
    latents, words, texts = tokens()
    latents[:, 4] = (words == 2) * 0.3
    found = reason_score(latents, words, clusters=texts, entropy=alpha, names=list("abcde"), top=2)
    rows = ~found.held_out
    np.testing.assert_allclose(found.score, by_hand(latents[rows], words[rows], alpha), rtol=1e-12)
    again = np.array(by_hand(latents[~rows], words[~rows], alpha))
    np.testing.assert_allclose(found.held_score[found.chosen], again[found.chosen], rtol=1e-12)
    assert found.entropy[4] == 0
    assert found.provenance["words"] == 3


def test_reason_score_prefers_what_all_words_share() -> None:
    latents, words, texts = tokens(1)
    found = reason_score(latents, words, clusters=texts, top=5)
    assert found.rank[1] == 1
    assert found.score[4] == 0
    assert found.chosen.tolist() == [False, True, *(found.score[2:] > 0)]
    without = reason_score(latents, words, clusters=texts, entropy=0.0)
    assert found.score[2] < without.score[2]
    assert found.score[1] == pytest.approx(without.score[1], abs=2e-3)
    assert found.held_gap_low[1] < 1 < found.held_gap_high[1]
    gaps = []
    held = found.held_out
    for text in set(texts[held]):
        own, at = latents[texts == text, 1], words[texts == text] >= 0
        gaps.append(own[at].mean() - own[~at].mean())
    assert found.held_gap[1] == pytest.approx(np.mean(gaps))


@pytest.mark.parametrize(("method", "change", "what"), [
    (contrastive, {"labels": np.ones(400)}, "all 400 labels are True"), (probe_guided, {"ridge": 0.0}, "ridge"),
    (contrastive, {"clusters": np.arange(400) % 12}, "too few items"), (contrastive, {"names": ["a"]}, "1 names for 5"),
    (probe_guided, {"clusters": np.arange(400) % 12}, "too few items"), (contrastive, {"top": 0}, "top"),
    (contrastive, {"labels": np.arange(400) // 4 == 5}, "holds one outcome only"),
    (probe_guided, {"labels": np.isin(np.arange(400) // 4, [4, 5])}, "right and wrong|one outcome")])
def test_what_cannot_be_ranked_is_refused(method, change: dict[str, Any], what: str) -> None:
    values, data = planted(6)
    with pytest.raises(RewardenError, match=what) as error:
        method(values, **{"labels": data["labels"], "clusters": data["clusters"], **change})
    assert error.value.fix


@pytest.mark.parametrize(("change", "what"), [
    ({"activations": -np.ones((1200, 2))}, "not negative"), ({"words": np.minimum(tokens()[1], 0)}, "two or more|two"),
    ({"words": np.full(1200, -1)}, "not negative, at two"), ({"words": tokens()[1] % 3}, "no tokens of one kind"),
    ({"words": tokens()[1] / 2}, "words of shape"), ({"words": tokens()[1][:-1]}, "words of shape"),
    ({"clusters": np.zeros(1200)}, "too few items"), ({"activations": np.full((1200, 2), np.nan)}, "not finite")])
def test_what_has_no_reason_score_is_refused(change: dict[str, Any], what: str) -> None:
    latents, words, texts = tokens()
    with pytest.raises(RewardenError, match=what):
        reason_score(**{"activations": latents, "words": words, "clusters": texts, **change})


def test_options_refuse_what_cannot_be() -> None:
    for wrong in ({"held_out": 1.0}, {"entropy": -1.0}, {"top": 0}, {"folds": 1}, {"ridge": float("inf")}):
        with pytest.raises(RewardenError, match=next(iter(wrong))):
            DiscoveryOptions(**wrong)
