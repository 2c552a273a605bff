"""How sure is a mean, a ratio, an AUC, a correlation or a change of accuracy when texts come in clusters?

In: values of texts and the cluster (seed, prompt) of each. Out: `Interval`s from linearised variances over clusters with
Student's t: closed forms that hold with a few dozen clusters. Ignorant of what is measured.
Letters: n items, K clusters, ψ the influence of a cluster on the estimate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special, stats

from rewarden.statistics.intervals import Interval, wilson
from rewarden.statistics.linearised import change_interval, cluster_sums, kept_items, t_interval
from rewarden.statistics.sampling import cluster_codes

__all__ = ["auc_interval", "change_interval", "correlation_interval", "mean_interval", "ratio_interval"]


def mean_interval(values: Any, clusters: Any = None, crossed: Any = None, *, level: float = 0.95) -> Interval:
    """The mean of items, with Student's t over clusters.

    Args:
        values: [n]; non-finite ones are dropped and counted.
        clusters: one id per item; by default every item is one.
        crossed: a second id per item, where items share something else as well (templates beside seeds): both vary.
        level: nominal coverage.

    Source: Cochran 1977, Sampling Techniques, §9A (ratio of a cluster's sum to its size); two ways: Cameron, Gelbach &
    Miller 2011, J. Bus. Econ. Stat. 29:238.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0, 4.0])
        >>> float(found.estimate), round(float(found.low), 2), round(float(found.high), 2)
        (2.5, 0.45, 4.55)
    """
    given = np.asarray(values, dtype=np.float64)
    values, codes, missing = kept_items(given, clusters)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level, 0, "cluster t", 0, missing)
    mean = float(values.mean())
    influence = (values - mean) / len(values)
    one = t_interval(mean, cluster_sums(influence, codes), level, len(values), missing, "cluster t")
    if crossed is None:
        return one
    other = kept_items(given, crossed)[1]
    crossing = np.unique(codes * (other.max() + 1) + other, return_inverse=True)[1]
    parts = [cluster_sums(influence, ids) for ids in (codes, other, crossing)]
    first, second, both = (len(part) / max(len(part) - 1, 1) * float(part @ part) for part in parts)
    fewest = min(len(parts[0]), len(parts[1]))
    if fewest < 2:
        return Interval(mean, np.nan, np.nan, level, len(values), "two-way cluster t", fewest, missing)
    reach = stats.t.ppf(0.5 + level / 2, fewest - 1) * np.sqrt(max(first + second - both, first, second))
    return Interval(mean, mean - reach, mean + reach, level, len(values), "two-way cluster t", fewest, missing)


def ratio_interval(above: Any, below: Any, clusters: Any = None, crossed: Any = None, *, level: float = 0.95) -> Interval:
    """Σ above / Σ below of the same items: what is left of an effect, say (Fieller's interval over clusters).

    The ends are NaN where `below` may be 0: then any ratio would do.

    Args:
        above, below: [n]; items with a non-finite value in either are dropped and counted.
        clusters: one id per item.
        crossed: a second id per item, where items share something else as well (templates beside seeds): both vary.
        level: nominal coverage.

    Source: Fieller 1954, J. R. Stat. Soc. B 16:175; two ways: as `mean_interval`.

    Example:
        >>> found = ratio_interval([1.0, 2.0, 3.1, 2.4], [2.0, 4.0, 6.0, 5.0])
        >>> round(float(found.estimate), 3), bool(found.low < found.estimate < found.high)
        (0.5, True)
    """
    both = np.column_stack([np.asarray(above, np.float64), np.asarray(below, np.float64)])
    rows = np.isfinite(both).all(1)
    ids = [np.unique(cluster_codes(both, one)[rows], return_inverse=True)[1]
           for one in ((clusters,) if crossed is None else (clusters, crossed))]
    both, missing = both[rows], int((~rows).sum())
    counts = [int(one.max(initial=-1)) + 1 for one in ids]
    a, b = both.sum(0)
    estimate = float(a / b) if len(both) and b else np.nan
    parts = [_spread_of_sums(both, one) for one in ids] if min(counts) > 1 else []
    if len(parts) == 2:  # as in `mean_interval`: the sum less what is counted twice, but no less than either way alone
        cells = np.unique(ids[0] * counts[1] + ids[1], return_inverse=True)[1]
        parts.append(parts[0] + parts[1] - _spread_of_sums(both, cells))
    t2 = stats.t.ppf(0.5 + level / 2, min(counts) - 1) ** 2 if parts else np.nan
    ends = [_fieller(a, b, part * t2) for part in parts]
    low, high = (np.min(ends, 0)[0], np.max(ends, 0)[1]) if ends and np.isfinite(ends).all() else (np.nan, np.nan)
    method = "Fieller over clusters" if crossed is None else "two-way Fieller"
    return Interval(estimate, float(low), float(high), level, len(both), method, min(counts), missing)


def _spread_of_sums(both: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Covariance [2, 2] of the totals of two columns [n, 2], from their sums over clusters."""
    sums = cluster_sums(both, codes).T  # [2, K]
    return np.cov(sums) * sums.shape[1]


def _fieller(a: float, b: float, spread: np.ndarray) -> tuple[float, float]:
    """Ratios ρ with (a − ρb)² ≤ (1, −ρ)·spread·(1, −ρ): their ends; NaN where b may be 0; the estimate where there are none."""
    (aa, ab), (_, bb) = spread
    square, half, rest = b * b - bb, a * b - ab, a * a - aa  # square·ρ² − 2·half·ρ + rest ≤ 0
    if not square > 0:
        return np.nan, np.nan
    root = np.sqrt(max(half * half - square * rest, 0.0))
    return ((half - root) / square, (half + root) / square) if half * half >= square * rest else (a / b, a / b)


def auc_interval(scores: Any, labels: Any, clusters: Any = None, folds: Any = None, *, level: float = 0.95) -> Interval:
    """How often a text with the concept scores above one without (½ for a tie), compared within folds only.

    Args:
        scores: [n].
        labels: bool [n].
        clusters: one id per item.
        folds: fold [n] of each item; scores of different probes are never compared.
        level: nominal coverage.

    Returns:
        Interval on the logit scale, variance over clusters. Where every comparison agrees, Wilson's over clusters; NaN
        without a text of either kind.

    Source: DeLong et al. 1988, Biometrics 44:837; clusters: Obuchowski 1997, Biometrics 53:567.

    Example:
        >>> found = auc_interval([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        >>> float(found.estimate)
        0.75
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    codes = np.unique(cluster_codes(scores, clusters), return_inverse=True)[1]
    parts = np.zeros(len(scores), np.int64) if folds is None else np.asarray(folds)
    count = int(codes.max(initial=-1)) + 1
    total, weight, influence = 0.0, 0.0, np.zeros(len(scores))
    shares: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]] = []
    for part in np.unique(parts):
        above, below = np.flatnonzero(labels & (parts == part)), np.flatnonzero(~labels & (parts == part))
        if len(above) and len(below):
            won = (np.sign(scores[above][:, None] - scores[below][None]) + 1) / 2  # [positives, negatives]
            shares.append((above, below, won.mean(1), won.mean(0), float(won.mean())))
            weight += won.size
            total += won.sum()
    if not weight:
        return Interval(np.nan, np.nan, np.nan, level, len(scores), "cluster DeLong", count, 0)
    auc = total / weight
    for above, below, up, down, mean in shares:
        size = len(above) * len(below) / weight
        influence[above] += size * (up - mean) / len(above)
        influence[below] += size * (down - mean) / len(below)
    if auc in (0.0, 1.0):
        sure = wilson(auc * count, count, level)
        return Interval(auc, float(sure.low), float(sure.high), level, len(scores), "wilson over clusters", count, 0)
    return t_interval(float(auc), cluster_sums(influence, codes), level, len(scores), 0, "cluster DeLong",
                      special.logit, special.expit, 1 / (auc * (1 - auc)))


def correlation_interval(x: Any, y: Any, clusters: Any = None, *, level: float = 0.95) -> Interval:
    """Pearson's correlation, on Fisher's scale, variance over clusters.

    Args:
        x, y: [n]; items with a non-finite value in either are dropped and counted.
        clusters: one id per item.
        level: nominal coverage.

    Example:
        >>> found = correlation_interval([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0])
        >>> round(float(found.estimate), 3)
        0.8
    """
    both = np.column_stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    rows = np.isfinite(both).all(1)
    codes = np.unique(cluster_codes(both, clusters)[rows], return_inverse=True)[1]
    z, missing = both[rows] - both[rows].mean(0), int((~rows).sum())
    spread = np.sqrt((z**2).mean(0))
    count = int(codes.max(initial=-1)) + 1
    if not (spread > 0).all():
        return Interval(np.nan, np.nan, np.nan, level, len(z), "cluster Fisher", count, missing)
    z /= spread
    r = float(np.clip((z[:, 0] * z[:, 1]).mean(), -1, 1))
    influence = cluster_sums(z[:, 0] * z[:, 1] - r * (z**2).sum(1) / 2, codes) / len(z)
    if 1 - r * r < 1e-12:
        return Interval(r, r, r, level, len(z), "cluster Fisher", count, missing)
    return t_interval(r, influence, level, len(z), missing, "cluster Fisher", np.arctanh, np.tanh, 1 / (1 - r * r))
