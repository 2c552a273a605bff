"""The map of a vocabulary: every token is counted, the outermost are drawn with their own numbers, nothing covers anything."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import rankdata
from tests.report.hostile import HOSTILE

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.plots.token_examples import PROMPTS, framing_result, scan_result
from rewarden.plots.tokens_map import FOUND, HEIGHT, LETTER, LINE, MARKS, WIDTH, outermost, plane_of
from rewarden.plots.tokens_names import is_text, model_names, token_name, token_names, token_notes
from rewarden.result import Result


def density(drawn: go.Figure) -> go.Heatmap:
    return next(trace for trace in drawn.data if isinstance(trace, go.Heatmap))


def dots(drawn: go.Figure) -> list[go.Scattergl]:
    return [trace for trace in drawn.data if isinstance(trace, go.Scattergl)]


@pytest.fixture(scope="module")
def scan() -> Result:
    return scan_result(3000, seed=1)


def test_every_token_is_counted_where_it_lies(scan):
    trace = density(plots.framing_map(scan))
    counts = np.array(trace.customdata)
    reward = scan.data["reward"].values.astype(float)
    x, y = np.array(trace.x, float), np.array(trace.y, float)
    cells = [np.abs(values[:, None] - centres).argmin(1) for values, centres in zip(reward, (x, y), strict=True)]
    expected = np.zeros_like(counts)
    np.add.at(expected, (cells[1], cells[0]), 1)
    assert counts.sum() == 3000
    assert np.abs(counts - expected).sum() <= 4  # a token on a border may fall to either side
    z = np.array(trace.z, float)
    np.testing.assert_allclose(z[counts > 0], np.log10(counts[counts > 0]), atol=0.005)
    assert np.isnan(z[counts == 0]).all()


def test_dots_are_the_outermost_tokens_with_their_rewards_and_ranks(scan):
    drawn = plots.framing_map(scan)
    reward = scan.data["reward"].values.astype(float)
    inverse = np.linalg.inv(np.cov(reward))
    distance = np.array([mahalanobis(row, reward.mean(1), inverse) for row in reward.T])
    expected = set(np.argsort(-distance)[:300].tolist())
    np.testing.assert_array_equal(sorted(outermost(*reward, limit=MARKS)), sorted(expected))
    names, ranks = token_names(scan.data), [rankdata(-row, method="min") for row in reward]
    known = {name: row for row, name in enumerate(names)}
    rows = []
    for trace in dots(drawn):
        for x, y, (text, first, second) in zip(trace.x, trace.y, trace.customdata, strict=True):
            row = known[html.unescape(text).split("<br>")[0]]
            np.testing.assert_array_equal([x, y], reward[:, row].astype(np.float32))
            assert (first, second) == (ranks[0][row], ranks[1][row])
            rows.append(row)
    assert sorted(rows) == sorted(expected)


def test_dots_never_exceed_their_number():
    drawn = plots.framing_map(scan_result(40_000))
    assert sum(len(trace.x) for trace in dots(drawn)) == MARKS
    assert sum(len(trace.x) for trace in dots(plots.framing_map(scan_result(40_000), marks=50))) == 50


def test_tokens_that_are_no_text_have_dots_of_their_own():
    result = framing_result(100)
    words, others = dots(plots.framing_map(result))
    assert (len(words.x), len(others.x)) == (98, 2)
    assert [text[0] for text in others.customdata] != []
    assert any("special" in text[0] for text in others.customdata)


def test_a_plane_and_its_scan_give_the_same_map():
    plane, scan = framing_result(500, seed=3), scan_result(500, seed=3)
    a, b = plane_of(plane), plane_of(scan)
    np.testing.assert_allclose(a.x, b.x, atol=1e-6)
    np.testing.assert_allclose(a.y, b.y, atol=1e-6)
    assert a.axes == b.axes
    turned = plane_of(scan, PROMPTS[1], 0)
    np.testing.assert_array_equal(turned.x, b.y)


def test_the_title_has_the_correlation_its_interval_n_and_rounding():
    result = framing_result(400)
    r = float(result.data["correlation"])
    title = plots.framing_map(result).layout.title.text
    assert f"r = {r:.2f} [{r - 0.05:.2f}, {r + 0.05:.2f}] (n = 400 tokens; rounding 1e-06)" in title


def test_the_dotted_line_has_the_same_standing_under_both(scan):
    drawn = plots.framing_map(scan)
    line = next(trace for trace in drawn.data if trace.name == "same standing under both")
    reward = scan.data["reward"].values.astype(float)
    standing = [(np.array(values) - row.mean()) / row.std() for values, row in zip((line.x, line.y), reward, strict=True)]
    np.testing.assert_allclose(standing[0], standing[1], atol=1e-5)


def test_names_are_of_their_direction_and_do_not_cover_each_other(scan):
    drawn = plots.framing_map(scan)
    named = next(trace for trace in drawn.data if trace.name == "furthest tokens")
    reward = scan.data["reward"].values.astype(float)
    reading = ((reward - reward.mean(1, keepdims=True)) / reward.std(1, keepdims=True))[:, is_text(scan.data)]
    at = {"top right": reading.sum(0).max(), "bottom left": -reading.sum(0).min(),
          "bottom center": (reading[0] - reading[1]).max(), "top center": (reading[1] - reading[0]).max()}
    first = {}
    boxes = []
    for x, y, text, side in zip(named.x, named.y, named.text, named.textposition, strict=True):
        p, q = (np.array([x, y]) - reward.mean(1)) / reward.std(1)
        out = {"top right": p + q, "bottom left": -p - q, "bottom center": p - q, "top center": q - p}[side]
        first.setdefault(side, out)
        half = np.array([LETTER * len(html.unescape(text)), LINE]) / 2
        sign = {"top right": (1, 1), "bottom left": (-1, -1), "bottom center": (0, -1), "top center": (0, 1)}[side]
        boxes.append(((np.array([x, y]) / np.ptp(reward, axis=1) * (WIDTH, HEIGHT)) + half * sign, half))
    for side, furthest in at.items():
        assert first[side] == pytest.approx(furthest, abs=1e-5)
    for place, (middle, half) in enumerate(boxes):
        assert all((np.abs(middle - other) > half + size - 0.01).any() for other, size in boxes[:place])


def test_tokens_without_a_reward_have_no_place():
    result = scan_result(200)
    result.data["reward"].values[0, 5] = np.nan
    drawn = plots.framing_map(result, marks=200)
    assert np.array(density(drawn).customdata).sum() == 199
    drawn_x = np.concatenate([np.asarray(trace.x, float) for trace in (*dots(drawn), drawn.data[-2])])
    assert np.isfinite(drawn_x).all()
    result.data["reward"].values[1, 2:] = np.inf
    with pytest.raises(RewardenError, match="too few tokens with finite rewards"):
        plots.framing_map(result)


def test_the_last_trace_waits_for_what_a_reader_finds(scan):
    last = plots.framing_map(scan).data[-1]
    assert (last.meta, last.x, last.y) == (FOUND, (), ())


@pytest.mark.parametrize(("first", "second", "match"), [(0, 0, "needs two prompts"), (PROMPTS[1], -1, "needs two prompts"),
                                                        (0, 7, "no prompt 7"), ("Hi", 1, "no prompt 'Hi'")])
def test_prompts_that_make_no_plane(scan, first, second, match):
    with pytest.raises(RewardenError, match=match):
        plots.framing_map(scan, first, second)


def test_hostile_tokens_stay_text():
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    drawn = plots.framing_map(framing_result(len(texts), texts=texts))
    shown = [text[0] for trace in dots(drawn) for text in trace.customdata]
    shown += list(next(trace for trace in drawn.data if trace.name == "furthest tokens").text)
    for text in shown:
        assert "<" not in text.replace("<br>", "")


# --- names -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "raw", "byte", "shown"), [
    (" love", "", False, "␣love"), ("love ", "", False, "love␣"), ("  ", "", False, "␣␣"), ("a b", "", False, "a b"),
    ("\n", "", False, "⏎"), ("�", "e298", True, "bytes e2 98"), ("�", "", True, "�"), ("\x1b", "", False, "<U+001B>"),
    ("\u202e", "", False, "<U+202E>")])
def test_names_of_tokens_show_all_of_them(text, raw, byte, shown):
    assert token_name(text, raw, byte) == shown


def test_different_texts_have_different_names():
    texts = ["love", " love", "love ", "  love", "Love", "\tlove", "\nlove", "lo ve"]
    assert len({token_name(text) for text in texts}) == len(texts)


def test_a_token_without_text_is_called_by_its_piece():
    assert token_name("", piece="[unused3]") == "[unused3]"
    assert token_name("") == "no text"


def test_notes_are_the_flags_in_words():
    result = scan_result(60)
    said = token_notes(result.data)
    for row, note in enumerate(said):
        flags = {name: bool(result.data[name].values[row]) for name in ("special", "byte", "trimmed", "round_trip")}
        assert ("special" in note, "bytes" in note, "trimmed" in note, "not itself as text" in note) == (
            flags["special"], flags["byte"], flags["trimmed"], not flags["round_trip"])


def test_scores_without_flags_can_be_named_too():
    bare = scan_result(30).data.drop_vars(["special", "byte", "trimmed", "round_trip", "bytes", "piece"])
    assert token_notes(bare) == [""] * 30
    assert is_text(bare).all()
    assert token_names(bare)[2] == "love"


@pytest.mark.parametrize("length", [8, 12, 26])
def test_short_names_of_models_stay_different(length):
    models = ["a/rm", "b/rm", "org/Skywork-Reward-Gemma-2-27B-v0.2", "org/Skywork-Reward-Gemma-2-27B", "rm2", "a" * 90,
              "a" * 91]
    short = model_names(models, length)
    assert len(set(short)) == len(models)
    assert all(len(name) <= length + 3 for name in short)
