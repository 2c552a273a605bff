"""Figures of a comparison hold their Result's numbers; names and ids of strangers stay text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.plots.comparison_examples import comparison_result
from rewarden.result import Result

DRAWN = (plots.compare_margins, plots.compare_depth, plots.compare_parts, plots.compare_layers, plots.compare_models,
         plots.compare_bias)


def scores_only() -> Result:
    made = comparison_result()
    return Result("comparison", made.data[["margin", "spread", "floor", "agreement", "agreement_low", "agreement_high",
                                           "spearman", "spearman_low", "spearman_high"]], {})


def test_dots_are_the_margins_and_colour_tells_agreement():
    result = comparison_result(n=30)
    drawn = plots.compare_margins(result, 1, 0)
    margin = result.margin[[1, 0]]
    known = np.isfinite(margin).all(axis=0)
    alike = known & (margin[0] * margin[1] >= 0)
    for trace, rows in zip(drawn.data, (alike, known & ~alike), strict=True):
        np.testing.assert_array_equal(np.stack([trace.x, trace.y]), margin[:, rows])
        assert list(trace.customdata) == [str(row) for row in np.flatnonzero(rows)]
    assert "70.0 [60.0, 80.0] % judged alike" in drawn.layout.title.text


def test_curves_are_the_lens_and_the_agreement():
    result = comparison_result(("a", "b", "c"))
    lines = [trace for trace in plots.compare_depth(result).data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["a", "b", "c", "a and b", "a and c", "b and c"]
    for place, line in enumerate(lines[:3]):
        np.testing.assert_array_equal(line.y, result.data["lens"].values[place])
    np.testing.assert_array_equal(lines[4].y, result.data["lens_agreement"].values[0, 2])
    many = plots.compare_depth(comparison_result(tuple("abcdefg")))
    assert len([trace for trace in many.data if trace.mode == "lines+markers"]) == 7 + 6


def test_parts_carry_shares_and_intervals():
    result = comparison_result()
    drawn = plots.compare_parts(result)
    dots = next(trace for trace in drawn.data if trace.mode == "markers+text")
    np.testing.assert_allclose(np.stack([dots.x, dots.y]), 100 * result.share)
    np.testing.assert_allclose(dots.error_x.array, 3.0)


def test_layers_and_models_are_the_matrices():
    result = comparison_result()
    maps = plots.compare_layers(result, 1, 0).data
    np.testing.assert_array_equal(maps[0].z, result.cka[1, 0])
    np.testing.assert_array_equal(np.isfinite(maps[1].z), result.cka[1, 0] <= 0.15)
    matrix = plots.compare_models(result, "reward").data[0].z
    assert matrix[0, 1] == 0.6
    assert np.isnan(np.diag(matrix)).all()


def test_biases_are_dots_with_intervals():
    result = comparison_result()
    drawn = plots.compare_bias(result)
    for place, trace in enumerate(drawn.data):
        np.testing.assert_array_equal(trace.x, result.data["bias"].values[place])
        np.testing.assert_allclose(trace.error_x.array, 0.2)
    with pytest.raises(RewardenError, match="no bias battery"):
        plots.compare_bias(scores_only())


def test_gaps_of_a_shallower_model_are_not_drawn():
    result = comparison_result()
    data = result.data.copy(deep=True)
    data["cka"][:, :, :, 3:] = np.nan
    drawn = plots.compare_layers(Result("comparison", data, {}))
    assert drawn.data[0].z.shape == (5, 3)
    assert list(drawn.layout.xaxis.ticktext) == ["emb", "0", "1"]


def test_what_was_not_compared_is_refused():
    for draw in (plots.compare_depth, plots.compare_parts, plots.compare_layers):
        with pytest.raises(RewardenError, match="this comparison has no") as refused:
            draw(scores_only())
        assert refused.value.fix
    assert len(plots.compare_margins(scores_only()).data) == 2
    with pytest.raises(RewardenError, match="no two models 0 and 2"):
        plots.compare_margins(comparison_result(), 0, 2)
    with pytest.raises(RewardenError, match="no rank correlation of 'x'"):
        plots.compare_models(comparison_result(), "x")


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</b><b onclick=x>", "a\u202eb"])
def test_names_of_strangers_stay_text(draw, text):
    result = comparison_result((text, "b"))
    data = result.data.assign_coords(pair=[text] * result.data.sizes["pair"], component=[text] * 4, axis=[text] * 2)
    drawn = json.loads(draw(Result("comparison", data, {})).to_json())
    assert not any(word in held for held in _strings(drawn) for word in ("<script", "<b onclick", "\u202e"))


def _strings(held) -> list[str]:
    """Every string of a figure."""
    if isinstance(held, str):
        return [held]
    inner = held.values() if isinstance(held, dict) else held if isinstance(held, list) else []
    return [text for part in inner for text in _strings(part)]
