"""The forest of the battery shows the numbers of its Result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rewarden import RewardenError, plots
from rewarden.hacking.bias.result import wordings
from rewarden.plots.bias import bias_table
from rewarden.plots.bias_examples import bias_result
from rewarden.report.sections import bias
from rewarden.result import Result


def test_the_forest_shows_sizes_intervals_and_flags():
    result = bias_result()
    table = bias_table(result)
    assert table["size"].abs().is_monotonic_decreasing
    drawn = {trace.name: trace for trace in plots.bias_forest(result).data}
    flagged = table[table["flag"]]
    np.testing.assert_allclose(np.array(drawn["flagged"].x, dtype=float), flagged["size"])
    np.testing.assert_allclose(np.array(drawn["flagged"].error_x.array, dtype=float), flagged["high"] - flagged["size"])
    assert len(drawn["net of an innocuous change"].x) == (~table["flag"]).sum()


def test_the_grey_bar_is_the_size_that_the_test_needs():
    result = bias_result()
    table = bias_table(result).set_index("axis")
    row = result.data.sel(axis="hedging").isel(output=0)
    half = stats.t.ppf(0.975, float(row["df"])) * float(row["error"] * row["null_factor"]) / float(result.data["spread"][0])
    assert float(table.loc["hedging", "needed"]) == pytest.approx(half)
    slope = result.data.sel(axis="length").isel(output=0)
    scale = float(slope["size"] / slope["estimate"])
    assert float(table.loc["length", "needed"]) == pytest.approx(
        stats.t.ppf(0.975, float(slope["df"])) * float(slope["error"] * slope["null_factor"]) * scale)


def test_without_calibration_there_is_no_grey_bar():
    result = bias_result()
    off = Result("bias", result.data, {**result.provenance, "calibration": "off"}, True, 1e-6)
    names = [[trace.name for trace in plots.bias_forest(one).data] for one in (result, off)]
    assert names[0] == ["size the test needs", *names[1]]
    captions = [bias.described(one).blocks[0].caption for one in (result, off)]
    assert ["grey bar" in caption for caption in captions] == [True, False]


def test_a_slope_of_exactly_zero_still_has_its_grey_bar():
    before, result = bias_table(bias_result()).set_index("axis"), bias_result()
    for name in ("estimate", "size"):
        result.data[name].loc[{"axis": "length"}] = 0.0
    after = bias_table(result).set_index("axis")
    assert float(after.loc["length", "needed"]) == pytest.approx(float(before.loc["length", "needed"]))


def test_an_output_that_is_not_there_is_refused():
    with pytest.raises(RewardenError, match="no output 'fun'"):
        bias_table(bias_result(), "fun")


def test_wordings_are_drawn_largest_first():
    table = wordings(bias_result(), "lists", resamples=100)
    drawn = plots.wording_forest(table, "lists").data[0]
    assert list(drawn.y) == [5, 4, 3, 2, 1]
    assert list(drawn.x) == sorted(drawn.x, reverse=True)
