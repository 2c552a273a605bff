"""Matched comparison of identity terms: planted and absent bias, brute-force matching, exact permutation tests."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import benjamini_hochberg, bootstrap_interval
from rewarden.tokens import token_scores
from rewarden.tokens.words.frequencies import frequencies
from rewarden.tokens.words.identity import TERM_CONTROLS, identity_bias
from rewarden.tokens.words.lexicons import Lexicon

FAST = {"n_resamples": 50, "permutations": 299}


def words(n: int, start: str = "w") -> list[str]:
    return [f"{start}{i:04d}" for i in range(n)]


def confounded(seed: int, bias: float = 0.0, terms: int = 40, pool: int = 2000):
    """Terms rarer, longer and of another sentiment than the pool; rewards depend on all three, on length not linearly."""
    rng = np.random.default_rng(seed)
    n = terms + pool
    ours = np.arange(n) < terms
    covariates = {"length": rng.normal(0.7 * ours, 1), "frequency": rng.normal(-0.8 * ours, 1),
                  "sentiment": rng.normal(-0.5 * ours, 1)}
    noise = rng.standard_normal(n)
    reward = (0.8 * covariates["frequency"] + 0.6 * covariates["sentiment"] + 0.4 * np.sin(2 * covariates["length"]) + noise)
    return reward + bias * ours * reward[~ours].std(ddof=1), covariates, words(n), terms


def bias_of(reward, covariates, texts, terms, **more):
    axes = {"a": texts[: terms // 2], "b": texts[terms // 2: terms]}
    return identity_bias(reward, axes, texts[terms:], texts=texts, covariates=covariates, **{**FAST, **more})


@pytest.fixture(scope="module")
def seeds():
    """p and effects of 200 seeds without and with a bias of 1 SD: [seed, axis]."""
    found = {bias: [bias_of(*confounded(seed, bias), seed=seed) for seed in range(200)] for bias in (0.0, 1.0)}
    return {bias: {name: np.stack([getattr(one, name) for one in many]) for name in
                   ("p", "p_adjusted", "effect", "effect_low", "effect_high")} for bias, many in found.items()}


def test_without_bias_false_positives_stay_at_five_per_cent(seeds) -> None:
    # 400 tests at 5 %: 20 expected; 3 binomial standard errors of slack
    assert (seeds[0.0]["p"] <= 0.05).sum() <= 20 + 3 * np.sqrt(400 * 0.05 * 0.95)
    # at least one axis of two, adjusted: at most 5 % of 200 seeds with the same slack
    assert (seeds[0.0]["p_adjusted"].min(1) <= 0.05).sum() <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)
    assert abs(seeds[0.0]["effect"].mean()) < 0.05


def test_without_matching_the_same_data_look_biased() -> None:
    wrong = 0
    for seed in range(40):
        reward, _, _, terms = confounded(seed)
        wrong += stats.ttest_ind(reward[:terms], reward[terms:]).pvalue <= 0.05
    assert wrong > 30


def test_a_planted_bias_of_one_sd_is_found(seeds) -> None:
    assert (seeds[1.0]["p_adjusted"] <= 0.05).mean() > 0.9
    assert abs(seeds[1.0]["effect"].mean() - 1) < 0.05


def test_effect_interval_covers_the_planted_bias(seeds) -> None:
    # 20 terms an axis, 50 resamples: bootstrap intervals of so few run a little narrow
    inside = (seeds[1.0]["effect_low"] <= 1) & (seeds[1.0]["effect_high"] >= 1)
    assert 0.86 <= inside.mean() <= 0.98


def test_matching_removes_imbalance() -> None:
    found = bias_of(*confounded(3))
    assert (np.abs(found.imbalance_before).max(1) > 0.5).all()
    assert (np.abs(found.imbalance_after) < 0.1).all()
    loose = bias_of(*confounded(3), caliper=3.0, per_term=80)
    assert (np.abs(loose.imbalance_after).max(1) > 0.1).all()
    assert any(note.startswith("a: terms and their controls still differ by more than 0.1 SD in ") for note in loose.warnings)


def test_effects_equal_a_hand_count_of_the_matched_sets() -> None:
    reward, covariates, texts, terms = confounded(5)
    found = bias_of(reward, covariates, texts, terms, adjust=False, per_term=3)
    value, sd = dict(zip(texts, reward, strict=True)), np.std(reward[terms:], ddof=1)
    differences: dict[str, list[float]] = {"a": [], "b": []}
    for term, axis, matched in zip(found.term, found.term_axis, found.matched, strict=True):
        own = [value[text] for text in matched if text]
        if own:
            differences[axis].append(value[term] - np.mean(own))
    assert found.difference == pytest.approx([np.mean(differences[axis]) for axis in "ab"])
    assert found.effect * sd == pytest.approx(found.difference)
    assert float(found.sd) == pytest.approx(sd)
    assert found.n.tolist() == [len(differences[axis]) for axis in "ab"]
    over = bootstrap_interval(np.asarray(differences["a"]) / sd, n_resamples=50)
    assert (found.effect_low[0], found.effect_high[0]) == pytest.approx((over.low, over.high))


def test_sets_are_disjoint_within_an_axis_and_inside_the_caliper() -> None:
    reward, covariates, texts, terms = confounded(6)
    found = bias_of(reward, covariates, texts, terms, caliper=0.4)
    z = {name: dict(zip(texts, stats.zscore(column), strict=True)) for name, column in covariates.items()}
    for axis in "ab":
        used = [text for row in found.matched[found.term_axis == axis] for text in row if text]
        assert len(used) == len(set(used)) == found.n_controls[found.axis == axis][0]
    for term, matched in zip(found.term, found.matched, strict=True):
        assert all(abs(column[term] - column[text]) <= 0.4 + 1e-6 for column in z.values() for text in matched if text)


def test_one_term_gets_its_nearest_controls() -> None:
    reward, covariates, texts, _ = confounded(8)
    found = identity_bias(reward, {"one": texts[:1]}, texts[40:], texts=texts, covariates=covariates, caliper=1.0,
                          per_term=4, **FAST)
    table = np.stack(list(covariates.values()), 1)
    z = stats.zscore(table[[0, *range(40, len(texts))]])
    apart = np.abs(z[1:] - z[0])
    distance = np.where((apart <= 1).all(1), np.linalg.norm(apart, axis=1), np.inf)
    assert found.matched[0].tolist() == [texts[40 + k] for k in np.argsort(distance)[:4]]
    assert int(found.term_n[0]) == np.isfinite(distance).sum()


def test_axis_p_equals_the_count_of_all_choices() -> None:
    """Three terms, two controls each: 27 choices of "the term"."""
    texts, rng = words(15), np.random.default_rng(2)
    reward = rng.standard_normal(15) + 1.2 * (np.arange(15) < 3)
    places = np.concatenate([[0, 10, 20], np.repeat([0, 10, 20], 2), np.full(6, 50)]).astype(float)  # six are out of reach
    found = identity_bias(reward, {"a": texts[:3]}, texts[3:], texts=texts, covariates={"length": places}, per_term=2,
                          caliper=0.1, adjust=False, permutations=20_000, n_resamples=20)
    sets = [reward[[k, 3 + 2 * k, 4 + 2 * k]] for k in range(3)]
    apart = [[one - np.delete(members, j).mean() for j, one in enumerate(members)] for members in sets]
    observed = abs(np.mean([row[0] for row in apart]))
    every = [abs(np.mean(choice)) for choice in itertools.product(*apart)]
    exact = np.mean([value >= observed - 1e-12 for value in every])
    assert float(found.p[0]) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert found.difference[0] == pytest.approx(np.mean([row[0] for row in apart]))


def test_term_p_is_its_place_among_its_controls() -> None:
    texts, rng = words(101), np.random.default_rng(3)
    reward = rng.standard_normal(101)
    reward[0] = np.sort(reward[1:])[-3] + 1e-6
    found = identity_bias(reward, {"a": texts[:1]}, texts[1:], texts=texts, adjust=False, **FAST)
    centred = np.abs(reward - reward.mean())
    assert found.term_p[0] == pytest.approx((centred >= centred[0]).mean())
    others = reward[1:] / reward[1:].std(ddof=1)
    effect = reward[0] / reward[1:].std(ddof=1) - others.mean()
    assert found.term_effect[0] == pytest.approx(effect)
    low, high = np.quantile(others - others.mean(), [0.025, 0.975])
    assert (found.term_low[0], found.term_high[0]) == pytest.approx((effect - high, effect - low))


def test_term_p_values_are_uniform_without_bias() -> None:
    p = np.concatenate([bias_of(*confounded(seed), caliper=1.0).term_p for seed in range(6)])
    p = p[np.isfinite(p)]
    assert len(p) > 200
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_p_values_are_adjusted_over_axes_and_over_terms() -> None:
    found = bias_of(*confounded(9, bias=0.4))
    np.testing.assert_allclose(found.p_adjusted, benjamini_hochberg(found.p))
    np.testing.assert_allclose(found.term_p_adjusted, benjamini_hochberg(found.term_p))


def test_adjustment_takes_off_the_linear_fit_over_the_controls() -> None:
    texts, rng = words(80), np.random.default_rng(4)
    x = rng.uniform(size=80)
    reward = 3 + 5 * x  # nothing but the covariate: adjusted differences vanish, plain ones do not
    axes, more = {"a": texts[:6]}, {"texts": texts, "covariates": {"length": x}, "caliper": 0.5, **FAST}
    assert identity_bias(reward, axes, texts[6:], **more).difference == pytest.approx([0], abs=1e-9)
    assert np.abs(identity_bias(reward, axes, texts[6:], adjust=False, **more).difference).max() > 1e-4


def test_exact_covariates_must_be_equal() -> None:
    texts, rng = words(120), np.random.default_rng(5)
    tokens = rng.integers(1, 4, size=120)
    found = identity_bias(rng.standard_normal(120), {"a": texts[:9]}, texts[9:], texts=texts, exact=["tokens"], caliper=9,
                          covariates={"tokens": tokens, "length": rng.standard_normal(120)}, **FAST)
    count = dict(zip(texts, tokens, strict=True))
    pairs = [(count[term], count[text]) for term, row in zip(found.term, found.matched, strict=True) for text in row if text]
    assert len(pairs) == 45
    assert all(a == b for a, b in pairs)


def test_a_scan_is_joined_by_trimmed_text() -> None:
    """" gay" and "gay" are one term with the mean reward; covariates may be arrays, mappings or functions."""
    plain = [f"{a}{b}" for a in "bcdfgklmnp" for b in "aeiou"]
    texts = ["gay", " gay", "Gay", *plain]
    rng = np.random.default_rng(6)
    reward = rng.standard_normal((2, len(texts)))
    scores = token_scores(reward, token_id=range(len(texts)), text=texts, prompts=["best", "worst"], noise_floor=100.0,
                          provenance={"model": "m"})
    covariates = {"length": lambda listed: np.ones(len(listed)), "flag": dict.fromkeys(["gay", *plain], 0.0),
                  "row": np.zeros(len(texts))}
    found = identity_bias(scores, {"orientation": ["gay"]}, ["Gay", *plain], prompt="worst", adjust=False,
                          covariates=covariates, **FAST)
    held = reward.astype(np.float32).astype(float)[1]
    assert found.reward.tolist() == [pytest.approx(held[:2].mean())]
    assert int(found.n_pool) == len(plain)  # "Gay" is the term in another case, so no control
    assert found.below_noise.tolist() == [True]
    assert (found.provenance["model"], found.provenance["prompt"]) == ("m", "worst")


def test_scored_responses_are_taken() -> None:
    texts = ["a nurse", *words(30)]
    reward = np.random.default_rng(7).standard_normal((1, 31))
    data = xr.Dataset({"reward": (("prompt", "response"), reward)}, coords={"prompt": ["p"], "response": texts})
    found = identity_bias(Result("responses", data, {"model": "m"}, noise_floor=1e-9), {"work": texts[:1]}, texts[1:],
                          covariates={"length": np.ones(31)}, adjust=False, **FAST)
    assert found.term_effect[0] * reward[0, 1:].std(ddof=1) == pytest.approx(reward[0, 0] - reward[0, 1:].mean())
    assert found.below_noise.tolist() == [False]


def test_word_data_serve_as_covariates() -> None:
    texts = ["nun", *words(40)]
    table = {text: 10.0 + i for i, text in enumerate(texts) if i != 7}  # one control has no frequency
    lexicon = Lexicon("mine", {"nun": 1.0, **dict.fromkeys(texts[1:11], 1.0)}, (-1, 1))
    found = identity_bias(np.random.default_rng(2).standard_normal(41), {"a": texts[:1]}, texts[1:], texts=texts, per_term=40,
                          covariates={"length": np.ones(41), "frequency": lambda listed: frequencies(listed, table).zipf,
                                      "sentiment": lambda listed: np.nan_to_num(lexicon.of(listed))}, caliper=9,
                          exact=["sentiment"], **FAST)
    assert {text for text in found.matched[0] if text} == set(texts[1:11]) - {texts[7]}
    assert found.warnings[0] == "1 controls lack a reward or a covariate and are left out"


def test_terms_without_comparison_say_why(tmp_path) -> None:
    texts = [*words(60), "faraway", "unmarked"]
    x = np.r_[np.random.default_rng(8).standard_normal(60), 99.0, np.nan]
    reward = np.r_[np.random.default_rng(9).standard_normal(60), 0.0, 0.0]
    axes = {"a": [*texts[:5], "faraway", "unmarked", "unscored"], "none": ["unscored"]}
    found = identity_bias(reward, axes, texts[5:60], texts=texts, covariates={"x": x, "length": np.zeros(62)}, caliper=0.5,
                          **FAST)
    assert found.left_out.tolist() == [*[""] * 5, "no control within the caliper", "no x", "no reward, length, x",
                                       "no reward, length, x"]
    assert found.listed.tolist() == [8, 1]
    assert found.n.tolist() == [5, 0]
    assert np.isnan([found.effect[1], found.p[1], found.p_adjusted[1]]).all()
    assert "4 of 9 terms are left out: see left_out" in found.warnings
    assert Result.load(found.save(tmp_path / "identity.nc")).data.identical(found.data)


def test_controls_that_run_out_are_said() -> None:
    texts = words(12)
    found = identity_bias(np.arange(12.0) ** 2 % 7, {"a": texts[:8]}, texts[8:], texts=texts, adjust=False,
                          covariates={"length": np.ones(12)}, **FAST)
    assert found.left_out.tolist().count("its controls serve other terms") == 4
    assert found.n_controls.tolist() == [4]


def test_large_pools_compare_a_term_with_the_nearest() -> None:
    n = 1500
    texts, x = words(n), np.arange(n, dtype=float)
    reward = np.random.default_rng(1).standard_normal(n)
    found = identity_bias(reward, {"a": [texts[0]]}, texts[1:], texts=texts, covariates={"length": x}, caliper=9, adjust=False,
                          **FAST)
    assert int(found.term_n[0]) == TERM_CONTROLS
    assert found.term_effect[0] * float(found.sd) == pytest.approx(reward[0] - reward[1:1000].mean())


@pytest.mark.parametrize(("change", "match"), [
    ({"per_term": 0}, "per_term=0"), ({"axes": {}}, "0 axes"), ({"exact": ["tokens"]}, "no covariate"),
    ({"texts": None}, "of 0 texts"), ({"covariates": {"x": [1.0]}}, "'x' does not fit"), ({"caliper": -1}, "caliper=-1"),
    ({"covariates": {"reward": np.zeros(40)}}, "of 40 texts"), ({"controls": ["w0039"]}, "too few items"),
    ({"axes": {"a": ["nobody"]}}, "no term has a matched control"), ({"rewards": np.ones(40)}, "all equal"),
])
def test_bad_input(change: dict, match: str) -> None:
    texts = words(40)
    good = {"rewards": np.arange(40.0), "axes": {"a": texts[:4]}, "controls": texts[4:], "texts": texts}
    with pytest.raises(RewardenError, match=match):
        identity_bias(**{**good, **change})


def test_holistic_bias_descriptors(shared_data) -> None:
    """A bias planted on one of the thirteen axes is found there and nowhere else."""
    held = json.loads((shared_data / "identity" / "holisticbias_v1.1_descriptors.json").read_text(encoding="utf-8"))
    axes = {axis: [entry["descriptor"] if isinstance(entry, dict) else entry for group in groups.values() for entry in group]
            for axis, groups in held.items()}
    terms = list(dict.fromkeys(term for listed in axes.values() for term in listed))
    rng = np.random.default_rng(0)
    controls = ["".join(rng.choice(list("aeiounrst "), size=k)).strip() or "a" for k in rng.integers(3, 25, size=4000)]
    texts = [*terms, *(text for text in dict.fromkeys(controls) if text not in set(terms))]
    reward = rng.standard_normal(len(texts)) - 0.1 * np.asarray([len(text) for text in texts])
    religion = set(axes["religion"])
    reward -= np.asarray([text in religion for text in texts]) * 1.0
    found = identity_bias(reward, axes, texts[len(terms):], texts=texts, n_resamples=200, permutations=1999)
    assert found.axis[found.p_adjusted <= 0.05].tolist() == ["religion"]
    assert found.effect[found.axis == "religion"][0] * float(found.sd) == pytest.approx(-1, abs=0.35)
