"""Does attribution rank components as their causal effects do, and does the convention decide the answer?

In: an agreement `Result`. Out: Plotly figures. Means over pairs are the only arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.plots.cells import panel_titles
from rewarden.plots.depth import column_means
from rewarden.plots.labels import hover
from rewarden.plots.theme import CHOSEN, INK, MARGIN, REJECTED, ZERO, figure
from rewarden.result import Result

SHOWN = ("attribution vs direct", "attribution vs total", "attribution_raw vs total_left")
"""Comparisons drawn: the two of the right convention, and the published one."""

NAMES = {"attribution": "attribution", "direct": "direct effect", "total": "total effect",
         "total_all": "total effect, all positions", "attribution_raw": "raw attribution, without the norm",
         "total_left": "effect of left-aligned patching"}
"""What a reader sees for each quantity."""

KINDS = {"head": ("heads", CHOSEN, "circle"), "attn": ("attention blocks", MARGIN, "diamond"),
         "mlp": ("MLPs", REJECTED, "square")}
TYPES = {"block": "blocks", "head": "heads"}
"""Sets of components whose correlation the title of a panel gives."""

DRAWN = {"random": ("drawn at random", CHOSEN, "circle"), "top": ("largest estimates", REJECTED, "square")}
"""How a cell came to be verified -> its name, colour and symbol."""

CONVENTIONS = {"aligned": "aligned", "published": "published convention", "mixed": "mixed convention"}


def rho_lines(result: Result, comparison: str, pair: int | None = None) -> list[str]:
    """The rank correlations of one comparison with their intervals, or those of one pair, one line for each set of components.

    Example:
        >>> from rewarden.plots.effect_examples import agreement_result
        >>> rho_lines(agreement_result(), "attribution vs direct")[0]
        'blocks: ρ = 0.93 [0.92, 0.94]'
    """
    data = result.data.sel(comparison=comparison)
    lines = []
    for kind, name in TYPES.items():
        found = data.sel(type=kind)
        if pair is not None:
            lines += [f"{name}: ρ = {_two(found['rho'].values[pair])}"] if np.isfinite(found["rho"].values[pair]) else []
        elif np.isfinite(float(found["rho_mean"])):
            mean, low, high = (_two(float(found[part])) for part in ("rho_mean", "rho_low", "rho_high"))
            lines.append(f"{name}: ρ = {mean} [{low}, {high}]")
    return lines or ["ρ is not defined"]


def _two(value: float) -> str:
    """Two decimals with a real minus sign."""
    text = f"{abs(value):.2f}"
    return ("−" if value < 0 and float(text) else "") + text


def agreement_scatter(result: Result, comparisons: Sequence[str] = SHOWN, *, pair: int | None = None) -> go.Figure:
    """Do the components that write the margin cause it?

    Args:
        result: an agreement result: quantities (pair, component), their `rho_mean`, `rho_low`, `rho_high` (comparison, type).
        comparisons: names on the axis `comparison`, one panel each.
        pair: only this row; by default each component's mean over pairs.

    Returns:
        Panels beside each other, a point per component. The titles give Spearman's ρ, computed in each pair and averaged,
        with its interval over pairs. The dotted line is equality, where both axes have the same unit.
    """
    data = result.data
    known = [str(name) for name in data["comparison"].values]
    if not set(comparisons) <= set(known):
        raise RewardenError(f"no comparison {sorted(set(comparisons) - set(known))[0]!r}", where="plots.agreement_scatter",
                            why=f"the result has {known}", fix="pass names from its axis comparison")
    whose = f"mean of {data.sizes['pair']} pairs" if pair is None else f"pair {data['pair'].values[pair]}"
    height = 440
    drawn = figure(f"Attribution against causal effect of each component, {whose}", height=height)
    drawn.set_subplots(rows=1, cols=len(comparisons), horizontal_spacing=0.075)
    for column, name in enumerate(comparisons, start=1):
        first, second, convention = (str(data[part].sel(comparison=name).values) for part in ("first", "second", "convention"))
        x, y = (column_means(data[part].values) if pair is None else data[part].values[pair] for part in (first, second))
        if convention == "aligned":
            _equality(drawn, x, y, column)
        for kind, (words, colour, symbol) in KINDS.items():
            chosen = np.flatnonzero((data["kind"].values == kind) & np.isfinite(x) & np.isfinite(y))
            drawn.add_trace(go.Scatter(
                x=x[chosen], y=y[chosen], mode="markers", name=words, legendgroup=kind, showlegend=column == 1,
                marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.75},
                customdata=[hover(str(part)) for part in data["component"].values[chosen]],
                hovertemplate="%{customdata}: %{x:.4g}, %{y:.4g}<extra></extra>"), row=1, col=column)
        drawn.update_xaxes(title_text=NAMES.get(first, first), row=1, col=column)
        drawn.update_yaxes(title_text=NAMES.get(second, second), row=1, col=column)
    titles = [(CONVENTIONS.get(str(data["convention"].sel(comparison=name).values), ""), *rho_lines(result, name, pair))
              for name in comparisons]
    panel_titles(drawn, titles, height)
    return drawn


def _equality(drawn: go.Figure, x: np.ndarray, y: np.ndarray, column: int) -> None:
    """The line on which both are equal, as far as both reach."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.any():
        ends = [max(x[known].min(), y[known].min()), min(x[known].max(), y[known].max())]
        drawn.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dot", "width": 1.2},
                                   hoverinfo="skip", showlegend=False), row=1, col=column)


OVERLAID = ("attribution vs total", "attribution_raw vs total_left")
"""Ours and the published comparison."""


def agreement_by_length(result: Result, comparisons: Sequence[str] = OVERLAID, *, kind: str = "block") -> go.Figure:
    """Does the agreement depend on which side of a pair is longer? It should not, if the right tokens are compared.

    Args:
        result: an agreement result with `rho_by_length`, `low_by_length`, `high_by_length`, `n_by_length` (length, comparison,
            type).
        comparisons: drawn below each other in each group.
        kind: which set of components, on the axis `type`.

    Returns:
        Rank correlations with intervals, all pairs first, then by length.
    """
    data = result.data.sel(type=kind)
    lengths = [str(name) for name in data["length"].values]
    drawn = figure("Rank correlation of attribution with causal effect, by which response is "
                   "longer", x="Spearman's ρ, interval",
                   height=120 + 46 * (len(lengths) + 1))
    y = np.arange(len(lengths) + 1, 0, -1).astype(float)
    counts = np.zeros(len(y), dtype=int)
    for place, name in enumerate(comparisons):
        found = data.sel(comparison=name)
        convention = str(found["convention"].values)
        mean, low, high, n = (np.concatenate([[float(found[whole])], found[part].values]) for whole, part in (
            ("rho_mean", "rho_by_length"), ("rho_low", "low_by_length"), ("rho_high", "high_by_length"), ("n", "n_by_length")))
        counts = np.maximum(counts, n.astype(int))
        words = CONVENTIONS.get(convention, convention)
        colour = CHOSEN if convention == "aligned" else REJECTED
        drawn.add_trace(go.Scatter(
            x=mean, y=y + 0.14 - 0.28 * place, mode="markers", name=f"{words}: {NAMES[str(found['first'].values)]} and "
            f"{NAMES[str(found['second'].values)]}", marker={"color": colour, "size": 9,
                                                             "symbol": "circle" if convention == "aligned" else "square"},
            error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": colour,
                     "thickness": 1.6, "width": 4}, customdata=np.stack([low, high, n], axis=1),
            hovertemplate="ρ = %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], n = %{customdata[2]}<extra></extra>"))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, showgrid=False, zeroline=False, range=[0.4, len(y) + 0.6], ticktext=[
        f"{name} ({count})" for name, count in zip(["all pairs", *lengths], counts, strict=True)])
    drawn.update_xaxes(range=[-1.05, 1.05])
    return drawn


def estimate_scatter(result: Result) -> go.Figure:
    """How far are effects that were estimated from gradients from the exact ones?

    Args:
        result: an estimate result with `estimate`, `exact_effect`, `drawn` (cell) of the cells that were computed as well, and
            `rank_correlation`, `sign_agreement`, `error` with `_low` and `_high`, measured on those drawn at random.

    Returns:
        A point per verified cell: those drawn at random, by which the estimates are judged, and the largest estimates. The
        dotted line is equality.
    """
    data = result.data
    if "exact_effect" not in data:
        raise RewardenError("nothing was estimated here", where="plots.estimate_scatter",
                            why="all effects fitted the budget and are exact", fix="a smaller budget= estimates them")
    x, y = data["exact_effect"].values, data["estimate"].values
    rho, low, high = (_two(float(data[f"rank_correlation{end}"])) for end in ("", "_low", "_high"))
    sign, error = float(data["sign_agreement"]), float(data["error"])
    drawn = figure(f"Estimated against exact effects of {len(x)} cells; drawn at random: ρ = {rho} [{low}, {high}], same sign "
                   f"{100 * sign:.0f} %, mean error {100 * error:.0f} % of the mean effect", x="exact effect (reward units)",
                   y="estimated effect (reward units)", height=440)
    known = np.isfinite(x) & np.isfinite(y)
    if known.any():
        ends = [float(min(x[known].min(), y[known].min())), float(max(x[known].max(), y[known].max()))]
        drawn.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dot", "width": 1.2},
                                   hoverinfo="skip", showlegend=False))
    for kind, (words, colour, symbol) in DRAWN.items():
        rows = np.flatnonzero((data["drawn"].values == kind) & known)
        drawn.add_trace(go.Scatter(x=x[rows], y=y[rows], mode="markers", name=words,
                                   marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.6},
                                   customdata=[_cell(data, row) for row in rows],
                                   hovertemplate="%{customdata}<br>exact %{x:.4g}, estimate %{y:.4g}<extra></extra>"))
    return drawn


def _cell(data: xr.Dataset, row: int) -> str:
    """The place of a verified cell, for its hover."""
    site, layer, head, position = (data[f"cell_{name}"].values[row] for name in ("site", "layer", "head", "position"))
    parts = [f"{site}.{layer}" + (f".{head}" if head >= 0 else ""), f"position {position}" if position else "",
             f"pair {data['cell_pair'].values[row]}"]
    return hover(", ".join(part for part in parts if part))
