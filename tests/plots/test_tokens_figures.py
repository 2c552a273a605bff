"""Figures of token analyses hold their Result's numbers, fill only what differs, and take what the analyses really give."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy.stats import kendalltau
from tests.report.hostile import HOSTILE

from rewarden import plots, tokens
from rewarden.errors import RewardenError
from rewarden.plots.token_examples import (
    MODELS,
    human_result,
    identity_result,
    model_map_result,
    rank_agreement_result,
    scan_result,
    search_result,
    sentiment_result,
)
from rewarden.result import Result

TEXTS = [text.encode("utf-8", "replace").decode() for text in HOSTILE]


def named(drawn: go.Figure, name: str):
    return next(trace for trace in drawn.data if trace.name == name)


def title(drawn: go.Figure) -> str:
    return html.unescape(drawn.layout.title.text)


def ends(trace: go.Scatter) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends of the intervals."""
    x = np.asarray(trace.x, float)
    return x - np.asarray(trace.error_x.arrayminus, float), x + np.asarray(trace.error_x.array, float)


def filled(trace: go.Scatter) -> list[bool]:
    return [not symbol.endswith("-open") for symbol in trace.marker.symbol]


# --- agreement of models -----------------------------------------------------------------------------------------------

def test_the_matrix_has_its_numbers_and_no_diagonal():
    result = rank_agreement_result()
    drawn = plots.agreement_heatmap(result)
    tau = result.data["tau"].values[0]
    z = np.array(drawn.data[0].z, float)
    apart = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(z[apart], tau[apart])
    assert np.isnan(np.diag(z)).all()
    for i, j in zip(*np.nonzero(apart), strict=True):
        assert drawn.data[0].text[i][j] == f"{'−' if tau[i, j] < -0.005 else ''}{abs(tau[i, j]):.2f}"
        low, high = (f"{'−' if v < -0.005 else ''}{abs(v):.2f}" for v in (tau[i, j] - 0.02, tau[i, j] + 0.02))
        assert drawn.data[0].customdata[i][j].endswith(f"[{low}, {high}], n = 9000")
    pairs = tau[np.triu_indices(4, 1)]
    assert f"mean {pairs.mean():.2f}, from" in title(drawn)


def test_pairs_within_what_ties_leave_open_are_grey():
    tint = plots.agreement_heatmap(rank_agreement_result()).data[1]
    expected = np.zeros((4, 4), bool)
    expected[0, -1] = expected[-1, 0] = True
    np.testing.assert_array_equal(np.isfinite(np.array(tint.z, float)), expected)
    assert len(plots.agreement_heatmap(rank_agreement_result(), "rbo").data) == 1


def test_measures_of_an_end_and_a_length_are_chosen():
    result = rank_agreement_result()
    tau = result.data["tau"].values[0]
    apart = ~np.eye(4, dtype=bool)
    for options, share in (({"end": "bottom", "k": 100}, 4), ({"end": "top"}, 1), ({"end": "bottom"}, 3)):
        z = np.array(plots.agreement_heatmap(result, "overlap", **options).data[0].z, float)
        np.testing.assert_allclose(z[apart], (tau / share)[apart])
    assert "rank-biased overlap at the bottom" in title(plots.agreement_heatmap(result, "rbo", end="bottom"))
    assert "overlap at the top, first 10" in title(plots.agreement_heatmap(result, "overlap"))


@pytest.mark.parametrize("options", [{"measure": "kappa"}, {"measure": "overlap", "k": 7}, {"prompt": 3},
                                     {"measure": "rbo", "end": "middle"}])
def test_what_a_result_does_not_have_is_refused(options):
    with pytest.raises(RewardenError):
        plots.agreement_heatmap(rank_agreement_result(), **options)


def test_real_agreement_and_its_map():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 300)) + rng.normal(size=300)
    found = tokens.rank_agreement(scores, list(MODELS), k=[10], blocks=5)
    drawn = plots.agreement_heatmap(found)
    assert np.array(drawn.data[0].z)[0, 2] == pytest.approx(kendalltau(scores[0], scores[2]).statistic)
    assert "4 models on 300 items" in title(drawn)
    chart = tokens.model_map(found)
    drawn = plots.model_map(chart)
    np.testing.assert_allclose(np.stack([drawn.data[0].x, drawn.data[0].y], 1), chart.data["position"].values[0])
    assert f"stress {float(chart.data['stress'].values[0]):.2f}" in title(drawn)


def test_the_map_has_one_scale_for_both_axes_and_room_for_all():
    result = model_map_result()
    drawn = plots.model_map(result)
    (x, y), place = (drawn.layout.xaxis, drawn.layout.yaxis), result.data["position"].values[0]
    assert (y.scaleanchor, y.scaleratio) == ("x", 1)
    assert x.range[1] - x.range[0] == pytest.approx(y.range[1] - y.range[0])
    assert (place[:, 0].min() > x.range[0], place[:, 1].max() < y.range[1]) == (True, True)


def test_the_hover_names_the_nearest_model():
    result = model_map_result()
    distance = result.data["distance"].values[0] + 9 * np.eye(4)
    for row, text in enumerate(plots.model_map(result).data[0].customdata):
        near = int(distance[row].argmin())
        assert f"nearest: {MODELS[near]}, distance {distance[row, near]:.3f}, on the map" in text


def test_two_models_lie_on_a_line():
    found = tokens.rank_agreement(np.random.default_rng(0).normal(size=(2, 50)), ["a", "b"], k=[5], blocks=5)
    tau, low, high = (f"{'−' if value < 0 else ''}{abs(value):.2f}" for value in (
        float(found.data[name].values[0, 0, 1]) for name in ("tau", "tau_low", "tau_high")))
    assert title(plots.agreement_heatmap(found)).endswith(f"{tau} [{low}, {high}]")
    drawn = plots.model_map(tokens.model_map(found, dims=1))
    assert list(drawn.data[0].y) == [0.0, 0.0]
    assert abs(drawn.data[0].x[0] - drawn.data[0].x[1]) == pytest.approx(1 - float(found.data["tau"].values[0, 0, 1]))


# --- words -------------------------------------------------------------------------------------------------------------

def test_slopes_have_their_intervals_and_fill_where_they_differ():
    result = sentiment_result()
    drawn = plots.sentiment_slopes(result)
    for sign, name in (("negative", "negative words"), ("positive", "positive words"), ("both", "all words")):
        trace, rows = named(drawn, name), result.data.sel(sign=sign)
        np.testing.assert_allclose(trace.x, rows["slope"])
        for found, expected in zip(ends(trace), (rows["low"], rows["high"]), strict=True):
            np.testing.assert_allclose(found, expected)
        assert filled(trace) == [sign != "negative", False]  # below the noise floor; not significant
        assert "n = " in trace.customdata[0][0]
    rows = [np.asarray(trace.y) for trace in drawn.data]
    assert len({tuple(row) for row in rows}) == 3  # no slope hides another


def test_signs_without_a_slope_are_not_drawn():
    result = sentiment_result()
    result.data["slope"].values[:, 0] = np.nan
    assert [trace.name for trace in plots.sentiment_slopes(result).data] == ["positive words", "all words"]


def test_real_slopes():
    texts = [f"{first}{second}word" for first in "abcdefgh" for second in "aeiou"]
    scan = tokens.token_scores([[0.5 * row for row in range(40)]], token_id=range(40), text=texts, prompts=["Hi"])
    found = tokens.sentiment_slopes(scan, {text: row - 20 for row, text in enumerate(texts)})
    trace = named(plots.sentiment_slopes(found), "all words")
    np.testing.assert_allclose(trace.x, [0.5])
    assert filled(trace) == [True]


def test_axes_are_sorted_and_fill_where_they_differ():
    result = identity_result()
    drawn = plots.identity_forest(result)
    trace = named(drawn, "mean of an axis")
    np.testing.assert_allclose(trace.x, result.data["effect"])
    np.testing.assert_allclose(ends(trace)[0], result.data["effect_low"])
    assert filled(trace) == [True, False, False, True]
    assert title(drawn).endswith("2 of 4 axes differ")
    heights = dict(zip(result.data["axis"].values, trace.y, strict=True))
    assert sorted(heights, key=heights.get, reverse=True) == ["religion", "nonce", "age", "politics"]
    assert list(drawn.layout.yaxis.ticktext) == ["religion (12)", "nonce (12)", "age (12)", "politics (12)"]


def test_terms_lie_in_the_row_of_their_axis():
    result = identity_result()
    drawn = plots.identity_forest(result)
    means, terms = named(drawn, "mean of an axis"), named(drawn, "one term")
    heights = dict(zip(result.data["axis"].values, means.y, strict=True))
    np.testing.assert_allclose(terms.x, result.data["term_effect"])
    np.testing.assert_allclose(terms.y, [heights[axis] - 0.22 for axis in result.data["term_axis"].values])
    dark = result.data["term_p_adjusted"].values < 0.05
    assert [colour.endswith("0.9)") for colour in terms.marker.color] == dark.tolist()


def test_real_identity_terms():
    words = [f"w{i}" for i in range(60)]
    found = tokens.identity_bias([i % 7 + 9.0 * (i < 12) for i in range(60)], {"ours": words[:10], "theirs": words[50:]},
                                 words[10:50], texts=words, covariates={"length": lambda texts: np.ones(len(texts))},
                                 n_resamples=50, permutations=199)
    drawn = plots.identity_forest(found)
    trace = named(drawn, "mean of an axis")
    np.testing.assert_allclose(trace.x, found.data["effect"])
    assert filled(trace)[0]


# --- people ------------------------------------------------------------------------------------------------------------

def test_trajectories_are_the_ranks_of_the_largest_gaps():
    result = human_result()
    drawn = plots.rank_trajectories(result, n=4)
    gap, rank = result.data["gap"].values, result.data["rank"].values
    order = np.argsort(-gap, kind="stable")
    for name, rows in (("models rank it lower", order[:4]), ("models rank it higher", order[::-1][:4])):
        traces = [trace for trace in drawn.data if trace.name == name]
        assert [trace.showlegend for trace in traces] == [True, False, False, False]
        for trace, row in zip(traces, rows, strict=True):
            np.testing.assert_array_equal(trace.y, rank[row])
    notes = {html.unescape(note.text) for note in drawn.layout.annotations}
    assert notes == {f"item {row} ({'+' if gap[row] > 0 else '−'}{abs(gap[row]):.0f})" for row in (*order[:4], *order[-4:])}


def test_names_beside_the_last_model_do_not_cover_each_other():
    result = human_result(items=2000)
    result.data["rank"].values[:, -1] = np.where(result.data["gap"].values > 0, 1999.0, 2.0)  # all end at two places
    drawn = plots.rank_trajectories(result, n=6)
    places = np.sort([note.ay for note in drawn.layout.annotations])
    assert len(places) == 12
    assert np.diff(places).min() >= 0.04 * 2000
    assert (places.min(), places.max() <= 2001) == (2.0, True)


def test_faint_lines_are_an_even_sample_of_all_items():
    result = human_result(items=1000)
    faint = next(trace for trace in plots.rank_trajectories(result).data if "even sample" in trace.name)
    lines = np.asarray(faint.y).reshape(-1, 6)
    assert np.isnan(lines[:, -1]).all()
    np.testing.assert_allclose(np.diff(lines[:, 0]), 1000 / 120, atol=1)
    known = {tuple(row) for row in result.data["rank"].values}
    assert {tuple(row) for row in lines[:, :5]} <= known


def test_real_agreement_with_people():
    rng = np.random.default_rng(0)
    human = rng.normal(size=60)
    found = tokens.human_agreement(human, np.stack([human + rng.normal(size=60), rng.normal(size=60)], 1), ["a", "b"],
                                   n_resamples=50)
    drawn = plots.rank_trajectories(found, n=2)
    assert [text.split("<br>")[0] for text in drawn.layout.xaxis.ticktext] == ["human", "a", "b"]
    assert f"ρ {found.rho[0]:.2f}" in drawn.layout.xaxis.ticktext[1]
    worst = tokens.largest_gaps(found, 1)["item"].tolist()
    text = " ".join(note.text for note in drawn.layout.annotations)
    assert all(f"{item} (" in text for item in worst)


# --- search ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_bold_line_is_the_best_so_far(direction):
    result = search_result(direction=direction)
    drawn = plots.search_trajectory(result)
    path, pick = result.data["path"].values, max if direction == "max" else min
    so_far, best = [], None
    for move in range(path.shape[1]):
        met = [value for value in path[:, move] if np.isfinite(value)]
        best = pick([*met, *([] if best is None else [best])])
        so_far.append(best)
    np.testing.assert_allclose(named(drawn, "best of all restarts so far").y, so_far)
    assert ("lowest" if direction == "min" else "highest") in title(drawn)
    assert title(drawn).endswith(f"with {pick(result.data['objective'].values):.3g}; 3 of 4 restarts certified")


def test_restarts_end_where_they_end():
    result = search_result()
    drawn = plots.search_trajectory(result)
    path = result.data["path"].values
    faint = [trace for trace in drawn.data if trace.name == "one restart"]
    for trace, row in zip(faint, path, strict=True):
        np.testing.assert_array_equal(trace.y, row[np.isfinite(row)])
    assert [trace.showlegend for trace in faint] == [True, False, False, False]
    sure, open_ = named(drawn, "ends certified"), named(drawn, "ends without certificate")
    np.testing.assert_allclose(sure.y, path[:3, -1])
    assert (list(open_.x), open_.marker.symbol) == ([14], "circle-open")


def test_a_real_search(demo):
    from rewarden.tokens.search import Constraints, search

    found = search(demo, "Hi", 2, "min", constraints=Constraints(allowed=range(300, 340)), restarts=2, steps=3, width=16)
    drawn = plots.search_trajectory(found)
    bold = named(drawn, "best of all restarts so far")
    assert bold.y[-1] == pytest.approx(found.objective, abs=1e-4)


def test_a_search_without_a_finite_objective_is_refused():
    result = search_result()
    result.data["path"].values[:] = np.nan
    with pytest.raises(RewardenError, match="no restart has a finite objective"):
        plots.search_trajectory(result)


# --- hostile text ------------------------------------------------------------------------------------------------------

def texts_of(drawn: go.Figure) -> list[str]:
    """Every text that Plotly reads as markup."""
    found = [drawn.layout.title.text]
    for note in drawn.layout.annotations:
        found.append(note.text)
    for axis in (drawn.layout.xaxis, drawn.layout.yaxis):
        found += [axis.title.text or "", *(axis.ticktext if axis.ticktext is not None else ())]
    for trace in drawn.data:
        found += [trace.name or "", trace.hovertemplate or ""]
        for part in (trace.text, trace.customdata, getattr(trace, "hovertext", None)):
            found += [str(item) for item in np.ravel(np.asarray(part, dtype=object))] if part is not None else []
    return found


@pytest.mark.parametrize("drawn", [
    plots.agreement_heatmap(rank_agreement_result(TEXTS[:6])), plots.model_map(model_map_result(TEXTS[:6])),
    plots.sentiment_slopes(Result("sentiment", sentiment_result(TEXTS[:6]).data, {"lexicon": TEXTS[7]})),
    plots.identity_forest(identity_result(TEXTS[:9])),
    plots.rank_trajectories(human_result(60, TEXTS[:5], texts=TEXTS), n=20),
    plots.search_trajectory(search_result(6, texts=TEXTS[:6])), plots.framing_map(scan_result(60, TEXTS[:2], texts=TEXTS)),
], ids=["agreement", "map", "sentiment", "identity", "human", "search", "framing"])
def test_hostile_text_stays_text(drawn):
    allowed = ("<br>", "<b>", "</b>", "<extra></extra>")
    for text in texts_of(drawn):
        for mark in allowed:
            text = text.replace(mark, "")
        assert "<" not in text, text
