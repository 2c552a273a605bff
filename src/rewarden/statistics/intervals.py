"""How far could an estimate be off because only these items were drawn?

In: values with items on axis 0, optionally a cluster id per item. Out: `Interval`s: bootstrap (percentile or BCa, over
items or whole clusters) and Wilson's. Non-finite values are dropped and counted. Ignorant of what is measured.
Letters: n items, K clusters, B resamples, C columns (the remaining axes, flattened).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special, stats

from rewarden.errors import RewardenError
from rewarden.statistics.sampling import cluster_codes

BLOCK = 4_000_000
"""Numbers held at once while resampling (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; each field is a number, or an array over the axes that remain (such as layer)."""

    estimate: Any
    """The statistic on the items at hand."""
    low: Any
    """Lower end; NaN where fewer than two clusters have values."""
    high: Any
    """Upper end; NaN where fewer than two clusters have values."""
    level: float
    """Nominal coverage, 0 to 1."""
    n: Any
    """Items used."""
    method: str
    """Name of the estimator."""
    n_clusters: Any
    """Independent units used: clusters, or items where none were given."""
    missing: Any
    """Items dropped because a value was not finite."""

    def variables(self, name: str, dims: Any = ()) -> dict[str, tuple[Any, Any]]:
        """Estimate and ends as variables of a data set: `name`, `name`_low, `name`_high, each (dims, values).

        Example:
            >>> sorted(bootstrap_interval([1.0, 2.0, 4.0], n_resamples=99).variables("mean"))
            ['mean', 'mean_high', 'mean_low']
        """
        return {name: (dims, self.estimate), f"{name}_low": (dims, self.low), f"{name}_high": (dims, self.high)}


def bootstrap_interval(values: Any, *, statistic: Callable[..., Any] = np.mean, clusters: Any = None,
                       level: float = 0.95, n_resamples: int = 2000, seed: int = 0,
                       method: Literal["bca", "percentile"] = "bca") -> Interval:
    """Bootstrap interval of a statistic over items, or over whole clusters of items.

    Args:
        values: [item, ...]; every trailing cell gets an interval of its own, from the same resamples. Non-finite values
            are dropped cell by cell and counted, never averaged.
        statistic: called as statistic(values[item, ...], axis=0); np.mean is vectorised over resamples.
        clusters: one id per item; clusters are drawn with replacement, all their items together.
        level: nominal coverage.
        n_resamples: resamples B.
        seed: of a generator of its own; the global one is not touched.
        method: "bca" (bias-corrected and accelerated, jackknife over clusters), or "percentile".

    Returns:
        Interval over the trailing axes. The ends are NaN with fewer than two clusters, and equal the estimate when all
        resamples agree (for shares of 0 or 1 use `wilson`). Where BCa is undefined (the estimate lies outside all
        resamples) the ends are those of the percentile method.

    Raises:
        RewardenError: impossible level, method, resamples or clusters.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 14; clusters: Davison & Hinkley 1997, §3.8.

    Example:
        >>> found = bootstrap_interval(np.arange(20.0))
        >>> float(found.estimate), round(float(found.low), 1), round(float(found.high), 1), found.n
        (9.5, 7.0, 11.9, 20)
    """
    values = np.asarray(values, dtype=np.float64)
    codes = cluster_codes(values, clusters)
    _check_options(level, n_resamples, method)
    flat = values.reshape(len(values), -1)  # [n, C]
    shape = values.shape[1:]
    fields = {name: np.full(flat.shape[1], np.nan) for name in ("estimate", "low", "high")}
    fields |= {name: np.zeros(flat.shape[1], dtype=np.int64) for name in ("n", "n_clusters")}
    for rows, columns in _same_rows(np.isfinite(flat)):
        kept, units = flat[np.ix_(rows, columns)], np.unique(codes[rows], return_inverse=True)[1]
        found = _one_pattern(kept, units, statistic, level, n_resamples, seed, method)
        for name, value in found.items():
            fields[name][columns] = value
    fields["missing"] = len(values) - fields["n"]
    shaped = {name: field.reshape(shape)[()] for name, field in fields.items()}  # [()]: a number when nothing remains
    if not shape:
        shaped |= {name: int(shaped[name]) for name in ("n", "n_clusters", "missing")}
    return Interval(level=level, method=f"{'cluster ' if clusters is not None else ''}bootstrap {method}", **shaped)


def spearman(x: Any, y: Any, *, clusters: Any = None, level: float = 0.95, n_resamples: int = 2000,
             seed: int = 0) -> Interval:
    """Spearman's rank correlation with a BCa bootstrap interval.

    Args:
        x, y: [item]; an item with a non-finite value in either is dropped and counted.
        clusters, level, n_resamples, seed: as for `bootstrap_interval`.

    Returns:
        Interval of ρ (average ranks for ties); NaN when a side is constant. Resamples with a constant side are left
        out.

    Example:
        >>> float(spearman(range(10), [1, 0, 2, 3, 5, 4, 6, 7, 9, 8]).estimate)
        0.9636363636363636
    """
    pairs = np.column_stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    codes = cluster_codes(pairs, clusters)
    _check_options(level, n_resamples, "bca")
    rows = np.isfinite(pairs).all(axis=1)
    units = np.unique(codes[rows], return_inverse=True)[1]
    # One "column" whose cells are pairs: resampled together.
    found = _one_pattern(pairs[rows], units, _rank_correlation, level, n_resamples, seed, "bca")
    name = f"Spearman, {'cluster ' if clusters is not None else ''}bootstrap bca"
    ends = {key: float(np.ravel(found[key])[0]) for key in ("estimate", "low", "high")}
    return Interval(level=level, method=name, n=int(rows.sum()), n_clusters=int(found["n_clusters"]),
                    missing=int((~rows).sum()), **ends)


def wilson(successes: Any, n: Any, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: holds at small n and at shares of 0 and 1.

    Args:
        successes: count or array of counts; ties may count one half.
        n: trials, same shape or one number.
        level: nominal coverage.

    Returns:
        Interval; with n = 0 the estimate is NaN and the ends 0 and 1.

    Raises:
        RewardenError: a count outside 0…n.

    Source: Wilson 1927, JASA 22:209.

    Example:
        >>> found = wilson(8, 10)
        >>> round(float(found.low), 4), round(float(found.high), 4)
        (0.4902, 0.9433)
    """
    k, n = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not ((k >= 0) & (k <= n)).all():
        raise RewardenError("a share needs 0 ≤ successes ≤ n", where="wilson", why=f"successes={successes!r}, n={n!r}",
                            fix="give the number of successes first, then that of trials")
    _check_options(level, 1, "percentile")
    z = special.ndtri(0.5 + level / 2)
    some = np.where(n > 0, n, 1)
    share = np.where(n > 0, k / some, 0.5)
    centre = (share + z * z / (2 * some)) / (1 + z * z / some)
    half = z / (1 + z * z / some) * np.sqrt(share * (1 - share) / some + z * z / (4 * some * some))
    # At 0 and n one end is exact; rounding would put it a hair inside.
    low = np.where((n == 0) | (k == 0), 0.0, centre - half)
    high = np.where((n == 0) | (k == n), 1.0, centre + half)
    count = n.astype(np.int64)[()]
    return Interval(np.where(n > 0, share, np.nan)[()], low[()], high[()], level, count, "Wilson", count, count * 0)


def _check_options(level: float, n_resamples: int, method: str) -> None:
    if not 0 < level < 1 or n_resamples < 1 or method not in ("bca", "percentile"):
        raise RewardenError("impossible interval", where=f"level={level}, n_resamples={n_resamples}, method={method!r}",
                            fix="0 < level < 1, n_resamples ≥ 1, method 'bca' or 'percentile'")


def _same_rows(finite: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of columns with values at the same items: (rows, columns). One group in nearly all uses."""
    if finite.shape[1] == 0:
        return
    patterns, which = np.unique(finite, axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        yield np.flatnonzero(patterns[:, pattern]), np.flatnonzero(which.ravel() == pattern)


def _one_pattern(values: np.ndarray, units: np.ndarray, statistic: Callable[..., Any], level: float, n_resamples: int,
                 seed: int, method: str) -> dict[str, Any]:
    """Estimate and ends for values without gaps; units count clusters from 0."""
    n, n_clusters = len(values), int(units.max()) + 1 if len(units) else 0
    found: dict[str, Any] = {"n": n, "n_clusters": n_clusters, "estimate": np.nan, "low": np.nan, "high": np.nan}
    if n:
        found["estimate"] = np.atleast_1d(statistic(values, axis=0))
    if n_clusters < 2:
        return found
    resampled = _resampled_means if statistic is np.mean else _resampled
    ends = [_ends(found["estimate"][block], boot, jack, level, method)
            for block, boot, jack in resampled(values, units, n_resamples, seed, statistic)]
    found["low"], found["high"] = (np.concatenate(side) for side in zip(*ends, strict=True))
    return found


Block = tuple[slice, np.ndarray, np.ndarray]


def _draws(n_clusters: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Drawn cluster numbers [b, K] in blocks of resamples; the same for any column."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // n_clusters)
    for start in range(0, n_resamples, step):
        yield rng.integers(n_clusters, size=(min(step, n_resamples - start), n_clusters))


def _resampled_means(values: np.ndarray, units: np.ndarray, n_resamples: int, seed: int, _: Any) -> Iterator[Block]:
    """Means of resamples [B, C] and of the sample without each cluster [K, C], by sums per cluster."""
    sizes = np.bincount(units).astype(np.float64)  # [K]
    n_clusters, step = len(sizes), max(1, BLOCK // max(n_resamples, len(units)))
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(units[order]) > 0])
    for first in range(0, values.shape[1], step):
        block = slice(first, min(first + step, values.shape[1]))
        shift = values[:, block].mean(axis=0)  # sums of deviations keep the digits of values far from 0
        sums = np.add.reduceat(values[order, block] - shift, starts, axis=0)  # [K, C]
        boots = []
        for drawn in _draws(n_clusters, n_resamples, seed):
            offsets = np.arange(len(drawn))[:, None] * n_clusters
            times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)  # [b, K]
            boots.append(times @ sums / (times @ sizes)[:, None])
        jack = (sums.sum(axis=0) - sums) / (len(units) - sizes)[:, None]
        yield block, np.concatenate(boots) + shift, jack + shift


def _resampled(values: np.ndarray, units: np.ndarray, n_resamples: int, seed: int,
               statistic: Callable[..., Any]) -> Iterator[Block]:
    """The same for any statistic, one call per resample."""
    n_clusters = int(units.max()) + 1
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    boot = [statistic(values[np.concatenate([members[k] for k in drawn])], axis=0)
            for block in _draws(n_clusters, n_resamples, seed) for drawn in block]
    jack = [statistic(values[units != k], axis=0) for k in range(n_clusters)]
    stacked = np.array(boot, dtype=np.float64).reshape(n_resamples, -1)
    yield slice(None), stacked, np.array(jack, dtype=np.float64).reshape(n_clusters, -1)


def _ends(estimate: np.ndarray, boot: np.ndarray, jack: np.ndarray, level: float,
          method: str) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end [C] from resamples [B, C] and jackknife values [K, C]; undefined resamples are left out."""
    tails = np.array([0.5 - level / 2, 0.5 + level / 2])
    shares = np.repeat(tails[:, None], len(estimate), axis=1)  # [2, C]
    if method == "bca":
        with np.errstate(divide="ignore", invalid="ignore"):
            defined = np.isfinite(boot).sum(axis=0)
            # Resamples equal to the estimate count half, so that a symmetric discrete statistic has no bias.
            z0 = special.ndtri(((boot < estimate).sum(axis=0) + (boot <= estimate).sum(axis=0)) / (2 * defined))
            lean = np.nansum(jack, axis=0) / np.isfinite(jack).sum(axis=0) - jack
            a = np.nansum(lean**3, axis=0) / (6 * np.nansum(lean**2, axis=0) ** 1.5)
            shifted = z0 + special.ndtri(tails)[:, None]
            adjusted = special.ndtr(z0 + shifted / (1 - a * shifted))
        shares = np.where(np.isfinite(adjusted).all(axis=0) & np.isfinite(z0), adjusted, shares)
    low, high = _quantiles(boot, shares)
    return low, high


def _quantiles(boot: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Linear quantiles [2, C] of each column's finite values at its own shares [2, C]; NaN where there are none."""
    ordered = np.sort(np.where(np.isfinite(boot), boot, np.nan), axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    place = shares * np.maximum(count - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    columns = np.arange(boot.shape[1])
    return ordered[below, columns] + (place - below) * (ordered[above, columns] - ordered[below, columns])


def _rank_correlation(pairs: np.ndarray, axis: int = 0) -> float:
    ranks = stats.rankdata(pairs, axis=axis)
    centred = ranks - ranks.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0)).prod()
    return float((centred[:, 0] * centred[:, 1]).sum() / spread) if spread > 0 else float("nan")
