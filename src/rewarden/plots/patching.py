"""Where is the reward decided, causally?

In: a patch `Result` (effects of patched sites per pair, means with intervals). Out: Plotly figures: layers by tokens of one
pair, sites by layers (layers by heads are in `plots.heads`). Draws the result's own numbers, estimates nothing.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.cells import HEAD_ROOM, add_once, cell_traces, reach_of
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, MARGIN, OTHER, REJECTED, band, figure
from rewarden.result import Result

LINE = 48
"""Tokens side by side; a longer text goes on in the next line of the figure."""

NARROW = 20
"""Tokens that a line has room for at least, so that cells of a short text do not become bars."""

LIMIT = 240
"""Tokens drawn, the last ones of the conversation."""

SOURCES = {"noising": "taken from the rejected response", "denoising": "taken from the chosen response",
           "zero": "set to zero", "mean": "set to its mean", "resample": "taken from another pair"}
"""What each mode puts in a site's place, in words."""

COLOURS = {"resid_pre": OTHER[0], "resid_post": MARGIN, "attn_out": CHOSEN, "mlp_out": REJECTED, "embed": OTHER[1]}


def source_of(result: Result) -> str:
    """What was put in a site's place, in words.

    Example:
        >>> from rewarden.plots.effect_examples import patch_result
        >>> source_of(patch_result())
        'taken from the rejected response'
    """
    return SOURCES.get(str(result.provenance.get("mode", "")), "patched")


def need(result: Result, name: str, where: str, *, fix: str, each: bool = False) -> None:
    """Refuse a result without this variable, or with (without) a position axis.

    Args:
        result: what was given.
        name: the variable.
        where: the figure.
        fix: what to do where a patch result lacks the variable.
        each: whether it must have an effect for each position.
    """
    if name not in result.data:
        held = sorted(map(str, result.data.data_vars))
        raise RewardenError(f"the result has no {name!r}", where=where, why=f"it holds {held}",
                            fix=fix if any(other.startswith("effect") for other in held) else "pass a patch result")
    if ("position" in result.data[name].dims) != each:
        wanted, has = ("each", "one effect for all positions") if each else ("read_out", "an effect for each position")
        raise RewardenError(f"this figure needs positions={wanted!r}", where=where, why=f"the result has {has}",
                            fix=f"patch with positions={wanted!r}")


@dataclass(frozen=True)
class _Panel:
    """One map of a stacked figure: its site, the columns it shows, and where its bottom and top are, in pixels from above."""

    site: str
    columns: np.ndarray
    top: float
    bottom: float
    last: bool


def _panels(columns: np.ndarray, sites: Sequence[str], layers: int, label_room: float) -> tuple[list[_Panel], float]:
    """Lines of at most `LINE` tokens, in each the sites below each other and the tokens below the last; and the height."""
    cell = 18 if layers <= 8 else 12 if layers <= 16 else 7
    panels, top = [], 0.0
    for start in range(0, len(columns), LINE):
        for site in sites:
            top += HEAD_ROOM
            bottom = top + cell * layers
            panels.append(_Panel(site, columns[start:start + LINE], top, bottom, site == sites[-1]))
            top = bottom
        top += label_room
    return panels, top


def patch_positions(result: Result, pair: int | str = 0, site: str | Sequence[str] | None = None, *,
                    name: str = "", context: int | None = None, limit: int = LIMIT) -> go.Figure:
    """Which token's state, at which layer, decides this pair?

    Args:
        result: a patch result of positions="each": `effect` (pair, site, layer, position) in reward units, NaN where a
            position has no counterpart, with `below_noise`, `token` and `span` (pair, position) and `margin` (pair).
        pair: its row, or its id.
        site: one site or several, below each other; all by default.
        name: what the title calls the pair; its id by default.
        context: tokens drawn before the first one with an effect; all by default.
        limit: tokens drawn, the last ones of the conversation.

    Returns:
        Maps of layers (upwards) by tokens on one colour scale, zero transparent; grey cells are rounding, hatched ones have
        no counterpart. A long text is broken into lines of 48 tokens.

    Example:
        >>> from rewarden.plots.effect_examples import patch_result
        >>> drawn = patch_positions(patch_result(positions=6, tokens=("a", "b", "c", "d", "<e>", "f")), site="mlp_out")
        >>> drawn.layout.xaxis.ticktext[-2:]
        ('&lt;e&gt;', 'f')
    """
    need(result, "effect", "plots.patch_positions", each=True,
         fix='patch whole vectors, sites=("resid_post", "attn_out", "mlp_out"); heads have no map by position')
    data = result.data
    row, sites = _asked(result, pair, site)
    effect, noise = (data[part].isel(pair=row).sel(site=sites).transpose("site", "layer", "position").values
                     for part in ("effect", "below_noise"))
    span = data["span"].isel(pair=row).values
    columns, left_out = _shown(np.flatnonzero(span >= 0), effect, noise, context, limit)
    token, aligned = (data[name].isel(pair=row).values for name in ("token", "aligned"))
    position = data["position"].values
    title = (f"Effect of each position's state {source_of(result)}: pair {name or data['pair'].values[row]}, margin "
             f"{data['margin'].values[row]:.3g}{left_out}")
    texts = [label(str(text)) for text in token]
    room = 22 + 5.6 * max((len(html.unescape(texts[column])) for column in columns), default=1)
    panels, height = _panels(columns, sites, data.sizes["layer"], room)
    drawn = figure(title, height=int(height) + 56)
    drawn.set_subplots(rows=len(panels), cols=1)
    reach = reach_of(effect[:, :, columns])
    for number, panel in enumerate(panels, start=1):
        place = sites.index(panel.site)
        about = [f"{hover(str(token[column]))}<br>position {position[column]}"
                 + (f", patched from position {aligned[column]}" if aligned[column] else "") for column in panel.columns]
        traces = cell_traces(effect[place][:, panel.columns], noise=noise[place][:, panel.columns], reach=reach, xgap=1, ygap=1,
                             showscale=number == 1, customdata=np.broadcast_to(np.array(about, dtype=object),
                                                                               (data.sizes["layer"], len(about))),
                             hovertemplate=f"%{{customdata}}<br>{label(panel.site)}, layer %{{y}}: %{{z:.4g}}<extra></extra>")
        add_once(drawn, traces, row=number, col=1)
        _frame(drawn, number, panel, texts, data["layer"].values, span, min(max(len(columns), NARROW), LINE), height)
    return drawn


def _asked(result: Result, pair: int | str, site: str | Sequence[str] | None) -> tuple[int, list[str]]:
    """The row and the sites that were asked for."""
    names, known = ([str(name) for name in result.data[axis].values] for axis in ("pair", "site"))
    row = pair if isinstance(pair, int) else names.index(pair) if pair in names else len(names)
    sites = known if site is None else [site] if isinstance(site, str) else list(site)
    if not -len(names) <= row < len(names) or not set(sites) <= set(known):
        raise RewardenError(f"no pair {pair!r} or no site {site!r}", where="plots.patch_positions",
                            why=f"the result has {len(names)} pairs and the sites {known}", fix="pass one of these")
    return row, sites


def _shown(inside: np.ndarray, effect: np.ndarray, noise: np.ndarray, context: int | None, limit: int
           ) -> tuple[np.ndarray, str]:
    """The columns to draw of those inside the text, and what the title says of the others."""
    columns = inside[max(0, len(inside) - limit):]
    silent = (noise | ~np.isfinite(effect)).all(axis=(0, 1))[columns]
    if context is not None and not silent.all():
        columns = columns[max(0, int(np.argmin(silent)) - context):]
    hidden = len(inside) - len(columns)
    return columns, f"; the first {hidden} tokens are left out" if hidden else ""


def _frame(drawn: go.Figure, number: int, panel: _Panel, texts: list[str], layers: np.ndarray, span: np.ndarray, width: int,
           height: float) -> None:
    """Axes of one panel: its place, layers, the tokens where it is the last of its line, and where the response begins."""
    step = max(1, int(np.ceil(len(layers) / 8)))
    drawn.update_yaxes(row=number, col=1, domain=(1 - panel.bottom / height, 1 - panel.top / height), zeroline=False,
                       showgrid=False, tickvals=np.arange(0, len(layers), step), ticktext=[str(v) for v in layers[::step]],
                       range=[-0.5, len(layers) - 0.5], title={"text": "layer"}, tickfont={"size": 11})
    drawn.update_xaxes(row=number, col=1, range=[-0.5, width - 0.5], zeroline=False, showgrid=False,
                       showticklabels=panel.last, ticks="outside" if panel.last else "", tickangle=-90,
                       tickvals=np.arange(len(panel.columns)), ticktext=[texts[column] for column in panel.columns],
                       tickfont={"size": 11})
    drawn.add_annotation(text=hover(panel.site), x=0, y=1 - panel.top / height, xref="paper", yref="paper", xanchor="left",
                         yanchor="bottom", showarrow=False, font={"size": 13})
    begins = np.flatnonzero(span[panel.columns] == 2)
    if len(begins) and (span[: panel.columns[begins[0]]] != 2).all():
        line = go.Scatter(x=2 * [begins[0] - 0.5], y=[-0.5, len(layers) - 0.5], mode="lines", name="response begins",
                          legendgroup="response begins", hoverinfo="skip", line={"color": INK, "width": 1.5, "dash": "dot"})
        add_once(drawn, [line], row=number, col=1)


def patch_layers(result: Result, sites: Sequence[str] | None = None) -> go.Figure:
    """At which layer, and in which part of it, is the margin decided?

    Args:
        result: a patch result of positions="read_out" or "all": `mean`, `low`, `high`, `marked` (site, layer) of the effect
            over pairs, and `margin` (pair), in reward units.
        sites: which ones; all whole vectors of the result by default.

    Returns:
        A line with its band for each site; filled dots differ from zero, open ones do not. The dotted line is the mean margin.
    """
    need(result, "effect", "plots.patch_layers",
         fix='plots.patch_heads(result) draws z, q, k and v; for lines by layer patch whole vectors, sites=("resid_post",)')
    data = result.data
    layers = data["layer"].values
    where = {"all": "at every position", "read_out": "at the read-out"}.get(str(result.provenance.get("positions", "")), "")
    drawn = figure(f"Effect of a layer's state {source_of(result)} {where}".rstrip() + f", mean of {data.sizes['pair']} pairs",
                   x="layer", y="effect (reward units)", height=380)
    for index, name in enumerate(map(str, data["site"].values if sites is None else sites)):
        colour = COLOURS.get(name, OTHER[index % len(OTHER)])
        mean, low, high, marked = (data[part].sel(site=name).values for part in ("mean", "low", "high", "marked"))
        for trace in band(layers, low, high, colour, name):
            drawn.add_trace(trace)
        symbols = ["circle" if mark else "circle-open" for mark in marked]
        drawn.add_trace(go.Scatter(
            x=layers, y=mean, mode="lines+markers", name=label(name), legendgroup=name, line={"color": colour, "width": 2},
            marker={"symbol": symbols, "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=np.stack([low, high], axis=1),
            hovertemplate=label(name) + " %{x}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>"))
    margin = float(np.nanmean(data["margin"].values))
    drawn.add_hline(y=margin, line={"color": INK, "width": 1, "dash": "dot"}, annotation={
        "text": "mean margin", "font": {"size": 11}, "x": 0, "xanchor": "left"})
    drawn.update_xaxes(zeroline=False, dtick=1 if len(layers) <= 24 else None)
    drawn.update_yaxes(rangemode="tozero")
    return drawn
