"""Figures of concepts: what is drawn is what the Result holds."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.plots.concept_examples import concepts_result, dose_result, repair_result
from rewarden.plots.concepts import (
    accuracy_changes,
    concept_forest,
    concept_table,
    dose_curve,
    repair_accuracy,
    repair_effects,
    repair_table,
)


@pytest.mark.parametrize(("by", "chance", "mark"), [("cosine", "random_cosine", "follows"), ("slope", "random_slope", "moves")])
def test_a_forest_draws_each_concept_with_its_interval_and_the_reach_of_chance(by: str, chance: str, mark: str) -> None:
    data = concepts_result().data
    bars, points = concept_forest(concepts_result(), by).data
    order = np.argsort(-data[by].values)
    np.testing.assert_allclose(points.x, data[by].values[order])
    np.testing.assert_allclose(np.asarray(points.x) + points.error_x["array"], data[f"{by}_high"].values[order])
    reach = data[chance].values * (1.96 if by == "slope" else 1)
    np.testing.assert_allclose(np.asarray(bars.base, float), -reach[order])
    np.testing.assert_allclose(np.asarray(bars.x, float), 2 * reach[order])
    filled = ["rgba(0,0,0,0)" not in colour for colour in points.marker.color]
    assert filled == data[mark].values[order].tolist()


def test_an_unknown_forest_is_refused() -> None:
    with pytest.raises(RewardenError, match="no forest"):
        concept_forest(concepts_result(), "size")


def test_the_dose_curve_goes_through_no_dose_no_change() -> None:
    mean = dose_curve(dose_result()).data[-1]
    at = list(mean.x)
    assert at == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert mean.y[at.index(0.0)] == 0
    np.testing.assert_allclose(np.delete(np.asarray(mean.y), 2), dose_result().data["change_mean"].values)


def test_repair_figures_and_tables_hold_the_same_numbers() -> None:
    result = repair_result()
    before, after = repair_effects(result).data
    np.testing.assert_allclose(before.x, result.data["effect"].values[0])
    np.testing.assert_allclose(after.x, repair_table(result)["after"])
    (points,) = repair_accuracy(result).data
    np.testing.assert_allclose(points.x, 100 * accuracy_changes(result)["change"])
    assert "lists (taken out)" in repair_effects(result).layout.yaxis.ticktext


def test_the_table_begins_with_the_largest_correlation() -> None:
    table = concept_table(concepts_result())
    assert table["cosine"].abs().is_monotonic_decreasing
    assert set(table["concept"]) == {"hedging", "lists", "emoji", "flattery"}
