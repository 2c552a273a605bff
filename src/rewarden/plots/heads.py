"""Which attention heads cause the margin: by what they return, ask for, offer, or hold?

In: a patch `Result` with sites out of z, q, k, v, maybe the attribution of the same model. Out: maps of layers by heads. Draws
the result's own numbers, estimates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.cells import add_once, cell_traces, panel_titles, reach_of
from rewarden.plots.patching import need, source_of
from rewarden.plots.theme import figure
from rewarden.result import Result

SITES = {"z": ("_heads", "output (z)"), "q": ("_q", "query (q)"), "k": ("_k", "key (k)"), "v": ("_v", "value (v)")}
"""Site → end of its variables' names, what it is called."""

SIDE_BY_SIDE = 3
"""Maps in a row; four stand two by two."""


def patch_heads(result: Result, attribution: Result | None = None, sites: Sequence[str] | None = None) -> go.Figure:
    """Which attention heads cause the margin, and are they the ones that write it?

    Args:
        result: a patch result with sites out of z, q, k, v: `mean_heads`, `marked_heads` (layer, head), `mean_q`, ...; those of
            k and v (layer, kv_head).
        attribution: an attribution result of the same model: what each head writes, drawn beside what its output causes.
        sites: which ones; all that the result holds by default.

    Returns:
        Maps of layers (downwards) by heads, on one colour scale and equally wide, so that a key or value head stands as wide as
        the query heads that share it; blue supports the margin, orange works against it. Grey cells are rounding, dots mark
        heads that differ from zero.

    Example:
        >>> from rewarden.plots.effect_examples import patch_result
        >>> [note.text for note in patch_heads(patch_result(parts=("q", "k", "v")), sites=("q", "v")).layout.annotations]
        ['query (q)', 'value (v)']
    """
    asked = _asked(result, sites, attribution is not None)
    data, floor = result.data, float(result.noise_floor or 0.0)
    maps: list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray | None]] = []
    for site in asked:
        suffix, name = SITES[site]
        axes = ("layer", "kv_head" if "kv_head" in data[f"mean{suffix}"].dims else "head")
        causal = data[f"mean{suffix}"].transpose(*axes).values
        name = name if asked != ["z"] else f"causal effect, mean of {data.sizes['pair']} pairs"
        maps.append((name, axes[1], causal, np.abs(causal) <= floor, data[f"marked{suffix}"].transpose(*axes).values))
    if attribution is not None:
        written = attributed_heads(attribution, maps[asked.index("z")][2].shape)
        maps.insert(asked.index("z") + 1, (f"attribution, mean of {attribution.data.sizes['pair']} pairs", "head", written,
                                           np.abs(written) <= float(attribution.noise_floor or 0.0), None))
    columns = 2 if len(maps) == 4 else min(SIDE_BY_SIDE, len(maps))
    rows, layers = -(-len(maps) // columns), len(maps[0][2])
    height = 120 + rows * (50 + min(26 * layers, 460))
    drawn = figure(_title(result, asked, attribution is not None), height=height)
    drawn.set_subplots(rows=rows, cols=columns, horizontal_spacing=0.08, vertical_spacing=50 / height)
    reach = reach_of(*(values for _, _, values, _, _ in maps))
    for number, (name, axis, values, noise, marked) in enumerate(maps):
        row, column = number // columns + 1, number % columns + 1
        called, about = ("head", name.split(",")[0]) if axis == "head" else ("key head", name)
        traces = cell_traces(values, reach=reach, noise=noise, marked=marked, missing="no such head", xgap=1, ygap=1,
                             unit="reward", showscale=number == 0,
                             hovertemplate=f"layer %{{y}}, {called} %{{x}}: %{{z:.4g}}<extra>{about}</extra>")
        add_once(drawn, traces, row=row, col=column)
        heads = values.shape[1]
        drawn.update_xaxes(row=row, col=column, title_text=called, showgrid=False, dtick=1 if heads <= 16 else None,
                           zeroline=False, range=[-0.5, heads - 0.5])
        drawn.update_yaxes(row=row, col=column, title_text="layer" if column == 1 else None)
    drawn.update_yaxes(showgrid=False, dtick=1 if layers <= 24 else None, zeroline=False, range=[layers - 0.5, -0.5])
    panel_titles(drawn, [(name,) for name, *_ in maps], height)
    return drawn


def _asked(result: Result, sites: Sequence[str] | None, beside: bool) -> list[str]:
    """The sites to draw; refuses those that the result does not hold, and an attribution without the outputs beside it."""
    held = [site for site, (suffix, _) in SITES.items() if f"effect{suffix}" in result.data]
    asked = list(sites) if sites is not None else held or ["z"]
    unknown = [site for site in asked if site not in SITES]
    if unknown or not asked:
        raise RewardenError(f"no map of heads of the sites {unknown or asked}", where="plots.patch_heads(sites=)",
                            why=f"heads have the sites {list(SITES)}", fix=f"choose out of {held or list(SITES)}")
    if beside and "z" not in asked:
        raise RewardenError(f"attribution is compared with z, not with {asked}", where="plots.patch_heads(attribution=)",
                            why="it is what a head's output writes", fix='patch with sites that include "z", or leave it out')
    for site in asked:
        need(result, f"effect{SITES[site][0]}", "plots.patch_heads", fix=f'patch with sites that include "{site}"'
             + (f", or draw sites={tuple(held)}" if held else ""))
    return asked


def _title(result: Result, asked: Sequence[str], beside: bool) -> str:
    """What is seen, in words."""
    if list(asked) == ["z"]:
        return f"Effect of each head's output {source_of(result)}" + (", beside what it writes" if beside else "")
    what = " and ".join(", ".join(SITES[site][1].split(" ")[0] for site in asked).rsplit(", ", 1))
    return f"Effect of each head's {what} {source_of(result)}, mean of {result.data.sizes['pair']} pairs"


def attributed_heads(attribution: Result, shape: tuple[int, int]) -> np.ndarray:
    """Mean contribution of each head to the margin, [layer, head]; NaN where the attribution has none.

    Args:
        attribution: an attribution result whose coordinate `kind` marks heads.
        shape: layers and heads of the map.
    """
    data = attribution.data
    rows = np.flatnonzero(data["kind"].values == "head")
    layer, head = data["layer"].values[rows].astype(int), data["head"].values[rows].astype(int)
    values = np.full((max(shape[0], layer.max(initial=-1) + 1), max(shape[1], head.max(initial=-1) + 1)), np.nan)
    values[layer, head] = data["mean"].values[rows]
    return values[: shape[0], : shape[1]]
