"""The section on features: its numbers are those of the analysis, its dictionary the right one, and its text harmless."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.report.hostile import HOSTILE

import rewarden as rw
from rewarden.norms import Standardisation
from rewarden.options import AuditOptions
from rewarden.plots.feature_examples import cards_example, features_result
from rewarden.plots.features import strongest
from rewarden.report import Audit, Page, render
from rewarden.report.cards import cards_page
from rewarden.report.section import FigureBlock
from rewarden.report.sections import features
from rewarden.result import Result
from rewarden.store import Run

PAIRS = rw.load_pairs("demo", limit=12)


def directions(seed: int = 0, layer: int = 2) -> rw.Dictionary:
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(96, 192, generator=g), dim=-1)
    return rw.Dictionary(atoms, torch.zeros(96), atoms, torch.zeros(192), k=6, norm=Standardisation.of_width(192),
                         site=rw.Site("resid_post", layer))


def audit_of(rm, run: Run | None = None, **options) -> Audit:
    return Audit(rm=rm, pairs=list(PAIRS), score=rm.score(PAIRS), run=run,
                 options=AuditOptions(**{"resamples": 100, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(directions().save(tmp_path_factory.mktemp("dictionary") / "made"))


def test_the_section_says_what_the_analysis_found(demo, folder):
    audit = audit_of(demo, dictionary=folder)
    made = features.build(audit)
    assert made is not None
    expected = rw.feature_effects(demo, [audit.pairs[row] for row in audit.sample(features.PAIRS)], directions(), resamples=100)
    best = expected.data["feature"].values[strongest(expected)]
    assert [row["feature"] for row in made.data["features"]] == best.tolist()
    np.testing.assert_allclose([row["effect"] for row in made.data["features"]],
                               expected.data["reward_effect"].sel(feature=best).values)
    reward = expected.data["reward"]
    margin = float((reward.sel(side="chosen") - reward.sel(side="rejected")).mean())
    assert sum(row["mean"] for row in made.data["parts"]) == pytest.approx(margin, abs=1e-4)
    assert len([block for block in made.blocks if isinstance(block, FigureBlock)]) == 4


def test_which_dictionary_is_asked(demo, folder):
    assert features.build(audit_of(demo, dictionary="none")) is None
    other = rw.load("demo:reward_model_b")
    assert features.own_dictionary(other) is None
    assert features.build(audit_of(other)) is None
    bundled = features.own_dictionary(demo)
    assert bundled is not None
    assert torch.equal(bundled.W_dec, rw.Dictionary.load(rw.demo.dictionary_path()).W_dec)
    sparse = rw.sarm.build(demo, directions(), weights=torch.ones(96), check=False)
    assert features.dictionary_of(audit_of(sparse)) is sparse.readout.dictionary


def test_a_section_is_written_again_from_its_folder(demo, folder, tmp_path):
    run = Run.create(tmp_path / "run", {}, identity={"model": "demo"})
    audit = audit_of(demo, run, dictionary=folder)
    first = features.build(audit)
    again = features.build(replace(audit, rm=None))
    assert first is not None
    assert again is not None
    assert render(Page(name="x", sections=[again])) == render(Page(name="x", sections=[first]))
    empty = Run.create(tmp_path / "empty", {}, identity={"model": "demo"})
    assert features.build(replace(audit, rm=None, run=empty)) is None


def test_foreign_text_stays_text(tmp_path):
    cards = cards_example()
    for text in HOSTILE:
        data = cards.data.copy()
        data["label"] = ("feature", [f"“{text}”", ""])
        made = features.described(features_result(), Result("feature_cards", data, cards.provenance))
        page = render(Page(name="x", sections=[made]))
        assert page.count("<script") == render(Page(name="x", sections=[features.described(features_result(), cards)])
                                               ).count("<script")
    path = cards_page(Result("feature_cards", data, cards.provenance), tmp_path / "new" / "cards.html")
    assert "very kind" in path.read_text(encoding="utf-8")
