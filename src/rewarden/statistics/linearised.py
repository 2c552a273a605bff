"""How sure is an estimate, such as a change of accuracy, when items come in clusters? Its variance over clusters, linearised.

In: values of items and the cluster (prompt) of each, or the influence of each cluster on an estimate. Out: `Interval`s with
Student's t: closed forms that hold with a few dozen clusters. Ignorant of what is measured.
Letters: n items, K clusters, ψ the influence of a cluster on the estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from rewarden.statistics.intervals import Interval
from rewarden.statistics.sampling import cluster_codes

ADDED = 0.5**0.5
"""Size of each of the two parts of a pair that `change_interval` adds."""


def change_interval(before: Any, after: Any, clusters: Any = None, *, level: float = 0.95) -> Interval:
    """By how much an accuracy changed over the same pairs.

    Few pairs change sides, so that a plain interval is too sure of itself, and of no change at all has no width. Two parts of
    a pair are added, one gained and one lost, which together vary as much as one pair that changes sides.

    Args:
        before, after: 0, ½ or 1 of each pair [n]; NaN in either is dropped and counted.
        clusters: one id per pair.
        level: nominal coverage.

    Source: after Bonett & Price 2012, Stat. Med. 31:1127, who add two whole pairs and cover 97 to 99 % where few change.

    Example:
        >>> found = change_interval([1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1])
        >>> round(float(found.estimate), 3), bool(found.low < 0 < found.high)
        (0.167, True)
    """
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    difference, codes, missing = kept_items(difference, clusters)
    if not len(difference):
        return Interval(np.nan, np.nan, np.nan, level, 0, "adjusted t over clusters", 0, missing)
    sums, sizes = cluster_sums(difference, codes), np.bincount(codes).astype(np.float64)
    sums, sizes = np.append(sums, [ADDED, -ADDED]), np.append(sizes, [ADDED, ADDED])
    centre = sums.sum() / sizes.sum()
    found = t_interval(centre, (sums - centre * sizes) / sizes.sum(), level, len(difference), missing,
                       "adjusted t over clusters")
    return Interval(float(difference.mean()), max(-1.0, float(found.low)), min(1.0, float(found.high)), level, found.n,
                    found.method, found.n_clusters - 2, missing)


def kept_items(values: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Finite values, their clusters from 0, and how many were not finite."""
    values = np.asarray(values, dtype=np.float64)
    codes = cluster_codes(values, clusters)
    rows = np.isfinite(values)
    return values[rows], np.unique(codes[rows], return_inverse=True)[1], int((~rows).sum())


def cluster_sums(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums [K, ...] of rows [n, ...] that have the same code, in order of the codes that occur."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) > 0])
    return np.add.reduceat(values[order], starts, axis=0)


def t_interval(estimate: float, influence: np.ndarray, level: float, n: int, missing: int, method: str,
               there: Callable[..., Any] | None = None, back: Callable[..., Any] | None = None, slope: float = 1.0) -> Interval:
    """estimate ± t·√(K/(K−1)·Σψ²), on another scale where one is given; NaN ends with one cluster.

    Args:
        estimate: the estimate.
        influence: ψ [K].
        level: nominal coverage.
        n, missing, method: fields of the Interval.
        there, back: to the scale on which the interval is taken, and from it.
        slope: of `there` at the estimate.
    """
    count = len(influence)
    if count < 2:
        return Interval(estimate, np.nan, np.nan, level, n, method, count, missing)
    error = slope * np.sqrt(count / (count - 1) * float(influence @ influence))
    reach = stats.t.ppf(0.5 + level / 2, count - 1) * error
    centre = estimate if there is None else float(there(estimate))
    ends = np.array([centre - reach, centre + reach])
    low, high = ends if back is None else back(ends)
    return Interval(estimate, float(low), float(high), level, n, method, count, missing)
