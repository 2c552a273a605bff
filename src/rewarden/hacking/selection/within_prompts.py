"""How do numbers of samples vary together within their prompts?

In: a `ScoreTable` and numbers of its samples; what is not finite is left out, feature by feature. Out: sums, covariances and
standard deviations by prompt. Ignorant of what the numbers mean. Letters: N samples, P prompts, F features, T selections.
"""

from __future__ import annotations

import numpy as np

from rewarden.hacking.selection.candidates import ScoreTable

ROUNDING = 1e-12
"""Share of the largest value up to which a difference is rounding."""


def prompt_sums(values: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Sums over the samples of each prompt, [P, ...] of [N, ...]."""
    order = np.argsort(table.of, kind="stable")
    return np.add.reduceat(values[order], np.r_[0, np.cumsum(table.sizes)[:-1]], axis=0)


def centred(values: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Values [N, ...] less the mean of their prompt; what is not finite is NaN, and no part of the mean.

    What rounding leaves of values that are equal is 0.
    """
    known = np.isfinite(values)
    held = values if known.all() else np.where(known, values, 0.0)
    with np.errstate(invalid="ignore"):
        means = prompt_sums(held, table) / prompt_sums(known.astype(np.float64), table)
    found = np.where(known, values, np.nan) - means[table.of]
    return np.where(np.abs(found) <= ROUNDING * np.abs(held).max(axis=0, initial=0.0), 0.0, found)


def covariances(x: np.ndarray, y: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Unbiased covariances within each prompt, [P, F] of x [N, F] and y [N] or [N, F].

    Samples of which one number is not finite are left out, feature by feature; NaN where fewer than two are left.
    """
    x, y = np.broadcast_arrays(x, y.reshape(len(y), -1))
    known = np.isfinite(x) & np.isfinite(y)
    products = np.multiply(*(centred(np.where(known, one, np.nan), table) for one in (x, y)))
    count = prompt_sums(known.astype(np.float64), table)
    return np.where(count > 1, prompt_sums(np.where(known, products, 0.0), table) / np.maximum(count - 1, 1), np.nan)


def within_sd(values: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Standard deviation within prompts, prompts counting alike, [F] of values [N, F]; NaN without two numbers of a prompt.

    Example:
        >>> table = ScoreTable.read(np.array([[0.0, 2.0], [5.0, 7.0]]))
        >>> within_sd(table.proxy[:, None], table).round(6).tolist()
        [1.414214]
    """
    return np.sqrt(mean_known(covariances(values, values, table)))


def known_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means [T, F] of values [m, F] under weights [T, m], over the samples whose number is finite; NaN without any."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return weights @ np.where(known, values, 0.0) / (weights @ known)


def gaps(names: list[str], values: np.ndarray) -> list[str]:
    """What is said of features [N, F] that some samples lack: one note, or none."""
    missing = (~np.isfinite(values)).sum(axis=0)
    told = [f"{name} ({count})" for name, count in zip(names, missing, strict=True) if count]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    return [f"samples without a finite number are left out of a feature: {', '.join(told[:5])}{more}"] if told else []


def mean_known(values: np.ndarray) -> np.ndarray:
    """Means over the prompts [P, F] that have a number."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)


def varying_prompts(values: np.ndarray, table: ScoreTable) -> np.ndarray:
    """How many prompts have samples that differ in each feature, [F] of values [N, F]."""
    order, starts = np.argsort(table.of, kind="stable"), np.r_[0, np.cumsum(table.sizes)[:-1]]
    held = np.where(np.isfinite(values), values, np.nan)[order]
    return (np.fmax.reduceat(held, starts, axis=0) > np.fmin.reduceat(held, starts, axis=0)).sum(axis=0)
