"""How sure is a rank correlation, also over a whole vocabulary?

In: two readings of the same items. Out: Spearman's rho or tau-b with bootstrap intervals over items or clusters of them, by
ranking every resample anew or by each item's part in the statistic. Ignorant of what the items are.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rewarden.statistics import Interval, bootstrap_interval
from rewarden.tokens.comparison.concordance import Order, concordance, order_of

RERANKED = 500
"""Items up to which every resample of a rank correlation is ranked anew; the linearised interval is too narrow below 100."""


def rank_terms(x: np.ndarray, y: np.ndarray, kind: Literal["rho", "tau"] = "rho") -> np.ndarray:
    """Each item's part in a rank correlation: the mean is the statistic, the deviations are its influence values.

    Resampling this mean in place of ranking every resample anew makes an interval over 100,000 tokens a matter of seconds.

    Args:
        x, y: finite, [item].
        kind: "rho" (Spearman's, mean ranks for ties) or "tau" (Kendall's tau-b).

    Returns:
        float [item]; NaN where a side is constant.

    Source: Hampel et al. 1986, Robust Statistics, §2.1 (influence functions); Davison & Hinkley 1997, §2.7.

    Example:
        >>> x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
        >>> float(rank_terms(x, y).mean().round(6)), float(rank_terms(x, y, "tau").mean().round(6))
        (0.8, 0.666667)
    """
    first, second = order_of(x), order_of(y)
    if len(x) == 0 or first.same[0] == len(x) or second.same[0] == len(x):
        return np.full(len(x), np.nan)
    # each: terms of the numerator and of the two spreads, all U-statistics: influence = order · (term − mean)
    top, left, right = (_spearman_parts if kind == "rho" else _tau_parts)(first, second)
    spread = np.sqrt(left.mean() * right.mean())
    estimate, order = top.mean() / spread, 3 if kind == "rho" else 2
    return estimate + order * (top / spread - estimate / 2 * (left / left.mean() + right / right.mean()))


def rank_interval(x: np.ndarray, y: np.ndarray, kind: Literal["rho", "tau"] = "rho", *, clusters: Any = None,
                  level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Rank correlations with BCa bootstrap intervals over items, also for a whole vocabulary.

    Up to `RERANKED` items every resample is ranked anew; above, the mean of `rank_terms` is resampled.

    Args:
        x: finite, [item].
        y: finite, [item] or [item, column].
        kind: "rho" or "tau", see `rank_terms`.
        clusters: one id per item; clusters are drawn whole.
        level, n_resamples, seed: as for `bootstrap_interval`.

    Returns:
        Interval, over the columns where there are some; NaN where a side is constant.

    Example:
        >>> x = np.arange(20.0)
        >>> found = rank_interval(x, np.stack([x, -x], 1), "tau", n_resamples=100)
        >>> found.estimate.round(6).tolist(), found.n.tolist()
        ([1.0, -1.0], [20, 20])
    """
    columns = np.asarray(y, np.float64).reshape(len(x), -1)
    options = {"clusters": clusters, "level": level, "n_resamples": n_resamples, "seed": seed}
    if len(x) <= RERANKED:
        def statistic(values: np.ndarray, axis: int = 0) -> np.ndarray:
            return np.asarray([rank_terms(values[:, 0], column, kind).mean() for column in values.T])

        found = bootstrap_interval(np.column_stack([x, columns]), statistic=statistic, **options)
        ends = [value[1:] for value in (found.estimate, found.low, found.high)]
    else:
        found = bootstrap_interval(np.stack([rank_terms(x, column, kind) for column in columns.T], 1), **options)
        ends = [found.estimate, *(np.clip(end, -1.0, 1.0) for end in (found.low, found.high))]
    n, pick = np.full(columns.shape[1], len(x)), 0 if np.ndim(y) == 1 else slice(None)
    units = n if clusters is None else np.full(len(n), len(np.unique(clusters)))
    name = f"{'Spearman' if kind == 'rho' else 'tau-b'}, {found.method}{'' if len(x) <= RERANKED else ', linearised'}"
    estimate, low, high = (value[pick] for value in ends)
    return Interval(estimate, low, high, level, n[pick], name, units[pick], n[pick] * 0)


def _spearman_parts(x: Order, y: Order) -> tuple[np.ndarray, ...]:
    """Per item a third of (its product + what it does to the others' ranks), for covariance and both variances."""
    f, g = (side.less + (side.same - len(side.rank)) / 2 for side in (x, y))  # mean ranks, centred

    def shifted(side: Order, weight: np.ndarray) -> np.ndarray:
        """Sum of the weights of items above, those level counted half: what one more item here adds to their ranks."""
        sums = np.bincount(side.rank, weight)
        return (weight.sum() - np.cumsum(sums) + sums / 2)[side.rank]

    return (f * g + shifted(x, g) + shifted(y, f)) / 3, (f * f + 2 * shifted(x, f)) / 3, (g * g + 2 * shifted(y, g)) / 3


def _tau_parts(x: Order, y: Order) -> tuple[np.ndarray, ...]:
    """Per item: concordant minus discordant others, and others that differ in x and in y."""
    return concordance(x, y).astype(np.float64), 1.0 * (len(x.rank) - x.same), 1.0 * (len(y.rank) - y.same)
