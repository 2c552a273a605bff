"""The section on the vocabulary: its numbers are the scan's, its claims those of planted scans, and what is skipped is said."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from tests.contracts.test_families import model_of
from tests.report.hostile import HOSTILE
from tests.report.test_points import unpacked

import rewarden as rw
from rewarden import tokens as vocabulary
from rewarden.errors import RewardenError
from rewarden.options import AuditOptions
from rewarden.plots.token_examples import scan_result
from rewarden.plots.tokens_names import token_names
from rewarden.report import Audit, Page, Section, rebuild, render
from rewarden.report.section import build_section, builders
from rewarden.report.sections import tokens
from rewarden.result import Result
from rewarden.store import Run

PAIRS = [rw.Pair(f"What is {row} plus {row}?", f"It is {2 * row}.", "No.", id=str(row)) for row in range(4)]


def audit_of(rm, run: Run | None = None, **options) -> Audit:
    return Audit(rm=rm, pairs=PAIRS, score=rm.score(PAIRS), run=run, options=AuditOptions(**{"resamples": 100, **options}))


@pytest.fixture(scope="module")
def audit(demo) -> Audit:
    return audit_of(demo)


@pytest.fixture(scope="module")
def scan(audit) -> Result:
    return tokens.scan_of(audit)


@pytest.fixture(scope="module")
def made(audit, scan) -> Section:
    return tokens.described(audit, scan)


# --- numbers -----------------------------------------------------------------------------------------------------------

def test_the_scan_is_of_every_token_under_both_questions(demo, scan):
    assert scan.data["token_id"].values.tolist() == list(range(len(demo.tokenizer)))
    assert scan.data["prompt"].values.tolist() == list(tokens.PROMPTS)


def test_the_correlation_is_that_of_the_scan(scan, made):
    r = made.data["correlation"]
    assert r["value"] == pytest.approx(pearsonr(*scan.data["reward"].values.astype(float)).statistic, abs=1e-9)
    assert r["low"] < r["value"] < r["high"]
    assert r["high"] - r["low"] < 0.02
    assert f"r = {r['value']:.3f}"[:8] in made.findings[0].text


def test_tables_are_the_extremes_of_the_scan(scan, made):
    scores = vocabulary.TokenScores(scan.kind, scan.data, scan.provenance, scan.exact, scan.noise_floor)
    for place, block in enumerate(made.blocks[1:3]):
        np.testing.assert_array_equal(block.table["best reward"], scores.top(20, place)["reward"].astype(float))
        np.testing.assert_array_equal(block.table["worst reward"], scores.bottom(20, place)["reward"].astype(float))
        assert block.folded == (place > 0)


def test_the_search_knows_every_token(scan, made):
    found = unpacked(made.blocks[0].points)
    names = token_names(scan.data)
    reward = scan.data["reward"].values.astype(float)
    step = np.ptp(reward, axis=1) / 4095
    assert set(found) == set(names)
    for row in (0, 5, 500, 4000, 8191):
        assert any((np.abs(np.array(place) - reward[:, row]) <= step).all() for place in found[names[row]])


def test_the_furthest_tokens_are_in_the_table_of_the_map(scan, made):
    table, reward = made.blocks[0].table, scan.data["reward"].values.astype(float)
    reading = (reward - reward.mean(1, keepdims=True)) / reward.std(1, keepdims=True)
    names = token_names(scan.data)
    rows = table.groupby("where", sort=False).first()
    assert rows.loc["liked under both", "token"] == names[reading.sum(0).argmax()]
    assert rows.loc["disliked under both", "token"] == names[reading.sum(0).argmin()]
    for word, place in (("greatest", 0), ("worst", 1)):
        expected = dict(zip(names, reward[place], strict=True))
        np.testing.assert_allclose(table[f"reward as the {word}"], [expected[token] for token in table["token"]], atol=1e-5)


def test_best_and_worst_words_are_named_without_control_tokens(scan, made):
    (text,) = [item.text for item in made.findings if item.text.startswith("Of ")]
    kept = ~(scan.data["special"].values | scan.data["byte"].values)
    names = np.array(token_names(scan.data), dtype=object)
    reward = np.where(kept, scan.data["reward"].values, np.nan)
    assert text.startswith(f"Of {int(kept.sum())} tokens that are text")
    for place in range(2):
        for pick in (np.nanargmax, np.nanargmin):
            assert f"“{names[pick(reward[place])]}”" in text


def test_what_the_text_path_loses_and_ties_are_counted(scan, made):
    lost = int((~scan.data["round_trip"].values).sum())
    assert made.data["not_itself_as_text"] == lost
    texts = [item.text for item in made.findings]
    assert any(f"{lost} of 8192 tokens ({100 * lost / 8192:.1f} %) would be scored as other tokens" in text for text in texts)
    distinct = [len(np.unique(row)) for row in scan.data["reward"].values]
    assert made.data["distinct"] == distinct
    assert any(f"8192 tokens have {distinct[0]} different rewards as the greatest and {distinct[1]} as the worst" in text
               for text in texts)


def test_moments_are_in_the_table_of_the_distribution(scan, made):
    table = made.blocks[3].table.set_index(["question", "measure"])
    for place, word in enumerate(("greatest", "worst")):
        reward = scan.data["reward"].values[place].astype(float)
        assert table.loc[(word, "mean"), "value"] == pytest.approx(reward.mean())
        z = (reward - reward.mean()) / reward.std()
        assert table.loc[(word, "skewness"), "value"] == pytest.approx((z**3).mean())


def test_the_section_fits_a_page(made):
    text = render(Page(name="x", sections=[made]))
    assert 'role="search"' in text
    assert len(text) < 3_000_000


# --- claims ------------------------------------------------------------------------------------------------------------

def planted(r: float, n: int = 2000, ties: bool = False) -> Result:
    """A scan in which both questions correlate with exactly r."""
    result = scan_result(n, tokens.PROMPTS)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n))
    x = (x - x.mean()) / x.std()
    y -= y.mean() + (x @ y) / n * x
    y /= y.std()
    reward = np.stack([x, r * x + np.sqrt(1 - r * r) * y])
    reward = np.round(reward, 1) if ties else reward
    counts = [np.unique(row, return_inverse=True, return_counts=True) for row in reward]
    data = result.data.assign(reward=(("prompt", "token"), reward.astype(np.float32)),
                              ties=(("prompt", "token"), np.stack([count[which] for _, which, count in counts])),
                              distinct=("prompt", [len(values) for values, *_ in counts]))
    return replace(result, data=data)


@pytest.mark.parametrize(("r", "level", "words"), [
    (0.95, "concern", "The model hardly hears whether it is asked for the best or for the worst: rewards of 2000 single"),
    (0.4, "fact", "Rewards of 2000 single tokens as the greatest and as the worst thing ever correlate with r = 0.4"),
    (-0.5, "fact", "The model tells opposite questions apart: rewards of 2000 single tokens")])
def test_the_claim_is_that_of_the_planted_correlation(audit, r, level, words):
    first = tokens.described(audit, planted(r)).findings[0]
    assert first.level == level
    assert first.text.startswith(words)
    if r > 0:
        told = re.search(r"either tells ([0-9.]+) % of the other's variance", first.text)
        assert told is not None
        assert float(told[1]) == pytest.approx(100 * r**2, abs=0.1)


def test_many_ties_are_a_concern(audit):
    found = tokens.described(audit, planted(0.4, ties=True)).findings
    (tie,) = [item for item in found if "exactly equal" in item.text]
    assert tie.level == "concern"
    assert not [item for item in tokens.described(audit, planted(0.4)).findings if "exactly equal" in item.text]


# --- cost --------------------------------------------------------------------------------------------------------------

def test_a_long_scan_is_left_out_and_how_to_run_it_is_said(demo, monkeypatch):
    monkeypatch.setattr(tokens, "LIMIT", 0.0)
    monkeypatch.setattr(tokens, "scan_of", lambda audit: pytest.fail("scanned"))
    section = tokens.build(audit_of(demo))
    assert section is not None
    (text,) = [item.text for item in section.findings]
    assert "The vocabulary was not scanned: it would take about" in text
    assert "8192 tokens, 2 questions, on cpu" in text
    assert "run `rewarden tokens MODEL`, or the audit with --vocabulary all" in text
    assert section.data["tokens"] == 8192
    assert section.blocks == ()


def test_it_can_be_asked_for_whatever_it_costs(demo, scan, monkeypatch):
    monkeypatch.setattr(tokens, "LIMIT", 0.0)
    monkeypatch.setattr(tokens, "scan_of", lambda audit: scan)
    section = tokens.build(audit_of(demo, vocabulary="all"))
    assert section is not None
    assert len(section.blocks) == 4


def test_it_can_be_left_out(demo, monkeypatch):
    monkeypatch.setattr(tokens, "scan_of", lambda audit: pytest.fail("scanned"))
    section = tokens.build(audit_of(demo, vocabulary="none"))
    assert section is not None
    assert "was not scanned: on request" in section.findings[0].text
    with pytest.raises(RewardenError, match="vocabulary"):
        AuditOptions(vocabulary="some")


@pytest.mark.parametrize(("fixed", "each", "limit", "expected"), [
    (0.0, 0.002, 120.0, 0.002 * 8192 * 2),  # short enough however it is reckoned
    (0.1, 0.001, 10.0, 0.001 * 8192 * 2),  # what a scan costs whatever its length does not count
    (0.5, 0.01, 120.0, 0.01 * 8192 * 2)])
def test_the_estimate_is_what_a_candidate_costs(demo, monkeypatch, fixed, each, limit, expected):
    clock = [0.0]

    def slow(rm, prompt, ids):
        clock[0] += fixed + each * len(ids)

    monkeypatch.setattr(tokens, "LIMIT", limit)
    monkeypatch.setattr(tokens, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(vocabulary, "score_vocabulary", slow, raising=False)
    found = tokens.cost_of(audit_of(demo)).data
    assert float(found["seconds"]) == pytest.approx(expected)
    assert (int(found["tokens"]), str(found["device"].values)) == (8192, "cpu")


def test_what_was_decided_stays_decided(demo, scan, tmp_path, monkeypatch):
    """A second build reads the scan, and the estimate, from the run folder; no clock decides twice."""
    run = Run.open_or_create(tmp_path / "run", {"verb": "audit"}, {}, identity={"model": "demo"})
    monkeypatch.setattr(tokens, "scan_of", lambda audit: scan)
    first = tokens.build(audit_of(demo, run))
    monkeypatch.setattr(tokens, "scan_of", lambda audit: pytest.fail("scanned again"))
    monkeypatch.setattr(tokens, "cost_of", lambda audit: pytest.fail("measured again"))
    again = tokens.build(audit_of(demo, run))
    assert first is not None
    assert again is not None
    assert again.data == first.data
    assert [item.text for item in again.findings] == [item.text for item in first.findings]
    assert render(Page(name="x", sections=[again])) == render(Page(name="x", sections=[first]))


def test_a_report_is_written_again_without_the_model(demo, tmp_path):
    report = rw.audit(demo, PAIRS, out=tmp_path / "run", resamples=100, patch_pairs=0, lens_pairs=2, examples=0, bias="none",
                      quiet=True)
    before = report.path.read_bytes()
    same = rebuild(report.folder).path.read_bytes() == before  # apart from the assert, or pytest looks for the difference
    assert same
    assert b'role="search"' in before


# --- other models, hostile tokens --------------------------------------------------------------------------------------

def test_an_ensemble_has_no_vocabulary(demo):
    audit = audit_of(demo)
    audit.rm = rw.Ensemble([demo, demo])  # type: ignore[assignment]
    (builder,) = [one for one in builders() if one.name == "tokens"]
    section = build_section(builder, audit)
    assert section is not None
    assert section.problem is not None
    assert "no vocabulary to scan" in section.problem.what


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_is_scanned_too():
    section = tokens.build(audit_of(model_of("bert")))
    assert section is not None
    assert section.problem is None
    assert len(section.blocks) == 4


def test_hostile_tokens_do_not_become_markup(audit):
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    result = scan_result(len(texts), tokens.PROMPTS, texts=texts)
    page = render(Page(name="x", sections=[tokens.described(audit, result)]))
    body = page[: page.index('id="rewarden-data"')]
    assert "__hit()" in body
    for start in ("<script>__hit", "<img src=x", "<svg onload", "<iframe src", "<svg/onload", "<a href=\"java"):
        assert start not in body
