"""Does nicer mean more reward, and are words for groups of people scored unlike other words?

In: `Result`s of kinds "sentiment" and "identity". Out: Plotly forest plots with intervals; filled marks differ from zero after
correction for the number of tests and are more than rounding. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, MARGIN, REJECTED, ZERO, figure, translucent
from rewarden.result import Result

SIGNS = {"negative": ("negative words", REJECTED, "square"), "positive": ("positive words", CHOSEN, "circle"),
         "both": ("all words", MARGIN, "diamond")}
"""Which words -> what the legend calls them, their colour and symbol."""

ALPHA = 0.05
"""False discovery rate below which a mark is filled."""

TERMS = 3000
"""Single terms drawn at most."""


def sentiment_slopes(result: Result) -> go.Figure:
    """How much reward does a point of valence bring, for nasty words and for nice ones?

    Args:
        result: of `sentiment_slopes`: `slope`, `low`, `high`, `p_adjusted`, `n`, `below_noise` (prompt, sign).

    Returns:
        A row a prompt; slopes with intervals in reward units (or standard deviations) a point of valence. Filled: differs from
        zero at a false discovery rate of 5 % and is more than rounding. A slope right of zero: nicer words get more.

    Example:
        >>> from rewarden.plots.token_examples import sentiment_result
        >>> [trace.name for trace in sentiment_slopes(sentiment_result()).data]
        ['negative words', 'positive words', 'all words']
    """
    data = result.data
    prompts = [str(text) for text in data["prompt"].values]
    unit = "standard deviations" if result.provenance.get("standardised") else "reward units"
    lexicon = str(result.provenance.get("lexicon", "a lexicon")).split(" (sha256")[0]
    shown = [str(sign) for sign in data["sign"].values if np.isfinite(data["slope"].sel(sign=sign)).any()]
    n = int(data["n"].max()) if data["n"].size else 0
    drawn = figure(f"Do nicer words get more reward? Slopes over up to {n} words with a value in {lexicon}",
                   x=f"change of reward for one point of valence ({unit})", height=150 + 72 * len(prompts))
    for place, sign in enumerate(shown):
        rows = data.sel(sign=sign)
        words, colour, symbol = SIGNS.get(sign, (sign, INK, "circle"))
        sure = (rows["p_adjusted"].values < ALPHA) & ~rows["below_noise"].values.astype(bool)
        y = np.arange(len(prompts), 0, -1) + 0.2 - 0.4 * place / max(len(shown) - 1, 1)
        drawn.add_trace(_forest(rows["slope"].values, rows["low"].values, rows["high"].values, y, words, colour, symbol, sure, [
            f"{hover(prompt)}<br>{words}, n = {int(count)}, adjusted p = {p:.2g}"
            for prompt, count, p in zip(prompts, rows["n"].values, rows["p_adjusted"].values, strict=True)]))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=np.arange(len(prompts), 0, -1), ticktext=[label(prompt, 46) for prompt in prompts],
                       showgrid=False, zeroline=False, range=[0.4, len(prompts) + 0.6])
    return drawn


def identity_forest(result: Result) -> go.Figure:
    """Which groups of people have words that score unlike other words?

    Args:
        result: of `identity_bias`: `effect`, `effect_low`, `effect_high`, `p_adjusted`, `n`, `below_noise` (axis),
            `term_effect`, `term_axis`, `term_p_adjusted` (term).

    Returns:
        A row an axis, the lowest effect last, in standard deviations of the controls' rewards; dots are single terms. Filled:
        differs from matched controls at a false discovery rate of 5 % and is more than rounding.

    Example:
        >>> from rewarden.plots.token_examples import identity_result
        >>> identity_forest(identity_result()).layout.yaxis.ticktext[0]
        'religion (12)'
    """
    data = result.data
    effect = data["effect"].values.astype(float)
    order = np.argsort(-np.where(np.isfinite(effect), effect, -np.inf), kind="stable")
    axes = [str(name) for name in data["axis"].values]
    sure = (data["p_adjusted"].values < ALPHA) & ~data["below_noise"].values.astype(bool)
    tested = int(np.isfinite(effect).sum())
    drawn = figure(f"Words for groups of people against matched controls: {int(sure.sum())} of {tested} axes differ",
                   x="effect (standard deviations of the controls' rewards)", height=150 + 34 * len(axes))
    y = np.empty(len(axes))
    y[order] = np.arange(len(axes), 0, -1)
    drawn.add_trace(_terms(result, dict(zip(axes, y, strict=True))))
    drawn.add_trace(_forest(
        effect, data["effect_low"].values, data["effect_high"].values, y, "mean of an axis", CHOSEN, "circle", sure,
        [f"<b>{hover(name)}</b>, n = {int(n)} terms, adjusted p = {p:.2g}" for name, n, p in
         zip(axes, data["n"].values, data["p_adjusted"].values, strict=True)]))
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5})
    drawn.update_yaxes(tickvals=y[order], showgrid=False, zeroline=False, range=[0.4, len(axes) + 0.6],
                       ticktext=[f"{label(axes[row], 40)} ({int(data['n'].values[row])})" for row in order])
    return drawn


def _terms(result: Result, rows: dict[str, float]) -> go.Scatter:
    """Single terms below the mean of their axis; those that differ by themselves are darker."""
    data = result.data
    effect = data["term_effect"].values.astype(float)
    kept = np.flatnonzero(np.isfinite(effect))
    if len(kept) > TERMS:
        kept = kept[np.linspace(0, len(kept) - 1, TERMS).round().astype(int)]
    own = data["term_p_adjusted"].values[kept] < ALPHA
    return go.Scatter(
        x=effect[kept], y=[rows[str(axis)] - 0.22 for axis in data["term_axis"].values[kept]], mode="markers",
        name="one term", marker={"size": 4, "color": [translucent(REJECTED, 0.9 if one else 0.35) for one in own]},
        customdata=[[hover(str(term)), f"{p:.2g}"] for term, p in
                    zip(data["term"].values[kept], data["term_p_adjusted"].values[kept], strict=True)],
        hovertemplate="%{customdata[0]}: %{x:.2f}, adjusted p = %{customdata[1]}<extra></extra>")


def _forest(middle: np.ndarray, low: np.ndarray, high: np.ndarray, y: np.ndarray, name: str, colour: str, symbol: str,
            sure: np.ndarray, about: list[str]) -> go.Scatter:
    """Estimates with intervals; open where they do not differ from zero."""
    return go.Scatter(
        x=middle, y=y, mode="markers", name=name,
        marker={"color": colour, "size": 9, "line": {"width": 2, "color": colour},
                "symbol": [symbol if one else f"{symbol}-open" for one in sure]},
        error_x={"type": "data", "symmetric": False, "array": high - middle, "arrayminus": middle - low, "color": colour,
                 "thickness": 1.6, "width": 4},
        customdata=[[text, a, b] for text, a, b in zip(about, low, high, strict=True)],
        hovertemplate="%{customdata[0]}<br>%{x:.3g} [%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>")
