"""Could an effect of this size be chance, and how many of several findings are?

In: values per item, two samples, or several p values. Out: `Significance` with p, n and the method's name; adjusted p
values. Exact where the permutations can be counted out, else Monte Carlo with (b+1)/(m+1). Ignorant of what is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.statistics.intervals import BLOCK
from rewarden.statistics.sampling import cluster_codes

EXACT_FLIPS = 14
"""Up to this many clusters all 2^K sign patterns are counted out."""

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Significance:
    """A test's outcome; statistic, p, n, n_clusters and missing are numbers or arrays over the remaining axes."""

    statistic: Any
    """What was compared: the mean, or the difference of two samples."""
    p: Any
    """Probability of a statistic at least as extreme if there is no effect; NaN without any value."""
    n: Any
    """Items used."""
    method: str
    """Name of the test, and whether it is exact."""
    n_clusters: Any
    """Independent units used."""
    missing: Any
    """Items dropped because a value was not finite."""


def sign_flip_test(values: Any, clusters: Any = None, *, alternative: Alternative = "two-sided",
                   n_resamples: int = 9999, seed: int = 0) -> Significance:
    """Is the mean of values that are symmetric around 0 under the null (paired differences) different from 0?

    Args:
        values: [item, ...]; each trailing cell is tested by itself. Non-finite values are dropped and counted.
        clusters: one id per item; a cluster's items flip sign together.
        alternative: "two-sided", "greater" (mean above 0) or "less".
        n_resamples: random flips when there are more than 2^14 patterns.
        seed: of a generator of its own.

    Returns:
        Significance over the trailing axes; statistic is the mean.

    Source: Fisher 1935, The Design of Experiments, §21; Phipson & Smyth 2010 for (b+1)/(m+1).

    Example:
        >>> float(sign_flip_test([1.0, 2.0, 3.0, 4.0]).p)
        0.125
    """
    values = np.asarray(values, dtype=np.float64)
    codes = cluster_codes(values, clusters)
    flat = values.reshape(len(values), -1)
    finite = np.isfinite(flat)
    n_all = int(codes.max()) + 1 if len(codes) else 0
    sums = np.zeros((n_all, flat.shape[1]))
    present = np.zeros((n_all, flat.shape[1]), dtype=bool)
    # A dropped value adds 0 to its cluster's sum under either sign: the same as leaving it out.
    np.add.at(sums, codes, np.where(finite, flat, 0.0))
    np.logical_or.at(present, codes, finite)
    n, observed = finite.sum(axis=0), sums.sum(axis=0)
    # Sums that differ by rounding only are ties; without slack the identity pattern itself could miss.
    slack = 1e-12 * np.abs(sums).sum(axis=0)
    exact = n_all <= EXACT_FLIPS
    hits, total = np.zeros(flat.shape[1], dtype=np.int64), 0
    for signs in _all_signs(n_all) if exact else _random_signs(n_all, n_resamples, seed):
        flipped = signs @ sums
        hits += _as_extreme(flipped, observed, slack, alternative).sum(axis=0)
        total += len(signs)
    p = np.where(n > 0, hits / total if exact else (hits + 1) / (total + 1), np.nan)
    statistic = np.where(n > 0, observed / np.maximum(n, 1), np.nan)
    shape = values.shape[1:]
    cells = [field.reshape(shape)[()] for field in (statistic, p, n, present.sum(axis=0), len(values) - n)]
    name = f"sign flips of {'items' if clusters is None else 'clusters'}, {'exact' if exact else f'{total} random'}"
    return Significance(cells[0], cells[1], cells[2], name, cells[3], cells[4])


def _all_signs(n: int) -> Iterator[np.ndarray]:
    patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # [2^n, n]
    yield 1.0 - 2.0 * patterns


def _random_signs(n: int, count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // n)
    for start in range(0, count, step):
        yield 1.0 - 2.0 * rng.integers(2, size=(min(step, count - start), n))


def _as_extreme(flipped: np.ndarray, observed: np.ndarray, slack: np.ndarray, alternative: Alternative) -> np.ndarray:
    if alternative == "greater":
        return flipped >= observed - slack
    if alternative == "less":
        return flipped <= observed + slack
    return np.abs(flipped) >= np.abs(observed) - slack


def _mean_difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def permutation_test(x: Any, y: Any, statistic: Callable[..., Any] = _mean_difference, *,
                     alternative: Alternative = "two-sided", n_resamples: int = 9999, seed: int = 0) -> Significance:
    """Do two independent samples come from one population?

    Args:
        x, y: [item] each; non-finite values are dropped and counted.
        statistic: statistic(x, y, axis) -> number; the difference of means by default.
        alternative: "two-sided", "greater" or "less".
        n_resamples: random permutations; when no more than this many are possible, all are counted out.
        seed: of a generator of its own.

    Returns:
        Significance.

    Raises:
        RewardenError: a sample without finite values.

    Example:
        >>> float(permutation_test([1.0, 2.0, 3.0], [11.0, 12.0, 13.0]).p)
        0.1
    """
    sides = [np.ravel(np.asarray(side, dtype=np.float64)) for side in (x, y)]
    kept = [side[np.isfinite(side)] for side in sides]
    n, missing = sum(map(len, kept)), sum(map(len, sides)) - sum(map(len, kept))
    if not all(map(len, kept)):
        raise RewardenError("a permutation test needs values in both samples",
                            why=f"{len(kept[0])} and {len(kept[1])} finite values",
                            fix="leave this comparison out, or look at why the values are not finite")
    found = stats.permutation_test(kept, statistic, permutation_type="independent", vectorized=True,
                                   n_resamples=n_resamples, alternative=alternative, rng=np.random.default_rng(seed))
    exact = math.comb(n, len(kept[0])) <= n_resamples
    name = f"permutation, {'exact' if exact else f'{n_resamples} random'}"
    return Significance(float(found.statistic), float(found.pvalue), n, name, n, missing)


def monte_carlo_p(null: Any, observed: Any, *, alternative: Alternative = "greater") -> np.ndarray:
    """Share of draws under the null that are at least as extreme as what was observed, which is counted as one of them.

    Args:
        null: [draw, ...] statistics under the null; the axes after the first may be of length 1.
        observed: [...]; ties up to rounding count against it.
        alternative: "greater", "less", or "two-sided" (sizes, for a null that is symmetric around 0).

    Returns:
        p [...]; NaN where nothing was observed.

    Source: Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39, for (b+1)/(m+1).

    Example:
        >>> monte_carlo_p([[0.1], [0.7], [-0.2], [0.3]], [0.5]).tolist()
        [0.4]
    """
    null, observed = np.asarray(null, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    hits = _as_extreme(null, observed, np.asarray(1e-12), alternative).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (hits + 1) / (len(null) + 1))


def holm(p: Any) -> np.ndarray:
    """p values adjusted so that the chance of any false finding stays below the level (Holm 1979).

    Args:
        p: [test]; NaN (not tested) stays NaN and does not count.

    Returns:
        Adjusted p [test], in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = _p_values(p)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps * p[order]), 1.0)
    return adjusted


def benjamini_hochberg(p: Any) -> np.ndarray:
    """p values adjusted so that the expected share of false findings stays below the level (Benjamini & Hochberg 1995).

    Args:
        p: [test]; NaN (not tested) stays NaN and does not count.

    Returns:
        Adjusted p [test], in the order given.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(6).tolist()
        [0.03, 0.04, 0.04]
    """
    p = _p_values(p)
    adjusted = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested])
    return adjusted


def _p_values(p: Any) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise RewardenError("p values are numbers from 0 to 1 in one row", why=f"got shape {p.shape}: {p!r:.80}",
                            fix="pass p.ravel(), with NaN where nothing was tested")
    return p
