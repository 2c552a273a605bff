"""Which misaligned preferences go together, and which objectives contradict each other?

In: `Result`s of kinds "cascade" and "conflict". Out: tables and figures. Nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, DIVERGING, GRID, INK, REJECTED, ZERO, figure
from rewarden.result import Result

SHOWN = 15
"""Pairs of objectives drawn, the most opposed first."""

CROWDED = 12
"""Rows of a matrix from which its cells hold no text."""


def cascade_table(result: Result) -> pd.DataFrame:
    """A row a pair of dimensions, the strongest correlation first: first, second, rho with low and high, p, q, flag."""
    data = result.data
    columns = {"first": "first", "second": "second", "rho": "rho", "low": "rho_low", "high": "rho_high", "p": "p", "q": "q",
               "flag": "flag"}
    table = pd.DataFrame({name: data[key].values for name, key in columns.items()})
    return table.sort_values("rho", ascending=False, na_position="last").reset_index(drop=True)


def preference_table(result: Result) -> pd.DataFrame:
    """A row a dimension: preference (mean margin, misaligned − aligned) with low and high, p_adjusted (Holm) and flag, share of
    prompts whose misaligned response scores higher with share_low and share_high, n."""
    data = result.data
    columns = {"dimension": "dimension", "preference": "preference", "low": "preference_low", "high": "preference_high",
               "p_adjusted": "preference_p_adjusted", "flag": "preference_flag",
               "share": "misaligned_share", "share_low": "misaligned_share_low", "share_high": "misaligned_share_high"}
    return pd.DataFrame({**{name: data[key].values for name, key in columns.items()}, "n": data.sizes["prompt"]})


def cascade_figure(result: Result) -> go.Figure:
    """Does the model prefer misaligned responses, and do such preferences come together?

    Args:
        result: of `rewarden.hacking.cascade`.

    Returns:
        Left: mean margin of misaligned over aligned in each dimension, with its interval over prompts, filled where it differs
        from zero after correction for the number of dimensions. Right: rank correlation
        of the margins of two dimensions over prompts, framed where flagged.

    Example:
        >>> from rewarden.plots.objective_examples import cascade_result
        >>> [type(trace).__name__ for trace in cascade_figure(cascade_result()).data]
        ['Scatter', 'Heatmap']
    """
    preferences, pairs = preference_table(result), cascade_table(result)
    names = [str(name) for name in preferences["dimension"]]
    rho = np.full((len(names), len(names)), np.nan)
    words = np.full(rho.shape, "", dtype=object)
    flagged = []
    for row in pairs.itertuples(index=False):
        i, j = names.index(str(row.second)), names.index(str(row.first))
        rho[i, j] = row.rho
        words[i, j] = (f"{hover(row.first)} and {hover(row.second)}: ρ = {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}], "
                       f"q = {row.q:.2g}")
        flagged += [(i, j)] * bool(row.flag)
    drawn = _panels(f"Misaligned over aligned responses, {result.data.sizes['prompt']} shared prompts", 150 + 44 * len(names))
    places = np.arange(len(names))
    drawn.add_trace(go.Scatter(
        x=preferences["preference"], y=places, mode="markers", showlegend=False,
        text=[f"{hover(row.dimension)}: {row.preference:.3g} [{row.low:.3g}, {row.high:.3g}], adjusted p = "
              f"{row.p_adjusted:.2g}; misaligned scores higher for {100 * row.share:.0f} % of {row.n} prompts"
              for row in preferences.itertuples(index=False)],
        hovertemplate="%{text}<extra></extra>",
        error_x={"type": "data", "symmetric": False, "array": preferences["high"] - preferences["preference"],
                 "arrayminus": preferences["preference"] - preferences["low"], "color": INK, "width": 3, "thickness": 1.2},
        marker=_filled(np.where(preferences["preference"] > 0, REJECTED, CHOSEN), preferences["flag"])), row=1, col=1)
    _matrix(drawn, rho, words, names, flagged, "ρ")
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5}, row=1, col=1)  # type: ignore[arg-type]  # a number is allowed
    drawn.update_xaxes(title_text="preference for misaligned (reward units)", row=1, col=1)
    drawn.update_yaxes(tickvals=places, ticktext=[label(name, 24) for name in names], autorange="reversed", zeroline=False)
    return drawn


def conflict_table(result: Result) -> pd.DataFrame:
    """A row a pair of objectives, the most opposed first: first, second, rho with low and high, negative, cosine, opposed, p,
    p_adjusted, random_sd, flag, and the slopes of pushing either, with low and high: second_by_first, first_by_second."""
    data = result.data
    columns = {"first": "first", "second": "second", "rho": "rho", "low": "rho_low", "high": "rho_high", "negative": "negative",
               "cosine": "cosine", "opposed": "opposed", "p": "p", "p_adjusted": "p_adjusted", "random_sd": "random_sd",
               "flag": "flag"}
    table = pd.DataFrame({name: data[key].values for name, key in columns.items()})
    for name, sides in (("second_by_first", ("first", "second")), ("first_by_second", ("second", "first"))):
        for end in ("", "_low", "_high"):
            table[f"{name}{end}"] = [float(data[f"slope{end}"].sel(pushed=pushed, read=read))
                                     for pushed, read in zip(*(table[side] for side in sides), strict=True)]
    return table.sort_values("rho", na_position="last").reset_index(drop=True)


def conflict_figure(result: Result, n: int = SHOWN) -> go.Figure:
    """Which objectives pull apart, and what does raising one do to the others?

    Args:
        result: of `rewarden.hacking.conflict`.
        n: pairs drawn, the most opposed.

    Returns:
        Left: rho of each pair with its interval over prompts, filled where flagged; the grey bar holds 95 % of pairs of random
        directions (heads only). Right: slopes, the row's objective pushed and the column's read, framed where flagged.

    Example:
        >>> from rewarden.plots.objective_examples import conflict_result
        >>> [trace.name for trace in conflict_figure(conflict_result()).data][:2]
        ['random directions', 'objectives']
    """
    table = conflict_table(result).head(n)
    names = [str(name) for name in result.data["objective"].values]
    y = np.arange(len(table))
    drawn = _panels(f"Objectives between two responses to the same prompt, {result.data.sizes['pair']} pairs",
                    170 + max(26 * len(table), 40 * len(names)))
    if not result.provenance["terms"]:
        reach = np.minimum(1.96 * table["random_sd"], 1.0)
        drawn.add_trace(go.Bar(x=2 * reach, base=-reach, y=y, orientation="h", width=0.7, name="random directions",
                               marker={"color": GRID}, hoverinfo="skip"), row=1, col=1)
    colour = np.where(table["rho"] < 0, REJECTED, CHOSEN)
    drawn.add_trace(go.Scatter(
        x=table["rho"], y=y, mode="markers", name="objectives",
        text=[f"{hover(row.first)} and {hover(row.second)}: ρ = {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}], cosine "
              f"{row.cosine:.2f}, adjusted p = {row.p_adjusted:.2g}" for row in table.itertuples(index=False)],
        hovertemplate="%{text}<extra></extra>",
        error_x={"type": "data", "symmetric": False, "array": table["high"] - table["rho"],
                 "arrayminus": table["rho"] - table["low"], "color": INK, "width": 3, "thickness": 1.2},
        marker=_filled(colour, table["flag"])), row=1, col=1)
    slope = result.data["slope"].values.astype(float)
    low, high = (result.data[f"slope_{end}"].values for end in ("low", "high"))
    words = [[f"{hover(pushed)} raised by 1: {hover(read)} {slope[i, j]:+.2f} [{low[i, j]:.2f}, {high[i, j]:.2f}]"
              for j, read in enumerate(names)] for i, pushed in enumerate(names)]
    both = [(names.index(row.first), names.index(row.second)) for row in table.itertuples(index=False) if row.flag]
    flagged = [place for i, j in both for place in ((i, j), (j, i))]
    _matrix(drawn, np.where(np.eye(len(names)) > 0, np.nan, slope), np.array(words, dtype=object), names, flagged, "slope")
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5}, row=1, col=1)  # type: ignore[arg-type]  # a number is allowed
    drawn.update_xaxes(title_text="correlation of what they add (ρ)", range=[-1.05, 1.05], row=1, col=1)
    drawn.update_yaxes(tickvals=y, ticktext=[f"{label(row.first, 16)} × {label(row.second, 16)}"
                                             for row in table.itertuples(index=False)],
                       autorange="reversed", zeroline=False, showgrid=False, row=1, col=1)
    drawn.update_xaxes(title_text="read", row=1, col=2)
    drawn.update_yaxes(title_text="pushed", autorange="reversed", row=1, col=2)
    return drawn


def _filled(colour: np.ndarray, flags: Sequence[bool]) -> dict[str, object]:
    """Markers of a dot plot, filled where flagged."""
    return {"size": 10, "color": [c if flag else "rgba(0,0,0,0)" for c, flag in zip(colour, flags, strict=True)],
            "line": {"width": 2, "color": list(colour)}}


def _panels(title: str, height: int) -> go.Figure:
    """Two panels in the project's look."""
    base = figure(title, height=height)
    drawn = make_subplots(rows=1, cols=2, horizontal_spacing=0.2, column_widths=[0.45, 0.55])
    drawn.update_layout(template=base.layout.template, title=base.layout.title, height=height, margin={"t": 76})
    return drawn


def _matrix(drawn: go.Figure, values: np.ndarray, words: np.ndarray, names: Sequence[str], flagged: Sequence[tuple[int, int]],
            unit: str) -> None:
    """A matrix with its numbers in the right panel; flagged cells (row, column) are framed."""
    places = np.arange(len(names))
    text = [[f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−") if np.isfinite(value) else "" for value in row]
            for row in values]
    drawn.add_trace(go.Heatmap(
        z=values, x=places, y=places, zmin=-1.0, zmax=1.0, colorscale=DIVERGING, customdata=words, xgap=1, ygap=1,
        text=text, texttemplate="%{text}" if len(names) < CROWDED else None, hoverongaps=False,
        hovertemplate="%{customdata}<extra></extra>", colorbar={"title": {"text": unit}, "thickness": 12}), row=1, col=2)
    for i, j in flagged:
        drawn.add_shape(type="rect", x0=j - 0.5, x1=j + 0.5, y0=i - 0.5, y1=i + 0.5, line={"color": INK, "width": 3},
                        row=1, col=2)
    shown = [label(name, 20) for name in names]
    drawn.update_xaxes(tickvals=places, ticktext=shown, showgrid=False, zeroline=False, tickangle=-30, row=1, col=2)
    drawn.update_yaxes(tickvals=places, ticktext=shown, showgrid=False, zeroline=False, row=1, col=2)
