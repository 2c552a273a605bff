"""Which patched states are off the clean distribution, and what is left of the effects without them?

In: a `Result` of kind "divergence". Out: a table and a figure. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rewarden.plots.theme import CHOSEN, INK, REJECTED, ZERO, figure
from rewarden.result import Result

SHOWN = 12
"""Components drawn."""

NAMES = {"resid_post": "stream", "attn_out": "attention", "mlp_out": "MLP", "z": "head"}


def divergence_table(result: Result) -> pd.DataFrame:
    """A row a component, the most divergent first, of those as divergent the largest effect first.

    Columns: component, name, n (patched states), share (divergent) with low and high, q, marked, null_only (of the divergent,
    those whose reward-relevant part is within the clean range), mean effect with mean_low and mean_high, effect_marked, and
    kept_n, kept_mean, kept_low, kept_high, kept_marked without the divergent; shift (mean − kept_mean) with its ends.

    Example:
        >>> from rewarden.plots.divergence_examples import divergence_result
        >>> divergence_table(divergence_result())["component"][0]
        'mlp_out.2'
    """
    data = result.data
    off = data["divergent"].values.sum(0)
    with np.errstate(invalid="ignore"):
        only = np.where(off > 0, data["null_only"].values.sum(0) / np.maximum(off, 1), np.nan)
    columns = {"n": "n", "share": "share", "low": "share_low", "high": "share_high", "q": "share_q", "marked": "marked",
               "mean": "mean", "mean_low": "low", "mean_high": "high", "effect_marked": "effect_marked", "kept_n": "kept_n",
               "kept_mean": "kept_mean", "kept_low": "kept_low", "kept_high": "kept_high", "kept_marked": "kept_marked",
               **{name: name for name in ("shift", "shift_low", "shift_high")}}
    names = list(map(_name, *(data[key].values for key in ("site", "layer", "head"))))
    table = pd.DataFrame({"component": data["component"].values, "name": names,
                          **{name: data[key].values for name, key in columns.items()}, "null_only": only})
    order = np.lexsort([-np.abs(np.nan_to_num(table["mean"])), -np.nan_to_num(table["share"])])
    return table.iloc[order].reset_index(drop=True)


def divergence_forest(result: Result, n: int = SHOWN) -> go.Figure:
    """Which components leave the clean range when they are patched, and what is their effect without those pairs?

    Args:
        result: of `rewarden.hacking.divergence`.
        n: components drawn, the most divergent.

    Returns:
        Left: share of divergent states with its interval, beside the share α of clean states; filled, where it is more than
        that. Right: mean effect with its interval, of all pairs and without the divergent ones.

    Example:
        >>> from rewarden.plots.divergence_examples import divergence_result
        >>> [trace.name for trace in divergence_forest(divergence_result()).data]
        ['divergent', 'all pairs', 'without the divergent']
    """
    table = divergence_table(result).head(n)
    y = np.arange(len(table), 0, -1)
    base = figure(f"Patched states off the clean distribution, {result.data.sizes['pair']} pairs", height=170 + 30 * len(table))
    drawn = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, column_widths=[0.42, 0.58])
    drawn.update_layout(template=base.layout.template, title=base.layout.title, height=base.layout.height)
    drawn.add_trace(dots(100 * table["share"], 100 * table["low"], 100 * table["high"], y, "divergent", REJECTED,
                          table["marked"], [f"{row.name}: {100 * row.share:.0f} % of {row.n}, q = {row.q:.2g}"
                                            for row in table.itertuples(index=False)], legend=False), row=1, col=1)
    for shift, name, columns, colour in ((0.14, "all pairs", ("mean", "mean_low", "mean_high", "effect_marked", "n"), INK),
                                         (-0.14, "without the divergent",
                                          ("kept_mean", "kept_low", "kept_high", "kept_marked", "kept_n"), CHOSEN)):
        mean, low, high, marked, count = (table[column] for column in columns)
        words = [f"{label}, {name}: {value:.3g} (n = {k})" for label, value, k in zip(table["name"], mean, count, strict=True)]
        drawn.add_trace(dots(mean, low, high, y + shift, name, colour, marked, words), row=1, col=2)
    drawn.add_vline(x=100 * float(result.provenance["alpha"]), line={"color": ZERO, "width": 1.5, "dash": "dot"}, row=1, col=1)  # type: ignore
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5}, row=1, col=2)  # type: ignore
    drawn.update_xaxes(title_text="divergent states (%; dotted: of clean states)", range=[-3, 103], row=1, col=1)
    drawn.update_xaxes(title_text="effect on the reward", row=1, col=2)
    drawn.update_yaxes(tickvals=y, ticktext=list(table["name"]), showgrid=False, zeroline=False, range=[0.3, len(table) + 0.7])
    return drawn


def dots(x: pd.Series, low: pd.Series, high: pd.Series, y: np.ndarray, name: str, colour: str, filled: pd.Series,
          words: list[str], legend: bool = True) -> go.Scatter:
    """Points with intervals, filled where marked."""
    return go.Scatter(x=x, y=y, mode="markers", name=name, text=words, showlegend=legend,
                      hovertemplate="%{text}<extra></extra>",
                      error_x={"type": "data", "symmetric": False, "array": high - x, "arrayminus": x - low, "color": colour,
                               "width": 3, "thickness": 1.2},
                      marker={"size": 9, "color": [colour if mark else "rgba(0,0,0,0)" for mark in filled],
                              "line": {"width": 2, "color": colour}})


def _name(site: str, layer: int, head: int) -> str:
    return f"{NAMES.get(str(site), str(site))} {int(layer)}{'' if head < 0 else f'.{int(head)}'}"
