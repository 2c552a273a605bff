"""At which layer does the preference form?

In: a lens `Result`. Out: Plotly figures over layers, −1 being the embedding. Means over pairs are the only arithmetic.
"""

from __future__ import annotations

import warnings

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, DIVERGING, INK, MARGIN, REJECTED, band, figure
from rewarden.result import Result


def layer_name(layer: int) -> str:
    """What an axis calls a layer: "emb" for −1, else the 0-based index.

    Example:
        >>> layer_name(-1), layer_name(3)
        ('emb', '3')
    """
    return "emb" if layer < 0 else str(int(layer))


def _name_layers(drawn: go.Figure, layers: np.ndarray) -> None:
    """Tick at most about 16 layers, the embedding and the last one always."""
    step = max(1, int(np.ceil(len(layers) / 16)))
    shown = sorted({int(layer) for layer in layers[::step]} | {int(layers[0]), int(layers[-1])})
    drawn.update_xaxes(tickvals=shown, ticktext=[layer_name(layer) for layer in shown], zeroline=False)


def column_means(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of only NaN is drawn as a gap, not announced
        return np.nanmean(values, axis=0)


def lens(result: Result, *, raw: bool = False) -> go.Figure:
    """What reward would each layer's residual stream give, and where does the margin appear?

    Args:
        result: a lens result: `lens(pair, side, layer)`, `mean`, `low`, `high` (layer) of the margin with its 95 %
            interval over pairs, `crystallization_first(pair)`, `crystallization_stable(pair)`; `raw` when asked for.
        raw: also draw the raw projection (no final norm), dotted; it does not end at the reward.

    Returns:
        Two panels over the same layers: the reward of both sides, and the margin with its band.

    Example:
        >>> from rewarden.plots.examples import lens_result
        >>> [axis.title.text for axis in (lens(lens_result()).layout.yaxis, lens(lens_result()).layout.yaxis2)]
        ['reward', 'margin']
    """
    data = result.data
    layers = data["layer"].values
    n = data.sizes["pair"]
    dotted = ", raw projection dotted" if raw else ""
    drawn = figure(f"Reward and margin read from each layer, mean of {n} pairs{dotted}", height=520)
    drawn.set_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.48, 0.52])
    for side, colour in (("chosen", CHOSEN), ("rejected", REJECTED)):
        drawn.add_trace(_line(layers, column_means(data["lens"].sel(side=side).values), side, colour), row=1, col=1)
        if raw:
            values = column_means(data["raw"].sel(side=side).values)
            drawn.add_trace(_line(layers, values, f"{side}, raw projection", colour, dash="dot"), row=1, col=1)
    for trace in band(layers, data["low"].values, data["high"].values, MARGIN, "margin"):
        drawn.add_trace(trace, row=2, col=1)
    drawn.add_trace(_line(layers, data["mean"].values, "margin, band over pairs", MARGIN), row=2, col=1)
    if raw:
        margin = column_means((data["raw"].sel(side="chosen") - data["raw"].sel(side="rejected")).values)
        drawn.add_trace(_line(layers, margin, "margin, raw projection", MARGIN, dash="dot"), row=2, col=1)
    drawn.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dot"}, row=2, col=1)
    _mark_crystallization(drawn, result)
    drawn.update_yaxes(title_text="reward", row=1, col=1)
    drawn.update_yaxes(title_text="margin", row=2, col=1)
    drawn.update_xaxes(title_text="layer (emb = embedding)", row=2, col=1)
    _name_layers(drawn, layers)
    return drawn


def _line(x: np.ndarray, y: np.ndarray, name: str, colour: str, dash: str = "solid") -> go.Scatter:
    return go.Scatter(x=x, y=y, mode="lines+markers" if dash == "solid" else "lines", name=name, legendgroup=name,
                      line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5},
                      hovertemplate=name + " at layer %{x}: %{y:.4g}<extra></extra>")


def _mark_crystallization(drawn: go.Figure, result: Result) -> None:
    """A triangle per kind at the median layer of the pairs for which it is defined."""
    for kind, symbol in (("first", "triangle-up-open"), ("stable", "triangle-up")):
        name = f"crystallization_{kind}"
        if name not in result.data:
            continue
        values = result.data[name].values
        defined = values[np.isfinite(values)]
        if len(defined):
            median = float(np.median(defined))
            drawn.add_trace(go.Scatter(
                x=[median], y=[0], mode="markers", name=f"{kind} crystallization, median",
                marker={"symbol": symbol, "size": 13, "color": INK, "line": {"width": 2, "color": INK}},
                hovertemplate=f"median {kind} crystallization: layer {median:g} ({len(defined)} of {len(values)} pairs "
                              "defined)<extra></extra>"), row=2, col=1)


def lens_accuracy(result: Result) -> go.Figure:
    """At which layer would the lens already rank the pairs right?

    Args:
        result: a lens result with `accuracy(layer)`, a fraction.

    Returns:
        Line over layers in per cent, with the line of a coin.
    """
    data = result.data
    drawn = figure(f"Accuracy if the reward were read at each layer ({data.sizes['pair']} pairs)",
                   x="layer (emb = embedding)", y="accuracy (%)", height=280, showlegend=False)
    drawn.add_trace(_line(data["layer"].values, 100 * data["accuracy"].values, "accuracy", CHOSEN))
    drawn.add_hline(y=50, line={"color": INK, "width": 1, "dash": "dot"})
    drawn.update_yaxes(range=[0, 101])
    _name_layers(drawn, data["layer"].values)
    return drawn


def lens_tokens(result: Result, *, name: str = "lens", limit: int = 120) -> go.Figure:
    """What would each token's residual stream give as reward at each layer?

    Args:
        result: a lens result of one conversation with `name(layer, token)` and the coordinate `text(token)`.
        name: the variable to draw, in reward units.
        limit: tokens shown, the last ones of the conversation.

    Returns:
        Heat map of layers by tokens; zero is transparent; the full token is in the hover.
    """
    if name not in result.data or set(result.data[name].dims) != {"layer", "token"}:
        raise RewardenError(f"the result has no {name!r} by layer and token", where="plots.lens_tokens",
                            why=f"it has {sorted(map(str, result.data.data_vars))}",
                            fix="ask the lens for tokens of one conversation")
    values = result.data[name].transpose("layer", "token").values
    texts = [str(text) for text in result.data["text"].values]
    start = max(0, len(texts) - limit)
    values, texts = values[:, start:], texts[start:]
    drawn = figure(f"Reward read from each layer at each token (last {len(texts)} tokens)" if start else
                   f"Reward read from each layer at each token ({len(texts)} tokens)",
                   x="token", y="layer (emb = embedding)", height=430)
    layers = result.data["layer"].values
    drawn.add_trace(heat(values, x=np.arange(start, start + len(texts)), y=layers, unit="reward",
                         customdata=np.broadcast_to(np.array([hover(text) for text in texts]), values.shape),
                         hovertemplate="%{customdata}<br>token %{x}, layer %{y}: %{z:.4g}<extra></extra>"))
    if len(texts) <= 60:
        drawn.update_xaxes(tickvals=np.arange(start, start + len(texts)), ticktext=[label(text) for text in texts],
                           tickangle=-60)
    drawn.update_yaxes(tickvals=layers, ticktext=[layer_name(layer) for layer in layers], showgrid=False)
    drawn.update_xaxes(showgrid=False)
    return drawn


def heat(values: np.ndarray, *, x: np.ndarray, y: np.ndarray, unit: str, reach: float | None = None,
         **options: object) -> go.Heatmap:
    """A heat map with a diverging scale that is symmetric about zero and ends at `reach`, by default the largest value."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    end = largest if reach is None else reach
    return go.Heatmap(z=values, x=x, y=y, zmin=-end, zmax=end, colorscale=DIVERGING,
                      colorbar={"title": {"text": unit}, "thickness": 12}, **options)  # pyright: ignore[reportArgumentType]
