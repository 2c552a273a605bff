"""The verb compare prints what `rewarden.compare` computes, and keeps it where asked."""

from __future__ import annotations

import json

import numpy as np
import pytest

import rewarden as rw
from rewarden.cli import main
from rewarden.cli.terminal import FAILED, OK
from rewarden.store import Run

A, B = "demo:reward_model", "demo:reward_model_b"


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, tmp_path, models):
    monkeypatch.setattr("rewarden.cli.compare.model_of", lambda load, quiet: models[load.model])
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def models() -> dict[str, rw.RewardModel]:
    return {name: rw.load(name) for name in (A, B)}


def answer(capsys, *argv: str, code: int = OK) -> dict:
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_it_prints_the_comparison(capsys, models):
    found = answer(capsys, "compare", A, B, "--limit", "12", "--inside-pairs", "8", "--resamples", "100", "-o", "kept")
    result = rw.compare([models[A], models[B]], rw.load_pairs("demo", limit=12), inside_pairs=8, resamples=100)
    assert found["models"] == [A, B]
    said = found["compared"][0]
    assert said["share of pairs judged alike"]["value"] == pytest.approx(float(result.data["agreement"].values[0, 1]))
    assert said["correlation of parts"]["value"] == pytest.approx(float(result.data["profile"].values[0, 1]), abs=1e-5)
    assert said[f"reward directions, states of {B}"]["value"] == pytest.approx(
        float(result.data["frame_cosine"].values[0, 1, 0]), abs=1e-5)
    kept = Run.open("kept").results()["comparison"]
    np.testing.assert_allclose(kept.data["margin"], result.data["margin"], atol=1e-6)


def test_tables_stand_for_people(capsys):
    assert main(["compare", "--model", A, B, "--limit", "12", "--inside-pairs", "0", "--resamples", "100", "--top", "2"]) == OK
    out = capsys.readouterr().out
    assert "2 rewards on 12 pairs" in out
    assert "Cohen's kappa" in out


@pytest.mark.parametrize("argv", [(A,), (A, A), (A, B, "--top", "-1"), (A, B, "--inside-pairs", "2")])
def test_wrong_use_is_explained(capsys, argv):
    assert answer(capsys, "compare", *argv, code=FAILED)["error"]["fix"]
