"""Features of the format: planted ones found, coins not; markdown taken away; the bias repaired."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.dictionaries.contrast.formatted import at_random, organism_of, planted

from rewarden.conversation import Conversation, Pair
from rewarden.dictionaries.contrast.formats import format_features
from rewarden.dictionaries.contrast.markdown import format_pairs, plain
from rewarden.dictionaries.contrast.repair import repair_report
from rewarden.dictionaries.contrast.suppression import suppressed
from rewarden.dictionaries.sites import activations_at
from rewarden.edits import Site
from rewarden.errors import RewardenError
from rewarden.options.contrast import FormatOptions
from rewarden.organisms import noise
from rewarden.organisms.format_bias import format_versions

FAST = {"resamples": 100}


def selected(result) -> list[int]:
    return result.data["feature"].values[result.data["selected"].values].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pool", ["max", "mean", "sum"])
def test_the_marks_features_are_found_and_nothing_else(seed: int, pool: str) -> None:
    organism = organism_of(seed)
    found = format_features(organism, format_versions(organism, 48), planted(organism), pool=pool, **FAST)
    assert selected(found) == [int(i) for i in str(organism.truth["format_features"]).split(",")]
    marks = found.data.sel(feature=[0, 1, 2])
    assert (marks["plain"] == 0).all()
    assert (marks["strength_low"] > 0).all()
    np.testing.assert_allclose(marks["strength"], marks["formatted"], atol=1e-6)  # unit rows, and silent in plain text
    assert not found.warnings


def test_strength_and_stability_by_hand() -> None:
    organism = organism_of(0)
    versions = format_versions(organism, 30)
    found = format_features(organism, versions, planted(organism), pool="sum", stability=0.0, strength=0.0, **FAST).data
    code = [pair.chosen.count("`") // 2 for pair in versions]  # feature 1 is that of "`"
    assert float(found["strength"].sel(feature=1)) == pytest.approx(np.mean(code), abs=0.05)
    assert float(found["stability"].sel(feature=1)) == np.mean([count > 0 for count in code])
    strict = format_features(organism, versions, planted(organism), limit=2, pool="sum", **FAST)
    by_strength = found["feature"].values[np.argsort(-found["strength"].values)]
    assert selected(strict) == sorted(by_strength[:2].tolist())
    none = format_features(organism, versions[:3], planted(organism), **FAST)  # three prompts cannot be evidence: p ≥ 1/8
    assert selected(none) == []
    assert none.warnings


def test_coins_are_no_format() -> None:
    """The same versions, formatted or plain called formatted by a coin; and a random model with random texts."""
    organism, nothing = organism_of(1), noise(3)
    findings = [bool(selected(format_features(organism, at_random(format_versions(organism, 40, seed), seed), planted(
        organism), stability=0.5, **FAST))) for seed in range(12)]
    dictionary = planted(organism, 0.2)
    findings += [bool(selected(format_features(nothing, nothing.pairs(40, seed), dictionary, stability=0.5, **FAST)))
                 for seed in range(12)]
    assert np.mean(findings) <= 0.125  # 5 % of the runs may find something; four of 24 would be p < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_suppressing_what_was_found_repairs_the_hard_split(seed: int) -> None:
    """Must show: the gap easy − hard falls by half at least, and overall accuracy by a point at most."""
    organism = organism_of(seed)
    found = format_features(organism, format_versions(organism, 48), planted(organism), **FAST)
    report = repair_report(organism, suppressed(organism, planted(organism), found), organism.pairs(300), **FAST).data
    assert float(report["gap"].sel(model="before")) > 0.2
    assert float(report["gap_cut"]) >= 0.5
    assert float(report["gap_cut_low"]) >= 0.5
    assert float(report["change"].sel(split="all")) >= -0.01
    assert float(report["change"].sel(split="normal")) >= -0.01
    assert float(report["accuracy"].sel(model="after", split="hard")) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_trained_dictionary_repairs_it_too(seed: int) -> None:
    """The same with features that were learnt from the model's own activations."""
    from rewarden.dictionaries.training import train_dictionary

    organism = organism_of(seed)
    rows = [organism.encode(side) for pair in organism.pairs(400, seed=9) for side in pair.conversations]
    site = Site("resid_post", organism.layer)
    h = activations_at(organism, rows, [np.arange(row.length) for row in rows], [site], dtype=torch.float32)[site]
    trained = train_dictionary(h, d_sae=128, k=3, steps=500, batch=1024, seed=seed).dictionary
    found = format_features(organism, format_versions(organism, 64), trained, site=site, **FAST)
    view = suppressed(organism, trained, found, site=site)
    report = repair_report(organism, view, organism.pairs(300), **FAST).data
    assert float(report["gap_cut"]) >= 0.5
    assert float(report["change"].sel(split="all")) >= -0.01


@pytest.mark.parametrize(("text", "bare"), [
    ("## Title ##\n\ntext", "Title\n\ntext"), ("* one\n* two\n  1. three\n- [x] done", "one\ntwo\nthree\ndone"),
    ("**bold** and *soft* and ***both*** and __strong__ and _slight_", "bold and soft and both and strong and slight"),
    ("```python\nx = 2 * 3 * 4\n```\nend", "x = 2 * 3 * 4\nend"), ("`a_b` and snake_case_name", "a_b and snake_case_name"),
    ("> quoted\n>> twice", "quoted\ntwice"), ("| a | b |\n|---|---|\n| 1 | 2 |", "a | b\n 1 | 2"),
    ("see [here](http://x.y \"t\") ![pic](z.png)", "see here pic"), ("above\n\n---\n\nbelow", "above\n\nbelow"),
    ("~~gone~~", "gone"), ("3 * 4 = 12, #1 and 5 - 2", "3 * 4 = 12, #1 and 5 - 2"), ("nothing to do.", "nothing to do."),
    ("- ** moss **\n- ` jade `", "moss\njade")])
def test_markdown_is_taken_away_and_words_stay(text: str, bare: str) -> None:
    assert [line.strip() for line in plain(text).splitlines()] == [line.strip() for line in bare.splitlines()]
    assert plain(plain(text)) == plain(text)


def test_the_organisms_markdown_is_markdown() -> None:
    organism = organism_of(0)
    for pair in format_versions(organism, 20):
        assert plain(pair.chosen).split() == pair.rejected.split()
    made = format_pairs(organism.pairs(30))
    assert {pair.subset for pair in made} == {"format"}
    assert len(made) == sum(side.response != plain(side.response) for pair in organism.pairs(30) for side in pair.conversations)
    again = format_pairs([*organism.pairs(30), *organism.pairs(30)])
    assert again == made
    assert format_pairs([Conversation.of("Hi", "**Hello** you")])[0].rejected == "Hello you"
    with pytest.raises(RewardenError, match="none of 2 responses") as error:
        format_pairs([Pair("a", "b", "c")])
    assert error.value.fix


@pytest.mark.parametrize("asked", [{"stability": 1.5}, {"strength": -0.1}, {"limit": 0}, {"alpha": 0}, {"pool": "first"}])
def test_impossible_options_are_refused(asked: dict) -> None:
    with pytest.raises(RewardenError, match=next(iter(asked))):
        FormatOptions(**asked)
