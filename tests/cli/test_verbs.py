"""The verbs end to end on the bundled model: they print what the library computes; runs resume; exports agree."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.patching.by_hand import model_of

import rewarden
from rewarden import Pair
from rewarden import score_runs as scoring
from rewarden.cli import main
from rewarden.cli.terminal import FAILED, INTERRUPTED, OK, QUARANTINED
from rewarden.edits import backend_of
from rewarden.preferences import accuracy_table
from rewarden.store import Run

PAIRS = [Pair(prompt=f"What is {i} + 1?", chosen=f"It is {i + 1}." + " Sure." * (i % 3), rejected="No idea, go away!",
              id=f"p{i}", subset="even" if i % 2 == 0 else "odd", metadata={"row": i}) for i in range(9)]


@pytest.fixture
def rm(demo):
    return demo


@pytest.fixture(autouse=True)
def one_model(monkeypatch, rm, tmp_path):
    """Load the model once for all verbs, and work in an empty folder."""
    for name in ("score", "models", "audit", "inputs"):
        monkeypatch.setattr(f"rewarden.cli.{name}.model_of", lambda load, quiet: rm)
    monkeypatch.delenv("REWARDEN_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    names = ("prompt", "chosen", "rejected", "id", "subset")
    rows = [{**{name: getattr(pair, name) for name in names}, **pair.metadata} for pair in PAIRS]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(capsys, *argv: str, code: int = OK) -> dict:
    """The JSON object a command prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_score_prints_what_the_library_computes(capsys, rm):
    found = answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    table = accuracy_table(rm.score(PAIRS).margin, PAIRS)
    assert [row["subset"] for row in found["subsets"]] == ["even", "odd", "all"]
    for row in found["subsets"]:
        assert (row["n"], row["accuracy"]) == (table.loc[row["subset"], "n"], table.loc[row["subset"], "accuracy"])
        assert row["margin"] == pytest.approx(table.loc[row["subset"], "margin"], abs=1e-5)
    assert (found["pairs"], found["quarantined"], found["run"]) == (9, 0, "run")


def test_the_stored_result_is_that_of_score(capsys, rm):
    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    stored, direct = Run.open("run").results()["score"].data, rm.score(PAIRS).data
    assert list(stored["pair"].values) == list(direct["pair"].values)
    for name in ("tokens", "truncated", "finite", "chosen_longer"):
        assert stored[name].values.tolist() == direct[name].values.tolist()
    np.testing.assert_allclose(stored["reward"], direct["reward"], atol=1e-5)
    np.testing.assert_allclose(stored["margin"], direct["margin"], atol=1e-5)


def test_the_table_shows_subsets_and_intervals(capsys):
    assert main(["score", "--dataset", "pairs.jsonl", "-o", "run"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["subset", "pairs", "accuracy", "low", "high", "mean", "margin", "ties"]
    assert [line.split()[:2] for line in lines[2:5]] == [["even", "5"], ["odd", "4"], ["all", "9"]]


def test_summary_is_the_same_bytes_twice(capsys):
    for folder, size in (("a", "1"), ("b", "1")):
        answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", folder, "--batch-size", size)
    assert Path("a/summary.json").read_bytes() == Path("b/summary.json").read_bytes()


def test_a_run_without_a_name_lies_under_the_root_and_is_found_again(capsys, monkeypatch):
    monkeypatch.setenv("REWARDEN_RUNS", "elsewhere")
    first = answer(capsys, "score", "--dataset", "pairs.jsonl")
    assert Path(first["run"]).parent == Path("elsewhere")
    again = answer(capsys, "score", "--dataset", "pairs.jsonl", "--batch-size", "2")
    other = answer(capsys, "score", "--dataset", "pairs.jsonl", "--limit", "4")
    assert (again["run"] == first["run"], other["run"] == first["run"]) == (True, False)


def test_an_interrupted_run_resumes_without_scoring_twice(capsys, monkeypatch, rm):
    monkeypatch.setattr(scoring, "CHUNK", 2)
    scored: list[int] = []
    score = rm.score

    def stop_after_two_chunks(pairs, **options):
        if len(scored) == 4:
            raise KeyboardInterrupt
        scored.extend(range(len(pairs)))
        return score(pairs, **options)

    monkeypatch.setattr(rm, "score", stop_after_two_chunks)
    assert main(["score", "--dataset", "pairs.jsonl", "-o", "run"]) == INTERRUPTED
    assert "continue with: rewarden runs resume run" in capsys.readouterr().err
    assert len(Run.open("run").done_keys()) == 4

    seen: list[str] = []

    def watched(pairs, **options):
        seen.extend(pair.id for pair in pairs)
        return score(pairs, **options)

    monkeypatch.setattr(rm, "score", watched)
    found = answer(capsys, "runs", "resume", "run")
    assert (len(seen), len(set(seen)), found["pairs"]) == (5, 5, 9)
    whole = answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "whole")
    assert found["subsets"][-1]["margin"] == pytest.approx(whole["subsets"][-1]["margin"], abs=1e-6)


def test_resume_takes_no_permission_to_run_code_from_the_folder(capsys, monkeypatch, rm):
    asked = []
    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    record = json.loads(Path("run/run.json").read_text())
    record["config"]["load"]["trust_remote_code"] = True
    Path("run/run.json").write_text(json.dumps(record))
    monkeypatch.setattr("rewarden.cli.score.model_of", lambda load, quiet: asked.append(load) or rm)
    answer(capsys, "runs", "resume", "run")
    assert [load.trust_remote_code for load in asked] == [False]


def test_other_pairs_do_not_go_into_the_same_folder(capsys):
    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    found = answer(capsys, "score", "--dataset", "pairs.jsonl", "--limit", "3", "-o", "run", code=FAILED)
    assert "another pairs" in found["error"]["what"]
    assert answer(capsys, "score", "--dataset", "pairs.jsonl", "--limit", "3", "-o", "run", "--no-resume")["pairs"] == 3
    assert len(Run.open("run.previous-1").done_keys()) == 9


def test_rewards_that_are_not_finite_are_set_apart_and_the_code_is_3(capsys, monkeypatch, rm):
    encoded = rm.reward_encoded

    def broken(rows, **options):
        rewards = encoded(rows, **options)
        rewards[0] = np.nan
        return rewards

    monkeypatch.setattr(rm, "reward_encoded", broken)
    found = answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run", code=QUARANTINED)
    assert (found["quarantined"], found["subsets"][-1]["n"], found["subsets"][-1]["non_finite"]) == (1, 8, 1)


@pytest.mark.parametrize(("limit", "count"), [("4", 4), ("0.5", 5), ("1", 1), ("100", 9)])
def test_limit_is_a_count_or_a_share(capsys, limit, count):
    assert answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run", "--limit", limit)["pairs"] == count


def test_export_in_rewardbenchs_layout(capsys, rm):
    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    summary, rows = answer(capsys, "export", "run", "--format", "rewardbench", "-o", "out")["files"]
    result = rm.score(PAIRS)
    won = (result.margin > 0).astype(int).tolist()
    content = json.loads(Path(summary).read_text())
    assert list(content) == ["accuracy", "num_prompts", "model", "ref_model", "tokenizer", "chat_template",
                             "extra_results"]
    assert (content["accuracy"], content["num_prompts"]) == (pytest.approx(np.mean(won)), 9)
    assert content["extra_results"] == pytest.approx({"even": np.mean(won[::2]), "odd": np.mean(won[1::2])})
    lines = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    assert [line["results"] for line in lines] == won
    assert [line["text_chosen"] for line in lines] == [rm.encode(pair.conversations[0]).text for pair in PAIRS]
    assert [line["text_rejected"] for line in lines] == [rm.encode(pair.conversations[1]).text for pair in PAIRS]
    assert [line["prompt"] for line in lines] == [pair.prompt for pair in PAIRS]
    np.testing.assert_allclose([line["scores_chosen"] for line in lines], result.data["reward"][:, 0, 0], atol=1e-5)
    assert set(lines[0]) == {"prompt", "results", "scores_chosen", "scores_rejected", "text_chosen", "text_rejected",
                             "id", "subset", "row"}


def test_export_as_tables_reads_back(capsys, rm):
    from rewarden import load_pairs

    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    margins = rm.score(PAIRS).margin
    for name in ("csv", "jsonl", "parquet"):
        (path,) = answer(capsys, "export", "run", "--format", name)["files"]
        assert [(p.prompt, p.chosen, p.rejected, p.subset) for p in load_pairs(path)] == [
            (p.prompt, p.chosen, p.rejected, p.subset) for p in PAIRS]
    with open("run/export/scores.csv", newline="") as stream:
        np.testing.assert_allclose([float(row["margin"]) for row in csv.DictReader(stream)], margins, atol=1e-5)


def test_lens_prints_the_curve(capsys, rm):
    found = answer(capsys, "lens", "--dataset", "pairs.jsonl", "-o", "run", "--resamples", "200")
    expected = rewarden.reward_lens(rm, PAIRS, resamples=200).data
    assert [layer["layer"] for layer in found["layers"]] == expected["layer"].values.tolist()
    np.testing.assert_allclose([layer["mean"] for layer in found["layers"]], expected["mean"], atol=1e-5)
    np.testing.assert_allclose(Run.open("run").results()["lens"].data["mean"], expected["mean"], atol=1e-5)


def test_attribute_prints_a_ledger_that_sums_to_the_margin(capsys, rm):
    found = answer(capsys, "attribute", "--dataset", "pairs.jsonl", "-o", "run", "--resamples", "200")
    total = sum(entry["mean"] for entry in found["components"])
    assert total == pytest.approx(float(rm.score(PAIRS).margin.mean()), abs=1e-4)
    sizes = [abs(entry["mean"]) for entry in found["components"]]
    assert sizes == sorted(sizes, reverse=True)
    assert found["completeness_error"] < 1e-4


def test_models_inspect_names_read_out_and_self_check(capsys, rm):
    found = answer(capsys, "models", "inspect")
    assert (found["scalars"], found["health"]["noise_floor"]) == (list(rm.names), rm.noise_floor)
    assert found["provenance"]["readout"] == type(rm.readout).__name__
    assert (found["structure"]["layers"], found["structure"]["width"]) == (
        rm.model.config.num_hidden_layers, rm.model.config.hidden_size)


@pytest.mark.parametrize(("family", "backend", "reason"), [
    ("demo", "light cone", ""), ("bert", "resume from the edited layer", "attention is not causal")])
@pytest.mark.filterwarnings("ignore")
def test_models_inspect_says_how_edits_run(capsys, monkeypatch, rm, family, backend, reason):
    asked = rm if family == "demo" else model_of(family)
    monkeypatch.setattr("rewarden.cli.models.model_of", lambda load, quiet: asked)
    found = answer(capsys, "models", "inspect")["edits"]
    assert found == {"backend": backend, "reason": reason, "deviation": backend_of(asked).error}
    assert found["deviation"] < 1e-4
    assert main(["models", "inspect"]) == OK
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("edits run by")]
    assert line.removeprefix("edits run by").strip() == (f"{backend}: {reason}" if reason else backend)


def test_runs_list_show_and_verify(capsys):
    answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "runs/a")
    answer(capsys, "lens", "--dataset", "pairs.jsonl", "-o", "runs/b", "--resamples", "200")
    listed = answer(capsys, "runs", "list")["runs"]
    assert [(run["run"], run["verb"], run["rows"]) for run in listed] == [("runs/a", "score", 9), ("runs/b", "lens", 0)]
    shown = answer(capsys, "runs", "show", "runs/a")
    assert (shown["rows"], shown["results"], shown["config"]["verb"]) == (9, ["score"], "score")
    assert answer(capsys, "runs", "verify", "runs/a")["ok"] is True
    assert answer(capsys, "runs", "list", "nowhere") == {"runs": []}


def test_verify_finds_a_changed_shard_and_resume_heals_it(capsys):
    before = answer(capsys, "score", "--dataset", "pairs.jsonl", "-o", "run")
    (shard,) = Path("run/rows").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    found = answer(capsys, "runs", "verify", "run", code=FAILED)
    assert [Path(problem["file"]).name for problem in found["problems"]] == [shard.name]
    answer(capsys, "runs", "verify", "run", "--quarantine", code=FAILED)
    after = answer(capsys, "runs", "resume", "run")
    assert after["subsets"] == before["subsets"]
    assert answer(capsys, "runs", "verify", "run")["ok"] is True


def test_a_lens_run_cannot_be_resumed_row_by_row(capsys):
    answer(capsys, "lens", "--dataset", "pairs.jsonl", "-o", "run", "--resamples", "200")
    assert "not a scoring run" in answer(capsys, "runs", "resume", "run", code=FAILED)["error"]["what"]


def test_audit_and_report_write_the_same_findings(capsys):
    first = answer(capsys, "audit", "--dataset", "pairs.jsonl", "-o", "audit", "--resamples", "200", "--examples", "1",
                   "--bias", "none", "--vocabulary", "none", "--against", "none", "--patch-pairs", "2")
    assert Path(first["report"]).read_text().startswith("<!doctype html>")
    again = answer(capsys, "report", "audit")["reports"][0]
    assert (again["findings"], again["pairs"]) == (first["findings"], 9)


@pytest.mark.parametrize(("argv", "says", "fix"), [
    (["score", "--dataset", "absent.jsonl"], "absent.jsonl", "check the path"),
    (["export", "absent"], "holds no run", "check the folder name; "),
    (["runs", "show", "absent"], "holds no run", "check the folder name; "),
    (["report"], "no run folder is named", "rewarden report RUN; `rewarden runs list` shows them"),
    (["score", "--dataset", "pairs.jsonl", "--subset", "none"], "no pairs", "check the file, subset= and split="),
    (["score", "--dataset", "pairs.jsonl", "--columns", "prompt=question"], "columns=", 'pass columns={"prompt": '),
])
def test_bad_input_is_one_error_with_a_fix(capsys, argv, says, fix):
    error = answer(capsys, *argv, code=FAILED)["error"]
    assert says in error["what"]
    assert error["fix"].startswith(fix)


@pytest.mark.slow
def test_report_does_not_take_a_folder_it_would_not_write_to(capsys, tmp_path):
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "elsewhere")]) == FAILED
    assert "a report lies in its run folder" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
