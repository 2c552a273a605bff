"""How far do models agree on which tokens are good, and which models are alike?

In: `Result`s of kinds "rank_agreement" and "model_map". Out: Plotly figures. Nothing is estimated here; the mean of a matrix'
pairs is the only arithmetic.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.plots.cells import NOISE
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, DIVERGING, INK, figure
from rewarden.plots.tokens_names import model_names
from rewarden.result import Result

MEASURES = {"tau": "Kendall's τ-b", "spearman": "Spearman's ρ", "weighted_tau": "weighted τ", "rbo": "rank-biased overlap",
            "overlap": "overlap"}
"""What a reader sees for each measure."""


FEW = 4
"""Models up to which their names are written level below the matrix."""

HEIGHT = 480
SIDES = {"top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0)}
"""Where a name can stand, and the way from its point."""


def agreement_heatmap(result: Result, measure: str = "tau", *, prompt: int = 0, end: str = "top", k: int | None = None
                      ) -> go.Figure:
    """How far does each model agree with each other one?

    Args:
        result: of `rank_agreement`: measures (prompt, …, model, other), where they exist with `_low` and `_high`.
        measure: "tau", "spearman", "weighted_tau", "rbo" or "overlap".
        prompt: number of the prompt.
        end: for measures of one end: "top" (best tokens) or "bottom".
        k: for "overlap", how many of the first tokens; the fewest by default.

    Returns:
        A matrix with its numbers; intervals and n in the hover; grey: within what ties and rounding leave open. The title has
        the mean over pairs of models and their range.

    Example:
        >>> from rewarden.plots.token_examples import rank_agreement_result
        >>> agreement_heatmap(rank_agreement_result()).data[0].zmax
        1.0
    """
    data = _one(result, measure, prompt, end, k)
    values = data[measure].transpose("model", "other").values.astype(float)
    models = [str(name) for name in data["model"].values]
    apart = ~np.eye(len(models), dtype=bool)
    pairs = values[np.triu(apart)]
    pairs = pairs[np.isfinite(pairs)]
    n = int(data["n"])
    found = (f"mean {_two(pairs.mean())}, from {_two(pairs.min())} to {_two(pairs.max())}" if len(pairs) > 1 else
             _interval(data, measure, 0, 1) if len(pairs) else "not defined")
    where = f" at the {end}" if "end" in result.data[measure].dims else ""
    length = f", first {int(data['k'])}" if "k" in result.data[measure].dims else ""
    noun = "tokens" if "prompt" in data.coords and str(data["prompt"].values) else "items"
    drawn = figure(f"Agreement of {len(models)} models on {n} {noun}: {MEASURES.get(measure, measure)}{where}{length}, {found}",
                   height=150 + 46 * max(len(models), 3))
    text = [[_two(value) if np.isfinite(value) and off else "" for value, off in zip(row, places, strict=True)]
            for row, places in zip(values, apart, strict=True)]
    drawn.add_trace(go.Heatmap(
        z=np.where(apart, values, np.nan), x=np.arange(len(models)), y=np.arange(len(models)), zmin=-1.0, zmax=1.0,
        colorscale=DIVERGING, text=text, texttemplate="%{text}", xgap=1, ygap=1, hoverongaps=False,
        colorbar={"title": {"text": MEASURES.get(measure, measure)}, "thickness": 12},
        customdata=_about(data, measure, models, n), hovertemplate="%{customdata}<extra></extra>"))
    if "below_noise" in data and measure == "tau" and (quiet := data["below_noise"].values & apart).any():
        drawn.add_trace(go.Heatmap(z=np.where(quiet, 1.0, np.nan), x=np.arange(len(models)), y=np.arange(len(models)),
                                   hoverinfo="skip", showscale=False, colorscale=[[0, NOISE], [1, NOISE]], xgap=1, ygap=1))
    names = [label(name, 30) for name in model_names(models)]
    drawn.update_xaxes(tickvals=np.arange(len(models)), ticktext=names, showgrid=False, zeroline=False,
                       tickangle=-30 if len(models) > FEW else 0)
    drawn.update_yaxes(tickvals=np.arange(len(models)), ticktext=names, showgrid=False, zeroline=False, autorange="reversed")
    return drawn


def model_map(result: Result, *, prompt: int = 0, end: str = "top", k: int | None = None) -> go.Figure:
    """Which models are alike?

    Args:
        result: of `model_map`: `position` (…, model, axis), `stress` (…), `distance`, `fitted` (…, model, other).
        prompt: number of the prompt, where there are several maps.
        end, k: of a measure that has them.

    Returns:
        A point a model; distances are 1 − agreement, the same on both axes, which have no meaning of their own. The hover
        has each model's nearest neighbour, given and on the map. The title has the stress.

    Example:
        >>> from rewarden.plots.token_examples import model_map_result
        >>> "stress 0.04" in model_map(model_map_result()).layout.title.text
        True
    """
    data = _one(result, "position", prompt, end, k)
    places = data["position"].transpose("model", "axis").values
    models = [str(name) for name in data["model"].values]
    x, y = places[:, 0], places[:, 1] if places.shape[1] > 1 else np.zeros(len(places))
    measure = str(result.provenance.get("measure", "agreement"))
    stress, names = float(data["stress"]), model_names(models)
    poor = ", a poor fit" if stress > 0.2 else ""
    drawn = figure(f"Which of {len(models)} models are alike? Distance = 1 − {MEASURES.get(measure, measure)} "
                   f"(stress {_two(stress)}{poor})", x="distance", y="distance", height=HEIGHT, showlegend=False)
    drawn.add_trace(go.Scatter(
        x=x, y=y, mode="markers+text", text=[label(name, 30) for name in names], textposition=_sides(x, y, names),
        marker={"color": CHOSEN, "size": 11, "line": {"width": 1, "color": INK}}, textfont={"size": 12}, cliponaxis=False,
        customdata=[_neighbour(data, row, models) for row in range(len(models))], hovertemplate="%{customdata}<extra></extra>"))
    reach = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    middle = [(float(side.max()) + float(side.min())) / 2 for side in (x, y)]
    for update, centre in ((drawn.update_xaxes, middle[0]), (drawn.update_yaxes, middle[1])):
        update(range=[centre - 0.62 * reach, centre + 0.62 * reach], zeroline=False)
    if places.shape[1] > 1:
        drawn.update_yaxes(scaleanchor="x", scaleratio=1)
    else:
        drawn.update_yaxes(visible=False)
        drawn.update_layout(height=HEIGHT // 2)
    return drawn


def _sides(x: np.ndarray, y: np.ndarray, names: list[str]) -> list[str]:
    """On which side of its point each name covers the least of the others."""
    scale = HEIGHT / (1.6 * max(float(np.ptp(x)), float(np.ptp(y)), 1e-9))  # pixels a unit of distance, about
    points = np.stack([x, y], 1) * scale
    boxes = [(point, np.array([8.0, 8.0])) for point in points]
    chosen = []
    for point, name in zip(points, names, strict=True):
        half = np.array([3.6 * len(name), 9.0])
        middles = {side: point + (half + 12) * way for side, way in SIDES.items()}
        covered = {side: sum(float(np.clip(half + size - np.abs(middle - other), 0, None).prod()) for other, size in boxes)
                   for side, middle in middles.items()}
        side = min(covered, key=lambda name: covered[name])
        boxes.append((middles[side], half))
        chosen.append(side)
    return chosen


def _one(result: Result, name: str, prompt: int, end: str, k: int | None) -> xr.Dataset:
    """The Result at one prompt, end and length, as far as the variable has these axes."""
    if name not in result.data:
        raise RewardenError(f"this result has no {name!r}", where="plots", why=f"it holds {sorted(map(str, result.data))}",
                            fix="pass one of these names")
    data, dims = result.data, result.data[name].dims
    try:
        if "prompt" in dims:
            data = data.isel(prompt=prompt)
        if "end" in dims:
            data = data.sel(end=end)
        if "k" in dims:
            data = data.isel(k=0) if k is None else data.sel(k=k)
    except (KeyError, IndexError) as error:
        raise RewardenError(f"nothing of prompt {prompt}, end {end!r}, k={k}", where="plots",
                            why=f"the result has {dict(result.data.sizes)}", fix="pass a prompt, end and k it has") from error
    return data


def _about(data: xr.Dataset, measure: str, models: list[str], n: int) -> list[list[str]]:
    """What the hover says of each pair."""
    return [[f"{hover(first)}<br>{hover(second)}<br>{_interval(data, measure, i, j)}, n = {n}"
             for j, second in enumerate(models)] for i, first in enumerate(models)]


def _interval(data: xr.Dataset, measure: str, i: int, j: int) -> str:
    """The agreement of a pair, with its interval where there is one."""
    value, *ends = (_two(float(data[name].isel(model=i, other=j))) for name in
                    (measure, f"{measure}_low", f"{measure}_high") if name in data)
    return f"{value} [{ends[0]}, {ends[1]}]" if ends else value


def _neighbour(data: xr.Dataset, row: int, models: list[str]) -> str:
    """A model and the one nearest to it, with both distances."""
    if "distance" not in data or len(models) < 2:
        return hover(models[row])
    given = np.where(np.arange(len(models)) == row, np.inf, data["distance"].values[row])
    near = int(np.argmin(given))
    return (f"<b>{hover(models[row])}</b><br>nearest: {hover(models[near])}, distance {given[near]:.3f}, "
            f"on the map {data['fitted'].values[row, near]:.3f}")


def _two(value: float) -> str:
    text = f"{abs(value):.2f}"
    return "—" if not np.isfinite(value) else ("−" if value < 0 and float(text) else "") + text
