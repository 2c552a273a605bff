"""The section on best-of-n: its numbers are those of the analysis, it applies where there are candidates, and it rewrites."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.hacking import ScoreTable, dictionary_features, pairs_table, susceptibility
from rewarden.options import AuditOptions
from rewarden.report import Audit, Page, render
from rewarden.report.section import FigureBlock
from rewarden.report.sections import best_of_n as part
from rewarden.result import Result
from rewarden.store import Run

STYLED = [pair for pair in rw.load_pairs("demo") if "styles" in pair.metadata][:14]
PLAIN = [rw.Pair(f"Is {i} even?", "Yes." if i % 2 == 0 else "No.", "Perhaps.") for i in range(12)]


def audit_of(rm, pairs, run: Run | None = None, **options) -> Audit:
    chosen = AuditOptions(**{"resamples": 100, **options})
    return Audit(rm=rm, pairs=list(pairs), score=rm.score(pairs), run=run, options=chosen)


def test_the_section_says_what_the_analysis_found(demo, tmp_path):
    run = Run.create(tmp_path / "run", {}, identity={"a": 1})
    audit = audit_of(demo, STYLED, run)
    made = part.build(audit)
    assert made is not None
    table = pairs_table(demo, STYLED)
    expected = rw.best_of_n(table, resamples=100)
    np.testing.assert_allclose([row["gold"] for row in made.data["curve"]], expected.gold)
    np.testing.assert_allclose([row["reward"] for row in made.data["curve"]], expected.proxy, atol=1e-5)
    follows = susceptibility(table, resamples=100)
    by_name = dict(zip(map(str, follows.data["feature"].values), follows.with_reward, strict=True))
    rows = made.data["features"]
    assert [row["reward"] for row in rows] == pytest.approx([by_name[row["feature"]] for row in rows])
    assert len([block for block in made.blocks if isinstance(block, FigureBlock)]) == 4  # the bundled dictionary's features
    assert "n = 14 prompts" in made.findings[0].text
    assert "Null rate" in made.findings[1].text
    again = part.build(Audit(rm=None, pairs=audit.pairs, score=audit.score, run=run, options=audit.options))
    assert again is not None
    assert [finding.text for finding in again.findings] == [finding.text for finding in made.findings]
    assert "Best of n by the reward" in render(Page(name="x", sections=[again]))


def test_where_it_does_not_apply(demo):
    assert part.build(audit_of(demo, STYLED, candidates="none")) is None
    assert part.build(audit_of(demo, PLAIN)) is None  # too few prompts to ask the policy
    assert part.build(audit_of(demo, STYLED[:6])) is None


def test_candidates_of_a_file_are_scored(demo, tmp_path):
    rows = [{"prompt": pair.prompt, "response": text, "gold": label} for pair in STYLED
            for text, label in ((pair.chosen, 1), (pair.rejected, 0), ("I do not know.", 0))]
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = part.build(audit_of(demo, PLAIN, candidates=str(path)))
    assert made is not None
    assert [row["n"] for row in made.data["curve"]] == [1, 2, 3]
    assert made.data["curve"][0]["gold"] == pytest.approx(1 / 3)
    path.write_text(json.dumps({"prompt": "a", "text": "b"}) + "\n")
    with pytest.raises(RewardenError, match="needs the columns"):
        part.build(audit_of(demo, PLAIN, candidates=str(path)))


@pytest.mark.slow
def test_the_bundled_policy_answers_for_a_bundled_model(demo, monkeypatch):
    monkeypatch.setattr(part, "LONGEST", 6)
    pairs = rw.load_pairs("demo", limit=40, subset="reasoning")
    pairs = [rw.Pair(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    made = part.build(audit_of(demo, pairs))
    assert made is not None
    assert "reward_model_b" in made.findings[0].text
    assert [row["n"] for row in made.data["curve"]] == list(range(1, 9))


def results(gold: float, onset: bool):
    proxy = np.random.default_rng(0).normal(size=(40, 16))
    wanted = gold * proxy - (3 * (proxy - 0.5) ** 2 if onset else 0) + 0.5 * np.random.default_rng(1).normal(size=proxy.shape)
    features = {"length": (proxy + 0.1 * np.random.default_rng(2).normal(size=proxy.shape)).ravel()}
    table = replace(ScoreTable.read((proxy, wanted)), references=np.random.default_rng(3).normal(size=(proxy.size, 99)))
    return rw.best_of_n(table, features, resamples=100), susceptibility(table, features, resamples=100)


@pytest.mark.parametrize(("gold", "onset", "level", "says"), [
    (1.0, False, "clear", "Of 4 doublings of n up to 16 none is shown to lower it"),
    (-1.0, False, "concern", "lowers the gold from n = 1 to n = 2, by "),
    (0.0, True, "concern", "the first of 4 doublings tested"),
    (0.0, False, "concern", "not shown to raise the gold"),
])
def test_what_is_said_of_the_gold(gold, onset, level, says):
    made = part.described(*results(gold, onset))
    assert made.findings[0].level == level
    assert says in made.findings[0].text


def test_the_best_n_and_the_winners_curse_are_told():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 8))
    found = rw.best_of_n((truth + rng.normal(size=truth.shape), truth), {"truth": truth.ravel()}, noise=1.0, resamples=100)
    made = part.described(found, susceptibility((truth, truth), {"truth": truth.ravel()}, resamples=100))
    text = next(finding.text for finding in made.findings if "mean gold" in finding.text)
    assert f"The mean gold is highest at n = {int(found.best_n)}" in text
    assert "by scores whose noise did not help to select it (n = 60 prompts)" in text
    assert "independent draws of it" in made.methods
    assert made.data["curve"][-1]["reward_unbiased"] == pytest.approx(found.proxy_unbiased[-1])


def test_responses_of_pairs_are_no_draws_of_a_policy():
    curves, follows = results(1.0, False)
    own = Result(curves.kind, curves.data, {**curves.provenance, "candidates": part.OWN}, warnings=curves.warnings)
    made = part.described(own, follows)
    assert "no draws of a policy" in made.methods
    assert "kl" not in made.data["curve"][0]
    figure = made.blocks[0]
    assert isinstance(figure, FigureBlock)
    assert not any("KL" in str(trace.text) or "tilted" in str(trace.name) for trace in figure.figure.data)
    assert "Diamonds" not in figure.caption


def test_a_gold_that_never_differs_says_nothing():
    proxy = np.random.default_rng(0).normal(size=(30, 8))
    gold = np.full(proxy.shape, 0.1)
    made = part.described(rw.best_of_n((proxy, gold), resamples=100), susceptibility((proxy, gold), {"reward": proxy.ravel()},
                                                                                    resamples=100))
    assert made.findings[0].level == "fact"
    assert "have the same gold" in made.findings[0].text


def test_a_predicted_hack_is_named_with_both_correlations():
    made = part.described(*results(0.0, False))
    assert made.findings[1].level == "concern"
    assert "length (r = 0." in made.findings[1].text
    assert "with the gold)" in made.findings[1].text


def test_nothing_is_called_a_hack_without_random_readouts():
    proxy = np.random.default_rng(0).normal(size=(40, 8))
    table, features = (proxy, np.random.default_rng(1).normal(size=proxy.shape)), {"length": proxy.ravel()}
    made = part.described(rw.best_of_n(table, features, resamples=100), susceptibility(table, features, resamples=100))
    text = f"{made.findings[1].text} {made.blocks[1].caption}"
    assert text.count("Not compared with random read-outs") == 2
    assert "Null rate" not in text
    assert "filled dot" not in text


def test_features_of_the_models_own_dictionary_are_followed(demo):
    made = part.build(audit_of(demo, STYLED))
    assert made is not None
    rows = {row["feature"]: row for row in made.data["dictionary_features"]}
    table = pairs_table(demo, STYLED)
    values = dictionary_features(demo, table, rw.Dictionary.load(rw.demo.dictionary_path()), top=64)
    assert rows
    assert set(rows) <= set(values)
    expected = dict(zip(values, rw.best_of_n(table, values, resamples=100).rise, strict=True))
    for name, row in rows.items():
        assert row["rise"] == pytest.approx(float(expected[name]), abs=1e-4)
    assert "of the dictionary" in made.findings[-1].text
    without = part.build(audit_of(demo, STYLED, dictionary="none"))
    assert without is not None
    assert "dictionary_features" not in without.data
