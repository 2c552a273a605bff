"""Which tokens are at the ends of a vocabulary's rewards, and is one end longer than the other?

In: a scan `Result` (of one model, or the shared tokens of several) and its moments. Out: a table of extremes, and half violins.
Order, ranks and thinning are the only arithmetic; skews and their intervals are the moments Result's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.plots.distributions import thinned
from rewarden.plots.labels import hover, label, one_line
from rewarden.plots.theme import CHOSEN, INK, REJECTED, figure, translucent
from rewarden.plots.tokens_names import token_names, token_notes
from rewarden.result import Result

ENDS = (("best", -1), ("worst", 1))
"""Ends of the table: its columns' first word, and the sign that sorts it first."""

WRITTEN = 3
"""Tokens written out at each end of a violin."""

LONGEST = 70
"""Characters of a prompt above its violin."""


def token_extremes(result: Result, prompt: int = 0, n: int = 20) -> pd.DataFrame:
    """The best and the worst tokens of a prompt side by side.

    Args:
        result: a scan, `reward` (prompt, token).
        prompt: number of the prompt.
        n: rows.

    Returns:
        For the best and the worst: `… rank` (from that end; equal rewards share the best rank among them), `… token`,
        `… reward`, `… notes` ("special", "bytes", "trimmed", "not itself as text", "tied with 2": other tokens with exactly
        this reward). Tokens without a finite reward have no rank.

    Example:
        >>> from rewarden.plots.token_examples import scan_result
        >>> list(token_extremes(scan_result(), n=2).columns)[:4]
        ['best rank', 'best token', 'best reward', 'best notes']
    """
    data = result.data
    reward = data["reward"].values[prompt].astype(np.float64)
    rows = np.flatnonzero(np.isfinite(reward))
    columns: dict[str, object] = {}
    for end, sign in ENDS:
        order = rows[np.argsort(sign * reward[rows], kind="stable")[:n]]
        picked = data.isel(token=order)
        others = [int((reward == value).sum()) - 1 for value in reward[order]]
        notes = [", ".join(filter(None, [note, f"tied with {count}" if count else ""]))
                 for note, count in zip(token_notes(picked), others, strict=True)]
        columns |= {f"{end} rank": np.searchsorted(np.sort(sign * reward[rows]), sign * reward[order]) + 1,
                    f"{end} token": token_names(picked), f"{end} reward": reward[order], f"{end} notes": notes}
    return pd.DataFrame(columns)


def token_distribution(scores: Result, moments: Result | None = None, *, prompt: int = 0) -> go.Figure:
    """How are the rewards of a vocabulary distributed, and is one tail longer?

    Args:
        scores: a scan, `reward` (prompt, token), or shared tokens of several models, `reward` (model, prompt, token).
        moments: of the same scores, kind "moments"; its skewness and tail asymmetry go into the labels.
        prompt: of several models, the prompt that is drawn.

    Returns:
        A half violin a prompt, in reward units; or a model, in standard deviations from its mean, as models differ in their
        units. The outermost tokens are written out.

    Example:
        >>> from rewarden.plots.token_examples import moments_result, scan_result
        >>> token_distribution(scan_result(), moments_result()).layout.xaxis.title.text
        'reward'
    """
    data = scores.data
    models = "model" in data["reward"].dims
    table = data["reward"].isel(prompt=prompt) if models else data["reward"]
    first = "model" if models else "prompt"
    values = table.transpose(first, "token").values.astype(np.float64)
    named = [str(name) for name in data[first].values]
    skew = _measure(moments, "skewness", models, prompt, named)
    tails = _tails(moments, models, prompt, named)
    drawn = figure(_title(data.sizes["token"], skew, "models" if models else "prompts"), height=110 + 126 * len(named),
                   x="reward (standard deviations from the model's mean)" if models else "reward", showlegend=False)
    names = token_names(data)
    for row, (name, reward) in enumerate(zip(named, values, strict=True)):
        y = len(named) - row
        if models:
            reward = (reward - np.nanmean(reward)) / (np.nanstd(reward) or 1.0)
        drawn.add_trace(go.Violin(
            x=thinned(reward).astype(np.float32), y0=y, orientation="h", side="positive", name=label(name, 60),
            line={"color": CHOSEN, "width": 1.5}, fillcolor=translucent(CHOSEN, 0.3), points=False, width=1.1, spanmode="hard",
            meanline={"visible": True}, hoveron="violins", scalemode="width"))
        drawn.add_trace(_written(reward, names, y))
        drawn.add_annotation(text=hover(_line(name, row, skew, tails), width=10_000), x=0, xref="paper", y=y + 0.76,
                             xanchor="left", yanchor="top", showarrow=False, font={"size": 12})
    drawn.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, range=[0.7, len(named) + 0.8])
    return drawn


def _measure(moments: Result | None, name: str, models: bool, prompt: int, rows: list[str]) -> np.ndarray | None:
    """[row, (value, low, high)] of one moment; None where there is none."""
    if moments is None:
        return None
    data: xr.Dataset = moments.data
    known = [str(moment) for moment in data["moment"].values]
    if name not in known:
        return None
    data = data.isel(moment=known.index(name))
    if models:
        data = data.isel(prompt=prompt)
    first = "model" if models else "prompt"
    if [str(row) for row in data[first].values] != rows:
        raise RewardenError("these moments are of other scores", where="plots.token_distribution",
                            why=f"they are of {[str(row) for row in data[first].values]}, the scores of {rows}",
                            fix="pass moments(scores)")
    return np.stack([data[part].values for part in ("value", "low", "high")], -1)


def _tails(moments: Result | None, models: bool, prompt: int, rows: list[str]) -> tuple[float, np.ndarray] | None:
    """Share and [row, (value, low, high)] of the first tail asymmetry there is."""
    known = [] if moments is None else [str(name) for name in moments.data["moment"].values]
    for name in known:
        if name.startswith("tail asymmetry "):
            found = _measure(moments, name, models, prompt, rows)
            return None if found is None else (float(name.removeprefix("tail asymmetry ")), found)
    return None


def _title(n: int, skew: np.ndarray | None, rows: str) -> str:
    """The finding, where moments say one."""
    if skew is None:
        return f"How are the rewards of {n} tokens distributed?"
    right, left = int((skew[:, 1] > 0).sum()), int((skew[:, 2] < 0).sum())
    sides = ((right, "high rewards"), (left, "low rewards"))
    words = [f"{count} of {len(skew)} {rows} skewed to {side}" for count, side in sides if count]
    return f"Rewards of {n} tokens: {' and '.join(words) or f'no skew in any of {len(skew)} {rows}'}"


def _line(name: str, row: int, skew: np.ndarray | None, tails: tuple[float, np.ndarray] | None) -> str:
    """What is written above a violin."""
    shown = one_line(name)
    parts = [shown if len(shown) <= LONGEST else shown[:LONGEST - 1] + "…"]
    if skew is not None:
        parts.append(f"skewness {_interval(skew[row])}")
    if tails is not None and np.isfinite(tails[1][row, 0]):
        parts.append(f"log ratio of the outer {100 * tails[0]:g} % tails {_interval(tails[1][row])}")
    return " · ".join(parts)


def _interval(values: np.ndarray) -> str:
    value, low, high = (f"{abs(item):.2f}" if item >= 0 or abs(item) < 0.005 else f"−{abs(item):.2f}" for item in values)
    return f"{value} [{low}, {high}]"


def _written(reward: np.ndarray, names: list[str], y: float) -> go.Scatter:
    """The outermost tokens below their violin, the name of the furthest at each end written out."""
    rows = np.flatnonzero(np.isfinite(reward))
    order = rows[np.argsort(reward[rows], kind="stable")]
    low, high = order[:WRITTEN], order[max(WRITTEN, len(order) - WRITTEN):]
    picked = np.concatenate([low, high])
    text = [""] * len(picked)
    if len(low):
        text[0] = ", ".join(label(names[row], 14) for row in low)
    if len(high):
        text[-1] = ", ".join(label(names[row], 14) for row in high[::-1])
    return go.Scatter(
        x=reward[picked], y=np.full(len(picked), y - 0.06), mode="markers+text", text=text, hoverinfo="text",
        hovertext=[f"{hover(names[row])}: {reward[row]:.4g}" for row in picked], textfont={"size": 12, "color": INK},
        marker={"size": 5, "color": REJECTED},
        textposition=["bottom right"] * len(low) + ["bottom left"] * len(high), cliponaxis=False)
