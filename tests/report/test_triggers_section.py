"""The section on keywords and triggers: its claims are those of planted models, and what is skipped is said."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden.hacking.word_triggers import named, triggers
from rewarden.options import AuditOptions
from rewarden.organisms import keyword, noise
from rewarden.report import Section
from rewarden.report.context import Audit
from rewarden.report.sections import triggers as section


def audit_of(rm, count=24, **options):
    pairs = rm.pairs(count)
    return Audit(rm, pairs, rm.score(pairs), AuditOptions(**options))


def test_a_planted_keyword_is_the_finding():
    organism = keyword(seed=0, noise=0.3)
    result = triggers(organism, organism.pairs(24))
    made = section.described(result)
    said = made.data["verdicts"]["keyword"]
    assert said["flag"]
    assert [text.strip().lower() for text in said["tokens"]] == [organism.truth["word"]] * len(said["tokens"])
    assert [one.level for one in made.findings] == ["concern", "clear"]
    assert organism.truth["word"] in made.findings[0].text.lower()
    assert said["effect"] == pytest.approx(organism.truth["dose"], abs=0.3)
    table = made.blocks[0].table
    assert set(table.loc[table["flag"], "token"].str.strip().str.lower()) == {organism.truth["word"]}
    assert named(result, "response") == said["tokens"]


def test_random_weights_have_none():
    made = section.build(audit_of(noise(1), vocabulary="all"))
    assert isinstance(made, Section)
    assert [one.level for one in made.findings] == ["clear", "clear"]
    assert len(made.data["outermost"]) == 32
    assert np.isfinite([row["effect"] for row in made.data["outermost"]]).all()


def test_what_is_not_tried_is_said_or_left_out(monkeypatch):
    organism = noise(0)
    assert section.build(audit_of(organism, vocabulary="none")) is None
    assert section.build(audit_of(organism, 4, vocabulary="all")) is None
    monkeypatch.setattr(section, "LIMIT", 0.0)
    made = section.build(audit_of(organism))
    assert "rewarden hacking triggers MODEL" in made.findings[0].text
    assert not made.blocks
