"""The verbs on concepts: tables, run folders, checkpoints, refusals."""

from __future__ import annotations

import json

import pytest

import rewarden as rw
from rewarden.cli.app import main
from rewarden.hacking import calibration


@pytest.fixture
def rows(tmp_path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({
        "prompt": f"Name {n} {what}.", "neutral": f"{n} {what}.", "biased": f"**{n}** {what}!", "axis": "bold",
        "seed": f"{n} {what}"}) + "\n" for n in range(20, 38) for what in ("things", "reasons")))
    return str(path)


def test_concepts_of_a_file(rows, tmp_path, capsys, monkeypatch) -> None:
    row = {"alpha": 0.05, "models": 200, **dict.fromkeys(("rate", "low", "high", "any_rate", "any_low", "any_high"), 0.0)}
    monkeypatch.setattr(calibration, "_rates", lambda: {"concepts": {**row, "measured": "x"}})
    code = main(["concepts", "--axes", rows, "--limit", "12", "--items", "2", "--randoms", "5", "--heads", "99", "--json",
                 "-o", str(tmp_path / "run")])
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [row["concept"] for row in told["concepts"]] == ["bold"]
    assert told["concepts"][0]["auc"] > 0.9
    assert told["null_rate"] == "Null rate: not measured for axes of your own."
    assert (tmp_path / "run" / "results" / "concepts.nc").exists()


def test_repair_writes_a_checkpoint(rows, tmp_path, capsys) -> None:
    code = main(["repair", "--axes", rows, "--limit", "12", "--json", "--save", str(tmp_path / "mended")])
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    effect = told["effects"][0]
    assert abs(effect["after"]) < abs(effect["before"])
    assert rw.load(told["saved"]).names == ("score",)


def test_repair_must_be_told_what(capsys) -> None:
    assert main(["repair", "--limit", "12"]) == 1
    assert "--axes" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["concepts", "repair"])
def test_a_file_that_is_not_there_is_said_to_be_missing(verb, tmp_path, capsys) -> None:
    assert main([verb, "--axes", str(tmp_path / "missing.jsonl"), "--limit", "4"]) == 1
    assert "no such file" in " ".join(capsys.readouterr().err.split())


def test_tables_are_printed(rows, capsys) -> None:
    assert main(["repair", "--axes", rows, "--limit", "4"]) == 0
    out = capsys.readouterr().out
    assert "share left" in out
    assert "bold" in out
