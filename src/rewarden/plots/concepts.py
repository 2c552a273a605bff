"""Which concepts does a reward follow, how does it answer to doses of one, and what did a repair change?

In: `Result`s of kinds "concepts", "dose_response" and "repair". Out: Plotly figures, tables. Nothing is estimated here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, OTHER, REJECTED, ZERO, band, figure, translucent
from rewarden.result import Result

FORESTS = {
    "cosine": ("cosine", "random_cosine", "follows", "p_adjusted", "correlation of concept and reward on the corpus",
               "How far the reward goes along with each concept", "95 of 100 random read-outs"),
    "slope": ("slope", "random_slope", "moves", "slope_p_adjusted", "change of the reward (reward units)",
              "What happens to the reward when texts are moved along each concept", "95 of 100 random directions"),
}
"""What a forest is about -> estimate, size of chance, mark, adjusted p, axis title, title, name of the band."""


def concept_table(result: Result) -> pd.DataFrame:
    """One row a concept with the numbers of both forests, largest |correlation| first."""
    data = result.data
    names = ("auc", "auc_low", "auc_high", "paired", "cosine", "cosine_low", "cosine_high", "random_cosine", "p_adjusted",
             "follows", "slope", "slope_low", "slope_high", "random_slope", "slope_p_adjusted", "moves", "length_share",
             "seeds")
    table = pd.DataFrame({"concept": data["axis"].values.astype(str), **{name: data[name].values for name in names}})
    return table.sort_values("cosine", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def concept_forest(result: Result, by: str = "slope") -> go.Figure:
    """Which concepts does the reward follow, or is moved by, more than by chance?

    Args:
        result: of `rewarden.concepts.survey`.
        by: "slope" (texts are moved along the concept) or "cosine" (reward and concept on a corpus).

    Returns:
        A row a concept, the most positive on top, with its interval; a grey bar behind it reaches as far as 95 of 100 random
        directions (or read-outs) do; filled: beyond chance after Holm's correction.

    Example:
        >>> from rewarden.plots.concept_examples import concepts_result
        >>> len(concept_forest(concepts_result()).data)
        2
    """
    if by not in FORESTS:
        raise RewardenError(f"no forest by {by!r}", where="concept_forest(by=)", fix=f"use one of {', '.join(FORESTS)}")
    name, chance, mark, p, unit, title, behind = FORESTS[by]
    data = result.data
    order = np.argsort(-data[name].values, kind="stable")
    mean, low, high, size, marked, adjusted = (data[key].values[order] for key in (
        name, f"{name}_low", f"{name}_high", chance, mark, p))
    size = size * (1.96 if by == "slope" else 1.0)  # a root mean square, or a 95 % point already
    y = np.arange(len(order), 0, -1)
    colour = np.where(mean > 0, CHOSEN, REJECTED)
    names = [str(one) for one in data["axis"].values[order]]
    words = [f"{hover(one)}<br>held-out AUC {auc:.2f}, {int(n)} seeds<br>adjusted p = {q:.2g}" for one, auc, n, q in zip(
        names, data["auc"].values[order], data["seeds"].values[order], adjusted, strict=True)]
    drawn = figure(title, x=unit, height=150 + 24 * len(order))
    drawn.add_trace(go.Bar(
        x=2 * size, base=-size, y=y, orientation="h", width=0.55, name=behind, hoverinfo="skip",
        marker={"color": translucent(INK, 0.22), "line": {"width": 0}}))
    drawn.add_trace(_points(mean, low, high, y, words, colour, marked.astype(bool), "concept"))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[label(one, 24) for one in names], showgrid=False, zeroline=False,
                       range=[0.3, len(order) + 0.7])
    return drawn


def _points(mean: Any, low: Any, high: Any, y: Any, words: Any, colour: Any, filled: Any, name: str) -> go.Scatter:
    """Means with intervals; open where not marked."""
    return go.Scatter(
        x=mean, y=y, mode="markers", name=name, text=words, hovertemplate="%{text}<br>%{x:.3g}<extra></extra>",
        error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": INK, "width": 3,
                 "thickness": 1.2},
        marker={"size": 10, "color": [c if on else "rgba(0,0,0,0)" for c, on in zip(colour, filled, strict=True)],
                "line": {"width": 2, "color": list(colour)}})


def dose_curve(result: Result) -> go.Figure:
    """How does the reward answer to doses of a concept?

    Args:
        result: of `rewarden.concepts.dose_response`.

    Returns:
        Mean change of the reward at each dose with its interval, a thin line a text, and the band that 95 of 100 random
        directions of the same length stay in.

    Example:
        >>> from rewarden.plots.concept_examples import dose_result
        >>> [trace.name for trace in dose_curve(dose_result()).data if trace.name]
        ['95 of 100 random directions', 'one text', 'mean']
    """
    data, name = result.data, str(result.provenance.get("concept", "the concept"))
    order = np.argsort(data["dose"].values)
    dose = data["dose"].values[order]
    at = np.insert(dose, np.searchsorted(dose, 0), 0.0)

    def shown(values: np.ndarray) -> np.ndarray:
        return np.insert(values[order], np.searchsorted(dose, 0), 0.0)  # no dose, no change

    size = 1.96 * float(np.sqrt((data["random_slope"].values ** 2).mean()))
    drawn = figure(f"The reward at doses of {name}, {data.sizes['text']} texts",
                   x="dose (1: as much of it as texts that have it)", y="change of the reward (reward units)", height=380)
    low, high = band(at, -size * np.abs(at), size * np.abs(at), INK, "random")
    high.update(name="95 of 100 random directions", showlegend=True)
    drawn.add_traces([low, high])
    lines = data["change"].values
    across = np.concatenate([np.append(at, np.nan)] * len(lines))
    up = np.concatenate([np.append(shown(row), np.nan) for row in lines])
    drawn.add_trace(go.Scatter(x=across, y=up, mode="lines", name="one text", hoverinfo="skip",
                               line={"color": translucent(CHOSEN, 0.25), "width": 1}))
    mean = shown(data["change_mean"].values)
    drawn.add_trace(go.Scatter(
        x=at, y=mean, mode="lines+markers", name="mean", hovertemplate="dose %{x:g}: %{y:.3g}<extra></extra>",
        line={"color": CHOSEN, "width": 3}, marker={"size": 8},
        error_y={"type": "data", "symmetric": False, "array": shown(data["change_high"].values) - mean,
                 "arrayminus": mean - shown(data["change_low"].values), "color": CHOSEN, "thickness": 1.5}))
    return drawn


def repair_table(result: Result) -> pd.DataFrame:
    """One row an axis: effect before and after, and the share that is left."""
    data = result.data
    if "effect" not in data:
        return pd.DataFrame({"concept": []})
    both = {f"{when}{end}": data[f"effect{end}"].sel(model=when).values for when in ("before", "after")
            for end in ("", "_low", "_high")}
    return pd.DataFrame({"concept": data["axis"].values.astype(str), **both,
                         **{f"kept{end}": data[f"kept{end}"].values for end in ("", "_low", "_high")},
                         "seeds": data["seeds"].values})


def accuracy_changes(result: Result) -> pd.DataFrame:
    """One row a subset: accuracy before and after, and the change over the same pairs."""
    data = result.data
    if "accuracy" not in data:
        return pd.DataFrame({"subset": []})
    return pd.DataFrame({"subset": data["split"].values.astype(str),
                         **{when: data["accuracy"].sel(model=when).values for when in ("before", "after")},
                         **{f"change{end}": data[f"change{end}"].values for end in ("", "_low", "_high")},
                         "pairs": data["pairs"].values})


def repair_effects(result: Result) -> go.Figure:
    """What is left of each concept's effect on the reward after a repair?

    Args:
        result: `Repaired.report`, or of `rewarden.concepts.verify`, with contrasts.

    Returns:
        A row an axis: the mean effect before and after, with intervals.

    Example:
        >>> from rewarden.plots.concept_examples import repair_result
        >>> [trace.name for trace in repair_effects(repair_result()).data]
        ['before', 'after']
    """
    data = result.data
    names = [str(one) for one in data["axis"].values]
    out = str(result.provenance.get("concepts", "")).split(", ")
    y = np.arange(len(names), 0, -1)
    drawn = figure("Effect of each concept on the reward, before and after the repair",
                   x="reward with the concept less reward without (reward units)", height=150 + 30 * len(names))
    for when, colour, shift in (("before", REJECTED, 0.14), ("after", CHOSEN, -0.14)):
        one = data.sel(model=when)
        mean, low, high = (one[f"effect{end}"].values for end in ("", "_low", "_high"))
        words = [f"{hover(name)}, {when}" for name in names]
        drawn.add_trace(_points(mean, low, high, y + shift, words, [colour] * len(y), np.full(len(y), when == "after"), when))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[label(one, 24) + (" (taken out)" if one in out else "") for one in names],
                       showgrid=False, zeroline=False, range=[0.3, len(y) + 0.7])
    return drawn


def repair_accuracy(result: Result) -> go.Figure:
    """What did a repair cost, subset by subset?

    Args:
        result: `Repaired.report`, or of `rewarden.concepts.verify`, with pairs.

    Returns:
        A row a subset: change of accuracy over the same pairs with its interval.

    Example:
        >>> from rewarden.plots.concept_examples import repair_result
        >>> len(repair_accuracy(repair_result()).data)
        1
    """
    table = accuracy_changes(result)
    y = np.arange(len(table), 0, -1)
    mean, low, high = (100 * table[f"change{end}"].to_numpy() for end in ("", "_low", "_high"))
    words = [f"{hover(name)}, {n} pairs<br>{100 * a:.1f} % → {100 * b:.1f} %" for name, n, a, b in zip(
        table["subset"], table["pairs"], table["before"], table["after"], strict=True)]
    drawn = figure("Change of accuracy by the repair", x="percentage points", height=150 + 24 * len(table))
    sure = (low > 0) | (high < 0)
    drawn.add_trace(_points(mean, low, high, y, words, [OTHER[2] if name == "all" else INK for name in table["subset"]], sure,
                            "change"))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[label(one, 24) for one in table["subset"]], showgrid=False, zeroline=False,
                       range=[0.3, len(y) + 0.7])
    drawn.update_layout(showlegend=False)
    return drawn
