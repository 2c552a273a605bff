"""`rewarden bestof` prints what the library computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rewarden as rw
from rewarden.cli import main
from rewarden.cli.terminal import FAILED, OK
from rewarden.hacking import pairs_table
from rewarden.result import Result

STYLED = [pair for pair in rw.load_pairs("demo") if "styles" in pair.metadata][:12]


@pytest.fixture(autouse=True)
def one_model(monkeypatch, demo, tmp_path):
    monkeypatch.setattr("rewarden.cli.bestof.model_of", lambda load, quiet: demo)
    monkeypatch.chdir(tmp_path)


def answer(capsys, *argv: str, code: int = OK) -> dict:
    capsys.readouterr()
    assert main(["bestof", *argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_candidates_of_pairs(capsys, demo, tmp_path):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "styles": dict(p.metadata["styles"])}
            for p in STYLED]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = rw.load_pairs("pairs.jsonl")
    found = answer(capsys, "--dataset", "pairs.jsonl", "--resamples", "100", "-o", "kept")
    expected = rw.best_of_n(pairs_table(demo, pairs), resamples=100)
    np.testing.assert_allclose([row["gold"] for row in found["curve"]], expected.gold)
    assert found["best_n"] == expected.best_n
    np.testing.assert_allclose(Result.load(Path("kept/results/best_of_n.nc")).gold, expected.gold)


def test_a_table_with_rewards_needs_no_model(capsys):
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"p{i}", "reward": float(rng.normal()), "gold": 0.0, "response": "x" * j}
            for i in range(12) for j in range(4)]
    Path("table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = answer(capsys, "--table", "table.jsonl", "--resamples", "100")
    assert found["prompts"] == 12
    assert found["onset"] is None
    assert main(["bestof", "--table", "table.jsonl", "--resamples", "100"]) == OK
    assert found["fall"] is None
    assert "no doubling of n is shown to lower the gold" in capsys.readouterr().out
    assert "leave one out" in answer(capsys, "--table", "table.jsonl", "--policy", "x", code=FAILED)["error"]["fix"]


def test_a_fall_of_the_gold_is_told_with_its_numbers(capsys):
    proxy = np.random.default_rng(4).normal(size=(60, 16))
    gold = -((proxy - 0.5) ** 2)
    rows = [{"prompt": f"p{i}", "reward": float(proxy[i, j]), "gold": float(gold[i, j])} for i in range(60) for j in range(16)]
    Path("table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, expected = answer(capsys, "--table", "table.jsonl"), rw.best_of_n((proxy, gold))
    place = list(expected.step_from).index(expected.onset)
    fall = found["fall"]
    assert (fall["from"], fall["to"]) == (found["onset"], expected.step_to[place])
    assert fall["change"] == pytest.approx(gold_at(expected, fall["to"]) - gold_at(expected, fall["from"]))
    assert fall["change_low"] < fall["change"] < fall["change_high"] < 0
    assert (fall["p"], fall["doublings"], fall["prompts"]) == (pytest.approx(expected.step_p[place]), 4, 60)
    assert main(["bestof", "--table", "table.jsonl"]) == OK
    told = " ".join(capsys.readouterr().out.split())
    assert f"lowers the gold from n = {fall['from']} to n = {fall['to']}, by " in told
    assert "of 4 doublings tested that is shown to, Holm); n = 60 prompts. Beyond that the gold may rise again" in told


def gold_at(curves, n):
    return float(curves.gold[list(curves.n).index(n)])


def test_a_policy_answers(capsys):
    rows = [{"prompt": f"What is {i} + 1?", "chosen": "a", "rejected": "b"} for i in range(10)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = answer(capsys, "--dataset", "pairs.jsonl", "--policy", "demo:language_model", "--gold", "demo:reward_model_b",
                   "--samples", "3", "--max-new-tokens", "5", "--resamples", "100")
    assert found["samples"] <= 30
    assert [row["n"] for row in found["curve"]] == [1, 2, 3]
    assert "no prompt of these pairs" in answer(capsys, "--dataset", "pairs.jsonl", code=FAILED)["error"]["what"]


def test_rewards_of_a_table_are_kept_beside_a_gold(capsys):
    rows = [{"prompt": p.prompt, "response": text, "reward": float(len(text))} for p in STYLED
            for text in (p.chosen, p.rejected, "I do not know.")]
    Path("table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = answer(capsys, "--table", "table.jsonl", "--gold", "demo:reward_model_b", "--resamples", "100")
    longest = [max(len(text) for text in (p.chosen, p.rejected, "I do not know.")) for p in STYLED]
    assert found["curve"][-1]["reward"] == pytest.approx(np.mean(longest))
    assert "gold" in found["curve"][0]
    assert found["hacks"] == []
    refused = answer(capsys, "demo:reward_model", "--table", "table.jsonl", "--resamples", "100", code=FAILED)
    assert "are not those of" in refused["error"]["what"]
    assert "name the model" in answer(capsys, "--table", "table.jsonl", "--dictionary", "auto", code=FAILED)["error"]["fix"]


def test_a_named_model_scores_what_a_table_lacks_and_its_dictionary_is_followed(capsys, demo):
    table = pairs_table(demo, STYLED, references=0)
    rows = [{"prompt": table.prompts[of], "response": text, "reward": float(reward), "gold": float(gold)}
            for of, text, reward, gold in zip(table.of, table.responses, table.proxy, table.gold, strict=True)]
    rows[4]["reward"] = None
    Path("table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = answer(capsys, "demo:reward_model", "--table", "table.jsonl", "--dictionary", "auto", "--resamples", "100",
                   "-o", "kept")
    expected = rw.best_of_n(table, resamples=100)
    np.testing.assert_allclose([row["reward"] for row in found["curve"]], expected.proxy, atol=1e-4)
    assert Result.load(Path("kept/results/susceptibility.nc")).provenance["compared"]
    kept = Result.load(Path("kept/results/susceptibility_dictionary.nc"))
    assert {row["feature"] for row in found["dictionary_features"]} <= set(map(str, kept.data["feature"].values))
    assert all(np.isfinite(row["rise"]) for row in found["dictionary_features"])
