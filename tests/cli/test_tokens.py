"""The verbs of the vocabulary print what the library computes and keep it where asked."""

from __future__ import annotations

import json

import numpy as np
import pytest

import rewarden as rw
from rewarden.cli import main
from rewarden.cli.terminal import FAILED, OK
from rewarden.options import GREATEST, WORST
from rewarden.store import Run
from rewarden.tokens import rank_agreement, rank_gaps, score_vocabulary, shared_vocabulary
from rewarden.tokens.search import Constraints

A, B = "demo:reward_model", "demo:reward_model_b"


@pytest.fixture(scope="module")
def models() -> dict[str, rw.RewardModel]:
    return {name: rw.load(name) for name in (A, B)}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, models, tmp_path):
    """Load each model once for all verbs, and work in an empty folder."""
    for module in ("tokens", "compare_tokens", "search"):
        monkeypatch.setattr(f"rewarden.cli.{module}.model_of", lambda load, quiet: models[load.model or A])
    monkeypatch.chdir(tmp_path)


def answer(capsys, *argv: str, code: int = OK) -> dict:
    """The JSON object a command prints."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_tokens_prints_the_extremes_of_the_scan(capsys, models):
    found = answer(capsys, "tokens", "--prompt", "Hi", "--prompt", "One, two, three?", "--top", "7", "-o", "kept")
    scan = score_vocabulary(models[A], ["Hi", "One, two, three?"])
    assert [row["prompt"] for row in found["prompts"]] == ["Hi", "One, two, three?"]  # a comma parts no prompts
    for number, row in enumerate(found["prompts"]):
        assert [token["token_id"] for token in row["top"]] == scan.top(7, number)["token_id"].tolist()
        assert [token["token_id"] for token in row["bottom"]] == scan.bottom(7, number)["token_id"].tolist()
        assert row["distinct"] == scan.distinct[number]
    assert found["not_round_trip"] == int((~scan.round_trip).sum())
    kept = Run.open("kept").results()["tokens"]
    assert np.array_equal(kept.data["reward"].values, scan.reward)


def test_the_published_way_is_a_mode(capsys, models):
    found = answer(capsys, "tokens", "--prompt", "Hi", "--mode", "text", "--top", "3", "--no-special")
    scan = score_vocabulary(models[A], "Hi", mode="text")
    assert found["mode"] == "text"
    assert [token["token_id"] for token in found["prompts"][0]["top"]] == scan.top(3, special=False)["token_id"].tolist()


def test_two_models_are_compared_on_what_they_share(capsys, models):
    found = answer(capsys, "compare-tokens", A, B, "--top", "5", "-o", "both")
    shared = shared_vocabulary([score_vocabulary(models[name], [GREATEST, WORST]) for name in (A, B)], names=[A, B])
    agreed = rank_agreement(shared)
    assert found["tokens"] == shared.data.sizes["token"]
    assert [row["tau"] for row in found["pairs"]] == [pytest.approx(float(agreed.tau[prompt, 0, 1])) for prompt in (0, 1)]
    assert [gap["text"] for gap in found["pairs"][1]["gaps"]] == rank_gaps(shared, A, B, 1, 5)["text"].tolist()
    assert set(Run.open("both").results()) == {"shared", "moments", "agreement", "scan-0", "scan-1"}


def test_search_prints_what_was_found_and_goes_on_from_its_folder(capsys, models):
    asked = ("search", "--prompt", "Hi", "--length", "2", "--direction", "min", "--restarts", "2", "--steps", "3", "--width",
             "16", "--allowed", "stable", "--no-round-trip", "-o", "kept")
    found = answer(capsys, *asked)
    result = rw.search(models[A], "Hi", 2, "min", constraints=Constraints(allowed="stable"), restarts=2, steps=3, width=16)
    assert (found["ids"], found["response"], found["certified"]) == (result.ids, result.response, result.certified)
    assert found["reward"] == pytest.approx(result.reward, abs=1e-5)
    assert [row["ids"] for row in found["restarts"]] == result.table()["ids"].tolist()
    assert answer(capsys, *asked)["restarts"] == found["restarts"]


@pytest.mark.parametrize("verb", [("tokens",), ("compare-tokens", A, B)])
def test_a_table_without_rows_is_refused_before_the_scan(capsys, verb):
    assert main([*verb, "--top", "0"]) == FAILED
    assert "ask for at least 1 row" in capsys.readouterr().err


def test_search_refuses_an_empty_response(capsys):
    assert main(["search", "--length", "0"]) == FAILED
    assert "ask for at least 1 token" in capsys.readouterr().err


@pytest.mark.parametrize("models_named", [(), (A,), (A, A)])
def test_one_model_is_nothing_to_compare(capsys, models_named):
    assert main(["compare-tokens", *models_named]) == FAILED
    assert "two or more different ones are needed" in capsys.readouterr().err


def test_rank_gaps_are_differences_of_ranks(models):
    scans = [score_vocabulary(model, "Hi", ids=range(300, 400)) for model in models.values()]
    shared = shared_vocabulary(scans, names=["a", "b"])
    table = rank_gaps(shared, "a", "b", n=100, special=True)
    order = [np.argsort(np.argsort(-scan.reward[0])) + 1 for scan in scans]
    place = {text: number for number, text in enumerate(scans[0].data["text"].values)}
    wanted = [order[0][place[text]] - order[1][place[text]] for text in table["text"]]
    assert table["gap"].tolist() == wanted
    assert np.abs(wanted).tolist() == sorted(np.abs(wanted), reverse=True)
