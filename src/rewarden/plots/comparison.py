"""Where do reward models agree, where in depth do they part, and which of their layers hold the same?

In: a comparison `Result`. Out: Plotly figures. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.plots.cells import NOISE
from rewarden.plots.depth import layer_name
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, DIVERGING, INK, MARGIN, OTHER, REJECTED, ZERO, band, figure
from rewarden.result import Result

COLOURS = (CHOSEN, REJECTED, MARGIN, *OTHER)
"""Of the models, in their order; with more models they repeat."""

LABELS = 5
"""Parts named in the scatter of parts: those largest in either model."""

FEW = 5
"""Models up to which pairs of models are drawn as curves."""


def _two(result: Result, first: int, second: int) -> tuple[xr.Dataset, list[str]]:
    names = [str(name) for name in result.data["model"].values]
    if not (0 <= first < len(names) and 0 <= second < len(names) and first != second):
        raise RewardenError(f"no two models {first} and {second}", where="plots.compare", why=f"the result compares {names}",
                            fix="give the numbers of two of them")
    return result.data, [names[first], names[second]]


def _needs(result: Result, name: str) -> None:
    if name not in result.data:
        raise RewardenError(f"this comparison has no {name!r}", where="plots.compare",
                            why="only scores were compared", fix="compare the models themselves, with inside_pairs above 0")


def _interval(value: float, low: float, high: float, decimals: int = 2) -> str:
    shown = [f"{abs(part):.{decimals}f}" for part in (value, low, high)]
    signed = [("−" if part < 0 and float(text) else "") + text for part, text in zip((value, low, high), shown, strict=True)]
    return f"{signed[0]} [{signed[1]}, {signed[2]}]" if np.isfinite(low) else signed[0]


def compare_margins(result: Result, first: int = 0, second: int = 1) -> go.Figure:
    """Which pairs do two models judge alike?

    Args:
        result: a comparison result: `margin` (model, pair), `spread` (model), `agreement` with its ends.
        first, second: numbers of two models.

    Returns:
        A dot a pair; its margins in both models, each in SD of the model's rewards. Pairs judged differently lie in the upper
        left and lower right and have their own colour.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> [trace.name for trace in compare_margins(comparison_result()).data]
        ['judged alike', 'judged differently']
    """
    data, names = _two(result, first, second)
    places = [first, second]
    margin = data["margin"].values[places] / data["spread"].values[places, None]
    ends = [100 * float(data[f"agreement{end}"].values[first, second]) for end in ("", "_low", "_high")]
    share = _interval(ends[0], ends[1], ends[2], decimals=1)
    known = np.isfinite(margin).all(axis=0)
    alike = np.sign(margin[0]) * np.sign(margin[1]) >= 0
    drawn = figure(f"Margins of {int(known.sum())} pairs in both models; {share} % judged alike", height=460,
                   x=f"margin, {names[0]} (SD of its rewards)", y=f"margin, {names[1]} (SD of its rewards)")
    for words, rows, colour in (("judged alike", known & alike, CHOSEN), ("judged differently", known & ~alike, REJECTED)):
        drawn.add_trace(go.Scatter(
            x=margin[0, rows], y=margin[1, rows], mode="markers", name=words,
            marker={"color": colour, "size": 6, "opacity": 0.65},
            customdata=[hover(str(one)) for one in data["pair"].values[rows]],
            hovertemplate="%{customdata}: %{x:.3g}, %{y:.3g}<extra></extra>"))
    drawn.add_hline(y=0, line={"color": ZERO, "width": 1.5})
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    return drawn


def compare_depth(result: Result) -> go.Figure:
    """Where in depth does each model form its preference, and where do they part?

    Args:
        result: a comparison result: `lens` (model, depth) and `lens_agreement` (model, other, depth) with their ends.

    Returns:
        Two panels over one axis of depth: the mean lens margin of each model with its band, in SD of its rewards; and the rank
        correlation of the models' lens margins over the same pairs, of every two of up to five models, of all to the first of
        more.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> len([trace for trace in compare_depth(comparison_result()).data if trace.mode == "lines+markers"])
        3
    """
    _needs(result, "lens")
    data = result.data
    names = [str(name) for name in data["model"].values]
    drawn = figure(f"Preference read at each depth, {data.sizes['inside']} pairs", height=560)
    drawn.set_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for place, name in enumerate(names):
        if np.isfinite(data["lens"].values[place]).any():
            _curve(drawn, data, "lens", (place,), name, COLOURS[place % len(COLOURS)], 1)
    every = len(names) <= FEW
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            if (every or i == 0) and np.isfinite(data["lens_agreement"].values[i, j]).any():
                words = "agreement of the two" if len(names) == 2 else f"{first} and {names[j]}"
                _curve(drawn, data, "lens_agreement", (i, j), words, COLOURS[(2 + i + j) % len(COLOURS)], 2)
    for row, title in ((1, "mean margin (SD of rewards)"), (2, "Spearman's ρ of margins")):
        drawn.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dot"}, row=row, col=1)  # pyright: ignore[reportArgumentType]
        drawn.update_yaxes(title_text=title, row=row, col=1)
    drawn.update_yaxes(range=[-1.05, 1.05], row=2, col=1)
    drawn.update_xaxes(title_text="depth (0: embedding, 1: where the reward is read)", row=2, col=1)
    drawn.update_xaxes(range=[-0.02, 1.02], zeroline=False)
    return drawn


def _curve(drawn: go.Figure, data: xr.Dataset, variable: str, where: tuple[int, ...], name: str, colour: str,
           row: int) -> None:
    x = data["depth"].values
    value, low, high = (data[f"{variable}{end}"].values[where] for end in ("", "_low", "_high"))
    group = f"{variable} {where}"  # a name of strangers stays out of what Plotly reads
    for trace in band(x, low, high, colour, group):
        drawn.add_trace(trace, row=row, col=1)
    drawn.add_trace(go.Scatter(x=x, y=value, mode="lines+markers", name=label(name, 40), legendgroup=group, marker={"size": 4},
                               line={"color": colour, "width": 2}, customdata=np.stack([low, high], axis=1),
                               hovertemplate="depth %{x:.2f}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
                               f"<extra>{label(name, 40)}</extra>"), row=row, col=1)


def compare_parts(result: Result, first: int = 0, second: int = 1) -> go.Figure:
    """Do the same parts write both models' margins?

    Args:
        result: a comparison result: `share` (model, component) with its ends, `profile` (model, other).
        first, second: numbers of two models.

    Returns:
        A dot a part: the share of the margin's mean square that it writes in each model, with intervals; the largest are
        named. On the dotted line both shares are equal.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> compare_parts(comparison_result()).layout.xaxis.title.text
        'share in first (%)'
    """
    _needs(result, "share")
    data, names = _two(result, first, second)
    share = [100 * np.stack([data[f"share{end}"].values[place] for end in ("", "_low", "_high")]) for place in (first, second)]
    parts = [str(name) for name in data["component"].values]
    words = _interval(*(float(data[f"profile{end}"].values[first, second]) for end in ("", "_low", "_high")))
    drawn = figure(f"Parts that write the margin in both models, correlation {words}", height=460, showlegend=False,
                   x=f"share in {names[0]} (%)", y=f"share in {names[1]} (%)")
    size = np.nan_to_num(np.maximum(np.abs(share[0][0]), np.abs(share[1][0])), nan=-1.0)
    named = set(np.argsort(-size, kind="stable")[:LABELS].tolist())
    ends = [float(np.nanmin([one[0].min() for one in share])), float(np.nanmax([one[0].max() for one in share]))]
    drawn.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dot", "width": 1.2},
                               hoverinfo="skip"))
    error = [{"type": "data", "symmetric": False, "array": one[2] - one[0], "arrayminus": one[0] - one[1],
              "color": "rgba(128,134,144,0.45)", "thickness": 1, "width": 0} for one in share]
    drawn.add_trace(go.Scatter(
        x=share[0][0], y=share[1][0], mode="markers+text", error_x=error[0], error_y=error[1],
        text=[label(name, 20) if place in named else "" for place, name in enumerate(parts)], textposition="middle right",
        marker={"color": CHOSEN, "size": 7, "opacity": 0.75}, customdata=[hover(name) for name in parts],
        hovertemplate="%{customdata}: %{x:.3g} %, %{y:.3g} %<extra></extra>"))
    return drawn


def compare_layers(result: Result, first: int = 0, second: int = 1) -> go.Figure:
    """Which layers of two models hold the same?

    Args:
        result: a comparison result: `cka` (model, other, layer, other_layer) with its ends and `cka_null`.
        first, second: numbers of two models.

    Returns:
        A map of CKA, the layers of one model up, of the other across; grey where shuffled texts reach as much.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> compare_layers(comparison_result()).data[0].zmax
        1.0
    """
    _needs(result, "cka")
    data, names = _two(result, first, second)
    value, low, high, null = (data[f"cka{end}"].values[first, second] for end in ("", "_low", "_high", "_null"))
    rows, columns = (np.isfinite(value).any(axis=axis) for axis in (1, 0))
    value, low, high, null = (held[np.ix_(rows, columns)] for held in (value, low, high, null))
    up, across = data["layer"].values[rows], data["other_layer"].values[columns]
    drawn = figure(f"Similarity of states where the reward is read (CKA), {int(data['cka_n'])} prompts",
                   height=170 + 34 * max(4, len(up)), x=f"layer of {names[1]}", y=f"layer of {names[0]}")
    text = [[f"{one:.2f}" if len(up) <= 16 else "" for one in row] for row in value]
    drawn.add_trace(go.Heatmap(
        z=value, x=np.arange(len(across)), y=np.arange(len(up)), zmin=-1.0, zmax=1.0, colorscale=DIVERGING, text=text,
        texttemplate="%{text}", xgap=1, ygap=1, hoverongaps=False, colorbar={"title": {"text": "CKA"}, "thickness": 12},
        customdata=np.stack([low, high, null], axis=-1) if value.size else None,
        hovertemplate="%{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]; shuffled texts stay below %{customdata[2]:.3f} "
        "in 95 of 100<extra></extra>"))
    quiet = value <= null
    if quiet.any():
        drawn.add_trace(go.Heatmap(z=np.where(quiet, 1.0, np.nan), x=np.arange(len(across)), y=np.arange(len(up)), xgap=1,
                                   ygap=1, hoverinfo="skip", showscale=False, colorscale=[[0, NOISE], [1, NOISE]]))
    drawn.update_xaxes(tickvals=np.arange(len(across)), ticktext=[layer_name(int(one)) for one in across], showgrid=False,
                       zeroline=False)
    drawn.update_yaxes(tickvals=np.arange(len(up)), ticktext=[layer_name(int(one)) for one in up], showgrid=False,
                       zeroline=False)
    return drawn


def compare_bias(result: Result) -> go.Figure:
    """Do the models have the same biases?

    Args:
        result: a comparison result made with `bias=True`: `bias` (model, axis) with its ends, `bias_gap_p` (model, other,
            axis).

    Returns:
        A line an axis, a dot with its interval for each model, in SD of its rewards; axes on which the first two models differ
        after correction for the number of axes are marked with a star.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> list(compare_bias(comparison_result()).layout.yaxis.ticktext)
        ['hedging', 'lists *']
    """
    if "bias" not in result.data:
        raise RewardenError("this comparison has no bias battery", where="plots.compare_bias", why="it was not asked for",
                            fix="rewarden.compare(..., bias=True)")
    data = result.data
    names, axes = ([str(one) for one in data[dim].values] for dim in ("model", "axis"))
    y = np.arange(len(axes), 0, -1).astype(float)
    drawn = figure("Bias of each model, with intervals", height=130 + 40 * len(axes),
                   x="effect of the change (SD of the model's rewards; length: per token)")
    for place, name in enumerate(names):
        value, low, high = (data[f"bias{end}"].values[place] for end in ("", "_low", "_high"))
        colour, offset = COLOURS[place % len(COLOURS)], 0.36 * ((len(names) - 1) / 2 - place) / max(1, len(names) - 1)
        drawn.add_trace(go.Scatter(
            x=value, y=y + offset, mode="markers", name=label(name, 40), marker={"color": colour, "size": 8},
            error_x={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, "color": colour,
                     "thickness": 1.6, "width": 3}, customdata=np.stack([low, high], axis=1),
            hovertemplate="%{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra>" + label(name, 40) + "</extra>"))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    marked = data["bias_gap_p"].values[0, 1] <= 0.05
    drawn.update_yaxes(tickvals=y, ticktext=[f"{label(name, 30)}{' *' if mark else ''}" for name, mark in
                                             zip(axes, marked, strict=True)], showgrid=False, zeroline=False,
                       range=[0.4, len(axes) + 0.6])
    return drawn


def compare_models(result: Result, quantity: str = "margin") -> go.Figure:
    """How far does each of several models agree with each other one?

    Args:
        result: a comparison result: `spearman` (quantity, model, other) with its ends.
        quantity: "margin" or "reward".

    Returns:
        A matrix of rank correlations with intervals in the hover.

    Example:
        >>> from rewarden.plots.comparison_examples import comparison_result
        >>> compare_models(comparison_result()).data[0].zmin
        -1.0
    """
    held = [str(name) for name in result.data["quantity"].values]
    if quantity not in held:
        raise RewardenError(f"no rank correlation of {quantity!r}", where="plots.compare_models", why=f"there are {held}",
                            fix="choose one of them")
    data = result.data.sel(quantity=quantity)
    names = [str(name) for name in data["model"].values]
    value, low, high = (np.where(np.eye(len(names), dtype=bool), np.nan, data[f"spearman{end}"].values)
                        for end in ("", "_low", "_high"))
    drawn = figure(f"Rank correlation of {quantity}s, {data.sizes['pair']} pairs", height=170 + 40 * max(3, len(names)))
    text = [[f"{one:.2f}" if np.isfinite(one) and len(names) <= 20 else "" for one in row] for row in value]
    drawn.add_trace(go.Heatmap(
        z=value, x=np.arange(len(names)), y=np.arange(len(names)), zmin=-1.0, zmax=1.0, colorscale=DIVERGING, text=text,
        texttemplate="%{text}", xgap=1, ygap=1, hoverongaps=False, colorbar={"title": {"text": "ρ"}, "thickness": 12},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="%{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>"))
    shown = [label(name, 30) for name in names]
    drawn.update_xaxes(tickvals=np.arange(len(names)), ticktext=shown, showgrid=False, zeroline=False, tickangle=-30)
    drawn.update_yaxes(tickvals=np.arange(len(names)), ticktext=shown, showgrid=False, zeroline=False, autorange="reversed")
    return drawn
