"""The section beside another model: its numbers are those of `rewarden.compare`, and it is there where it should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.comparison.worlds import tiny
from tests.report.hostile import HOSTILE

import rewarden as rw
from rewarden.options import AuditOptions
from rewarden.report import Audit, Page, render
from rewarden.report.sections import bias
from rewarden.report.sections import compare as compared
from rewarden.store import Run

PAIRS = [replace(pair, id="") for pair in rw.load_pairs("demo", limit=12)]


def audit_of(rm, pairs=PAIRS, run: Run | None = None, **options) -> Audit:
    return Audit(rm=rm, pairs=list(pairs), score=rm.score(pairs), run=run,
                 options=AuditOptions(**{"resamples": 100, "lens_pairs": 8, "bias": "none", **options}))


@pytest.fixture(scope="module")
def made(demo):
    audit = audit_of(demo)
    return audit, compared.build(audit)


def test_the_section_says_what_the_comparison_found(demo, made):
    _, section = made
    pairs = [replace(pair, id=str(row)) for row, pair in enumerate(PAIRS)]
    found = rw.compare([demo, rw.load("demo:reward_model_b")], pairs, inside_pairs=8, resamples=100).data
    rows = {row["what"]: row for row in section.data["rows"]}
    assert rows["share of pairs judged alike"]["value"] == pytest.approx(float(found["agreement"].values[0, 1]))
    assert rows["difference in accuracy, paired"]["low"] == pytest.approx(float(found["accuracy_gap_low"].values[0, 1]))
    assert rows["Spearman's ρ of margins"]["high"] == pytest.approx(float(found["spearman_high"].values[1, 0, 1]))
    cosine = [row["cosine"] for row in section.data["directions"]]
    np.testing.assert_allclose(cosine, found["frame_cosine"].values[:, [0, 1], [1, 0]].ravel(), atol=1e-5)
    assert len(section.blocks) == 6
    assert all("n = " in finding.text or "of 12 pairs" in finding.text or "Read from" in finding.text
               for finding in section.findings)


def test_which_model_is_the_other_one(demo, made):
    assert compared.other_bundled(demo) == "demo:reward_model_b"
    assert compared.other_bundled(rw.load("demo:reward_model_b")) == "demo:reward_model"
    assert compared.other_bundled(tiny()) is None
    assert compared.build(audit_of(demo, against="none")) is None
    assert compared.build(audit_of(tiny())) is None
    assert compared.build(replace(made[0], rm=None)) is None  # nothing was kept


def test_a_model_asked_for_is_compared_on_the_pairs_both_can_read(demo, monkeypatch):
    from rewarden.demo import model_path

    plain, longer = rw.load, rw.Pair("Why?", "word " * 60, "No.")
    monkeypatch.setattr(rw, "load", lambda name: plain(name, max_length=64))
    audit = audit_of(demo, [PAIRS[0], longer, *PAIRS[1:]], against=str(model_path("reward_model_b")))
    result = compared.comparison_of(audit, compared._other(audit))
    held = [row for row, pair in enumerate(audit.pairs) if pair is not longer]
    assert set(result.data["pair"].values) <= {str(row) for row in held}
    kept = compared.pairs_of(audit, result)
    np.testing.assert_allclose(result.margin[0], demo.score(kept).margin, atol=1e-5)


def test_a_few_pairs_conclude_nothing(demo):
    section = compared.build(audit_of(demo, PAIRS[:4]))
    assert [finding.text for finding in section.findings] == [
        "Nothing is said of how two models compare: n = 4; at least 10 pairs are needed."]


def test_the_section_is_written_again_from_its_folder(demo, tmp_path):
    run = Run.create(tmp_path / "run", {}, identity={"model": "demo"})
    audit = audit_of(demo, run=run)
    first = compared.build(audit)
    again = compared.build(replace(audit, rm=None))
    assert render(Page(name="x", sections=[again])) == render(Page(name="x", sections=[first]))


@pytest.mark.slow
def test_biases_of_both_models_stand_side_by_side(demo, tmp_path, monkeypatch):
    from rewarden.hacking.bias import battery as engine

    asked, plain = {}, engine.bias_battery

    def counted(rm, axes, **given):
        assert rm.name not in asked  # the first model is not asked again
        asked[rm.name] = plain(rm, axes, **given)
        return asked[rm.name]

    monkeypatch.setattr(engine, "bias_battery", counted)
    run = Run.create(tmp_path / "run", {}, identity={"model": "demo"})
    audit = audit_of(demo, run=run, bias="hedging")
    audit.result("bias", lambda: bias.battery(audit, demo))  # by its own section, earlier
    section = compared.build(audit)
    names = ["demo:reward_model", "demo:reward_model_b"]
    assert list(asked) == names
    assert asked[names[0]].provenance["per_seed"] == asked[names[1]].provenance["per_seed"] == bias.PER_SEED
    row = section.data["biases"][0]
    for name in names:
        found = asked[name].data
        for ours, theirs in ((name, "size"), (f"{name}, low", "size_low"), (f"{name}, high", "size_high")):
            assert row[ours] == pytest.approx(float(found[theirs].values[0, 0]), abs=1e-12)
    assert (row["axis"], row["wordings"]) == ("hedging", int(found["n_templates"].values[0]))
    assert section.blocks[-1].title == "The bias battery of both models"
    assert any(finding.text.startswith("Of 1 kind of change (") for finding in section.findings)
    again = compared.build(replace(audit, rm=None))
    assert render(Page(name="x", sections=[again])) == render(Page(name="x", sections=[section]))


def test_texts_of_strangers_stay_text(demo):
    hostile = [text for text in HOSTILE if len(text) < 80][:12]
    pairs = [replace(pair, prompt=f"{row}. {text}", chosen=f"{pair.chosen} {text}")
             for row, (pair, text) in enumerate(zip(PAIRS, hostile, strict=True))]
    page = render(Page(name="x", sections=[compared.build(audit_of(demo, pairs))]))
    assert not any(text in page for text in ("<script>__hit", "<img src=x", "<svg onload"))
