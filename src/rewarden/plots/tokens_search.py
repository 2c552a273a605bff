"""How does a search for the best response get on, and do its restarts end at the same place?

In: a `Result` of kind "search". Out: a Plotly figure. Running extremes are the only arithmetic.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.labels import hover, one_line
from rewarden.plots.theme import CHOSEN, INK, figure, translucent
from rewarden.result import Result


def search_trajectory(result: Result) -> go.Figure:
    """The best objective so far, move by move, with every restart behind it.

    Args:
        result: of `search`: `path` (restart, move), NaN after a restart's last move, `objective`, `certified` (restart), and
            the coordinate `response` (restart).

    Returns:
        x: moves made by each restart (a gradient-guided step, or an exact scan of a position); y: the objective, in reward
        units or standard deviations. Faint: restarts. Bold: the best that any restart has met by then. A filled mark ends a
        restart that is certified: no exchange of one token improves it.

    Raises:
        RewardenError: no restart has a finite objective.

    Example:
        >>> from rewarden.plots.token_examples import search_result
        >>> search_trajectory(search_result()).layout.xaxis.title.text
        'moves of each restart'
    """
    data = result.data
    path = data["path"].values.astype(float)
    if not np.isfinite(path).any():
        raise RewardenError("no restart has a finite objective", where="plots.search_trajectory",
                            fix="search again with allowed tokens whose rewards are finite")
    least = result.provenance.get("direction") == "min"
    unit = "standard deviations" if result.provenance.get("scale") == "z" else "reward units"
    objective, certified = data["objective"].values.astype(float), data["certified"].values.astype(bool)
    responses = [str(text) for text in data["response"].values]
    best = int(np.nanargmin(objective) if least else np.nanargmax(objective))
    length = result.provenance.get("length", "")
    drawn = figure(f"Search for the {'lowest' if least else 'highest'} reward of {length} tokens: “{_cut(responses[best])}” "
                   f"with {objective[best]:.3g}; {int(certified.sum())} of {len(path)} restarts certified",
                   x="moves of each restart", y=f"objective ({unit})", height=400)
    moves = np.arange(path.shape[1])
    for row, values in enumerate(path):
        made = np.isfinite(values)
        drawn.add_trace(go.Scatter(
            x=moves[made], y=values[made], mode="lines", name="one restart", legendgroup="restart", showlegend=row == 0,
            line={"color": translucent(INK, 0.4), "width": 1.2}, hoverinfo="skip"))
    _ends(drawn, path, certified, objective, responses)
    so_far = _best_so_far(path, least)
    drawn.add_trace(go.Scatter(x=moves, y=so_far, mode="lines", name="best of all restarts so far",
                               line={"color": CHOSEN, "width": 2.5, "shape": "hv"},
                               hovertemplate="after %{x} moves: %{y:.4g}<extra></extra>"))
    drawn.update_xaxes(zeroline=False)
    return drawn


def _best_so_far(path: np.ndarray, least: bool) -> np.ndarray:
    """The best objective that any restart has met by each move."""
    run = (np.fmin if least else np.fmax).reduce(path, axis=0)
    return (np.fmin if least else np.fmax).accumulate(run)


def _ends(drawn: go.Figure, path: np.ndarray, certified: np.ndarray, objective: np.ndarray, responses: list[str]) -> None:
    """Where each restart ended, with its response in the hover."""
    last = np.array([int(np.flatnonzero(np.isfinite(row))[-1]) if np.isfinite(row).any() else 0 for row in path])
    for words, rows, symbol in (("ends certified", np.flatnonzero(certified), "circle"),
                                ("ends without certificate", np.flatnonzero(~certified), "circle-open")):
        if len(rows):
            drawn.add_trace(go.Scatter(
                x=last[rows], y=path[rows, last[rows]], mode="markers", name=words,
                marker={"color": CHOSEN, "size": 8, "symbol": symbol, "line": {"width": 1.5, "color": CHOSEN}},
                customdata=[[hover(responses[row]), objective[row]] for row in rows],
                hovertemplate="“%{customdata[0]}”<br>%{customdata[1]:.4g} after %{x} moves<extra></extra>"))


def _cut(text: str, length: int = 40) -> str:
    """The beginning of a response for a title, which is escaped there."""
    line = one_line(text)
    return line if len(line) <= length else line[:length - 1] + "…"
