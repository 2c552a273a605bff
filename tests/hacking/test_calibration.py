"""A null rate is told beside runs of the instrument that it was measured for, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from rewarden.hacking import calibration
from rewarden.hacking.calibration import battery_null_words, distortion_null_words, null_words, survey_null_words
from rewarden.plots.concept_examples import concepts_result
from rewarden.plots.divergence_examples import distortion_result
from rewarden.plots.objective_examples import conflict_result
from rewarden.report.sections import concepts, conflict, distortion
from rewarden.result import Result

ROW = {"alpha": 0.05, "models": 200, "rate": 0.01, "low": 0.0, "high": 0.02, "any_rate": 0.1, "any_low": 0.0, "any_high": 0.2,
       "measured": "x"}
MISSING = "Null rate: not measured for this instrument."
RATE = "Null rate: any flag in 10.0 % [0.0, 20.0] of 200 random-weight models (1.0 % of all questions); stated: 5 %"
BATTERY = {"calibration": "packaged", "correction": "holm", "axes": "all", "per_seed": 3, "alpha": 0.05}
INDEX = {"battery_calibration": "packaged", "battery_per_seed": 3, "axes": "all", "per_seed": 1, "covered": 0.8, "energy": 0.9,
         "alpha": 0.05}
SURVEY = {"contrasts_each": 48, "items": 16, "randoms": 40, "frame": "contrasts", "alpha": 0.05}


@pytest.fixture
def measured(monkeypatch):
    names = ("bias", "distortion", "concepts", "follows", "conflict", "cascade")
    monkeypatch.setattr(calibration, "_rates", lambda: dict.fromkeys(names, ROW))


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr(calibration, "_rates", dict)


def test_a_rate_is_told_of_the_same_test_only(measured):
    assert null_words("conflict") == null_words("conflict", alpha=0.05, differs=[("{} draws", 9, 9)]) == f"{RATE}."
    assert null_words("conflict", unlike="terms of your own") == "Null rate: not measured for terms of your own."
    assert null_words("conflict", alpha=0.01, differs=[("{} draws", 9, 5)]) == (
        f"{RATE} (measured with 9 draws, α = 5 %; here 5, 1 %).")


def test_without_rates_the_words_are_the_same_of_every_run(unmeasured):
    assert null_words("conflict", unlike="terms of your own", alpha=0.01, differs=[("{} draws", 9, 5)]) == MISSING
    assert battery_null_words({**BATTERY, "axes": "own", "per_seed": 2}) == MISSING
    assert distortion_null_words({**INDEX, "axes": "own"}) == survey_null_words(SURVEY, "own") == MISSING


@pytest.mark.parametrize(("words", "usual", "changed", "end"), [
    (battery_null_words, BATTERY, {"per_seed": 2}, "(measured with 3 wordings a seed; here 2)."),
    (battery_null_words, BATTERY, {"alpha": 0.1}, "(measured with α = 5 %; here 10 %)."),
    (battery_null_words, BATTERY, {"axes": "some", "correction": "bh"},
     "(measured with all bundled axes, Holm; here some, Benjamini–Hochberg)."),
    (distortion_null_words, INDEX, {"battery_per_seed": 2}, "(measured with 3 wordings a seed; here 2)."),
    (distortion_null_words, INDEX, {"covered": 0.5, "axes": "some"},
     "(measured with all bundled axes, covered 0.8; here some, 0.5)."),
    (partial(survey_null_words, instrument="follows"), {**SURVEY, "heads": 1999}, {"heads": 99, "randoms": 2},
     "(measured with 1999 random read-outs; here 99)."),
    (survey_null_words, SURVEY, {"contrasts_each": 40, "frame": "corpus"},
     "(measured with 48 contrasts each, a frame of the contrasts; here 40, corpus).")])
def test_what_is_set_otherwise_is_told(measured, words: Callable, usual: dict, changed: dict, end: str):
    assert words(usual) == f"{RATE}."
    assert words({**usual, **changed}) == f"{RATE} {end}"


@pytest.mark.parametrize(("words", "facts", "reason"), [
    (battery_null_words, {**BATTERY, "axes": "own"}, "for axes of your own"),
    (battery_null_words, {**BATTERY, "calibration": "off"}, "without calibration"),
    (distortion_null_words, {**INDEX, "axes": "own"}, "for axes of your own"),
    (distortion_null_words, {**INDEX, "battery_calibration": "off"}, "for a battery without calibration")])
def test_no_rate_is_told_of_another_test(measured, words: Callable, facts: dict, reason: str):
    assert words(facts) == f"Null rate: not measured {reason}."


def test_sections_tell_how_their_run_differs(measured):
    def told(section, result: Result, **facts) -> str:
        made = section.described(Result(result.kind, result.data, {**result.provenance, **facts}, True, 1e-6))
        return " ".join([made.findings[0].text, made.methods])

    assert f"{RATE}." in told(conflict, conflict_result())
    assert told(conflict, conflict_result(), terms=True).count("not measured for terms of your own") == 2
    assert told(distortion, distortion_result(), battery_per_seed=2).count("3 wordings a seed; here 2") == 2
    assert "all bundled axes, 48 contrasts each; here all but identity, 40)" in told(
        concepts, concepts_result(), contrasts_each=40, frame="contrasts")
