"""Through which connections does one part of the model act on another, and how few edits turn a preference?

In: a paths or a flip `Result`. Out: Plotly figures. Draws the result's own numbers, estimates nothing.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.plots.cells import add_once, cell_traces, reach_of
from rewarden.plots.labels import label
from rewarden.plots.theme import CHOSEN, INK, figure, translucent
from rewarden.result import Result

PATH_LIMIT = 60
"""Senders, and receivers, that one map shows: those with the largest effects."""


def paths_map(result: Result, *, top: int = PATH_LIMIT) -> go.Figure:
    """Which part acts on which, and which on the reward directly?

    Args:
        result: a paths result: `mean`, `marked` (sender, receiver) of the effect through one connection, NaN where the
            receiver does not come after the sender, and `mean_direct`, `marked_direct` (sender) of the connection to the
            read-out.
        top: senders, and receivers, that are drawn, those with the largest effects.

    Returns:
        Map of senders by receivers, in the order of the forward pass, the direct effects in the last column; blue supports
        the margin.
    """
    data = result.data
    mean, marked = data["mean"].transpose("sender", "receiver").values, data["marked"].transpose("sender", "receiver").values
    receivers = [str(name) for name in data["receiver"].values]
    if "mean_direct" in data and "read_out" not in receivers:
        mean, marked = (np.column_stack([inside, data[f"{part}_direct"].values])
                        for part, inside in (("mean", mean), ("marked", marked)))
        receivers.append("read_out")
    senders = [str(name) for name in data["sender"].values]
    size = np.nan_to_num(np.abs(mean))
    rows, columns = (np.sort(np.argsort(-size.max(axis=axis), kind="stable")[:top]) for axis in (1, 0))
    cut = "" if len(rows) == len(senders) and len(columns) == len(receivers) else (
        f", the {len(rows)} largest of {len(senders)} senders and {len(columns)} of {len(receivers)} receivers")
    values = mean[np.ix_(rows, columns)]
    drawn = figure(f"Effect of each sender through one receiver only, mean of {data.sizes['pair']} pairs{cut}",
                   x="receiver", y="sender", height=190 + max(15 * len(rows), 90))
    names = np.array([[f"{label(senders[row], 40)} → {label(receivers[column], 40)}" for column in columns] for row in rows],
                     dtype=object)
    add_once(drawn, cell_traces(values, reach=reach_of(values), noise=np.abs(values) <= float(result.noise_floor or 0.0),
                                marked=marked[np.ix_(rows, columns)], unit="reward", missing="not a connection", xgap=1, ygap=1,
                                customdata=names, hovertemplate="%{customdata}: %{z:.4g}<extra></extra>"))
    drawn.update_xaxes(showgrid=False, zeroline=False, tickvals=np.arange(len(columns)), tickangle=-60, tickfont={"size": 11},
                       ticktext=[label(receivers[column], 18) for column in columns], range=[-0.5, len(columns) - 0.5])
    drawn.update_yaxes(showgrid=False, zeroline=False, tickvals=np.arange(len(rows)), tickfont={"size": 11},
                       ticktext=[label(senders[row], 18) for row in rows], range=[len(rows) - 0.5, -0.5])
    return drawn


def flip_steps(result: Result, *, limit: int = 200) -> go.Figure:
    """How does a preference wear away while one activation after the other is exchanged?

    Args:
        result: a flip result: `margin` (pair) before any edit, `margin_after` (pair, step) in reward units, and `size` (pair),
            the number of edits that turn the preference, NaN where none was found.
        limit: pairs drawn.

    Returns:
        A line per pair, the margin towards the response that the model prefers; below zero the preference is turned. Pairs that
        were not searched are left out.
    """
    data = result.data
    sign = np.sign(data["margin"].values)[:, None]
    margins = sign * np.column_stack([data["margin"].values, data["margin_after"].transpose("pair", "step").values])
    steps = np.concatenate([[0], data["step"].values])
    searched = np.flatnonzero(np.isfinite(margins[:, 1:]).any(axis=1))
    size = data["size"].values
    sizes = size[np.isfinite(size)]
    middle = f", median of {np.median(sizes):g} edits" if len(sizes) else ""
    cut = f"; {limit} are drawn" if len(searched) > limit else ""
    drawn = figure(f"Margin while activations are exchanged: {len(sizes)} of {len(searched)} pairs turn{middle}{cut}",
                   x="edits", y="margin towards the preferred response", height=380)
    seen: set[str] = set()
    for row in searched[:limit]:
        name, colour = ("turned", CHOSEN) if np.isfinite(size[row]) else ("not turned", INK)
        known = np.isfinite(margins[row])
        drawn.add_trace(go.Scatter(
            x=steps[known], y=margins[row][known], mode="lines+markers", name=name, legendgroup=name,
            showlegend=name not in seen, line={"color": translucent(colour, 0.45), "width": 1.4},
            marker={"size": 5, "color": colour},
            customdata=[label(f"{site} exchanged", 60) if site else "no edit"
                        for site in ["", *data["site"].values[row].astype(str)]],
            hovertemplate=f"pair {label(str(data['pair'].values[row]), 40)}, %{{x}} edits: "
                          "%{y:.4g}<br>%{customdata}<extra></extra>"))
        seen.add(name)
    drawn.add_hline(y=0, line={"color": INK, "width": 1.5, "dash": "dot"})
    used = int(np.isfinite(margins).any(axis=0).nonzero()[0].max(initial=1))
    drawn.update_xaxes(dtick=1 if used <= 24 else None, zeroline=False, range=[-0.2, used + 0.2])
    return drawn
