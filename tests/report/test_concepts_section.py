"""The sections on concepts and repair: what is said is what was measured, and what does not apply is left out."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.contrasts import Contrast
from rewarden.options import AuditOptions
from rewarden.plots.concept_examples import concepts_result, repair_result
from rewarden.report import Audit, Page, render
from rewarden.report.sections import concepts, repair
from rewarden.result import Result
from rewarden.store import Run

PAIRS = rw.load_pairs("demo", limit=12)
TOLD = [Contrast.of(f"Name {n} {what}.", f"**{n}** {what}!" if axis == "emphasis" else f"Maybe {n} {what}.", f"{n} {what}.",
                    axis=axis, seed=f"{n} {what}", template=axis)
        for axis in ("emphasis", "hedging") for n in range(20, 30) for what in ("things", "reasons")]


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(concepts, "asked", lambda: TOLD)
    monkeypatch.setattr(repair, "asked", lambda: TOLD)


def test_both_sections_say_what_was_measured_and_are_written_again_without_the_model(demo, few, tmp_path) -> None:
    run = Run.open_or_create(tmp_path / "run", {"verb": "audit"}, demo.provenance(), identity={"verb": "audit"})
    audit = Audit(rm=demo, pairs=list(PAIRS), score=demo.score(PAIRS), run=run, options=AuditOptions(resamples=100))
    made = concepts.build(audit)
    found = Result.load(run.results_folder / "concepts.nc")
    shown = {row["concept"]: row["slope"] for row in made.data["concepts"]}
    np.testing.assert_allclose([shown["emphasis"], shown["hedging"]], found.slope)
    assert f"{int(found.moves.sum())} of 2 concepts" in made.findings[0].text
    mended = repair.described(audit.result("repair", lambda: repair.repair_of(audit, "emphasis")))
    assert mended.data["concept"] == "emphasis"
    again = Audit(rm=None, pairs=list(PAIRS), score=audit.score, run=run, options=audit.options)
    assert concepts.build(again).data == made.data
    assert repair.build(again).data == mended.data


def test_the_strongest_concept_that_may_be_unwanted_is_taken_out() -> None:
    data = concepts_result().data
    assert repair.strongest(concepts_result()) == str(data["axis"].values[np.argmax(
        np.where(data["follows"] | data["moves"], np.abs(data["slope"]), -1))])
    none = concepts_result()
    none.data["follows"][:] = False
    none.data["moves"][:] = False
    assert repair.strongest(none) is None


def test_no_repair_of_heads_that_are_not_linear(demo) -> None:
    from rewarden.readout.heads import HeadEnsemble

    rm = demo.reading(HeadEnsemble([demo.readout]))
    assert repair.build(Audit(rm=rm, pairs=list(PAIRS), score=demo.score(PAIRS))) is None


def test_the_page_holds_null_rate_intervals_and_n() -> None:
    sections = [concepts.described(concepts_result()), repair.described(repair_result())]
    page = render(Page(name="x", facts={}, provenance={}, command="", health=[], sections=sections, version="0"))
    assert "Null rate" in page
    moved, follows = sections[0].findings[:2]
    assert "Null rate" in moved.text  # each measured for its own flag
    assert "Null rate" in follows.text
    assert "36 to 36 seeds" in follows.text
    assert "seeds that did not find the direction" in page
