"""Figures of grades: points and curves against counts."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.plots.organism_examples import grade_result


def test_power_is_drawn_for_rules_that_are_asked_about() -> None:
    result = grade_result()
    lines = {trace.name: trace for trace in plots.grade_power(result).data if trace.name}
    assert list(lines) == ["length", "format"]
    np.testing.assert_allclose(lines["length"].y, result.data["power"].sel(organism="length").values)
    assert "AUROC 1.00" in lines["length"].text[2]


def test_roc_curves_have_the_area_of_counted_pairs() -> None:
    result = grade_result()
    data = result.data
    for number, name in enumerate(("length", "format")):
        evidence = data["verdict_evidence"].values[:, number]
        nulls = evidence[data["model_organism"].values == "null"]
        found = evidence[(data["model_organism"].values == name) & (data["model_dose"].values == 0.5)]
        curve = plots.grade_roc(result, dose=0.5).data[number]
        area = np.trapezoid(curve.y, curve.x)
        assert area == pytest.approx(np.mean(found[:, None] > nulls))
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)


def test_the_stated_dose_is_drawn_and_others_are_refused() -> None:
    assert "dose 1" in plots.grade_roc(grade_result()).layout.title.text
    with pytest.raises(RewardenError, match="not graded at dose 3"):
        plots.grade_roc(grade_result(), dose=3.0)
    result = grade_result()
    with pytest.raises(RewardenError, match="none of the planted rules"):
        plots.grade_power(type(result)("grade", result.data.isel(organism=[2]), result.provenance, True, 0.0))
