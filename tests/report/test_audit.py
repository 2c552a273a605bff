"""The whole audit on the bundled model: what it writes, that it resumes, and what happens when a part fails."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.report import Section, auditing, forget_section, rebuild, register_section, section
from rewarden.report.context import SETTINGS
from rewarden.report.section import builders
from rewarden.report.sections import triggers
from rewarden.result import Result
from rewarden.store import Run

PAIRS = [
    rw.Pair(f"What is {row} plus {row}?", f"It is {2 * row}.", f"I'm sorry, I can't help with that. {row}", id=f"s{row}",
            subset="sums")
    for row in range(6)
] + [
    rw.Pair(f"Name a {thing}.", f"A {thing} is a fine choice, for instance this one.", "No.", id=f"n{row}", subset="names",
            metadata={"style_chosen": "detailed", "style_rejected": "concise"})
    for row, thing in enumerate(["bird", "river", "colour", "city", "fruit", "tool"])
]
OPTIONS = {"resamples": 100, "examples": 2, "lens_pairs": 4, "errors": 3, "bias": "position"}
SECTIONS = ["accuracy", "distributions", "length", "refusal", "bias", "style", "prompt", "cascade", "tokens", "triggers",
            "lens", "attribution", "patching", "agreement", "features", "concepts", "repair", "compare", "traces", "errors",
            "methods"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triggers, "LIMIT", 0.0)  # that section has tests of its own
        yield


@pytest.fixture(scope="module")
def report(demo, tmp_path_factory):
    return rw.audit(demo, PAIRS, out=tmp_path_factory.mktemp("audit") / "run", **OPTIONS)


def test_the_folder_holds_everything(report):
    folder = report.folder
    assert {path.name for path in folder.iterdir()} >= {"run.json", "rows", "results", "report.html", "summary.json"}
    names = {path.stem for path in (folder / "results").iterdir()}
    assert names >= {"score", "length", "style_grid", "prompt_exchange", "lens", "attribution", "patch", "agreement",
                     "tokens"}
    assert [made.name for made in report.sections] == SECTIONS
    assert os.fspath(report) == str(folder / "report.html")
    assert report.path.stat().st_size <= 6_000_000


def test_the_scores_are_the_models_own(report, demo):
    expected = demo.score(PAIRS)
    np.testing.assert_allclose(report.score.data["reward"], expected.data["reward"], atol=1e-5)
    assert report.score.data["pair"].values.tolist() == [pair.id for pair in PAIRS]


def test_the_summary_says_what_the_page_says(report):
    summary = report.summary
    assert summary["schema"] == "rewarden.report/1"
    assert [item["text"] for item in summary["findings"]] == [item.text for item in report.findings]
    margin = report.score.data["margin"].values
    assert summary["sections"]["accuracy"]["rows"][0]["accuracy"] == pytest.approx(((np.sign(margin) + 1) / 2).mean())
    page = report.path.read_text(encoding="utf-8")
    block = page[page.index('id="rewarden-data">') + len('id="rewarden-data">'):]
    assert json.loads(block[: block.index("</script>")]) == summary


def test_lens_and_ledger_in_the_report_end_at_the_reward(report):
    data = report.summary["sections"]
    assert abs(data["lens"]["last_layer_gap"]) < 1e-5
    assert data["attribution"]["completeness_error"] < 1e-5
    last = data["lens"]["rows"][-1]
    assert data["attribution"]["margin"] == pytest.approx(last["margin"], abs=1e-5)


def test_a_second_audit_computes_nothing_and_writes_the_same_bytes(report, demo, monkeypatch):
    before = {name: (report.folder / name).read_bytes() for name in ("summary.json", "report.html")}

    def refuse(*_, **__):
        raise AssertionError("the second audit ran the model")

    monkeypatch.setattr(type(demo), "score", refuse)
    monkeypatch.setattr(type(demo), "traces", refuse)
    monkeypatch.setattr(type(demo), "bases", refuse)
    rw.audit(demo, PAIRS, out=report.folder, **OPTIONS)
    assert (report.folder / "summary.json").read_bytes() == before["summary.json"]
    assert (report.folder / "report.html").read_bytes() == before["report.html"]


def test_the_report_can_be_written_again_without_the_model(report):
    before = report.path.read_bytes()
    again = rebuild(report.folder)
    assert again.path.read_bytes() == before
    assert [made.name for made in again.sections] == SECTIONS


def test_other_options_make_results_again(report):
    stored = Result.load(report.folder / "results" / "lens.nc")
    assert json.loads(str(stored.provenance[SETTINGS]))["lens_pairs"] == 4


def test_other_pairs_are_refused_in_the_same_folder(report, demo):
    with pytest.raises(RewardenError, match="another pairs"):
        rw.audit(demo, PAIRS[:5], out=report.folder, **OPTIONS)


def test_pairs_that_do_not_fit_are_left_out_and_counted(report, demo, tmp_path):
    too_long = rw.Pair("Hi.", "word " * 5000, "No.", id="long")
    with_it = rw.audit(demo, [too_long, *PAIRS], out=tmp_path / "run", **OPTIONS)
    assert with_it.score.data["pair"].values.tolist() == [pair.id for pair in PAIRS]
    health = {check["name"]: check for check in with_it.summary["health"]}
    assert (health["Pairs left out"]["value"], health["Pairs left out"]["status"]) == ("1 of 13", "look")
    first = with_it.findings[0]
    assert first.level == "concern"
    assert first.text.startswith("The report speaks of a part of the data only: 1 pair of 13 cannot be read")
    assert [item.text for item in with_it.findings[1:]] == [item.text for item in report.findings]
    again = rebuild(with_it.folder)
    assert again.summary == with_it.summary


def test_an_audit_of_only_such_pairs_is_one_clear_error(demo, tmp_path):
    with pytest.raises(RewardenError, match="none of the pairs can be read") as caught:
        rw.audit(demo, [rw.Pair("Hi.", "word " * 5000, "No.")], out=tmp_path / "run")
    assert "max_length" in caught.value.why + caught.value.fix


def test_no_pairs_is_one_clear_error(demo, tmp_path):
    with pytest.raises(RewardenError, match="no pairs to audit"):
        rw.audit(demo, [], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_options_are_refused_before_anything_runs(demo, tmp_path):
    with pytest.raises(RewardenError, match="unknown option 'exampels'"):
        rw.audit(demo, PAIRS, out=tmp_path / "run", exampels=3)


def test_an_interrupted_audit_goes_on_where_it_stopped(demo, tmp_path, monkeypatch):
    import rewarden.score_runs as scoring

    monkeypatch.setattr(scoring, "CHUNK", 4)
    calls = []
    score = type(demo).score

    def stop_after_one(self, pairs, **options):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, pairs, **options)

    monkeypatch.setattr(type(demo), "score", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        rw.audit(demo, PAIRS, out=tmp_path / "run", **OPTIONS)
    assert len(Run.open(tmp_path / "run").done_keys()) == 4
    calls.clear()
    calls.append(0)  # the next call would stop again
    calls.append(0)
    rw.audit(demo, PAIRS, out=tmp_path / "run", **OPTIONS)
    assert calls[2:4] == [4, 4]  # the eight pairs that were missing, then what sections ask


@pytest.fixture
def extra():
    """A section of a third party, removed after the test."""
    yield lambda build: register_section("extra", build, title="Extra", order=10)
    forget_section("extra")


def test_a_section_that_cannot_be_made_is_a_box_and_the_rest_stays(report, extra):
    def build(audit):
        raise RewardenError("no <tea> left", where="kitchen", why="all was drunk", fix="buy <tea>")

    extra(build)
    again = rebuild(report.folder)
    assert [made.name for made in again.sections] == ["extra", *SECTIONS]
    page = again.path.read_text(encoding="utf-8")
    assert "<b>Not available:</b> no &lt;tea&gt; left" in page
    assert "buy &lt;tea&gt;" in page
    assert again.summary["sections"]["extra"]["problem"].startswith("no <tea> left")


def test_a_bug_in_a_section_is_not_hidden(report, extra):
    extra(lambda audit: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rebuild(report.folder)


def test_a_section_of_a_third_party_joins_in_its_place(report, extra):
    extra(lambda audit: Section("extra", "Extra", [f"There are {len(audit.pairs)} pairs."], data={"n": len(audit.pairs)}))
    again = rebuild(report.folder)
    assert again.sections[0].name == "extra"
    assert again.summary["sections"]["extra"] == {"n": 12}


def test_a_section_without_its_result_says_so_without_the_model(report, extra):
    extra(lambda audit: audit.result("never_made", lambda: audit.model().score(audit.pairs)) and None)
    again = rebuild(report.folder)
    assert "needs the model" in again.sections[0].problem.what


@pytest.mark.parametrize("name", ["", "two words", "<b>", "é"])
def test_names_of_sections_are_words(name):
    with pytest.raises(RewardenError, match="is not a word"):
        register_section(name, lambda audit: None)


def test_a_name_is_taken_once():
    builders()
    with pytest.raises(RewardenError, match="'accuracy' exists already"):
        section("accuracy")(lambda audit: None)


def test_the_bundled_pairs_are_the_default(demo, monkeypatch):
    seen = {}

    def stop(rm, pairs):
        seen["n"] = len(pairs)
        raise RewardenError("enough")

    monkeypatch.setattr(auditing, "identity_of", stop)
    with pytest.raises(RewardenError, match="enough"):
        rw.audit(demo)
    assert seen["n"] >= 300
