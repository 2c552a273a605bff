"""Points that a reader can look up: what is packed comes back, nothing leaves its element, what is left out is said."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.hostile import HOSTILE

from rewarden.errors import RewardenError
from rewarden.plots.labels import one_line
from rewarden.report import FigureBlock, Page, Section, render
from rewarden.report import page as page_module
from rewarden.report.page import embedded_json
from rewarden.report.points import LEVELS, Points


def unpacked(points: Points) -> dict[str, list[tuple[float, float]]]:
    """Places by name, read as page.js reads them."""
    spec = json.loads(embedded_json(points.packed()))
    held, n = gzip.decompress(base64.b64decode(spec["packed"])), spec["count"]
    planes = np.frombuffer(held[:4 * n], np.uint8).reshape(4, n).astype(int) if n else np.zeros((4, 0), int)
    steps = planes[[0, 2]] + 256 * planes[[1, 3]]
    places = [low + step / spec["levels"] * (high - low) for step, (low, high) in zip(steps, spec["range"], strict=True)]
    names = held[4 * n:].decode().split("\n") if n else []
    found: dict[str, list[tuple[float, float]]] = {}
    for name, x, y in zip(names, *places, strict=True):
        found.setdefault(name, []).append((x, y))
    return found


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-50, 50), st.floats(-1e-3, 1e3)), min_size=1, max_size=40))
def test_what_is_packed_comes_back(rows):
    names, x, y = (list(column) for column in zip(*rows, strict=True))
    points = Points(names, np.array(x), np.array(y))
    found = unpacked(points)
    assert sorted(name for name, places in found.items() for _ in places) == sorted(map(one_line, names))
    half = [np.ptp(values) / LEVELS / 2 + 1e-9 for values in (x, y)]
    for name, a, b in zip(map(one_line, names), x, y, strict=True):
        assert any(abs(c - a) <= half[0] and abs(d - b) <= half[1] for c, d in found[name])


def test_points_without_a_place_are_left_out():
    points = Points(["a", "b", "c"], np.array([0.0, np.nan, 1.0]), np.array([1.0, 2.0, np.inf]))
    assert unpacked(points) == {"a": [(0.0, 1.0)]}
    assert unpacked(Points(["a"], np.array([np.nan]), np.array([0.0]))) == {}


def test_the_same_points_give_the_same_text():
    rng = np.random.default_rng(0)
    points = Points([f"w{row}" for row in range(500)], rng.normal(size=500), rng.normal(size=500))
    assert points.packed() == points.packed()


def test_hostile_names_stay_text():
    rng = np.random.default_rng(0)
    points = Points(HOSTILE, rng.normal(size=len(HOSTILE)), rng.normal(size=len(HOSTILE)), noun="</script><b>",
                    axes=(HOSTILE[0], HOSTILE[1]))
    assert set(unpacked(points)) == set(map(one_line, HOSTILE))
    assert not set("<>&") & set(embedded_json(points.packed()))


def test_a_vocabulary_fits_the_page():
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = ["␣" * (row % 2) + "".join(rng.choice(letters, 3 + row % 9)) for row in range(128_256)]
    # random letters pack worse than words
    assert len(embedded_json(Points(names, rng.normal(size=128_256), rng.normal(size=128_256)).packed())) < 2_000_000


def test_names_and_coordinates_must_be_as_many():
    with pytest.raises(RewardenError, match="2 names for 1 and 2 coordinates"):
        Points(["a", "b"], np.zeros(1), np.zeros(2))


def page_with(points: Points | None) -> str:
    figure = FigureBlock(go.Figure(go.Scatter(y=[1.0])), "", pd.DataFrame({"a": [1]}), points)
    return render(Page(name="x", sections=[Section("s", "S", [], [figure])]))


def test_a_search_that_does_not_fit_is_left_out_and_said(monkeypatch):
    rng = np.random.default_rng(0)
    points = Points([f"{value:.17f}" for value in rng.random(3000)], rng.normal(size=3000), rng.normal(size=3000), "token")
    whole = page_with(points)
    assert 'data-points="figure-s-0-points"' in whole
    monkeypatch.setattr(page_module, "SIZE_LIMIT", len(whole) - 10_000)
    small = page_with(points)
    assert 'id="figure-s-0-json"' in small
    assert 'data-points="figure-s-0-points"' not in small
    assert "The search for a token was left out to keep the page small" in small


def test_a_figure_without_points_has_no_search_box():
    text = page_with(None)
    assert 'role="search"' not in text
    assert "The search for" not in text
