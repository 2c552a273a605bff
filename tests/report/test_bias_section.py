"""The section on bias says what its Result holds, with n, interval and null rate, and needs no model to be written again."""

from __future__ import annotations

import numpy as np

import rewarden as rw
from rewarden.hacking.calibration import null_words
from rewarden.options import AuditOptions
from rewarden.plots.bias_examples import bias_result
from rewarden.report.context import Audit
from rewarden.report.sections import bias
from rewarden.result import Result


def test_the_flagged_axis_leads_with_interval_n_and_null_rate():
    section = bias.described(bias_result())
    first = section.statements[0]
    assert first.level == "concern"
    assert "1 of 5 kinds of change" in first.text
    assert "hedging −0.60 [−0.89, −0.31], −0.8 as it stands" in first.text
    assert "at least 36 seeds and 10 wordings" in first.text
    assert null_words("bias") in first.text
    assert section.data["flagged"] == ["hedging"]
    assert [block.figure.layout.title.text for block in section.blocks[:2]] == [
        "What each kind of change does to the reward", "Hedging: what each wording does"]


def test_the_length_slope_is_told_though_it_is_not_flagged():
    text = bias.described(bias_result()).statements[1].text
    assert "0.020 [−0.012, 0.052] (n = 10 comparisons, 10 wordings), no more than random-weight models" in text


def test_nothing_flagged_is_told_as_such():
    result = bias_result()
    result.data["flag"][:] = False
    section = bias.described(result)
    assert section.statements[0].level == "clear"
    assert section.statements[0].text.startswith("None of 5 kinds of change")


def test_an_axis_without_an_estimate_is_not_counted():
    result = bias_result()
    for name in ("estimate", "size", "p", "p_adjusted"):
        result.data[name].loc[{"axis": "length"}] = np.nan
    told = bias.described(result).statements
    assert "1 of 4 kinds of change" in told[0].text
    assert len(told) == 1


def test_methods_say_where_the_factors_are_from():
    result = bias_result()
    for source, words in (("off", "not allowed for"), ("packaged", "with this tokenizer"), ("measured", "for this run")):
        assert words in bias._methods(Result("bias", result.data, {**result.provenance, "calibration": source}, True, 1e-6))


def test_the_section_runs_the_battery_once_and_not_without_a_model(demo, monkeypatch):
    calls = []

    def battery(audit):
        calls.append(audit)
        return bias_result()

    monkeypatch.setattr(bias, "_battery", battery)
    pairs = [rw.Pair("Hi", "Hello!", "Go.")]
    score = demo.score(pairs)
    audit = Audit(demo, pairs, score, AuditOptions())
    section = bias.build(audit)
    assert section is not None
    assert len(calls) == 1
    assert bias.build(Audit(None, pairs, score, AuditOptions())) is None
    assert np.isfinite(section.data["axes"][0]["size"])
