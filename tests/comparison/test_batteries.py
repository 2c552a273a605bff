"""The battery on several models at once: each as alone, the gap their difference, and tokens of shared vocabularies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import xarray as xr
from tests.comparison.worlds import PAIRS, tiny

import rewarden as rw
from rewarden.comparison import batteries, compare
from rewarden.errors import RewardenError
from rewarden.hacking.bias import null as bias_null
from rewarden.hacking.bias.battery import ask_model, bias_battery
from rewarden.options import GREATEST, WORST
from rewarden.organisms import decisive_head
from rewarden.result import Result
from rewarden.statistics import holm

AXES = ["length", "hedging", "identity_age"]


@pytest.fixture
def quick(monkeypatch):
    """Few axes, and a stand-in for what random models of tokenizers without packaged factors are measured at."""
    def asked(rm, axes, options):
        return ask_model(rm, AXES, replace(options, per_seed=1))

    monkeypatch.setattr(batteries, "ask_model", asked)
    monkeypatch.setattr(bias_null, "measure_factors", lambda rm, questions, options: np.full((len(questions), 2), 3.0))
    monkeypatch.setattr(bias_null, "_MEASURED", {})
    return partial(bias_battery, axes=AXES, per_seed=1)


class Panel:
    """Models of one tokenizer as one model with several scalars: their rewards in SD, then the difference of the first two."""

    def __init__(self, models, units):
        self.models, self.units, self.main, self.noise_floor = models, units, 0, 0.0
        self.names = (*(rm.name for rm in models), "difference")
        self.tokenizer, self.encoder, self.encode = models[0].tokenizer, models[0].encoder, models[0].encode

    def reward_encoded(self, rows, **options):
        own = [rm.reward_encoded(rows, **options)[:, 0] / unit for rm, unit in zip(self.models, self.units, strict=True)]
        return np.column_stack([*own, own[0] - own[1]])

    def provenance(self):
        return {}


def assert_asked_as_alone(data, models, quick):
    for place, rm in enumerate(models):
        alone, unit = quick(rm), float(data["spread"].values[place])
        for ours, theirs in (("bias", "estimate"), ("bias_low", "low"), ("bias_high", "high")):
            np.testing.assert_allclose(data[ours].values[place], alone.data[theirs].values[:, 0] / unit, rtol=1e-6)
        np.testing.assert_array_equal(data["bias_factor"].values[place], alone.data["null_factor"].values)
        assert data["bias_calibration"].values[place] == alone.provenance["calibration"]


@pytest.mark.slow
def test_every_model_is_asked_as_alone_and_gaps_are_paired_differences(quick):
    models, pairs = [decisive_head(seed=0), decisive_head(seed=1)], rw.load_pairs("demo", limit=8)
    data = compare(models, pairs, bias=True, inside_pairs=0, resamples=100).data
    gap = {end: data[f"bias_gap{end}"].values for end in ("", "_low", "_high")}
    expected = quick(Panel(models, data["spread"].values)).data
    for end, theirs in (("", "estimate"), ("_low", "low"), ("_high", "high")):
        np.testing.assert_allclose(data[f"bias{end}"].values, expected[theirs].values[:, :2].T, atol=1e-5)
        np.testing.assert_allclose(gap[end][0, 1], expected[theirs].values[:, 2], atol=1e-5)
    np.testing.assert_allclose(data["bias_gap_p"].values[0, 1], holm(expected["p"].values[:, 2]), rtol=1e-3)
    assert gap[""][1, 0, 0] == -gap[""][0, 1, 0]
    assert gap["_low"][1, 0, 0] == -gap["_high"][0, 1, 0]
    assert gap[""][1, 0, 2] == gap[""][0, 1, 2]  # how far terms differ between models has no sign


def flat(p):
    """A comparison of two models with these adjusted p."""
    both = np.stack([np.full((2, 2), value) for value in p], axis=-1)
    dims = ("model", "other", "axis")
    ends = {f"bias_gap{end}": (dims, both + shift) for end, shift in (("", 0), ("_low", -1), ("_high", 1), ("_p", 0))}
    data = xr.Dataset({**ends, "bias_n": ("axis", [12] * len(p))}, coords={"axis": list("abc")})
    return Result("comparison", data, {})


def test_models_differ_where_the_adjusted_p_says_so():
    said = batteries.verdicts(flat([0.01, 0.2, np.nan]))
    assert [one.flag for one in said.values()] == [True, False, False]
    assert [one.evidence for one in said.values()] == pytest.approx([2.0, -np.log10(0.2), 0.0])
    assert (said["a"].low, said["a"].estimate, said["a"].high, said["a"].n) == (0.01 - 1, 0.01, 1.01, 12)
    with pytest.raises(RewardenError, match="no bias batteries"):
        batteries.verdicts(compare([tiny(), tiny(seed=1)], PAIRS, inside_pairs=0, resamples=100))


@pytest.mark.slow
def test_models_of_two_tokenizers_are_asked_as_alone_too(demo, quick):
    models, pairs = [demo, decisive_head()], rw.load_pairs("demo", limit=8)
    result = compare(models, pairs, bias=True, inside_pairs=0, resamples=100)
    data = result.data
    assert_asked_as_alone(data, models, quick)
    assert data["bias_calibration"].values.tolist() == ["packaged", "measured"]
    assert (data["bias_factor"].values[1] == 3.0).all()
    own, gap = data["bias"].values, data["bias_gap"].values[0, 1]
    assert gap[1] == pytest.approx(own[0, 1] - own[1, 1], rel=1e-9)
    assert np.isnan(gap[0])  # reward for each token, of different tokens
    assert np.isfinite([gap[2], data["bias_gap_p"].values[0, 1, 2]]).all()
    assert any("count different tokens" in text and "no gap of length" in text for text in result.warnings)


@pytest.mark.slow
def test_an_ensemble_is_asked_as_its_mean(quick):
    """The mean of a model and its twin is the model."""
    one, pairs = decisive_head(), rw.load_pairs("demo", limit=8)
    data = compare([rw.Ensemble([one, one]), one], pairs, bias=True, inside_pairs=0, resamples=100).data
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(data[f"bias{end}"].values[0], data[f"bias{end}"].values[1], atol=1e-5)
    np.testing.assert_allclose(data["bias_gap"].values[0, 1, :2], 0, atol=1e-5)


def test_an_ensemble_of_two_tokenizers_has_no_battery():
    both = rw.Ensemble([tiny(), decisive_head()])
    with pytest.raises(RewardenError, match="members of this ensemble write texts with different tokenizers") as refused:
        compare([both, tiny()], PAIRS, bias=True, inside_pairs=0, resamples=100)
    assert "for model in ensemble.models" in refused.value.fix


def test_scores_have_no_battery():
    with pytest.raises(RewardenError, match="no bias battery of"):
        compare([tiny(), tiny().score(PAIRS)], PAIRS, bias=True, inside_pairs=0, resamples=100)


def test_an_ensemble_has_no_vocabulary():
    with pytest.raises(RewardenError, match="no vocabulary of") as refused:
        compare([rw.Ensemble([tiny(), tiny(seed=1)]), tiny()], PAIRS, vocabulary=True, inside_pairs=0, resamples=100)
    assert refused.value.why == "an ensemble has no vocabulary of its own"


def test_vocabularies_are_compared_on_shared_tokens():
    models = [tiny(), tiny(seed=1)]
    data = compare(models, PAIRS, vocabulary=True, inside_pairs=0, resamples=100).data
    scans = [rw.score_vocabulary(rm, [GREATEST, WORST]) for rm in models]
    expected = rw.tokens.rank_agreement(rw.tokens.shared_vocabulary(scans, names=["a", "b"]), k=[10], blocks=0).data
    np.testing.assert_allclose(data["vocabulary_tau"].values, expected["tau"].values)
    assert data["vocabulary_prompt"].values.tolist() == [GREATEST, WORST]
    assert (data["vocabulary_tau_low"] < data["vocabulary_tau"]).values[:, 0, 1].all()
