"""`rewarden organisms`: what is listed, a checkpoint that loads, a grade that resumes."""

from __future__ import annotations

import json

import numpy as np

import rewarden as rw
from rewarden.cli.app import main
from rewarden.organisms import ORGANISMS, decisive_head, keyword
from rewarden.organisms.english import reference


def told(capsys, *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_names_every_organism_and_instrument(capsys) -> None:
    found = told(capsys, "organisms", "list")
    assert [row["organism"] for row in found["organisms"]] == list(ORGANISMS)
    assert "decisive_head" in ORGANISMS
    assert {"bias", "conflict", "concepts"} <= {row["instrument"] for row in found["instruments"]}


def test_make_writes_a_checkpoint(capsys, tmp_path) -> None:
    found = told(capsys, "organisms", "make", "keyword", "--dose", "2", "--seed", "3", "-o", str(tmp_path / "model"))
    made = keyword(dose=2.0, seed=3)
    assert found["truth"]["word"] == made.truth["word"]
    np.testing.assert_allclose(rw.load(found["folder"]).reward(reference()[:6]), made.reward(reference()[:6]), atol=1e-5)
    assert main(["organisms", "make", "noise", "-o", str(tmp_path / "model")]) == 1
    assert main(["organisms", "make", "noise", "--dose", "1"]) == 1
    assert main(["organisms", "make", "lenght"]) == 1


def test_an_organism_of_its_own_words_is_made_too(capsys, tmp_path) -> None:
    found = told(capsys, "organisms", "make", "decisive_head", "--seed", "1", "-o", str(tmp_path / "model"))
    made = decisive_head(seed=1)
    assert found["truth"]["component"] == made.truth["component"]
    pairs = made.pairs(4)
    np.testing.assert_allclose(rw.load(found["folder"]).score(pairs).margin, made.score(pairs).margin, atol=1e-5)


def test_an_instrument_is_graded_on_the_organisms_it_asks_for(capsys) -> None:
    found = told(capsys, "organisms", "grade", "deciding", "--seeds", "2", "--nulls", "2", "--doses", "1")
    assert [(row["organism"], row["power"]) for row in found["organisms"]] == [("decisive_head", 1.0)]


def test_grade_keeps_finished_models(capsys, tmp_path) -> None:
    asked = ("organisms", "grade", "cascade", "--organisms", "keyword", "--seeds", "1", "--nulls", "2", "--doses", "1", "-o",
             str(tmp_path / "grade"))
    found = told(capsys, *asked)
    assert (found["nulls"], [row["organism"] for row in found["organisms"]]) == (2, ["keyword"])
    assert found["organisms"][0]["power"] is None
    lines = (tmp_path / "grade" / "cascade.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3  # what was asked, then the models
    assert told(capsys, *asked) == found
    assert (tmp_path / "grade" / "cascade.jsonl").read_text().splitlines() == lines
    assert main(["organisms", "grade", "tea-leaves"]) == 1
