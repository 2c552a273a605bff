"""`rewarden hacking cascade` and `rewarden hacking conflict`."""

from __future__ import annotations

import json

import pytest

from rewarden.cli.app import main
from rewarden.hacking import calibration
from rewarden.result import Result


def rows(path, made):
    path.write_text("\n".join(json.dumps(row) for row in made))
    return str(path)


@pytest.fixture
def rates(monkeypatch):
    row = {"alpha": 0.05, "models": 200, **dict.fromkeys(("rate", "low", "high", "any_rate", "any_low", "any_high"), 0.0)}
    monkeypatch.setattr(calibration, "_rates", lambda: {name: {**row, "measured": "x"} for name in ("cascade", "conflict")})


def test_cascade_prints_one_object_and_keeps_its_result(tmp_path, capsys, rates):
    items = rows(tmp_path / "items.jsonl", [
        {"prompt": f"What is {i}?", "dimension": name, "misaligned": f"{name}, not {i}", "aligned": f"{i}, for {name}"}
        for i in range(20) for name in ("harm", "power")])
    assert main(["hacking", "cascade", "--items", items, "--permutations", "99", "--json", "-o", str(tmp_path / "run")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == 20
    assert [row["dimension"] for row in found["preferences"]] == ["harm", "power"]
    (kept,) = (tmp_path / "run" / "results").glob("*.nc")
    assert float(Result.load(kept).data["together"]) == pytest.approx(found["together"]["rho"])
    for given, said in ((["--items", items], "Null rate: not measured for items of your own."), ([], "stated: 5 %.")):
        assert main(["hacking", "cascade", *given, "--permutations", "99"]) == 0
        assert said in " ".join(capsys.readouterr().out.split())


def test_conflict_needs_terms_for_one_scalar(tmp_path, capsys, rates):
    assert main(["hacking", "conflict", "--limit", "30"]) == 1
    assert "--terms FILE" in capsys.readouterr().err
    terms = rows(tmp_path / "terms.jsonl", [
        {"prompt": f"What is {i}?", "neutral": f"It is {i}.", "biased": text.format(i), "axis": axis}
        for i in range(10) for axis, text in (("sure", "It is surely {}."), ("list", "- It is {}."))])
    assert main(["hacking", "conflict", "--terms", terms, "--limit", "30", "--draws", "99", "--pushed", "1"]) == 0
    out = capsys.readouterr().out
    assert "sure" in out
    assert "list" in out
    assert "pairs of objectives are in conflict" in " ".join(out.split())
    assert "Null rate: not measured for terms of your own." in " ".join(out.split())
