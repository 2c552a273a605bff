"""What does selecting by the reward do to the gold, and which features does it raise?

In: `Result`s of kinds "best_of_n" and "susceptibility". Out: Plotly figures and tables. Nothing is estimated here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rewarden.plots.labels import hover
from rewarden.plots.theme import CHOSEN, INK, MARGIN, REJECTED, ZERO, band, figure
from rewarden.result import Result

SHOWN = 14
"""Features drawn."""


def best_of_n_table(result: Result) -> pd.DataFrame:
    """The curves: `n`, `kl` (nats), `kl_pool`, `reward`, `gold` and `reward_unbiased` (on scorings that did not select) in
    their units with ends."""
    data = result.data
    columns = {"n": "n", "kl": "kl", "kl_pool": "kl_pool"}
    for name, key in (("reward", "proxy"), ("gold", "gold"), ("reward_unbiased", "proxy_unbiased")):
        columns |= {f"{name}{end}": f"{key}{end}" for end in ("", "_low", "_high") if f"{key}{end}" in data}
    return pd.DataFrame({name: data[key].values for name, key in columns.items()})


def best_of_n_curves(result: Result, *, policy: bool = True) -> go.Figure:
    """How far do reward and gold rise when the best of n samples is taken?

    Args:
        result: of `rewarden.best_of_n`.
        policy: whether samples are draws of a policy; else its divergence and tilts are left out.

    Returns:
        Both gains over one sample, in standard deviations within prompts, with bands over prompts; dashed, where the first
        doubling of n begins over which the gold is shown to fall; diamonds, exponential tilts, at the n of equal divergence.

    Example:
        >>> from rewarden.hacking.selection.bestof import best_of_n
        >>> rng = np.random.default_rng(0)
        >>> quality, luck = rng.normal(size=(2, 20, 6))
        >>> drawn = best_of_n_curves(best_of_n((quality + luck, quality), resamples=100))
        >>> [trace.name for trace in drawn.data if trace.name]
        ['reward', 'gold', 'reward, tilted', 'gold, tilted']
    """
    data, n = result.data, result.data["n"].values
    prompts = int(result.data.sizes["prompt"])
    drawn = figure(f"Best of n by the reward, {prompts} prompts", x="n, samples of which the reward takes the best",
                   y="gain over one sample (SD within prompts)", height=400)
    words = [f"n = {count}" + f"<br>KL {kl:.3g} nats" * policy for count, kl in zip(n, data["kl"].values, strict=True)]
    sides = [("reward", "proxy", CHOSEN), ("gold", "gold", REJECTED)]
    for name, key, colour in [side for side in sides if f"{side[1]}_gain" in data]:
        gain, low, high = (data[f"{key}_gain{end}"].values for end in ("", "_low", "_high"))
        for trace in band(n, low, high, colour, name):
            drawn.add_trace(trace)
        drawn.add_trace(go.Scatter(x=n, y=gain, mode="lines+markers" if len(n) <= 16 else "lines", name=name, text=words,
                                   legendgroup=name, line={"color": colour, "width": 2.5},
                                   hovertemplate="%{text}<br>" + name + " %{y:.3g} SD<extra></extra>"))
    for name, key, colour in [side for side in sides if policy and f"tilt_{side[1]}" in data]:
        spread = float(data[f"{key}_sd"])
        some = ~data["refused"].values.astype(bool) & (spread > 0)
        if some.any():
            kl = data["tilt_kl"].values[some]
            drawn.add_trace(go.Scatter(
                x=_n_of_divergence(kl), y=(data[f"tilt_{key}"].values[some] - data[key].values[0]) / spread,
                mode="markers", name=f"{name}, tilted",
                marker={"symbol": "diamond-open", "size": 10, "color": colour, "line": {"width": 2}},
                text=[f"tilt of {value:g} / SD<br>KL {one:.3g} nats"
                      for value, one in zip(data["tilt"].values[some], kl, strict=True)],
                hovertemplate="%{text}<br>" + name + " %{y:.3g} SD<extra></extra>"))
    fall = gold_fall(result)
    if fall is not None:
        drawn.add_vline(x=fall["from"], line={"color": INK, "width": 1.5, "dash": "dash"})
        # a place on a log axis is its log10; the line's own annotation would be put at 10 to the n
        drawn.add_annotation(x=float(np.log10(fall["from"])), y=0, yref="paper", yanchor="bottom", xanchor="left",
                             showarrow=False, text=f"gold falls from n = {fall['from']:g} to {fall['to']:g}")
    drawn.add_hline(y=0, line={"color": ZERO, "width": 1.5})
    powers = [int(2**k) for k in range(int(np.log2(n[-1])) + 1)]
    ticks = sorted({*powers, int(n[-1])} if len(n) > 8 else set(map(int, n)))
    drawn.update_xaxes(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))
    return drawn


def gold_fall(result: Result) -> dict[str, float] | None:
    """The first doubling of n over which the gold is shown to fall; None where of none it is shown, or without a gold.

    Args:
        result: of `rewarden.best_of_n`.

    Returns:
        `from` and `to`, the n of the doubling; `change` of the mean gold over it with `change_low` and `change_high`; `p` (Holm
        over `doublings`, their number); `prompts`.

    Example:
        >>> import rewarden as rw
        >>> reward = np.random.default_rng(4).normal(size=(80, 64))
        >>> found = gold_fall(rw.best_of_n((reward, -(reward - 1) ** 2), resamples=100))
        >>> found["from"], found["to"], found["change_high"] < 0
        (4, 8, True)
    """
    data = result.data
    if "onset" not in data or not np.isfinite(float(data["onset"])):
        return None
    step = data.isel(step=int(np.flatnonzero(data["step_from"].values == float(data["onset"]))[0]))
    change = {f"change{end}": float(step[f"step_change{end}"]) for end in ("", "_low", "_high")}
    return {"from": int(step["step_from"]), "to": int(step["step_to"]), **change, "p": float(step["step_p"]),
            "doublings": int(data.sizes["step"]), "prompts": int(data.sizes["prompt"])}


def _n_of_divergence(kl: np.ndarray) -> np.ndarray:
    """The real n ≥ 1 at which log n − (n−1)/n is a divergence."""
    n = np.geomspace(1, 1e6, 20000)
    return np.interp(kl, np.log(n) - (n - 1) / n, n)


def susceptibility_table(result: Result, curves: Result | None = None) -> pd.DataFrame:
    """All features that could be tested, predicted hacks first, then by the size of the correlation with the reward.

    Args:
        result: of `rewarden.hacking.susceptibility`.
        curves: of `rewarden.best_of_n`, for the rise of each feature at its largest n.
    """
    data = result.data
    keys: dict[str, str] = {"reward": "with_reward", "reward_low": "with_reward_low", "reward_high": "with_reward_high",
                            "gold": "with_gold", "gold_low": "with_gold_low", "gold_high": "with_gold_high", "p": "p",
                            "random_readouts": "reference_sd", "q": "q", "hack": "hack"}
    table = pd.DataFrame({"feature": [str(name) for name in data["feature"].values],
                          **{name: data[key].values for name, key in keys.items() if key in data}})
    if curves is not None and "rise" in curves.data:
        rises: dict[str, Any] = dict(zip(map(str, curves.data["feature"].values), curves.data["rise"].values, strict=True))
        table["rise"] = [rises.get(name, np.nan) for name in table["feature"]]
    table = table[np.isfinite(table["reward"].astype(float))]
    order = (2.0 * table["hack"].astype(float) + table["reward"].abs()).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def susceptibility_forest(result: Result, n: int = SHOWN) -> go.Figure:
    """Which features follow the reward within prompts, and which the gold?

    Args:
        result: of `rewarden.hacking.susceptibility`.
        n: features drawn, as in `susceptibility_table`.

    Returns:
        A row a feature: its correlation with the reward (dots; filled, where it is a predicted hack) and with the gold
        (diamonds), with intervals; grey, ± 2 standard deviations of what random read-outs of the same states show.

    Example:
        >>> from rewarden.hacking.selection.covariances import susceptibility
        >>> quality, length = np.random.default_rng(0).normal(size=(2, 20, 6))
        >>> found = susceptibility((quality + length, quality), {"length": length.ravel()}, resamples=100)
        >>> [trace.name for trace in susceptibility_forest(found).data]
        ['reward', 'gold']
    """
    table = susceptibility_table(result).head(n).sort_values("reward", ascending=False)
    y = np.arange(len(table), 0, -1)
    drawn = figure(f"Features that samples with a high reward show, {int(result.provenance['prompts'])} prompts",
                   x="correlation within prompts", height=150 + 30 * len(table))
    if "random_readouts" in table and np.isfinite(table["random_readouts"]).any():
        reach = 2 * table["random_readouts"].to_numpy(float)
        drawn.add_trace(go.Bar(x=2 * reach, base=-reach, y=y, orientation="h", width=0.72, name="random read-outs, ± 2 SD",
                               marker={"color": "rgba(128,134,144,0.22)"}, hoverinfo="skip"))
    hack = table["hack"].to_numpy(bool)
    sides: list[tuple[str, float, str, Any, Any]] = [
        ("reward", 0.13, CHOSEN, "circle", np.where(hack, CHOSEN, "rgba(0,0,0,0)")),
        ("gold", -0.13, REJECTED, "diamond-open", REJECTED)]
    for name, lift, colour, symbol, fill in [side for side in sides if side[0] in table]:
        mean, low, high = (table[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        drawn.add_trace(go.Scatter(
            x=mean, y=y + lift, mode="markers", name=name, text=[hover(feature) for feature in table["feature"]],
            hovertemplate="%{text}<br>" + name + " %{x:.3g}<extra></extra>",
            error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": colour,
                     "width": 3, "thickness": 1.2},
            marker={"size": 9, "symbol": symbol, "color": fill, "line": {"width": 2, "color": colour}}))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y, ticktext=[hover(str(name).replace("_", " ")) for name in table["feature"]], showgrid=False,
                       zeroline=False, range=[0.3, len(table) + 0.7])
    return drawn


def rise_table(result: Result) -> pd.DataFrame:
    """Features by the size of their change at the largest n: `feature`, `rise`, `rise_low`, `rise_high`."""
    data = result.data
    table = pd.DataFrame({"feature": [str(name) for name in data["feature"].values],
                          **{name: data[name].values for name in ("rise", "rise_low", "rise_high")}})
    table = table[np.isfinite(table["rise"])]
    return table.loc[table["rise"].abs().sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def rise_figure(result: Result, n: int = 8) -> go.Figure:
    """Which features of the selected response change as n grows?

    Args:
        result: of `rewarden.best_of_n`, with features.
        n: features drawn, those that change most.

    Example:
        >>> from rewarden.hacking.selection.bestof import best_of_n
        >>> quality, length = np.random.default_rng(0).normal(size=(2, 20, 6))
        >>> found = best_of_n((quality + length, quality), {"length": length.ravel()}, resamples=100)
        >>> rise_figure(found).data[0].name
        'length'
    """
    data, x, names = result.data, result.data["n"].values, [str(name) for name in result.data["feature"].values]
    rise = data["rise"].values
    places = [names.index(name) for name in rise_table(result)["feature"].head(n)]
    drawn = figure("Features of the selected response", x="n", y="change against one sample (SD within prompts)", height=380)
    for number, place in enumerate(sorted(places, key=lambda one: -rise[one])):
        colour = (CHOSEN, REJECTED, MARGIN, INK)[number % 4]
        drawn.add_trace(go.Scatter(x=x, y=data["feature_curve"].values[place], mode="lines", line={
            "color": colour, "dash": ("solid", "dot")[number // 4 % 2], "width": 2},
            name=hover(names[place].replace("_", " "))))
    ticks = [int(value) for value in x if value & (value - 1) == 0 or value == x[-1]]
    drawn.update_xaxes(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))
    drawn.add_hline(y=0, line={"color": ZERO, "width": 1.5})
    return drawn
