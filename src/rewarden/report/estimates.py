"""How sure are the report's own numbers?

In: a statistic of rows and the prompt each row belongs to. Out: estimates with intervals from resampled prompts
(`rewarden.statistics` does the resampling). Ignorant of what is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from rewarden.options import AuditOptions
from rewarden.statistics import bootstrap_interval

MINIMUM = 10
"""Rows below which the report states numbers but draws no conclusion."""


JACKKNIFE_LIMIT = 2000
"""Clusters up to which the intervals are BCa."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and the number of rows behind it; NaN bounds where there is no interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def read(cls, data: xr.Dataset, name: str, n: int) -> Estimate:
        """From single numbers of a data set: `name`, `name`_low, `name`_high.

        Example:
            >>> Estimate.read(xr.Dataset({"gap": 0.5, "gap_low": 0.25, "gap_high": 0.75}), "gap", 8)
            Estimate(value=0.5, low=0.25, high=0.75, n=8)
        """
        return cls(*(float(data[f"{name}{end}"]) for end in ("", "_low", "_high")), n)

    def covers(self, point: float) -> bool:
        """Whether the interval includes a point; True where there is no interval, so that nothing is claimed."""
        return not (self.low > point or self.high < point)

    def complement(self) -> Estimate:
        """Of a share, the estimate of the rest.

        Example:
            >>> Estimate(0.25, 0.125, 0.5, 8).complement()
            Estimate(value=0.75, low=0.5, high=0.875, n=8)
        """
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low, self.n)

    def negative(self) -> Estimate:
        """Of a difference, the one the other way round.

        Example:
            >>> Estimate(0.25, 0.125, 0.5, 8).negative()
            Estimate(value=-0.25, low=-0.5, high=-0.125, n=8)
        """
        return Estimate(-self.value, -self.high, -self.low, self.n)

    def data(self) -> dict[str, float]:
        """For the machine-readable block."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def estimate(statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray], clusters: np.ndarray,
             counts: Sequence[int], options: AuditOptions) -> list[Estimate]:
    """Several statistics of the same rows, with intervals from the same resamples of whole clusters.

    Args:
        statistic: from row indices to a vector [k]; NaN where undefined.
        clusters: the cluster of each row [n]; rows of a cluster are drawn together.
        counts: the n to report with each of the k values.
        options: level, resamples and seed.

    Returns:
        One estimate per value; the interval is BCa, or percentile beyond 2,000 clusters, where its jackknife is slow.

    Example:
        >>> values = np.array([1.0, 2.0, 3.0])
        >>> estimate(lambda rows: [values[rows].mean()], np.arange(3), [3], AuditOptions(resamples=100))[0].value
        2.0
    """
    if len(clusters) == 0:
        return [Estimate(float("nan"), float("nan"), float("nan"), n) for n in counts]
    # The bootstrap resamples values; here they are row indices, one column per statistic, read from the first column.
    rows = np.repeat(np.arange(len(clusters), dtype=float)[:, None], len(counts), axis=1)
    found = bootstrap_interval(rows, statistic=lambda drawn, axis: np.asarray(statistic(drawn[:, 0].astype(int)), dtype=float),
                               clusters=clusters, level=options.level, n_resamples=options.resamples, seed=options.seed,
                               method="bca" if len(np.unique(clusters)) <= JACKKNIFE_LIMIT else "percentile")
    return [Estimate(float(value), float(low), float(high), int(n)) if np.isfinite(value)
            else Estimate(float(value), float("nan"), float("nan"), int(n))
            for value, low, high, n in zip(found.estimate, found.low, found.high, counts, strict=True)]


def within_rank_correlation(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """Spearman's rank correlation with ranks taken within groups, pooled over groups.

    Args:
        x, y: values [n].
        groups: the group of each row [n].

    Returns:
        The correlation of the centred relative ranks; NaN where either has no spread. With one group it is Spearman's ρ.

    Example:
        >>> within_rank_correlation(np.array([1, 2, 9, 8]), np.array([1, 2, 0, -1]), np.array(["a", "a", "b", "b"]))
        1.0
    """
    left, right = _centred_ranks(x, groups), _centred_ranks(y, groups)
    square = float((left @ left) * (right @ right))
    return float(left @ right) / square**0.5 if square > 0 else float("nan")


def _centred_ranks(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Average ranks within each group as fractions of its size, less their mean."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, codes = np.unique(values, return_inverse=True)
    # Group first, value second: one ranking of all rows holds the rankings of the groups, one after the other.
    ranks = rankdata(numbers.ravel() * (codes.max(initial=0) + 1) + codes.ravel())
    before = np.cumsum(sizes) - sizes
    size = sizes[numbers.ravel()]
    return (ranks - before[numbers.ravel()] - (size + 1) / 2) / size


def too_few(subject: str, n: int, unit: str) -> str:
    """The sentence for a question that these data cannot answer.

    Example:
        >>> too_few("length sensitivity", 3, "pairs")
        'Nothing is said of length sensitivity: n = 3; at least 10 pairs are needed.'
    """
    return f"Nothing is said of {subject}: n = {n}; at least {MINIMUM} {unit} are needed."
