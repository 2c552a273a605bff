"""The gate: brute force for its numbers, planted features for its verdicts, nothing planted for its error rate."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from tests.statistics.coverage import assert_covers, assert_null_rate, coverage

from rewarden.errors import RewardenError
from rewarden.options.training import GateOptions
from rewarden.statistics import holm
from rewarden.statistics.clustered import auc_interval
from rewarden.training.gate import gate_features, verdicts
from rewarden.training.strata import Outcomes, Strata, auc_p, stratified_auc

STYLES = np.array(["direct", "worked"])


def rollouts(seed: int, n: int = 400, per_prompt: int = 4) -> tuple[np.random.Generator, dict[str, Any]]:
    """Prompts of different ease; worked answers are longer and oftener right."""
    rng = np.random.default_rng(seed)
    prompts = np.arange(n) // per_prompt
    ease = rng.normal(0, 0.7, n)[prompts]
    worked = rng.random(n) < 0.5
    right = rng.normal(size=n) < ease + np.where(worked, 1.0, -0.5)
    lengths = rng.poisson(8, n) + 12 * worked + 1
    return rng, {"labels": right, "styles": STYLES[worked * 1], "lengths": lengths, "clusters": prompts}


def beside(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("styles", "lengths", "clusters")}


def won(values: np.ndarray, labels: np.ndarray, strata: np.ndarray) -> float:
    """Pairs of one right and one wrong rollout of the same stratum, counted one by one."""
    pairs = [(a > b) + (a == b) / 2 for a, up, s in zip(values, labels, strata, strict=True) if up
             for b, other, t in zip(values, labels, strata, strict=True) if not other and s == t]
    return sum(pairs) / len(pairs)


def test_aucs_are_counts_of_pairs_within_strata() -> None:
    rng, data = rollouts(0, 160)
    values = np.column_stack([rng.normal(size=160) + data["labels"], rng.integers(0, 3, 160)])
    found = gate_features(values, data["labels"], **beside(data), length_bins=2, least_each=4, matched=6, level=0.9)
    known = Outcomes.read(160, data["labels"], **beside(data))
    strata, near = Strata.of(known, 2, 4), Strata.of(known, size=6)
    rows = strata.rows
    assert strata.used.all()
    for f, column in enumerate(values.T):
        assert found.plain[f] == pytest.approx(won(column, data["labels"], np.zeros(160)), abs=1e-12)
        assert found.within[f] == pytest.approx(won(column[rows], data["labels"][rows], strata.codes[rows]), abs=1e-12)
        assert found.matched[f] == pytest.approx(won(column[rows], data["labels"][rows], near.codes[rows]), abs=1e-12)
        for s in range(len(strata.used)):
            inside = strata.codes == s
            by_hand = won(column[inside], data["labels"][inside], inside[inside])
            assert found.stratum_auc[f, s] == pytest.approx(by_hand, abs=1e-12)
            assert found.right[s] == (inside & data["labels"]).sum()
            assert found.wrong[s] == (inside & ~data["labels"]).sum()
    pairs = found.right * found.wrong
    np.testing.assert_allclose(found.within, found.stratum_auc @ pairs / pairs.sum(), atol=1e-12)


def test_p_is_the_test_that_the_interval_inverts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(8, 60))
        labels = np.arange(n) % 2 == 0
        scores = rng.integers(0, int(rng.choice([3, 100])), n) + rng.choice([0, 1, 100]) * labels
        clusters, level = np.arange(n) // int(rng.integers(1, 4)), float(rng.uniform(0.5, 0.999))
        found = auc_interval(scores, labels, clusters, level=level)
        assert (auc_p(found) < 1 - level) == (not found.low <= 0.5 <= found.high)
    every = auc_interval(np.arange(20), np.arange(20) >= 10)
    assert auc_p(every) == pytest.approx(2 * stats.norm.sf(20**0.5))
    assert auc_p(auc_interval(np.ones(20), np.arange(20) >= 10)) == 1


def test_one_stratum_is_delongs_and_errors_are_influences() -> None:
    rng, data = rollouts(2, 80)
    scores, labels, clusters = rng.integers(0, 9, 80).astype(float), data["labels"], data["clusters"]
    one, whole = stratified_auc(scores, labels, clusters, np.zeros(80)), auc_interval(scores, labels, clusters)
    assert (one.estimate, one.low, one.high) == pytest.approx((whole.estimate, whole.low, whole.high), abs=1e-12)
    strata = np.arange(80) % 3
    found = stratified_auc(scores, labels, clusters, strata)

    def statistic(weights: np.ndarray) -> float:
        pairs = [(weights[i] * weights[j], (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
                 for i in np.flatnonzero(labels) for j in np.flatnonzero(~labels) if strata[i] == strata[j]]
        return sum(w * up for w, up in pairs) / sum(w for w, _ in pairs)

    # the error is that of the derivatives by the weight of each prompt
    step = 1e-4
    slopes = [(statistic(1 + step * (clusters == c)) - statistic(1 - step * (clusters == c))) / (2 * step) for c in range(20)]
    error = np.sqrt(20 / 19 * np.square(slopes).sum()) / (found.estimate * (1 - found.estimate))
    assert (special.logit(found.high) - special.logit(found.low)) / 2 == pytest.approx(stats.t.ppf(0.975, 19) * error, rel=1e-5)
    naive = auc_interval(scores, labels, clusters, strata)
    assert found.estimate == pytest.approx(naive.estimate, abs=1e-12)
    every = stratified_auc(labels * 1.0, labels, clusters, strata)
    assert (every.estimate, every.high) == (1, 1)
    assert np.isnan(stratified_auc(scores[:3], np.ones(3, bool), np.arange(3), np.zeros(3)).estimate)


def test_strata_are_of_one_style_and_do_not_part_equal_lengths() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = int(rng.integers(6, 80))
        known = Outcomes.read(n, np.arange(n) % 2, rng.integers(0, 3, n), rng.integers(0, 12, n), None)
        bins = int(rng.integers(1, 6))
        found = Strata.of(known, bins)
        assert sorted(set(found.codes)) == list(range(len(found.used)))
        np.testing.assert_array_equal(found.right + found.wrong, np.bincount(found.codes))
        for style in set(known.styles):
            own = [s for s in range(len(found.used)) if found.style[s] == style]
            assert 1 <= len(own) <= bins
            assert (known.styles[np.isin(found.codes, own)] == style).all()
            assert all(found.longest[a] < found.shortest[b] for a, b in itertools.pairwise(own))
    even = Outcomes.read(80, np.arange(80) % 2, None, rng.permutation(80), None)
    assert np.bincount(Strata.of(even, 4).codes).tolist() == [20] * 4
    assert np.bincount(Strata.of(even, size=8).codes).tolist() == [8] * 10


def test_a_feature_that_reads_style_is_rejected_and_one_that_reads_correctness_passes() -> None:
    """The published trap: AUC .70 over all rollouts, .52 within styles."""
    plain, within, findings = [], [], []
    for seed in range(20):
        rng, data = rollouts(seed, 2400)
        worked, right = data["styles"] == "worked", data["labels"]
        style = worked + rng.normal(0, 0.55, 2400) + 0.03 * right
        insight = 0.8 * right + rng.normal(size=2400)
        found = gate_features(np.column_stack([style, insight]), right, **beside(data), names=["style", "insight"])
        plain.append(found.plain[0])
        within.append(found.within[0])
        findings.append(found.finding)
        assert found.passed.tolist() == (found.finding == "passed").tolist()
        assert found.style_only.tolist() == (found.finding == "style only").tolist()
    assert np.mean(plain) == pytest.approx(0.70, abs=0.01)
    assert np.mean(within) == pytest.approx(0.52, abs=0.01)
    assert [one[0] for one in findings].count("style only") >= 18
    assert "passed" not in [one[0] for one in findings]
    assert [one[1] for one in findings] == ["passed"] * 20


def test_a_feature_that_reads_length_does_not_pass_where_strata_still_differ_in_it() -> None:
    shown, passed = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        length = rng.integers(10, 200, 500)
        right = rng.random(500) < 1 / (1 + np.exp(-(length - 105) / 15))
        found = gate_features((length + rng.normal(0, 5, 500))[:, None], right, styles=None, lengths=length, length_bins=2)
        shown += found.within_p[0] < 0.05 and found.within[0] > 0.6
        passed += bool(found.passed[0])
    assert shown == 40  # two parts by length hold little of it fixed
    assert passed <= 2  # 5 % of 40; nearest lengths do


def test_random_features_pass_no_oftener_than_alpha() -> None:
    """Features that read the prompt, and every second one style as well; outcomes depend on both."""
    passed, single = [], []
    for seed in range(200):
        rng, data = rollouts(1000 + seed, 200)
        own = rng.normal(size=(200, 4))[data["clusters"]] * 0.7 + rng.normal(size=(200, 4))
        own[:, ::2] += 2 * (data["styles"] == "worked")[:, None]
        found = gate_features(own, data["labels"], **beside(data), least_auc=0.5, length_bins=2, least_each=5)
        passed.append((found.finding == "passed").any())
        single.append(found.within_p[0] < 0.05)
    assert_null_rate(np.array(passed), 0.05)
    assert_null_rate(np.array(single), 0.05)
    assert sum(single) >= 2  # a test that never says anything would pass the lines above


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.8])
def test_intervals_within_strata_cover(effect: float) -> None:
    ends = []
    for seed in range(1000):
        rng, data = rollouts(5000 + seed, 240)
        values = (effect * data["labels"] + rng.normal(0, 0.6, 240)[data["clusters"]] + rng.normal(0, 0.8, 240)
                  + 3 * (data["styles"] == "worked"))
        found = gate_features(values[:, None], data["labels"], **beside(data), length_bins=2, least_each=5)
        ends.append([found.within_low[0], found.within_high[0], found.matched_low[0], found.matched_high[0]])
    low, high, near_low, near_high = np.array(ends).T
    truth = stats.norm.cdf(effect / 2**0.5)  # of rollouts of different prompts; total variance 1
    assert_covers(coverage(low, high, truth))
    assert_covers(coverage(near_low, near_high, truth), high=0.99)  # sets of 8: a little wide


def test_the_score_is_one_more_row_and_weights_turn_features() -> None:
    rng, data = rollouts(13)
    values = rng.normal(size=(400, 3)) + np.outer(data["labels"], [1.0, -1.0, 0.0])
    weights = np.array([0.5, -2.0, 0.0])
    found = gate_features(values, data["labels"], weights=weights, **beside(data))
    alone = gate_features(values, data["labels"], **beside(data))
    whole = gate_features((values @ weights)[:, None], data["labels"], **beside(data))
    assert found.feature.tolist() == ["feature 0", "feature 1", "feature 2", "score"]
    for name in ("plain", "within", "matched"):
        row = found.data[name].values
        np.testing.assert_allclose(row[:3], [alone.data[name][0], 1 - alone.data[name][1], alone.data[name][2]], atol=1e-12)
        assert row[3] == pytest.approx(whole.data[name].values[0])
    assert found.p_holm[3] == pytest.approx(found.p[3])
    np.testing.assert_allclose(found.p_holm[:3], holm(np.maximum(found.within_p, found.matched_p)[:3]))
    assert alone.finding.tolist()[:2] == ["passed", "against"]
    assert found.finding.tolist() == ["passed", "passed", "not shown", "passed"]


def test_verdicts_say_what_the_result_says() -> None:
    rng, data = rollouts(4)
    values = rng.normal(size=(400, 3)) + np.outer(data["labels"], [1.0, -1.0, 0.0])
    found = gate_features(values, data["labels"], **beside(data), names=["for", "against", "none"])
    said = verdicts(found)
    assert [one.flag for one in said.values()] == [True, False, False]
    assert said["for"].evidence > 3
    assert said["against"].evidence < -3
    assert abs(said["none"].evidence) < 3
    for f, (name, one) in enumerate(said.items()):
        assert name == one.name == found.feature[f]
        ends = found.within_low[f], found.within_high[f]
        assert (one.estimate, one.low, one.high, one.p) == (found.within[f], *ends, found.p[f])
        assert abs(one.evidence) == pytest.approx(-np.log10(found.p[f]))
        assert one.n == 100


def test_strata_without_either_outcome_are_set_apart_and_counted() -> None:
    rng, data = rollouts(5)
    values = rng.normal(size=(400, 1)) + data["labels"][:, None]
    found = gate_features(values, data["labels"], **beside(data))
    broken = {"labels": np.zeros(150, bool), "styles": np.full(150, "no number"), "lengths": np.arange(150) % 9 + 1,
              "clusters": 1000 + np.arange(150)}
    more = {name: np.concatenate([data[name], part]) for name, part in broken.items()}
    again = gate_features(np.concatenate([values, rng.normal(size=(150, 1))]), more["labels"], **beside(more))
    assert again.within[0] == found.within[0]
    assert again.plain[0] != found.plain[0]
    assert again.provenance["apart"] == int(found.provenance["apart"]) + 150
    assert again.provenance["strata_apart"] == int(found.provenance["strata_apart"]) + len(again.used) - len(found.used)
    assert np.isnan(again.stratum_auc[0, ~again.used]).all()
    assert f"{again.provenance['apart']} of 550" in again.warnings[0]
    assert found.warnings == ()


def test_order_scale_and_names_of_styles_do_not_matter() -> None:
    rng, data = rollouts(6)
    values = rng.normal(size=(400, 2)) + data["labels"][:, None]
    found = gate_features(values, data["labels"], **beside(data))
    order = rng.permutation(400)
    other = gate_features(np.exp(3 * values[order]), data["labels"][order] * 1, styles=(data["styles"][order] == "worked") * 7,
                          lengths=data["lengths"][order], clusters=[f"prompt {c}" for c in data["clusters"][order]])
    for name in ("plain", "within", "matched", "within_low", "matched_high", "p_holm"):
        np.testing.assert_allclose(found.data[name].values, other.data[name].values, atol=1e-9)


def test_baselines_tell_what_the_text_says() -> None:
    rng, data = rollouts(7, 800)
    found = gate_features(rng.normal(size=(800, 1)), data["labels"], **beside(data))
    auc = dict(zip(found.baseline, found.baseline_auc, strict=True))
    # of the style alone, with ties: ½ + (P(worked | right) − P(worked | wrong)) / 2
    worked, right = data["styles"] == "worked", data["labels"]
    assert auc["style"] == pytest.approx(0.5 + (worked[right].mean() - worked[~right].mean()) / 2, abs=0.02)
    assert auc["length"] == pytest.approx(won(data["lengths"], right, np.zeros(800)), abs=1e-12)
    assert auc["text"] > 0.6
    rng.shuffle(right)
    none = gate_features(rng.normal(size=(800, 1)), right, **beside(data))
    assert (none.baseline_low < 0.5).all()
    assert (none.baseline_high > 0.5).all()


@pytest.mark.parametrize(("change", "what"), [
    ({"labels": np.ones(400)}, "all 400 labels are True"), ({"labels": np.zeros(400, bool)}, "all 400 labels are False"),
    ({"labels": np.arange(400)}, "neither true nor false"), ({"labels": np.ones(399)}, "labels of shape"),
    ({"styles": None, "lengths": np.full(400, 7)}, "cannot be held apart"), ({"styles": np.zeros((400, 2))}, "styles of shape"),
    ({"clusters": np.arange(400) % 5}, "too few items"), ({"clusters": np.arange(399)}, "400 items but 399 clusters"),
    ({"lengths": np.full(400, np.nan)}, "a length that is no finite"), ({"names": ["a"]}, "1 names for 2"),
    ({"names": ["a", "a"]}, "2 names for 2"), ({"names": ["a", "score"]}, "2 names for 2"),
    ({"weights": [0, 0]}, "weights of shape"), ({"weights": [1.0, np.inf]}, "weights of shape"),
    ({"least_each": 150}, "cannot be held apart"), ({"level": 2}, "impossible options"), ({"leevl": 0.9}, "unknown option"),
])
def test_what_cannot_be_judged_is_refused(change: dict[str, Any], what: str) -> None:
    rng, data = rollouts(8)
    with pytest.raises(RewardenError, match=what) as error:
        gate_features(rng.normal(size=(400, 2)), **{**data, **change})
    assert error.value.fix


@pytest.mark.parametrize(("values", "what"), [
    (np.zeros(400), "values of shape"), (np.full((400, 2), "a"), "values of shape"), (np.zeros((0, 2)), "values of shape")])
def test_values_of_another_shape_are_refused(values: np.ndarray, what: str) -> None:
    _, data = rollouts(9)
    with pytest.raises(RewardenError, match=what):
        gate_features(values, **data)


def test_a_value_that_is_not_finite_is_named() -> None:
    rng, data = rollouts(9)
    values = rng.normal(size=(400, 2))
    values[17, 1] = np.nan
    with pytest.raises(RewardenError, match="1 values are not finite") as error:
        gate_features(values, **data, names=["a", "b"])
    assert error.value.where == "values[17, 1] (b)"


def test_options_refuse_what_cannot_be() -> None:
    for wrong in ({"least_auc": 0.4}, {"length_bins": 0}, {"matched": 1}, {"alpha": 0}, {"folds": 1}, {"least_each": True}):
        with pytest.raises(RewardenError, match=next(iter(wrong))):
            GateOptions(**wrong)
