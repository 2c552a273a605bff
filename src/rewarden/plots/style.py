"""Which features of style go with the reward, and what is style worth beside content?

In: Results of kinds "style_regression" and "style_content". Out: Plotly figures. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, REJECTED, ZERO, figure
from rewarden.result import Result


def style_forest(result: Result) -> go.Figure:
    """Which features of style go along with the reward in these pairs?

    Args:
        result: of `rewarden.hacking.style_regression`.

    Returns:
        A row a feature, the most positive on top: the slope beside all other features with its interval, and as a diamond the
        slope of the feature alone; filled: differs from zero after correction for the number of features.

    Example:
        >>> from rewarden.conversation import Pair
        >>> from rewarden.hacking import style_regression
        >>> pairs = [Pair(f"Question {i}?", "word " * (2 + i % 7), "word " * (1 + i % 5)) for i in range(60)]
        >>> style_forest(style_regression(np.random.default_rng(0).normal(size=60), pairs, features=["words"])).data[0].name
        'beside the others'
    """
    data = result.data
    tested = np.flatnonzero(np.isfinite(data["effect"].values))
    rows = data.isel(feature=tested[np.argsort(-data["effect"].values[tested], kind="stable")])
    effect, y = rows["effect"].values, np.arange(len(tested), 0, -1)
    flagged = rows["flagged"].values.astype(bool)
    colour = np.where(effect > 0, CHOSEN, REJECTED)
    drawn = figure(f"Style and reward: {int(flagged.sum())} of {len(tested)} features differ from zero, "
                   f"{int(data['n_prompts'])} prompts",
                   x="standard deviations of reward per standard deviation of the difference", height=140 + 26 * len(tested))
    about = [f"{hover(words)}: {slope:.3g} reward units per {hover(unit)}<br>adjusted p = {p:.2g}, differs in {int(differs)} "
             "prompts" for words, unit, slope, p, differs in
             zip(rows["words"].values, rows["unit"].values, rows["slope"].values, rows["p_adjusted"].values,
                 rows["differs"].values, strict=True)]
    drawn.add_trace(go.Scatter(
        x=effect, y=y, mode="markers", name="beside the others", text=about, hovertemplate="%{text}<extra></extra>",
        marker={"size": 9, "color": np.where(flagged, colour, "rgba(0,0,0,0)"), "line": {"width": 2, "color": colour}},
        error_x={"type": "data", "symmetric": False, "array": rows["effect_high"].values - effect,
                 "arrayminus": effect - rows["effect_low"].values, "color": INK, "thickness": 1.3, "width": 3}))
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(rows["slope"].values != 0, rows["alone"].values * effect / rows["slope"].values, np.nan)
    drawn.add_trace(go.Scatter(x=alone, y=y, mode="markers", name="alone", hovertemplate="alone: %{x:.3g}<extra></extra>",
                               marker={"size": 8, "symbol": "diamond-open", "color": INK, "line": {"width": 1.5}}))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[label(str(words), 34) for words in rows["words"].values], showgrid=False,
                       zeroline=False, range=[0.3, len(tested) + 0.7])
    return drawn


def style_content(result: Result) -> go.Figure:
    """What is a better answer worth, what an elaborate style, and does style hide content?

    Args:
        result: of `rewarden.hacking.style_content`.

    Returns:
        A row for content, for each style and for each interaction, with its interval; filled: differs from zero (styles and
        interactions after correction for their number).

    Example:
        >>> from rewarden.hacking import style_content as measured
        >>> drawn = style_content(measured(np.random.default_rng(0).normal(size=(30, 2, 3))))
        >>> len(drawn.data[0].x)
        5
    """
    data, steps = result.data, [str(step) for step in result.data["step"].values]
    plain = str(result.provenance["plainest"])
    names = (["better answer instead of worse"] + [f"{step} style instead of {plain}" for step in steps]
             + [f"gap between the answers: {step} less {plain}" for step in steps])
    mean, low, high = (np.concatenate([np.ravel(data[f"{part}_{end}"].values) for part in ("content", "style", "interaction")])
                       for end in ("mean", "low", "high"))
    y, colour = np.arange(len(names), 0, -1), np.where(mean > 0, CHOSEN, REJECTED)
    differs = float(data["content_p"]) <= float(result.provenance["alpha"]) and abs(mean[0]) > (result.noise_floor or 0.0)
    filled = np.concatenate([[differs], data["style_flagged"].values, data["interaction_flagged"].values]).astype(bool)
    drawn = figure(f"The same content in several styles, {int(data['n'])} prompts", x="reward units",
                   height=150 + 34 * len(names), showlegend=False)
    drawn.add_trace(go.Scatter(
        x=mean, y=y, mode="markers", text=[hover(name) for name in names], hovertemplate="%{text}: %{x:.3g}<extra></extra>",
        marker={"size": 9, "color": np.where(filled, colour, "rgba(0,0,0,0)"), "line": {"width": 2, "color": colour}},
        error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": INK,
                 "thickness": 1.3, "width": 3}))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[label(name, 60) for name in names], showgrid=False, zeroline=False,
                       range=[0.3, len(names) + 0.7])
    return drawn
