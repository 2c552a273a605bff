"""Figures of style show the numbers of their Results."""

from __future__ import annotations

import numpy as np

import rewarden as rw
from rewarden import plots
from rewarden.hacking import style_content, style_regression


def test_the_forest_shows_each_tested_feature_once_largest_on_top():
    rng = np.random.default_rng(0)
    pairs = [rw.Pair(f"{row}?", "perhaps " * int(rng.integers(4)) + "reed " * int(rng.integers(1, 9)), "reed pond")
             for row in range(60)]
    result = style_regression(rng.normal(size=60), pairs, features=["words", "hedges", "emoji"], exchanges=0)
    drawn = plots.style_forest(result)
    beside, alone = drawn.data
    data = result.data.sel(feature=["words", "hedges"])  # nobody uses emoji
    data = data.isel(feature=np.argsort(-data["effect"].values))
    np.testing.assert_allclose(beside.x, data["effect"])
    np.testing.assert_allclose(np.asarray(beside.x) + np.asarray(beside.error_x.array), data["effect_high"])
    np.testing.assert_allclose(alone.x, data["alone"] * data["effect"] / data["slope"])
    assert list(drawn.layout.yaxis.ticktext) == list(data["words"].values)
    assert sorted(drawn.layout.yaxis.ticktext) == ["hedges", "length"]
    assert "60 prompts" in drawn.layout.title.text


def test_the_grid_shows_content_styles_and_interactions():
    result = style_content(np.random.default_rng(0).normal(size=(30, 2, 3)))
    (drawn,) = plots.style_content(result).data
    expected = [float(result.data["content_mean"]), *result.data["style_mean"].values, *result.data["interaction_mean"].values]
    np.testing.assert_allclose(drawn.x, expected)
    np.testing.assert_allclose(np.asarray(drawn.x) - np.asarray(drawn.error_x.arrayminus),
                               [float(result.data["content_low"]), *result.data["style_low"].values,
                                *result.data["interaction_low"].values])
    assert len(plots.style_content(result).layout.yaxis.ticktext) == 5


def test_content_is_filled_where_it_differs_from_zero():
    noise = np.random.default_rng(0).normal(size=(30, 2, 3))
    for content, filled in ((0.0, False), (5.0, True)):
        result = style_content(noise + np.array([content, 0.0])[None, :, None])
        assert (float(result.data["content_p"]) <= 0.05) is filled
        assert (plots.style_content(result).data[0].marker.color[0] != "rgba(0,0,0,0)") is filled
