"""`rewarden hacking divergence` and `rewarden hacking distortion`: one JSON object, the same numbers as in Python."""

from __future__ import annotations

import json

import pytest

import rewarden as rw
from rewarden.cli.app import main


def test_divergence(capsys, demo):
    argv = ["hacking", "divergence", "--limit", "44", "--patched", "2", "--sites", "attn_out", "--resamples", "100", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    pairs = rw.load_pairs("demo", limit=44)
    result = rw.hacking.divergence(demo, pairs[:2], clean=pairs[2:], sites=("attn_out",), resamples=100)
    shares = {row["component"]: row["share"] for row in found["components"]}
    assert shares == pytest.approx(dict(zip(result.data["component"].values.tolist(), result.share.tolist(), strict=True)))
    assert found["divergent"] == int(result.divergent.sum())


@pytest.mark.slow
def test_distortion(capsys):
    argv = ["hacking", "distortion", "--axes", "emoji", "--limit", "25", "--items", "2", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["dimension"] for row in found["dimensions"]] == ["emoji"]
    row = found["dimensions"][0]
    assert row["index"] == pytest.approx(row["sensitivity"] * (1 - row["coverage"]))


def test_resuming_names_the_group(capsys, tmp_path):
    argv = ["hacking", "divergence", "--limit", "44", "--patched", "2", "--sites", "attn_out", "--resamples", "100", "--json"]
    assert main([*argv, "-o", str(tmp_path / "run")]) == 0
    assert main(["runs", "resume", str(tmp_path / "run"), "--json"]) == 1
    assert "run `rewarden hacking divergence` again" in capsys.readouterr().out


@pytest.mark.parametrize("patched", ["-10", "0"])
def test_no_pairs_to_patch_are_refused(capsys, patched):
    assert main(["hacking", "divergence", "--patched", patched, "--json"]) == 1
    assert "give 1 or more" in capsys.readouterr().out


def test_too_few_pairs_are_one_error(capsys):
    assert main(["hacking", "divergence", "--limit", "5", "--json"]) == 1
    assert "too few clean conversations" in capsys.readouterr().out
