"""Which kinds of change move the reward? A forest of axes, and of the wordings within one.

In: a `Result` of kind "bias". Out: Plotly figures and their tables. Nothing is estimated here but the means of wordings.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, REJECTED, ZERO, figure, translucent
from rewarden.result import Result

SUFFIX = {"mean": "", "slope": " (20 tokens)", "spread": " (spread of terms)"}
"""What a size is of, by design."""


def bias_table(result: Result, output: str | None = None) -> pd.DataFrame:
    """The battery's numbers, largest size first.

    Args:
        result: of `rewarden.bias_battery`.
        output: scalar of the model; the reward when not given.

    Returns:
        Columns axis, size, low, high (standard deviations of the reward), raw (the same without taking off what an innocuous
        change does; NaN for spreads), needed (the size that the test needs before it counts, p_kind = .05 before any
        correction: of means and slopes the 95 % interval's half width, which is widened by what random-weight models show), p,
        p_adjusted, flag, estimate, unit, design, tokens, seeds, templates, n, outlying (wordings that stand out by
        themselves), kind (whether p comes from all wordings together, not from the farthest of them).
    """
    data = result.data
    names = [str(name) for name in data["output"].values]
    if output is not None and output not in names:
        raise RewardenError(f"no output {output!r} in this result", where="bias_table(output=)", why=f"it has {names}",
                            fix="choose one of them")
    column = int(data.attrs["main"]) if output is None else names.index(output)
    one = data.isel(output=column)
    spread, design = float(one["spread"]), one["design"].values.astype(str)
    width = one["high"].values - one["low"].values  # no width, no error, no bar
    scale = (one["size_high"].values - one["size_low"].values) / np.where(width > 0, width, 1.0)
    needed = stats.t.ppf(np.where(design == "spread", 0.95, 0.975), one["df"].values) * one["error"].values
    columns = {"axis": "axis", "size": "size", "low": "size_low", "high": "size_high", "p": "p", "p_adjusted": "p_adjusted",
               "flag": "flag", "estimate": "estimate", "unit": "estimate_unit", "design": "design", "tokens": "tokens",
               "seeds": "n_seeds", "templates": "n_templates", "n": "n", "outlying": "outlying"}
    table = pd.DataFrame({name: one[key].values for name, key in columns.items()})
    table = table.astype({"axis": str, "unit": str, "design": str, "flag": bool, "outlying": str})
    table["kind"] = one["p_kind"].values <= np.nan_to_num(one["p_wording"].values, nan=1.0)
    table.insert(4, "raw", np.where(design == "mean", one["effect"].values / spread, np.nan))
    table.insert(5, "needed", needed * one["null_factor"].values * scale)
    return table.sort_values("size", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def bias_forest(result: Result, output: str | None = None) -> go.Figure:
    """Does the reward follow how something is said?

    Args:
        result: of `rewarden.bias_battery`.
        output: scalar of the model; the reward when not given.

    Returns:
        A row an axis, the largest on top: size in standard deviations of the reward with its interval, filled where flagged;
        squares where single wordings, not the kind of change, gave rise to the flag; the grey bar is the size that
        the test needs before it counts (`needed` of `bias_table`), left out without calibration; diamonds are raw effects.

    Example:
        >>> from rewarden.plots.bias_examples import bias_result
        >>> [trace.name for trace in bias_forest(bias_result()).data]
        ['size the test needs', 'raw effect', 'net of an innocuous change', 'flagged', 'flagged: single wordings']
    """
    table = bias_table(result, output)
    y = np.arange(len(table), 0, -1)
    words = [f"{hover(row.axis)}: {row.estimate:.3g} {row.unit}, p = {row.p:.2g}, adjusted {row.p_adjusted:.2g}<br>"
             f"{row.seeds} seeds, {row.templates} wordings, {row.n} comparisons" for row in table.itertuples()]
    drawn = figure("What each kind of change does to the reward", x="standard deviations of the reward over these texts",
                   height=160 + 24 * len(table))
    one_sided = (table["design"] == "spread").to_numpy()
    if result.provenance.get("calibration") != "off":
        drawn.add_trace(go.Bar(
            x=table["needed"] * np.where(one_sided, 1, 2), base=np.where(one_sided, 0, -table["needed"]), y=y, orientation="h",
            width=0.62, name="size the test needs", marker={"color": translucent(INK, 0.25), "line": {"width": 0}},
            hoverinfo="skip"))
    drawn.add_trace(go.Scatter(x=table["raw"], y=y, mode="markers", name="raw effect", text=words,
                               hovertemplate="%{text}<br>raw %{x:.2f} SD<extra></extra>",
                               marker={"size": 8, "symbol": "diamond-open", "color": INK, "line": {"width": 1.5}}))
    for some, name in ((~table["flag"], "net of an innocuous change"), (table["flag"] & table["kind"], "flagged"),
                       (table["flag"] & ~table["kind"], "flagged: single wordings")):
        some = some.to_numpy()
        rows = table[some]
        colour = np.where(rows["size"] > 0, CHOSEN, REJECTED)
        drawn.add_trace(go.Scatter(
            x=rows["size"], y=y[some], mode="markers", name=name, text=[words[i] for i in np.flatnonzero(some)],
            hovertemplate="%{text}<br>%{x:.2f} SD<extra></extra>",
            error_x={"type": "data", "symmetric": False, "array": rows["high"] - rows["size"],
                     "arrayminus": rows["size"] - rows["low"], "color": INK, "width": 3, "thickness": 1.4},
            marker={"size": 10, "symbol": "square" if "single" in name else "circle",
                    "color": "rgba(0,0,0,0)" if name.startswith("net") else list(colour),
                    "line": {"width": 2, "color": list(colour)}}))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    names = [label(axis.replace("_", " ") + SUFFIX[design], 44)
             for axis, design in zip(table["axis"], table["design"], strict=True)]
    drawn.update_yaxes(tickvals=y, ticktext=names, showgrid=False, zeroline=False, range=[0.3, len(table) + 0.7])
    return drawn


def wording_forest(table: pd.DataFrame, axis: str) -> go.Figure:
    """What did each wording of an axis, or each term, do?

    Args:
        table: of `rewarden.hacking.wordings`.
        axis: its name, for the title.

    Example:
        >>> table = pd.DataFrame({"template": ["a", "b"], "effect": [1.0, -1.0], "low": [0.5, -2.0], "high": [2.0, 0.1],
        ...                       "tokens": [2.0, 3.0], "n": [30, 30]})
        >>> [int(place) for place in wording_forest(table, "hedging").data[0].y]
        [2, 1]
    """
    y = np.arange(len(table), 0, -1)
    title = f"{axis.replace('_', ' ').capitalize()}: what each wording does"
    drawn = figure(title, x="change of the reward (raw, reward units)", height=140 + 22 * len(table))
    drawn.add_trace(go.Scatter(
        x=table["effect"], y=y, mode="markers", showlegend=False, customdata=table["n"],
        hovertemplate="%{x:.3g} (n = %{customdata})<extra></extra>",
        error_x={"type": "data", "symmetric": False, "array": table["high"] - table["effect"],
                 "arrayminus": table["effect"] - table["low"], "color": INK, "width": 3, "thickness": 1.2},
        marker={"size": 8, "color": np.where(table["effect"] > 0, CHOSEN, REJECTED)}))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    names = [label(str(name), 44) for name in table["template"]]
    drawn.update_yaxes(tickvals=y, ticktext=names, showgrid=False, zeroline=False, range=[0.3, len(table) + 0.7])
    return drawn
