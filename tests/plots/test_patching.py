"""Figures of causal effects hold their Result's numbers exactly; rounding, gaps and marks are told apart; tokens stay text."""

from __future__ import annotations

import html
import re
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from tests.patching.by_hand import SHORTER, model_of
from tests.report.hostile import HOSTILE

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.patching import patch
from rewarden.plots.agreement import rho_lines
from rewarden.plots.cells import hatched
from rewarden.plots.effect_examples import agreement_result, estimate_result, flip_result, patch_result, paths_result
from rewarden.plots.examples import attribution_result
from rewarden.plots.heads import attributed_heads
from rewarden.plots.patching import LINE
from rewarden.result import Result

WORDS = tuple(f"token{place}" for place in range(200))


def colour_maps(drawn: go.Figure) -> list[go.Heatmap]:
    """The coloured maps of a figure, without the tints that mark rounding."""
    return [trace for trace in drawn.data if isinstance(trace, go.Heatmap) and trace.zmin is not None]


def tints(drawn: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in drawn.data if isinstance(trace, go.Heatmap) and trace.zmin is None]


def covered(bars: list[go.Bar], shape: tuple[int, ...]) -> np.ndarray:
    """How many hatched rectangles lie on each cell of one map."""
    count = np.zeros(shape, dtype=int)
    for bar in bars:
        for length, start, row, rows in zip(bar.x, bar.base, bar.y, bar.width, strict=True):
            left = int(start + 0.5)
            count[int(row):int(row + rows), left:left + int(length)] += 1
    return count


def named(drawn: go.Figure, name: str) -> list:
    return [trace for trace in drawn.data if trace.name == name]


# --- layers by tokens --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tokens", [10, 48, 49, 130, 200])
@pytest.mark.parametrize("row", [0, 3])
def test_the_lines_of_a_map_put_together_are_the_effects_of_the_pair(tokens, row):
    result = patch_result(positions=tokens, tokens=WORDS[:tokens], seed=row)
    drawn = plots.patch_positions(result, row, "mlp_out")
    lines = colour_maps(drawn)
    assert len(lines) == -(-tokens // LINE)
    effect = result.data["effect"].isel(pair=row).sel(site="mlp_out").values
    np.testing.assert_array_equal(np.column_stack([np.array(line.z, dtype=float) for line in lines]), effect)
    axes = [drawn.layout[f"xaxis{'' if number == 0 else number + 1}"] for number in range(len(lines))]
    assert [label for axis in axes for label in axis.ticktext] == list(WORDS[:tokens])
    assert {(axis.range[0], axis.range[1] - axis.range[0]) for axis in axes} == {(-0.5, min(max(tokens, 20), LINE))}


def test_sites_lie_below_each_other_on_one_scale_and_share_their_tokens():
    result = patch_result(positions=12)
    drawn = plots.patch_positions(result)
    maps = colour_maps(drawn)
    for panel, site in zip(maps, result.data["site"].values, strict=True):
        np.testing.assert_array_equal(panel.z, result.data["effect"].isel(pair=0).sel(site=site).values)
    reach = np.nanmax(np.abs(result.data["effect"].isel(pair=0).values))
    assert {(panel.zmin, panel.zmax) for panel in maps} == {(-reach, reach)}
    assert [panel.showscale for panel in maps] == [True, False, False]
    domains = [drawn.layout[name].domain for name in ("yaxis", "yaxis2", "yaxis3")]
    assert all(upper[0] > lower[1] for upper, lower in pairwise(domains))
    assert [axis.showticklabels for axis in (drawn.layout.xaxis, drawn.layout.xaxis2, drawn.layout.xaxis3)] == [
        False, False, True]


def test_rounding_is_tinted_gaps_are_hatched_and_neither_is_the_other():
    result = patch_result(positions=12)
    drawn = plots.patch_positions(result, 2, "attn_out")
    effect = result.data["effect"].isel(pair=2).sel(site="attn_out").values
    rounding = result.data["below_noise"].isel(pair=2).sel(site="attn_out").values
    (tint,) = tints(drawn)
    np.testing.assert_array_equal(np.isfinite(np.array(tint.z)), rounding)
    assert rounding.any()
    gaps = covered([trace for trace in drawn.data if isinstance(trace, go.Bar)], effect.shape)
    np.testing.assert_array_equal(gaps, np.isnan(effect).astype(int))
    assert [trace.marker.pattern.shape for trace in drawn.data if isinstance(trace, go.Bar)] == ["/"]
    assert {"within rounding", "no counterpart", "response begins"} == {
        trace.name for trace in drawn.data if trace.name and trace.showlegend}


def test_a_gap_is_never_drawn_as_a_number():
    result = patch_result(positions=12)
    for trace in colour_maps(plots.patch_positions(result)):
        assert np.isnan(np.array(trace.z, dtype=float)[:, :2]).all()


def test_the_response_is_marked_where_it_begins():
    result = patch_result(positions=12, tokens=WORDS[:12])
    (mark,) = named(plots.patch_positions(result, 0, "mlp_out"), "response begins")
    assert set(mark.x) == {12 // 3 - 0.5}


def test_tokens_before_the_first_effect_can_be_left_out():
    result = patch_result(positions=12, tokens=WORDS[:12])
    silent = 12 // 3
    for context in (0, 2, 50):
        drawn = plots.patch_positions(result, 0, "resid_post", context=context)
        kept = min(context, silent)
        assert list(drawn.layout.xaxis.ticktext) == list(WORDS[silent - kept:12])
        assert (f"the first {silent - kept} tokens are left out" in drawn.layout.title.text) == (kept < silent)


def test_the_end_of_a_long_text_is_kept_and_shorter_pairs_lose_nothing():
    result = patch_result(positions=40, tokens=WORDS[:40])
    data = result.data.copy(deep=True)
    data["span"][1, :15] = -1  # the second pair is shorter
    drawn = plots.patch_positions(Result("patch", data, result.provenance), 1, "mlp_out")
    assert list(drawn.layout.xaxis.ticktext) == list(WORDS[15:40])
    drawn = plots.patch_positions(result, 0, "mlp_out", limit=7)
    assert list(drawn.layout.xaxis.ticktext) == list(WORDS[33:40])
    assert "the first 33 tokens are left out" in drawn.layout.title.text


def test_hostile_tokens_stay_text():
    tokens = tuple(text.encode("utf-8", "replace").decode() for text in HOSTILE)
    drawn = plots.patch_positions(patch_result(positions=len(tokens), tokens=tokens), name="<img src=x>")
    shown = [text for number in range(1, 7) for text in drawn.layout[f"xaxis{'' if number == 1 else number}"].ticktext or ()]
    hovers = [text.replace("<br>", "") for trace in colour_maps(drawn) for text in np.array(trace.customdata).ravel()]
    for text in (*shown, *hovers, drawn.layout.title.text):
        assert not re.search("[<>\x00-\x1f\u202a-\u202e]", text)
    assert any("<script>" in html.unescape(text) for text in hovers)
    assert max(len(html.unescape(text)) for text in shown) <= 14


def test_a_pair_is_asked_for_by_row_or_by_id():
    result = patch_result(positions=8)
    data = result.data.assign_coords(pair=[f"p{row}" for row in range(result.data.sizes["pair"])])
    result = Result("patch", data, result.provenance)
    by_id, by_row = plots.patch_positions(result, "p3"), plots.patch_positions(result, 3)
    assert by_id.to_json() == by_row.to_json()
    assert "pair p3, margin" in by_id.layout.title.text


@pytest.mark.parametrize(("ask", "says", "fix"), [
    (lambda: plots.patch_positions(patch_result(positions=5), "absent"), "no pair 'absent'", "pass one of these"),
    (lambda: plots.patch_positions(patch_result(positions=5), 99), "no pair 99", "pass one of these"),
    (lambda: plots.patch_positions(patch_result(positions=5), 0, "q"), "no site 'q'", "pass one of these"),
    (lambda: plots.patch_positions(patch_result()), "positions='each'", "patch with positions='each'"),
    (lambda: plots.patch_layers(patch_result(positions=5)), "positions='read_out'", "patch with positions='read_out'"),
    (lambda: plots.patch_heads(patch_result(positions=5)), "positions='read_out'", "patch with positions='read_out'"),
    (lambda: plots.patch_heads(Result("patch", patch_result().data.drop_vars("effect_heads"), {})), "no 'effect_heads'",
     'patch with sites that include "z"'),
    (lambda: plots.patch_layers(Result("patch", patch_result().data.drop_vars("effect"), {})), "no 'effect'",
     'plots.patch_heads(result) draws z, q, k and v; for lines by layer patch whole vectors, sites=("resid_post",)'),
    (lambda: plots.agreement_scatter(agreement_result(), ("a vs b",)), "no comparison 'a vs b'",
     "pass names from its axis comparison"),
    (lambda: plots.estimate_scatter(patch_result()), "nothing was estimated", "a smaller budget= estimates them"),
])
def test_the_wrong_result_is_one_error_with_a_fix(ask, says, fix):
    with pytest.raises(RewardenError, match=re.escape(says)) as error:
        ask()
    assert error.value.fix == fix


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_hatching_covers_each_empty_cell_once(absent):
    count = np.zeros(absent.shape, dtype=int)
    for row, rows, column, columns in hatched(absent):
        count[row:row + rows, column:column + columns] += 1
    np.testing.assert_array_equal(count, absent.astype(int))


# --- layers, heads -----------------------------------------------------------------------------------------------------

def test_layer_lines_are_the_means_with_their_intervals_and_marks():
    result = patch_result(seed=4)
    drawn = plots.patch_layers(result)
    for site in result.data["site"].values:
        (line,) = named(drawn, site)
        cell = result.data.sel(site=site)
        np.testing.assert_array_equal(line.y, cell["mean"])
        np.testing.assert_array_equal(np.array(line.customdata), np.stack([cell["low"], cell["high"]], axis=1))
        edges = [trace.y for trace in drawn.data if trace.legendgroup == site and not trace.name]
        np.testing.assert_array_equal(np.array(edges), np.stack([cell["low"], cell["high"]]))
        assert [symbol == "circle" for symbol in line.marker.symbol] == cell["marked"].values.tolist()
    assert drawn.layout.shapes[0].y0 == pytest.approx(float(result.data["margin"].mean()))
    assert [trace.name for trace in plots.patch_layers(result, ["mlp_out"]).data if trace.name] == ["mlp_out"]


def test_titles_say_what_was_put_in_and_where():
    result = patch_result(n=7)
    zeros = Result("patch", result.data, {"mode": "zero", "positions": "read_out"})
    assert plots.patch_layers(zeros).layout.title.text == ("Effect of a layer's state set to zero at the read-out, mean of "
                                                           "7 pairs")


def test_heads_stand_beside_their_attribution_on_one_scale():
    result, attribution = patch_result(layers=4, heads=4), attribution_result(layers=4, heads=4)
    drawn = plots.patch_heads(result, attribution)
    causal, written = colour_maps(drawn)
    np.testing.assert_array_equal(causal.z, result.data["mean_heads"].values)
    for name, value in zip(attribution.data["component"].values, attribution.data["mean"].values, strict=True):
        if "H" in name:
            layer, head = map(int, name[1:].split("H"))
            assert written.z[layer][head] == value
    reach = max(np.abs(np.array(panel.z)).max() for panel in (causal, written))
    assert (causal.zmin, causal.zmax, written.zmin, written.zmax) == (-reach, reach, -reach, reach)
    (marks,) = named(drawn, "differs from zero")
    marked = zip(*np.nonzero(result.data["marked_heads"].values), strict=True)
    assert sorted(zip(marks.y, marks.x, strict=True)) == sorted(marked)
    assert drawn.layout.yaxis.range == (3.5, -0.5)  # layer 0 above, as in the map of attribution


def test_heads_that_the_attribution_does_not_have_are_gaps():
    values = attributed_heads(attribution_result(layers=2, heads=3), (3, 4))
    np.testing.assert_array_equal(np.isnan(values), [[False, False, False, True]] * 2 + [[True] * 4])
    drawn = plots.patch_heads(patch_result(layers=3, heads=4), attribution_result(layers=2, heads=3))
    assert [trace.name for trace in drawn.data if isinstance(trace, go.Bar)] == ["no such head"]


def test_heads_within_rounding_are_tinted():
    result = patch_result(layers=2, heads=2)
    data = result.data.copy(deep=True)
    data["mean_heads"][0, 1] = 5e-4
    (tint,) = tints(plots.patch_heads(Result("patch", data, result.provenance, noise_floor=1e-3)))
    np.testing.assert_array_equal(np.isfinite(np.array(tint.z)), [[False, True], [False, False]])


@pytest.mark.parametrize(("asked", "drawn_sites"), [
    (None, ("z", "q", "k", "v")), (("q", "k", "v"), ("q", "k", "v")), (("v",), ("v",)), (("k", "z"), ("k", "z"))])
def test_queries_keys_and_values_have_maps_of_their_own_heads_on_one_scale(asked, drawn_sites):
    result = patch_result(n=9, layers=5, heads=6, parts=("q", "k", "v"))
    drawn = plots.patch_heads(result, sites=asked)
    panels = colour_maps(drawn)
    suffix = {"z": "_heads", "q": "_q", "k": "_k", "v": "_v"}
    means = [result.data[f"mean{suffix[site]}"].values for site in drawn_sites]
    assert [mean.shape for mean in means] == [(5, 3) if site in "kv" else (5, 6) for site in drawn_sites]
    reach = max(np.abs(mean).max() for mean in means)
    for panel, site, mean in zip(panels, drawn_sites, means, strict=True):
        np.testing.assert_array_equal(panel.z, mean)
        assert (panel.zmin, panel.zmax) == (-reach, reach)
        axis = drawn.layout[f"xaxis{panel.xaxis.removeprefix('x')}"]
        assert axis.title.text == ("key head" if site in "kv" else "head")
        assert axis.range == (-0.5, mean.shape[1] - 0.5)
        assert drawn.layout[f"yaxis{panel.yaxis.removeprefix('y')}"].range == (4.5, -0.5)
        dots = [trace for trace in named(drawn, "differs from zero") if trace.xaxis == panel.xaxis]
        found = {(row, column) for trace in dots for row, column in zip(trace.y, trace.x, strict=True)}
        assert found == set(zip(*np.nonzero(result.data[f"marked{suffix[site]}"].values), strict=True))
    names = {"z": "output", "q": "query", "k": "key", "v": "value"}
    assert [note.text for note in drawn.layout.annotations] == [f"{names[site]} ({site})" for site in drawn_sites]
    *some, last = (names[site] for site in drawn_sites)
    what = f"{', '.join(some)} and {last}" if some else last
    title = f"Effect of each head's {what} taken from the rejected response, mean of 9 pairs"
    assert html.unescape(drawn.layout.title.text) == title


@pytest.mark.filterwarnings("ignore")
def test_what_patching_gives_for_queries_keys_and_values_can_be_drawn():
    found = patch(model_of("llama"), SHORTER, ("q", "k", "v"), positions="all", resamples=100)
    panels = colour_maps(plots.patch_heads(found))
    for panel, part, heads in zip(panels, ("q", "k", "v"), (4, 2, 2), strict=True):
        np.testing.assert_array_equal(panel.z, found.data[f"effect_{part}"].values[0])
        assert np.shape(panel.z) == (3, heads)


def test_attribution_stands_behind_the_outputs_it_is_of():
    result, attribution = patch_result(layers=4, heads=4, parts=("q", "k")), attribution_result(layers=4, heads=4)
    panels = colour_maps(plots.patch_heads(result, attribution))
    expected = [result.data["mean_heads"].values, attributed_heads(attribution, (4, 4)),
                *(result.data[f"mean_{part}"].values for part in ("q", "k"))]
    for panel, values in zip(panels, expected, strict=True):
        np.testing.assert_array_equal(panel.z, values)


def without(*names: str, **made) -> Result:
    return Result("patch", patch_result(**made).data.drop_vars(names), {})


@pytest.mark.parametrize(("ask", "fix"), [
    (lambda: plots.patch_layers(without("effect")),
     'plots.patch_heads(result) draws z, q, k and v; for lines by layer patch whole vectors, sites=("resid_post",)'),
    (lambda: plots.patch_layers(without("effect", "effect_heads")), "pass a patch result"),
    (lambda: plots.patch_positions(without("effect", positions=5)),
     'patch whole vectors, sites=("resid_post", "attn_out", "mlp_out"); heads have no map by position'),
    (lambda: plots.patch_heads(without("effect_heads")), 'patch with sites that include "z"'),
    (lambda: plots.patch_heads(patch_result(), sites=("q",)), """patch with sites that include "q", or draw sites=('z',)"""),
    (lambda: plots.patch_heads(patch_result(parts=("k",)), sites=("mlp_out",)), "choose out of ['z', 'k']"),
    (lambda: plots.patch_heads(patch_result(parts=("q",)), attribution_result(), sites=("q",)),
     'patch with sites that include "z", or leave it out'),
])
def test_the_next_step_is_the_right_one_for_what_the_result_holds(ask, fix):
    with pytest.raises(RewardenError) as error:
        ask()
    assert error.value.fix == fix


# --- paths, flips ------------------------------------------------------------------------------------------------------

def test_the_map_of_paths_is_the_mean_and_what_is_no_connection_is_a_gap():
    result = paths_result()
    drawn = plots.paths_map(result)
    (panel,) = colour_maps(drawn)
    np.testing.assert_array_equal(panel.z, result.data["mean"].values)
    gaps = covered([trace for trace in drawn.data if isinstance(trace, go.Bar)], np.shape(panel.z))
    np.testing.assert_array_equal(gaps, np.isnan(result.data["mean"].values).astype(int))
    assert (list(drawn.layout.yaxis.ticktext), list(drawn.layout.xaxis.ticktext)) == (
        ["mlp.0", "mlp.1", "mlp.2"], ["mlp.0", "mlp.1", "mlp.2", "read_out"])


def test_direct_effects_are_the_last_column_where_the_read_out_is_no_receiver():
    result = paths_result()
    inside = Result("paths", result.data.isel(receiver=slice(0, 3)), result.provenance)
    (panel,) = colour_maps(plots.paths_map(inside))
    np.testing.assert_array_equal(np.array(panel.z)[:, -1], result.data["mean_direct"].values)


def test_the_largest_paths_are_kept_in_the_order_of_the_forward_pass():
    result = paths_result(layers=5)
    drawn = plots.paths_map(result, top=2)
    size = np.nan_to_num(np.abs(result.data["mean"].values))
    rows, columns = (np.sort(np.argsort(-size.max(axis=axis), kind="stable")[:2]) for axis in (1, 0))
    (panel,) = colour_maps(drawn)
    np.testing.assert_array_equal(panel.z, result.data["mean"].values[np.ix_(rows, columns)])
    assert "the 2 largest of 5 senders and 2 of 6 receivers" in drawn.layout.title.text


def test_margins_fall_from_the_margin_towards_the_preferred_response():
    result = flip_result()
    drawn = plots.flip_steps(result)
    assert [list(trace.x) for trace in drawn.data] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    for row, trace in enumerate(drawn.data):
        sign = np.sign(result.data["margin"].values[row])
        expected = [result.data["margin"].values[row], *result.data["margin_after"].values[row][: len(trace.y) - 1]]
        np.testing.assert_array_equal(trace.y, sign * np.array(expected))
    assert [trace.name for trace in drawn.data] == ["turned", "turned", "not turned"]
    assert [trace.showlegend for trace in drawn.data] == [True, False, True]
    assert drawn.layout.title.text == "Margin while activations are exchanged: 2 of 3 pairs turn, median of 2 edits"


def test_pairs_that_were_not_searched_are_left_out():
    result = flip_result()
    data = result.data.copy(deep=True)
    data["margin_after"][2] = np.nan
    drawn = plots.flip_steps(Result("flip", data, result.provenance))
    assert len(drawn.data) == 2
    assert "2 of 2 pairs turn" in drawn.layout.title.text


# --- agreement, estimates ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pair", [None, 3])
def test_points_are_the_quantities_of_each_component(pair):
    result = agreement_result()
    drawn = plots.agreement_scatter(result, pair=pair)
    data = result.data
    for place, (first, second) in enumerate((("attribution", "direct"), ("attribution", "total"),
                                             ("attribution_raw", "total_left"))):
        axis = "x" if place == 0 else f"x{place + 1}"
        for kind, words in (("head", "heads"), ("attn", "attention blocks"), ("mlp", "MLPs")):
            (points,) = [trace for trace in named(drawn, words) if trace.xaxis == axis]
            rows = data["kind"].values == kind
            for values, quantity in ((points.x, first), (points.y, second)):
                wanted = data[quantity].values[:, rows]
                np.testing.assert_allclose(values, wanted.mean(axis=0) if pair is None else wanted[pair], rtol=1e-12)
    assert ("mean of 12 pairs" if pair is None else "pair 3") in drawn.layout.title.text


def test_titles_of_panels_give_the_correlation_with_its_interval():
    drawn = plots.agreement_scatter(agreement_result())
    texts = [note.text for note in drawn.layout.annotations]
    assert texts[0] == "aligned<br>blocks: ρ = 0.93 [0.92, 0.94]<br>heads: ρ = 0.93 [0.92, 0.94]"
    assert texts[2].startswith("published convention<br>blocks: ρ = 0.05 [0.04, 0.06]")
    assert rho_lines(agreement_result(), "attribution vs total", 0)[0] == "blocks: ρ = {:.2f}".format(
        float(agreement_result().data["rho"].sel(comparison="attribution vs total", type="block")[0]))


def test_a_correlation_that_is_not_defined_is_said_so():
    result = agreement_result()
    data = result.data.copy(deep=True)
    for name in ("rho_mean", "rho_low", "rho_high"):
        data[name].loc[{"comparison": "attribution_raw vs total_left"}] = np.nan
    assert rho_lines(Result("agreement", data, {}), "attribution_raw vs total_left") == ["ρ is not defined"]


def test_correlations_by_length_are_the_results_own():
    result = agreement_result()
    drawn = plots.agreement_by_length(result)
    for trace, name in zip(drawn.data, ("attribution vs total", "attribution_raw vs total_left"), strict=True):
        cell = result.data.sel(comparison=name, type="block")
        whole = [float(cell[f"rho_{part}"]) for part in ("mean", "low", "high")]
        mean, low, high = (np.array([first, *cell[f"{part}_by_length"].values])
                           for first, part in zip(whole, ("rho", "low", "high"), strict=True))
        np.testing.assert_array_equal(trace.x, mean)
        np.testing.assert_allclose(np.array(trace.x) + trace.error_x.array, high)
        np.testing.assert_allclose(np.array(trace.x) - trace.error_x.arrayminus, low)
    assert list(drawn.layout.yaxis.ticktext) == ["all pairs (12)", "rejected shorter (4)", "equal (4)", "rejected longer (4)"]


def test_estimates_stand_against_the_exact_effects_they_were_checked_with():
    result = estimate_result()
    drawn = plots.estimate_scatter(result)
    for kind, words in (("random", "drawn at random"), ("top", "largest estimates")):
        rows = result.data["drawn"].values == kind
        (points,) = named(drawn, words)
        np.testing.assert_array_equal(points.x, result.data["exact_effect"].values[rows])
        np.testing.assert_array_equal(points.y, result.data["estimate"].values[rows])
    assert "ρ = 0.97 [0.93, 0.99], same sign 95 %, mean error 20 % of the mean effect" in drawn.layout.title.text
    assert named(drawn, "drawn at random")[0].customdata[0] == "z.0.2, position -1, pair 0"
