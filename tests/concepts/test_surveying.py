"""The survey of concepts: a planted length is found, what only adds words is not, and models without a rule are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.concepts.test_directions import PAIRS
from tests.statistics.coverage import assert_null_rate

import rewarden as rw
from rewarden.concepts import survey, verdicts
from rewarden.concepts.directions import direction
from rewarden.concepts.surveying import _length_part, in_turns, without
from rewarden.contrasts import Contrast
from rewarden.errors import RewardenError
from rewarden.hacking.bias.battery import contrasts
from rewarden.organisms import length, noise

AXES = ["length", "hedging", "headers", "flattery", "emoji"]
QUICK = {"items": 4, "randoms": 20, "heads": 499, "folds": 3}


@pytest.fixture(scope="module")
def asked() -> list[Contrast]:
    return contrasts(AXES)


def test_a_planted_length_is_found_and_what_only_adds_words_is_not(asked) -> None:
    result = survey(length(dose=4.0, seed=0), asked, **QUICK)
    assert result.follows.tolist() == [True, False, False, False, False]
    found = verdicts(result)
    assert found["length"].flag
    assert found["length"].low > 0
    assert not any(found[name].flag for name in AXES[1:])
    assert all(found["length"].evidence > found[name].evidence for name in AXES[1:])


def test_contrasts_without_seeds_are_counted_by_their_prompts() -> None:
    told = [Contrast.of(pair.prompt, text, pair.rejected, axis="bold") for pair in PAIRS for text in (pair.chosen, "**Yes.**")]
    result = survey(rw.load(), [*told, *(replace(one, axis="few") for one in told[:18])], items=2, randoms=3, heads=99, folds=2)
    assert (int(result.seeds[0]), int(result.data["contrasts"][0])) == (len(PAIRS), len(told))
    assert "'few' is set apart: 9 seeds" in result.warnings[0]
    assert [one.cluster for one in in_turns(told, len(PAIRS))] == [one.cluster for one in told[::2]]


@pytest.fixture
def shared(monkeypatch) -> None:
    """Surveys of several heads of one trunk share what does not depend on the head: states, directions, moved states."""
    from rewarden.concepts import dose, surveying
    from rewarden.edits.edit import EditBatch, Site

    def moved(rm, row, place, moves, where):
        found = values(rm, row.key(), moves.numpy().tobytes(), lambda: rm.plan(rm.base(row), EditBatch(
            Site("resid_post", place.site.layer, row.length - 1), torch.cat([0 * moves[:1], moves]), "add",
            np.full(len(moves) + 1, row.length - 1), None)).run())
        rewards = found.values[:, rm.main].double().numpy()
        return rewards[0], rewards[1:], found.noise_floor

    known: dict[tuple, object] = {}

    def values(rm, *rest):
        *key, make = rest
        if (id(rm.model), *key) not in known:
            if len(known) > 200:
                known.clear()
            known[(id(rm.model), *key)] = make()
        return known[(id(rm.model), *key)]

    states, one = surveying.activations_at, surveying._direction
    monkeypatch.setattr(dose, "_moved", moved)
    monkeypatch.setattr(dose, "activations", lambda rm, rows, place: np.zeros((1, rm.architecture.d_model)))  # for their width
    monkeypatch.setattr(surveying, "activations_at", lambda rm, rows, places, **options: values(
        rm, "states", lambda: states(rm, rows, places, **options)))
    made: dict[bytes, object] = {}
    monkeypatch.setattr(surveying, "_direction", lambda examples, at, *rest: made.setdefault(
        at.tobytes(), one(examples, at, *rest)) if at.tobytes() not in made else made[at.tobytes()])


@pytest.mark.slow
def test_random_weights_are_flagged_no_more_often_than_alpha(asked, shared) -> None:
    heads, flags = 12, []
    for seed in range(40):
        rm = noise(seed, outputs=heads)
        for rm.main in range(heads):
            found = survey(rm, asked, **{**QUICK, "contrasts_each": 24, "folds": 2, "heads": 299})
            flags.append([found.follows.any(), found.moves.any()])
    assert_null_rate(np.array(flags)[:, 0], 0.05)
    assert_null_rate(np.array(flags)[:, 1], 0.05)


def test_what_the_heads_of_a_trunk_share_changes_nothing(asked, request) -> None:
    rm, quick = noise(3, outputs=3), {**QUICK, "contrasts_each": 24, "folds": 2, "heads": 99}
    rm.main = 2
    alone = survey(rm, asked[:200], **quick)
    request.getfixturevalue("shared")
    for rm.main in (0, 2):
        found = survey(rm, asked[:200], **quick)
    for name in ("follows", "moves", "cosine", "slope", "p", "slope_p", "auc", "random_slope"):
        np.testing.assert_allclose(found.data[name], alone.data[name], rtol=1e-4, atol=1e-6)


def test_what_is_left_of_a_direction_knows_nothing_of_length(demo) -> None:
    found = direction(demo, PAIRS, controls=0)
    rows = [demo.encode(c) for pair in rw.load_pairs("demo")[:20] for c in pair.conversations]
    from rewarden.concepts.places import activations

    states = activations(demo, rows, found.place)
    rest = without(found, _length_part(states, rows))
    tokens = np.array([(row.spans == 2).sum() for row in rows])
    for covariate in (tokens, np.log(tokens)):
        assert abs(np.corrcoef(states @ rest.vector, covariate)[0, 1]) < 1e-8
    assert np.linalg.norm(rest.vector) == pytest.approx(1)


def test_one_axis_is_what_its_parts_say(demo) -> None:
    told = [Contrast.of(p.prompt, p.chosen, p.rejected, axis="length", seed=str(i)) for i, p in enumerate(PAIRS)]
    found = survey(demo, told, PAIRS, layer=2, method="mean_difference", **{**QUICK, "folds": 5})
    alone = direction(demo, told, controls=0)
    assert float(found.auc[0]) == pytest.approx(float(alone.report.auc))
    cosine = alone.cosine(demo, PAIRS, heads=499)
    assert float(found.cosine[0]) == pytest.approx(float(cosine.cosine), abs=1e-9)
    assert float(found.p[0]) == pytest.approx(float(cosine.p))
    assert found.length_share[0] == pytest.approx(0, abs=1e-9)


def test_of_a_direction_that_is_all_length_nothing_is_said(demo, monkeypatch) -> None:
    from rewarden.concepts import surveying

    own = direction(demo, TOLD, method="lda", folds=3, controls=0).vector
    kept, parts = surveying._length_part, iter([own[:, None]])  # at the read-out; as it is in the middle layer
    monkeypatch.setattr(surveying, "_length_part", lambda states, rows: next(parts, kept(states, rows)))
    found = survey(demo, TOLD, **QUICK)
    assert found.auc[0] > 0.9
    assert np.isnan(found.cosine[0])
    assert np.isnan(found.p_adjusted[0])
    assert not found.follows[0]
    assert found.length_share[0] == 1
    assert np.isfinite(found.slope[0])
    assert "nothing is left without length" in found.warnings[0]
    monkeypatch.setattr(surveying, "_length_part", lambda states, rows: np.eye(states.shape[1]))
    found = survey(demo, TOLD, **QUICK)
    assert np.isnan(found.slope[0])
    assert len(found.warnings) == 2
    verdict = verdicts(found)["bold"]
    assert (verdict.flag, verdict.evidence) == (False, 0.0)


def test_few_seeds_are_set_apart_or_refused(demo) -> None:
    few = [replace(one, axis="few") for one in TOLD[:5]]
    found = survey(demo, [*TOLD, *few], **QUICK)
    assert found.data["axis"].values.tolist() == ["bold"]
    assert "few" in found.warnings[0]
    with pytest.raises(RewardenError, match="no axis has enough seeds"):
        survey(demo, few, **QUICK)
    with pytest.raises(RewardenError, match="no contrasts"):
        survey(demo, [])


def test_seeds_and_templates_take_turns() -> None:
    told = [Contrast.of("Hi", f"{seed}{template}", "b", seed=str(seed), template=str(template))
            for seed in range(6) for template in range(3)]
    taken = in_turns(told, 6)
    assert {one.seed for one in taken} == {str(seed) for seed in range(6)}
    assert sorted(one.template for one in taken) == ["0", "0", "1", "1", "2", "2"]


TOLD = [Contrast.of(p.prompt, p.chosen, p.rejected, axis="bold", seed=str(i)) for i, p in enumerate(PAIRS)]
