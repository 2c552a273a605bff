"""Where do models rank things unlike people?

In: a `Result` of kind "human". Out: a Plotly figure of rank trajectories. The order of gaps is the only arithmetic.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, REJECTED, figure, translucent
from rewarden.plots.tokens_names import model_names
from rewarden.result import Result

BACKGROUND = 120
"""Items drawn faintly, evenly spaced over the human ranks."""

SPACE = 0.042
"""Least distance of two names at the right edge, as a share of the height."""


def rank_trajectories(result: Result, n: int = 6) -> go.Figure:
    """Which items do models place furthest below, and above, where people place them?

    Args:
        result: of `human_agreement`: `rank` (item, rater), `gap` (item), `rho` with its interval (model).
        n: items at each end.

    Returns:
        A line an item over the raters, the human first, rank 1 on top. Orange: models place it lower than people do; blue:
        higher; faint: an even sample of all. Names carry the gap, the typical rank less the human one.

    Example:
        >>> from rewarden.plots.token_examples import human_result
        >>> rank_trajectories(human_result()).layout.yaxis.autorange
        'reversed'
    """
    data = result.data
    rank, gap = data["rank"].values.astype(float), data["gap"].values.astype(float)
    raters = [str(name) for name in data["rater"].values]
    items = [str(text) for text in data["item"].values]
    rho = data["rho"].values.astype(float)
    span = f"from {_two(rho.min())} to {_two(rho.max())}" if len(rho) > 1 else _two(float(rho[0]))
    drawn = figure(f"Ranks of {len(items)} items by people and by {len(raters) - 1} models (ρ {span}), the largest gaps named",
                   y="rank, 1 is the best", height=560)
    x = np.arange(len(raters))
    drawn.add_trace(_faint(rank, x))
    order = np.argsort(-gap, kind="stable")
    ends = (("models rank it lower", REJECTED, [row for row in order[:n] if gap[row] > 0]),
            ("models rank it higher", CHOSEN, [row for row in order[::-1][:n] if gap[row] < 0]))
    named: list[tuple[float, str, str]] = []
    for words, colour, rows in ends:
        for place, row in enumerate(rows):
            drawn.add_trace(go.Scatter(
                x=x, y=rank[row], mode="lines+markers", name=words, legendgroup=words, showlegend=place == 0,
                line={"color": colour, "width": 2}, marker={"size": 5}, customdata=[hover(name) for name in raters],
                hovertemplate=f"<b>{hover(items[row])}</b><br>%{{customdata}}: rank %{{y:.0f}}<extra></extra>"))
            named.append((rank[row, -1], f"{label(items[row], 28)} ({_signed(gap[row])})", colour))
    _write_names(drawn, named, len(items))
    interval = [f"<br>ρ {_two(value)}" for value in rho]
    short = model_names(raters, 22)
    drawn.update_xaxes(tickvals=x, showgrid=True, zeroline=False, range=[-0.1, len(raters) - 1 + 0.01], ticktext=[
        label(short[0], 26), *(f"{label(name, 26)}{tail}" for name, tail in zip(short[1:], interval, strict=True))])
    drawn.update_yaxes(autorange="reversed", zeroline=False)
    drawn.update_layout(margin={"r": 270})
    return drawn


def _faint(rank: np.ndarray, x: np.ndarray) -> go.Scatter:
    """An even sample of all items as one line with gaps."""
    order = np.argsort(rank[:, 0], kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, min(BACKGROUND, len(order))).round().astype(int))]
    y = np.concatenate([rank[rows], np.full((len(rows), 1), np.nan)], 1).ravel()
    return go.Scatter(x=np.tile(np.append(x.astype(float), np.nan), len(rows)), y=y, mode="lines", hoverinfo="skip",
                      name=f"an even sample of {len(rows)} items", line={"color": translucent(INK, 0.16), "width": 1})


def _write_names(drawn: go.Figure, named: list[tuple[float, str, str]], n: int) -> None:
    """Names beside the last rater, pushed apart where they would cover each other, with a line to where they belong."""
    if not named:
        return
    named = sorted(named)
    wanted = np.array([place for place, _, _ in named])
    least = SPACE * n
    placed = wanted.copy()
    for row in range(1, len(placed)):
        placed[row] = max(placed[row], placed[row - 1] + least)
    over = placed[-1] - max(n, wanted[-1])
    if over > 0:  # push back up from the bottom
        placed[-1] -= over
        for row in range(len(placed) - 2, -1, -1):
            placed[row] = min(placed[row], placed[row + 1] - least)
    for (place, text, colour), at in zip(named, placed, strict=True):
        drawn.add_annotation(text=text, x=1.0, xref="paper", xanchor="left", y=place, yref="y", ax=18, axref="pixel",
                             ay=float(at), ayref="y", showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor=colour,
                             font={"size": 12, "color": colour}, align="left")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + f"{abs(value):.0f}"


def _two(value: float) -> str:
    text = f"{abs(value):.2f}"
    return ("−" if value < 0 and float(text) else "") + text
