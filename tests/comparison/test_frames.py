"""Reward directions in a frame: the cosine is the correlation of both heads on the same states; unshared bases are refused."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.comparison.worlds import PAIRS, gated, tiny
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.comparison import compare, frame_cosine
from rewarden.comparison.frames import _cosine, lineage, no_frame
from rewarden.comparison.inside import look_inside
from rewarden.comparison.members import members_of
from rewarden.options import CompareOptions
from rewarden.preferences import prompt_keys
from rewarden.reward_model import RewardModel

OPTIONS = {"resamples": 100, "inside_pairs": 10}


def relative(change: float = 0.02, seed: int = 1, family: str = "llama", head: bool = True) -> RewardModel:
    """A model a little away from the tiny one, with another head and other gains: what fine-tuning leaves."""
    model = copy.deepcopy(tiny(family).model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            new = head and name.startswith(("score", "classifier"))
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if new else parameter + change * noise)
    return RewardModel(model, tiny_tokenizer(), name="relative", check=False)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_cosine_is_the_correlation_of_both_readings(family):
    a, b = tiny(family), relative(family=family)
    found = compare([a, b], PAIRS, **OPTIONS).data
    assert found["no_frame"].values[0, 1] == ""
    for i, owner in enumerate((a, b)):
        rows = [owner.encode(side) for pair in PAIRS for side in pair.conversations]
        finals = [owner.trace(row, ["final"], "read")["final"] for row in rows]
        readings = [[float(rm.readout.apply(final, rm.readout.read(row))[rm.main])
                     for final, row in zip(finals, rows, strict=True)] for rm in (a, b)]
        values = np.asarray(readings)
        for place, held in enumerate((values, values[:, ::2] - values[:, 1::2])):
            assert found["frame_cosine"].values[place, i, 1 - i] == pytest.approx(np.corrcoef(held)[0, 1], abs=1e-6)
    assert (found["frame_cosine_low"] <= found["frame_cosine"]).values[:, 0, 1].all()


def test_the_formula_is_the_angle_between_whitened_directions():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    a, b = rng.normal(size=(2, 5))
    values, vectors = np.linalg.eigh(np.cov(states.T))
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    u, v = root @ a, root @ b
    expected = u @ v / math.sqrt((u @ u) * (v @ v))
    assert float(frame_cosine(states, a, b)) == pytest.approx(expected, abs=1e-12)
    assert float(frame_cosine(states, a, b)) == pytest.approx(np.corrcoef(states @ a, states @ b)[0, 1], abs=1e-12)
    assert float(frame_cosine(states, -3 * a, b)) == pytest.approx(-expected, abs=1e-12)
    assert np.isnan(frame_cosine(np.ones((4, 5)), a, b))


def test_random_directions_correlate_where_states_are_flat():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(400, 30)) * np.r_[10.0, np.full(29, 0.1)]
    cosines = np.abs([float(frame_cosine(states, *rng.normal(size=(2, 30)))) for _ in range(300)])
    assert np.median(cosines) > 0.9  # so a frame needs its own null


def test_the_null_holds_random_heads():
    rng = np.random.default_rng(4)
    states, clusters = rng.normal(size=(50, 32)) * np.geomspace(5, 0.05, 32), np.arange(50)
    beyond = 0
    for _ in range(200):
        cosine, _, _, null = _cosine(states, clusters, *rng.normal(size=(2, 32)), CompareOptions())
        beyond += abs(cosine) > null
    assert beyond <= 19  # 5 % of 200; more than 19 once in a hundred


def test_separately_made_trunks_have_no_frame():
    a, b = tiny(), tiny(seed=5)
    assert lineage(a, a) == pytest.approx(1)
    assert lineage(a, relative()) > 0.9
    assert abs(lineage(a, b)) < 0.2
    result = compare([a, b], PAIRS, **OPTIONS)
    assert "not trained from a common one" in str(result.data["no_frame"].values[0, 1])
    assert np.isnan(result.data["frame_cosine"]).all()
    assert any("reward directions are not compared" in text for text in result.warnings)


def test_added_tokens_do_not_hide_a_common_origin():
    a, grown = tiny(), copy.deepcopy(relative().model)
    grown.resize_token_embeddings(len(a.architecture.embedding.weight) + 8)  # type: ignore[arg-type]
    b = RewardModel(grown, tiny_tokenizer(), name="grown", check=False)
    assert lineage(a, b) == lineage(b, a) == pytest.approx(lineage(a, relative()))
    data = compare([a, b], PAIRS, **OPTIONS).data
    assert data["no_frame"].values[0, 1] == ""
    assert np.isfinite(data["frame_cosine"].values[:, 0, 1]).all()


def test_trunks_whose_matrices_cannot_be_compared_are_told_so():
    a, b = tiny(), tiny("gpt2")
    result = compare([a, b], PAIRS, **OPTIONS)
    reason = str(result.data["no_frame"].values[0, 1])
    assert "nan" not in reason
    assert math.isnan(lineage(a, b))
    members = members_of([a, relative()], PAIRS, None, each_scalar=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewarden.comparison.frames.lineage", lambda *_: math.nan)
        found = look_inside(members, PAIRS, CompareOptions())
        assert "no weight matrix of their first and last layers" in no_frame(members, found, 0, 1)


def test_objectives_have_directions_and_a_gated_score_has_none():
    rm = gated()
    data = compare([rm], PAIRS, scalars=True, **OPTIONS).data
    assert "another one in every text" in str(data["no_frame"].values[0, 1])
    assert data["no_frame"].values[1, 2] == ""
    objective = rm.score(PAIRS).reward.reshape(-1, 4)
    correlation = np.corrcoef(objective.T)
    for i in range(1, 4):
        for j in range(i + 1, 4):
            assert data["frame_cosine"].values[0, i, j] == pytest.approx(correlation[i, j], abs=1e-5)
    assert len(np.unique(prompt_keys(PAIRS))) == 10
