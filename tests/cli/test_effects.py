"""The verbs of causal effects print what the library computes, keep it where asked, and go on where they were stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rewarden import Pair
from rewarden.cli import app, flags, main
from rewarden.cli.terminal import FAILED, INTERRUPTED, OK, USAGE
from rewarden.options import PatchOptions, PathOptions
from rewarden.organisms import decisive_head
from rewarden.patching.agreement import agreement
from rewarden.patching.flips import flip
from rewarden.patching.pair import Sweeper
from rewarden.patching.paths import patch_paths
from rewarden.patching.sweep import patch
from rewarden.store import Run

PAIRS = [Pair(prompt="What is 2+2?", chosen="It is 4.", rejected="It is 5, I think.", id="sum"),
         Pair(prompt="Name a colour.", chosen="Blue.", rejected="Seven", id="colour")]
SMALL = ("--dataset", "pairs.jsonl", "--resamples", "200")


@pytest.fixture(autouse=True)
def one_model(monkeypatch, demo, tmp_path):
    """Load the model once for all verbs, and work in an empty folder."""
    monkeypatch.setattr("rewarden.cli.inputs.model_of", lambda load, quiet: demo)
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "id": pair.id} for pair in PAIRS]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(capsys, *argv: str, code: int = OK) -> dict:
    """The JSON object a command prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def close(value: float | None, wanted: float) -> bool:
    return value is None if np.isnan(wanted) else abs(value - wanted) < 1e-5


def test_patch_prints_every_cell_of_the_analysis(capsys, demo):
    found = answer(capsys, "patch", *SMALL, "--sites", "mlp_out,z")
    result = patch(demo, PAIRS, sites=("mlp_out", "z"), resamples=200)
    data = result.data
    cells = {(cell["site"], cell["layer"], cell["head"]): cell for cell in found["cells"]}
    assert len(cells) == data["mean"].size + data["mean_heads"].size
    for (site, layer, head), cell in cells.items():
        place = {"layer": layer, **({"site": site} if head < 0 else {"head": head})}
        for part in ("mean", "low", "high", "p_adjusted", "marked"):
            wanted = data[part if head < 0 else f"{part}_heads"].sel(place).item()
            assert close(cell[part], wanted), (site, layer, head, part)
    sizes = [abs(cell["mean"]) for cell in found["cells"]]
    assert sizes == sorted(sizes, reverse=True)
    assert (found["forwards"], found["edits"]) == (result.provenance["forwards"], result.provenance["edits"])
    assert found["margin"] == pytest.approx(float(demo.score(PAIRS).margin.mean()), abs=1e-5)


def test_patch_by_position_names_the_position(capsys, demo):
    found = answer(capsys, "patch", *SMALL, "--sites", "resid_post", "--positions", "each", "--limit", "1")
    effect = patch(demo, PAIRS[:1], sites="resid_post", positions="each", resamples=200).data["effect"].isel(pair=0, site=0)
    assert len(found["cells"]) == int(np.isfinite(effect).sum())
    for cell in found["cells"]:
        assert close(cell["mean"], float(effect.sel(layer=cell["layer"], position=cell["position"])))


def test_the_table_of_patch_shows_the_largest_cells(capsys):
    assert main(["patch", *SMALL, "--sites", "mlp_out", "--top", "2"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["site", "mean", "effect", "low", "high", "adjusted", "p", "*"]
    assert [line.split()[0].startswith("mlp_out.") for line in lines[2:4]] == [True, True]
    assert lines[4].startswith("2 of 6 cells; * differs from zero, as 0 of 0 tested cells do at a false discovery rate of 5 %")


def test_patch_names_the_component_that_decides(capsys, monkeypatch):
    organism = decisive_head(seed=1)
    monkeypatch.setattr("rewarden.cli.inputs.model_of", lambda load, quiet: organism)
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in organism.pairs(12)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("patch", *SMALL, "--sites", "mlp_out,z")
    assert answer(capsys, *asked)["deciding"] == organism.truth["component"]
    assert answer(capsys, *asked, "--limit", "3")["deciding"] is None  # too few prompts to test
    assert answer(capsys, *asked, "--positions", "each", "--limit", "2")["deciding"] is None
    assert main([*asked]) == OK
    head = f"head {organism.truth['head']} of layer {organism.truth['layer']}"
    assert f"One part decides: {head} has an effect of" in capsys.readouterr().out.replace("\n", " ")


def test_a_stopped_patch_goes_on_where_it_was(capsys, monkeypatch):
    done: list[int] = []
    run = Sweeper.run

    def stop_at_the_second(self, index):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(index)
        return run(self, index)

    monkeypatch.setattr(Sweeper, "run", stop_at_the_second)
    assert main(["patch", *SMALL, "-o", "run"]) == INTERRUPTED
    assert "the same command with -o run goes on" in capsys.readouterr().err
    again: list[int] = []
    monkeypatch.setattr(Sweeper, "run", lambda self, index: again.append(index) or run(self, index))
    found = answer(capsys, "patch", *SMALL, "-o", "run")
    assert (done, again) == ([0], [1])
    whole = answer(capsys, "patch", *SMALL)
    assert found.pop("run") == "run"
    assert found == whole
    stored = Run.open("run").results()["patch"]
    assert stored.data["effect"].sizes["pair"] == 2
    assert answer(capsys, "runs", "verify", "run")["ok"] is True


def test_a_folder_of_other_pairs_is_refused_before_the_work(capsys, monkeypatch):
    answer(capsys, "patch", *SMALL, "-o", "run", "--sites", "mlp_out")
    monkeypatch.setattr(Sweeper, "run", lambda self, index: pytest.fail("worked before looking"))
    error = answer(capsys, "patch", *SMALL, "--limit", "1", "-o", "run", code=FAILED)["error"]
    assert "another pairs" in error["what"]


def test_paths_prints_every_connection_of_the_analysis(capsys, demo):
    found = answer(capsys, "paths", *SMALL, "--senders", "mlp.3,mlp.4", "--receivers", "mlp,read_out", "-o", "run")
    data = patch_paths(demo, PAIRS, senders=("mlp.3", "mlp.4"), receivers=("mlp", "read_out"), resamples=200).data
    assert len(found["edges"]) == int(np.isfinite(data["mean"]).sum()) == 5
    for edge in found["edges"]:
        cell = data.sel(sender=edge["sender"], receiver=edge["receiver"])
        for part in ("mean", "low", "high"):
            assert close(edge[part], cell[part].item())
    stored = Run.open("run").results()["paths"].data
    np.testing.assert_allclose(stored["mean"], data["mean"], atol=1e-5)


def test_agreement_prints_every_correlation_of_the_analysis(capsys, demo):
    found = answer(capsys, "agreement", *SMALL, "--permutations", "19", "-o", "run")
    data = agreement(demo, PAIRS, permutations=19, resamples=200).data
    rows = [row for row in found["correlations"] if row["pairs"] == "all"]
    assert len(rows) == int((data["n"] > 0).sum())
    for row in rows:
        cell = data.sel(comparison=row["comparison"], type=row["components"])
        assert close(row["rho"], cell["rho_mean"].item())
        assert close(row["low"], cell["rho_low"].item())
        assert close(row["p"], cell["p_pattern"].item())
    for row in (row for row in found["correlations"] if row["pairs"] != "all"):
        cell = data.sel(comparison=row["comparison"], type=row["components"], length=row["pairs"])
        assert close(row["rho"], cell["rho_by_length"].item())
    assert Run.open("run").results()["agreement"].kind == "agreement"


def test_the_tables_of_agreement_keep_the_conventions_apart(capsys):
    assert main(["agreement", *SMALL, "--permutations", "19", "--no-heads"]) == OK
    shown = capsys.readouterr().out
    assert "aligned" in shown
    assert "published" in shown
    assert "mixed" not in shown


def test_flip_prints_the_set_of_each_pair(capsys, demo):
    found = answer(capsys, "flip", *SMALL, "--draws", "3", "--max-size", "4", "-o", "run")
    result = flip(demo, PAIRS, draws=3, max_size=4, resamples=200)
    data = result.data
    for row, entry in enumerate(found["sets"]):
        assert entry["pair"] == str(data["pair"].values[row])
        assert entry["sites"] == [site for site in data["site"].values[row].astype(str) if site]
        for name in ("margin", "size", "knockout", "rescue", "random_flips"):
            assert close(entry[name], float(data[name].values[row]))
    assert close(found["flipped"]["mean"], float(data["flipped"].sel(statistic="mean")))
    assert Run.open("run").results()["flip"].data["site"].values.tolist() == data["site"].values.tolist()


def test_what_does_not_turn_is_said(capsys):
    assert main(["flip", *SMALL, "--draws", "2", "--max-size", "1", "--sites", "attn_out"]) == OK
    shown = capsys.readouterr().out
    assert "pairs turn" in shown or "no pair turns within the budget" in shown


@pytest.mark.parametrize(("argv", "says"), [
    (["patch", "--sites", "nowhere"], "sites="),
    (["patch", "--alpha", "2"], "alpha=2"),
    (["paths", "--senders", "mlp.x"], "senders="),
    (["paths", "--senders", "mlp.99"], "mlp.99"),
    (["flip", "--max-size", "0"], "max_size=0"),
    (["agreement", "--permutations", "1"], "permutations=1"),
])
def test_impossible_options_are_one_error(capsys, argv, says):
    assert says in answer(capsys, *argv, "--dataset", "pairs.jsonl", code=FAILED)["error"]["what"]


@pytest.mark.parametrize("verb", ["patch", "paths", "agreement", "flip"])
def test_a_choice_that_does_not_exist_is_wrong_usage(capsys, verb):
    assert main([verb, "--mode" if verb != "agreement" else "--apart", "sideways"]) == USAGE


def parsed(*argv: str) -> dict[str, object]:
    tokens = flags.canonical(argv)
    return dict(app.configured(tokens)[0].parse_args(tokens, exit_on_error=False)[1].arguments)


@pytest.mark.parametrize("written", [("--sites", "z,mlp_out"), ("--sites=z,mlp_out",), ("--sites", "z", "--sites", "mlp_out"),
                                     ("--sites=z", "--sites=mlp_out")])
def test_several_values_are_written_with_commas_or_with_the_flag_again(written):
    assert parsed("patch", *written, "org/rm")["options"] == PatchOptions(sites=("z", "mlp_out"))
    assert parsed("patch", *written, "org/rm")["model"] == "org/rm"


def test_a_configuration_file_may_list_values(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("senders: [mlp, head.3]\nmode: denoising\n")
    assert parsed("paths", "--config", str(path))["options"] == PathOptions(senders=("mlp", "head.3"), mode="denoising")
