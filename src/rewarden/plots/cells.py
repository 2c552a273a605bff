"""How does a map of effects say "rounding", "no such cell" and "differs from zero" apart from a colour?

In: values per cell, with which cells are within the noise and which are marked. Out: traces of one panel, and the layout of
several panels on one colour scale. Zero is the page itself, so a cell without a value is hatched, never left blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rewarden.plots.depth import heat
from rewarden.plots.labels import hover
from rewarden.plots.theme import INK, translucent

NOISE = translucent(INK, 0.22)
"""Tint of cells whose effect is rounding."""

HEAD_ROOM = 26
"""Pixels above each panel for its title."""


def cell_traces(values: np.ndarray, *, reach: float, noise: np.ndarray | None = None, marked: np.ndarray | None = None,
                unit: str = "effect", missing: str = "no counterpart", **options: Any
                ) -> list[go.Heatmap | go.Bar | go.Scatter]:
    """The traces of one map: colours, a grey tint on cells within the noise, hatching where there is no value, dots on marks.

    Args:
        values: [row, column]; NaN where there is no value. Columns and rows are numbered from 0.
        reach: the magnitude of the strongest colour.
        noise: bool [row, column], cells that are rounding.
        marked: bool [row, column], cells that differ from zero.
        unit: title of the colour scale.
        missing: what the legend says of cells without a value.
        **options: of the heat map (customdata, hovertemplate, showscale, xgap, ygap).

    Returns:
        Traces in drawing order; each kind of sign carries its name for the legend.
    """
    rows, columns = np.arange(values.shape[0]), np.arange(values.shape[1])
    colours = heat(values, x=columns, y=rows, unit=unit, reach=reach, **options)
    colours.colorbar.update(lenmode="pixels", len=190, y=1, yanchor="top")
    traces: list[go.Heatmap | go.Bar | go.Scatter] = [colours]
    quiet = np.zeros(values.shape, bool) if noise is None else noise & np.isfinite(values)
    if quiet.any():
        traces.append(go.Heatmap(z=np.where(quiet, 1.0, np.nan).astype(np.float32), x=columns, y=rows, hoverinfo="skip",
                                 colorscale=[[0, NOISE], [1, NOISE]], showscale=False,
                                 xgap=options.get("xgap"), ygap=options.get("ygap")))
        traces.append(_sign("within rounding", symbol="square", size=11, color=NOISE))
    if (gaps := hatched(~np.isfinite(values))):
        traces.append(_hatching(gaps, missing))
    if marked is not None and marked.any():
        row, column = np.nonzero(marked)
        dot = {"symbol": "circle", "size": 6, "color": "#ffffff", "line": {"width": 1.3, "color": "#14171b"}}
        traces.append(go.Scatter(x=column, y=row, mode="markers", name="differs from zero", legendgroup="differs from zero",
                                 marker=dot, hoverinfo="skip"))
    return traces


def _sign(name: str, **marker: Any) -> go.Scatter:
    """A trace without points that only explains a sign in the legend."""
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=name, marker=marker, hoverinfo="skip")


def hatched(absent: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Rectangles (first row, rows, first column, columns) that cover the cells without a value, few of them.

    Example:
        >>> hatched(np.array([[True, True, False], [True, True, True]]))
        [(0, 1, 0, 2), (1, 1, 0, 3)]
    """
    found: list[tuple[int, int, int, int]] = []
    growing: dict[tuple[int, int], int] = {}
    for row in range(len(absent) + 1):
        edges = np.diff(np.concatenate([[False], absent[row], [False]]).astype(int)) if row < len(absent) else np.zeros(1)
        runs = list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))
        for (start, stop), first in [item for item in growing.items() if item[0] not in runs]:
            found.append((first, row - first, start, stop - start))
            del growing[start, stop]
        for run in runs:
            growing.setdefault(run, row)
    return sorted(found)


def _hatching(rectangles: Sequence[tuple[int, int, int, int]], name: str) -> go.Bar:
    first, rows, start, columns = (np.array(part) for part in zip(*rectangles, strict=True))
    return go.Bar(x=columns, y=first, base=start - 0.5, width=rows, offset=-0.5, orientation="h", name=name,
                  legendgroup=name, hovertemplate=f"{hover(name)}<extra></extra>",
                  marker={"color": "rgba(0,0,0,0)", "line": {"width": 0},
                          "pattern": {"shape": "/", "fgcolor": translucent(INK, 0.75), "size": 6, "solidity": 0.16}})


def reach_of(*maps: np.ndarray) -> float:
    """The largest finite magnitude, 1 where there is none: the end of a colour scale that is symmetric about zero."""
    finite = np.concatenate([np.abs(values[np.isfinite(values)]).ravel() for values in maps])
    return float(finite.max()) if len(finite) and finite.max() > 0 else 1.0


def add_once(drawn: go.Figure, traces: Sequence[Any], **place: int) -> None:
    """Add traces; of those that explain the same sign, only the first goes into the legend."""
    named = {trace.name for trace in drawn.data if trace.name}
    for trace in traces:
        if not isinstance(trace, go.Heatmap):
            trace.showlegend = trace.name not in named
            named.add(trace.name)
        drawn.add_trace(trace, **place)


def panel_titles(drawn: go.Figure, titles: Sequence[Sequence[str]], height: int) -> None:
    """Write a title into the head room of each panel, in the order of the y axes; the panels shrink to make that room.

    Args:
        drawn: a figure with subplots.
        titles: one per panel, as lines; escaped here.
        height: of the figure in pixels, from which the room is computed.
    """
    share = (HEAD_ROOM + 16 * (max(map(len, titles)) - 1)) / max(height - 80, 1)
    for number, lines in enumerate(titles, start=1):
        name = "" if number == 1 else str(number)
        x, y = drawn.layout[f"xaxis{name}"], drawn.layout[f"yaxis{name}"]
        low, high = y.domain or (0.0, 1.0)
        top = max(high - share, low + 0.01)
        y.domain = (low, top)
        text = "<br>".join(hover(line, width=10_000) for line in lines)
        drawn.add_annotation(text=text, x=(x.domain or (0.0, 1.0))[0], y=top, xref="paper", yref="paper", xanchor="left",
                             yanchor="bottom", align="left", showarrow=False, font={"size": 12})
