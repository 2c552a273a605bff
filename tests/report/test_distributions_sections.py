"""The sections on distortion and divergence: what they say of Results, and that they need no model to be written again."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.plots.distortion import distortion_forest, distortion_table
from rewarden.plots.divergence import divergence_forest, divergence_table
from rewarden.plots.divergence_examples import distortion_result, divergence_result
from rewarden.report.auditing import rebuild
from rewarden.report.section import builders
from rewarden.report.sections import distortion as distortion_section
from rewarden.report.sections import divergence as divergence_section


def test_distortion_says_what_is_rewarded_and_not_covered():
    made = distortion_section.described(distortion_result())
    assert made.findings[0].level == "concern"
    assert "1 of 5 kinds of change" in made.findings[0].text
    assert "emoji (0.8 SD, 30 % covered [22, 38])" in made.findings[0].text
    assert "of each kind at least 36 seeds and 8 wordings" in made.findings[0].text
    assert "less than 80 % by these pairs" in made.findings[0].text
    assert made.findings[-1].text.endswith("of sycophancy.")  # no direction in common, and the reward does not follow it
    clear = replace(distortion_result(), data=distortion_result().data.assign(flag=("dimension", [False] * 5)))
    assert distortion_section.described(clear).findings[0].level == "clear"


def test_the_forest_of_distortion_draws_what_the_table_holds():
    table, drawn = distortion_table(distortion_result()), distortion_forest(distortion_result())
    flagged, others = table[table["flag"]], table[~table["flag"]]
    for traces, rows in ((drawn.data[:2], flagged), (drawn.data[2:], others)):
        np.testing.assert_allclose(traces[0].x, rows["sensitivity"])
        np.testing.assert_allclose(traces[1].x, rows["coverage"])
        assert [colour != "rgba(0,0,0,0)" for colour in traces[0].marker.color] == rows["sensitive"].tolist()
    assert table["dimension"].iloc[-1] == "sycophancy"


def example(**changed):
    result = divergence_result()
    held = {"p_state": (("pair", "component"), np.full((8, 6), 0.5)), "suspect": ("component", [False] * 6), **changed}
    return replace(result, data=result.data.assign(held))


def test_divergence_says_which_effects_rest_on_it():
    made = divergence_section.described(example())
    assert made.findings[0].text.startswith("7 of 48 patched states (14.6 %) lie beyond 95 % of clean ones (n = 8 pairs")
    suspect = divergence_section.described(example(suspect=("component", [False] * 5 + [True])))
    assert suspect.findings[0].level == "concern"
    assert "MLP 2 (75 % divergent" in suspect.findings[0].text
    assert "n = 2, a difference of " in suspect.findings[0].text


def test_the_forest_of_divergence_draws_what_the_table_holds():
    table, drawn = divergence_table(divergence_result()), divergence_forest(divergence_result(), n=3)
    np.testing.assert_allclose(drawn.data[0].x, 100 * table["share"].head(3))
    np.testing.assert_allclose(drawn.data[1].x, table["mean"].head(3))
    np.testing.assert_allclose(drawn.data[2].x, table["kept_mean"].head(3))


def test_sections_are_written_again_without_the_model(demo, tmp_path, monkeypatch):
    chosen = [builder for builder in builders() if builder.name in ("divergence", "methods")]
    monkeypatch.setattr(importlib.import_module("rewarden.report.auditing"), "builders", lambda: chosen)
    report = rw.audit(demo, rw.load_pairs("demo", limit=50), out=tmp_path / "run", patch_pairs=2, lens_pairs=2, resamples=100,
                      quiet=True)
    again = rebuild(report.folder)
    assert [made.name for made in report.sections] == [made.name for made in again.sections] == ["divergence", "methods"]
    assert again.sections[0].problem is None
    assert again.sections[0].findings == report.sections[0].findings


def audit_with(bias):
    from rewarden.options import AuditOptions
    from rewarden.report.context import Audit

    rm, pairs = rw.load(), rw.load_pairs("demo")[:24]
    return Audit(rm, pairs, rm.score(pairs), AuditOptions(bias=bias))


def test_distortion_asks_what_the_audits_battery_asked():
    made = distortion_section.build(audit_with("lists"))
    assert [row["dimension"] for row in made.blocks[0].table.to_dict("records")] == ["lists"]
    assert distortion_section.build(audit_with("none")) is None
    with pytest.raises(RewardenError, match="has a direction"):
        distortion_section.build(audit_with("identity_gender"))
