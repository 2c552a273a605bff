"""Figures and tables of cascade and conflict say what their Results say."""

from __future__ import annotations

import numpy as np

from rewarden.plots.objective_examples import cascade_result, conflict_result
from rewarden.plots.objectives import (
    cascade_figure,
    cascade_table,
    conflict_figure,
    conflict_table,
    preference_table,
)


def test_the_cascade_matrix_holds_each_pair_once_below_the_diagonal():
    drawn = cascade_figure(cascade_result())
    matrix = np.array(drawn.data[1].z, dtype=float)
    assert np.isfinite(matrix).sum() == 3
    assert np.isnan(matrix[np.triu_indices(3)]).all()
    assert (matrix[1, 0], matrix[2, 0], matrix[2, 1]) == (0.7, 0.1, -0.2)
    assert len([shape for shape in drawn.layout.shapes if shape.type == "rect"]) == 1  # the flagged pair
    np.testing.assert_array_equal(drawn.data[0].x, [-0.8, 0.3, -0.1])
    assert [colour == "rgba(0,0,0,0)" for colour in drawn.data[0].marker.color] == [False, True, True]


def test_tables_are_sorted_and_whole():
    pairs, preferences = cascade_table(cascade_result()), preference_table(cascade_result())
    assert pairs["rho"].tolist() == [0.7, 0.1, -0.2]
    assert preferences["n"].tolist() == [24] * 3
    couples = conflict_table(conflict_result())
    assert couples["rho"].tolist() == [-0.8, -0.15, 0.1]
    first = couples.iloc[0]
    assert (first["first"], first["second"]) == ("helpful", "brief")
    assert (first["second_by_first"], first["first_by_second"]) == (-0.7, -0.6)
    np.testing.assert_allclose([first["second_by_first_low"], first["first_by_second_high"]], [-0.8, -0.5])


def test_the_conflict_figure_draws_the_most_opposed_and_the_slopes():
    drawn = conflict_figure(conflict_result(), n=2)
    bars, dots, slopes = drawn.data
    np.testing.assert_array_equal(dots.x, [-0.8, -0.15])
    np.testing.assert_allclose(bars.x, 2 * 1.96 * 0.3)
    assert dots.marker.color[1] == "rgba(0,0,0,0)" != dots.marker.color[0]
    assert slopes.z[0][1] == -0.7
    assert np.isnan(slopes.z[1][1])
    assert len([shape for shape in drawn.layout.shapes if shape.type == "rect"]) == 2


def test_terms_have_no_bar_of_random_directions():
    result = conflict_result()
    result.provenance["terms"] = True
    assert [type(trace).__name__ for trace in conflict_figure(result).data] == ["Scatter", "Heatmap"]


def test_names_are_escaped():
    result = conflict_result()
    data = result.data.assign_coords({axis: ["<b>x</b>", "brief", "polite"] for axis in ("objective", "pushed", "read")})
    data["first"] = ("couple", ["<b>x</b>", "<b>x</b>", "brief"])
    page = conflict_figure(type(result)("conflict", data, result.provenance)).to_json()
    assert "<b>x" not in page.replace("\\u003c", "<")
