"""Contrast scores and the sign test, against their formulas; planted features found, coins not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from tests.dictionaries.contrast.formatted import at_random, organism_of, planted

from rewarden.conversation import Pair
from rewarden.dictionaries.contrast.fired import sides_of
from rewarden.dictionaries.contrast.separating import contrast_score, separating_features
from rewarden.dictionaries.effects.effects import feature_effects
from rewarden.errors import RewardenError
from rewarden.options.contrast import ContrastOptions
from rewarden.statistics import sign_test, sign_test_q

FAST = {"resamples": 100, "positions": "response"}


def as_published(chosen: np.ndarray, rejected: np.ndarray) -> list[float]:
    """The score as SAFER describes it: mean of all sums of both files, twice, in the denominator."""
    mean = 2 * sum([*chosen, *rejected]) / (len(chosen) + len(rejected))
    return [(c - j) / (c + j + mean) for c, j in zip(chosen, rejected, strict=True)]


def test_the_score_is_the_published_one() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.gamma(1.0, size=(2, 40)) * (rng.random((2, 40)) < 0.6)
    np.testing.assert_allclose(contrast_score(chosen, rejected), as_published(chosen, rejected))
    np.testing.assert_allclose(contrast_score(chosen / 7, rejected / 7), as_published(chosen, rejected))  # sums or means
    padded = as_published(*np.pad([chosen, rejected], ((0, 0), (0, 60))))
    np.testing.assert_allclose(contrast_score(chosen, rejected, latents=100), padded[:40])
    assert contrast_score(np.zeros(3), np.zeros(3)).tolist() == [0, 0, 0]


def test_the_sign_test_is_the_binomial_one_over_prompts() -> None:
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(0.3, 1, (60, 8)) * (rng.random((60, 8)) < 0.5), 2)
    clusters = rng.integers(25, size=60)
    clusters[:25] = np.arange(25)
    for one_sided in (False, True):
        positive, untied, p = sign_test(sparse.csc_array(values), clusters, one_sided)
        for column in range(8):
            sums = np.asarray([values[clusters == c, column].sum() for c in range(25)])
            sums = np.where(np.abs(sums) < 1e-12, 0, sums)
            up, down = int((sums > 0).sum()), int((sums < 0).sum())
            by_scipy = stats.binomtest(up, up + down, 0.5, alternative="greater" if one_sided else "two-sided")
            assert (positive[column], untied[column]) == (up, up + down)
            assert p[column] == pytest.approx(by_scipy.pvalue)
    assert sign_test(sparse.csc_array(np.zeros((4, 1))), np.arange(4))[2].tolist() == [1.0]
    q = sign_test_q(np.array([0.5, 0.001, 0.02]), np.array([1, 20, 20]), 0.05)
    np.testing.assert_allclose(q, [np.nan, 0.002, 0.02])


def test_the_effects_table_says_the_same_of_what_separates() -> None:
    organism = organism_of(1)
    pairs = [Pair(f"again {number // 2}", pair.chosen, pair.rejected) for number, pair in enumerate(organism.pairs(40))]
    here = separating_features(organism, pairs, planted(organism), **FAST).data
    there = feature_effects(organism, pairs, planted(organism), positions="response", effects=False, resamples=100).data
    there = there.sel(feature=here["feature"])
    np.testing.assert_allclose(there["value_p"], here["p"])
    np.testing.assert_allclose(there["value_q"], here["q"])
    assert (here["prompts"] <= 20).all()
    assert here["separates"].any()


def test_the_quality_feature_separates_and_the_format_does_not() -> None:
    organism = organism_of(1)
    quality = organism.truth["quality_feature"]
    pairs = organism.pairs(150)
    found = separating_features(organism, pairs, planted(organism), pool="sum", **FAST).data
    assert bool(found["separates"].sel(feature=quality))
    assert float(found["p"].sel(feature=quality)) == float(found["p"].min())
    assert float(found["score"].sel(feature=quality)) > 0.2
    assert float(found["difference_low"].sel(feature=quality)) > 1.5
    assert float(found["chosen_rate"].sel(feature=quality)) == 1.0
    marks = found.sel(feature=[0, 1, 2])  # as often on either side
    assert not marks["separates"].any()
    both = sides_of(organism, pairs, planted(organism), positions="response", pool="sum")
    mean = (both.chosen - both.rejected).toarray().mean(0)[found["feature"].values]
    np.testing.assert_allclose(found["difference"], mean, atol=1e-3)
    np.testing.assert_allclose(found["chosen"], both.chosen.toarray().mean(0)[found["feature"].values])


def test_the_complement_tells_quality_from_format() -> None:
    """Among easy pairs marks separate as well as good words; among hard ones they speak the other way."""
    organism = organism_of(1)
    pairs = organism.pairs(240)
    easy, hard = ([pair for pair in pairs if pair.subset == name] for name in ("easy", "hard"))
    found = separating_features(organism, easy, planted(organism), complement=hard, pool="sum", **FAST).data
    quality = organism.truth["quality_feature"]
    for mark in range(3):
        assert float(found["score"].sel(feature=mark)) > 0.5
        assert float(found["complement_score"].sel(feature=mark)) < -0.5
    assert float(found["score"].sel(feature=quality)) > 0
    assert float(found["complement_score"].sel(feature=quality)) > 0
    alone = separating_features(organism, hard, planted(organism), pool="sum", **FAST).data
    shared = sorted(set(found["feature"].values) & set(alone["feature"].values))
    np.testing.assert_allclose(found["complement_score"].sel(feature=shared), alone["score"].sel(feature=shared), atol=1e-6)
    np.testing.assert_allclose(found["complement_difference"].sel(feature=shared), alone["difference"].sel(feature=shared),
                               atol=1e-3)


def test_coins_separate_nothing() -> None:
    """Labels drawn by a coin: any finding in at most alpha of the runs (of 40, five would be p < 0.05)."""
    organism = organism_of(2)
    both = sides_of(organism, organism.pairs(90), planted(organism), positions="response", pool="sum")
    dense = both.difference.toarray()
    findings = []
    for seed in range(40):
        signs = np.where(np.random.default_rng(seed).random(90) < 0.5, -1.0, 1.0)
        _, untied, p = sign_test(sparse.csc_array(dense * signs[:, None]), both.clusters)
        findings.append(bool((sign_test_q(p, untied, 0.05) <= 0.05).any()))
    assert sum(findings) <= 4
    result = separating_features(organism, at_random(organism.pairs(90), 1), planted(organism), **FAST)
    assert not result.data["separates"].any()
    assert result.kind == "separating_features"
    assert result.provenance["positions"] == "response"
    assert result.provenance["site"] == "Site(resid_post.0)"


def test_impossible_options_are_refused() -> None:
    with pytest.raises(RewardenError, match="positions='everywhere'"):
        ContrastOptions(positions="everywhere")
    with pytest.raises(RewardenError, match="pool"):
        separating_features(organism_of(), [Pair("a", "b", "c")], planted(organism_of()), pool="median")
