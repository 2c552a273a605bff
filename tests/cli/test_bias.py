"""`rewarden bias` prints the battery, of bundled axes or of one's own."""

from __future__ import annotations

import json

from rewarden.cli.app import main


def test_one_axis_as_json(capsys, tmp_path):
    assert main(["bias", "--axes", "position", "--per-seed", "1", "--wordings", "position", "--json", "-o",
                 str(tmp_path / "run")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["axis"] for row in found["axes"]] == ["position"]
    assert found["axes"][0]["low"] < found["axes"][0]["size"] < found["axes"][0]["high"]
    assert len(found["wordings"]) == found["axes"][0]["templates"]
    assert found["null_rate"].startswith("Null rate")
    assert (tmp_path / "run" / "results" / "bias.nc").exists()


def test_an_unknown_axis_is_told(capsys):
    assert main(["bias", "--axes", "lenght"]) == 1
    assert "no axis is called 'lenght'" in capsys.readouterr().err
