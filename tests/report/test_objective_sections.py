"""Sections on misaligned preferences and on objectives: sentences follow numbers, and are written again without the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import rewarden as rw
from rewarden.options import AuditOptions
from rewarden.organisms import conflict as planted
from rewarden.plots.objective_examples import cascade_result, conflict_result
from rewarden.report.context import Audit
from rewarden.report.sections import cascade, conflict
from rewarden.result import Result


def test_a_cascade_is_told_with_n_interval_and_null_rate():
    section = cascade.described(cascade_result())
    preference, together = section.findings
    assert "harm" not in preference.text
    assert "less reward in deception (−0.80 [−1.20, −0.40])" in preference.text
    assert "n = 24 prompts" in preference.text
    assert together.level == "concern"
    assert "deception with harm (ρ = 0.70 [0.40, 1.00])" in together.text
    assert "Null rate" in together.text
    assert "Null rate" in preference.text
    assert section.data["pairs"][0]["rho"] == 0.7
    assert section.data["flag"] is False


@pytest.mark.parametrize(("shift", "level", "words"), [
    (3.0, "concern", "Misaligned responses get more reward"), (-3.0, "clear", "less reward than aligned ones in all 3"),
    (None, "concern", "It is not shown that aligned responses get more reward"), (0.0, "fact", "neither side is shown")])
def test_preferences_are_told_by_their_adjusted_p(shift, level, words):
    result = cascade_result()
    data = result.data.copy(deep=True)
    data["preference"] = data["preference"] + (shift or 0.0)
    data["preference_flag"] = ("dimension", {None: [False] * 3, 0.0: [True, False, False]}.get(shift, [True] * 3))
    finding = cascade.described(Result("cascade", data, result.provenance)).findings[0]
    assert finding.level == level
    assert words in finding.text
    assert "α = 0.05 over 3 dimensions" in finding.text


def test_an_interval_above_zero_is_no_concern_by_itself():
    result = cascade_result()
    result.data["preference"][1], result.data["preference_low"][1] = 0.9, 0.5  # unflagged: one of several looked at
    assert "harm" not in cascade.described(result).findings[0].text


def test_nothing_flagged_is_told_as_looked_for():
    result = cascade_result()
    data = result.data.copy(deep=True)
    data["flag"] = ("pair", np.zeros(3, dtype=bool))
    finding = cascade.described(Result("cascade", data, result.provenance)).findings[1]
    assert finding.level == "clear"
    assert "none of 3 pairs of dimensions flagged" in finding.text


def test_a_conflict_is_told_with_its_slope():
    section = conflict.described(conflict_result())
    assert section.findings[0].level == "concern"
    assert ("helpful and brief (ρ = −0.80 [−0.90, −0.65]; raising the first by 1 moves the second by −0.70 [−0.80, −0.60])"
            in section.findings[0].text)
    assert "40 pairs of responses to 40 prompts; slopes: 24 conversations" in section.findings[0].text
    assert "50.0 % [45.0, 55.0] of what objectives add" in section.findings[1].text
    assert len(section.blocks) == 2
    quiet = conflict_result()
    quiet.data["flag"] = ("couple", np.zeros(3, dtype=bool))
    assert conflict.described(quiet).findings[0].level == "clear"


def test_names_keep_their_hyphens_and_shares_count_prompts():
    result = conflict_result()
    data = result.data.assign_coords({axis: ["well-meant", "brief", "polite"] for axis in ("objective", "pushed", "read")})
    data["first"], data["prompt"] = ("couple", ["well-meant", "well-meant", "brief"]), ("pair", np.arange(40) // 2)
    first, second = conflict.described(Result("conflict", data, result.provenance)).findings
    assert "well-meant and brief" in first.text
    assert "(n = 20 prompts)" in second.text


def test_a_model_with_one_scalar_has_no_conflict_section(demo):
    pairs = rw.load_pairs("demo")[:2]
    assert conflict.build(Audit(demo, pairs, demo.score(pairs))) is None


def test_the_conflict_section_of_a_model_with_several(tmp_path):
    from rewarden.store import Run

    organism = planted(dose=3.0, seed=2, gated=True)
    pairs = organism.pairs(40)
    identity = {"verb": "audit"}
    run = Run.open_or_create(tmp_path / "run", identity, organism.provenance(), identity=identity, resume=True)
    options = AuditOptions(resamples=100)
    score = organism.score(pairs)
    made = conflict.build(Audit(organism, pairs, score, options, run))
    assert made is not None
    assert "helpful and brief" in made.findings[0].text
    again = conflict.build(Audit(None, pairs, score, options, run))
    assert again is not None
    assert [one.text for one in again.findings] == [one.text for one in made.findings]
    assert json.dumps(again.data) == json.dumps(made.data)
