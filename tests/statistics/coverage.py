"""Does a 95 % interval hold the truth 95 % of the time, and does a test fire no more often than it says?

In: ends of intervals from simulated data with their truth, or flags on data without anything to find. Out: shares with their
own Monte Carlo error, and assertions. Ignorant of what was simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from rewarden.statistics import wilson

SIMULATIONS = 2000
"""With so many, the share of a sound 95 % interval lies within 0.937 and 0.963 in 99 of 100 tests."""


class Coverage(NamedTuple):
    """How often intervals held the truth."""

    share: float
    """Of simulations whose interval holds the truth; an interval with a NaN end holds nothing."""
    low: float
    """99 % Wilson interval of that share, for the number of simulations."""
    high: float
    below: float
    """Share of simulations whose whole interval lies below the truth."""
    above: float
    """Share whose whole interval lies above it."""
    width: float
    """Mean width of the intervals."""
    n: int


def coverage(low: Any, high: Any, truth: Any) -> Coverage:
    """How often low ≤ truth ≤ high.

    Args:
        low, high: ends, any shape; every cell is a simulation.
        truth: the number that is estimated, one or of the same shape.

    Example:
        >>> coverage([0.0, 1.0, 0.2, 0.1], [1.0, 2.0, 0.6, 0.4], 0.5).share
        0.5
    """
    low, high, truth = (np.ravel(part) for part in np.broadcast_arrays(np.asarray(low, float), np.asarray(high, float), truth))
    held = (low <= truth) & (truth <= high)
    found = wilson(held.sum(), len(held), 0.99)
    return Coverage(float(held.mean()), float(found.low), float(found.high), float((high < truth).mean()),
                    float((low > truth).mean()), float(np.nanmean(high - low)), len(held))


def simulate(interval: Callable[[np.random.Generator], tuple[float, float, float]], n: int = SIMULATIONS,
             seed: int = 0) -> Coverage:
    """Coverage of an estimator that is called once a simulation.

    Args:
        interval: draws data from the generator and returns (low, high, truth).
        n: simulations; give arrays to `coverage` instead where the estimator is vectorised.
        seed: of the generators.

    Example:
        >>> def known_sd(rng):
        ...     mean = rng.normal(size=25).mean()
        ...     return mean - 0.392, mean + 0.392, 0.0
        >>> 0.93 < simulate(known_sd, n=500).share < 0.97
        True
    """
    rngs = np.random.default_rng(seed).spawn(n)
    low, high, truth = np.array([interval(rng) for rng in rngs], dtype=np.float64).T
    return coverage(low, high, truth)


def assert_covers(found: Coverage, low: float = 0.93, high: float = 0.97) -> None:
    """The nominal 95 % interval covers 93 to 97 %; says what was found."""
    assert low <= found.share <= high, f"covers {found.share:.4f} ({found.low:.4f}–{found.high:.4f}) of {found.n}: {found}"


def most_flags(n: int, alpha: float) -> int:
    """The largest number of flags, out of n independent tests without anything to find, that a rate alpha gives in 99 of 100.

    Example:
        >>> most_flags(200, 0.05)
        18
    """
    return int(stats.binom.ppf(0.99, n, alpha))


def assert_null_rate(flags: Any, alpha: float) -> None:
    """Models without anything to find are flagged no more often than alpha allows, by the 99 % binomial band.

    Args:
        flags: [model], or [model, question]: then questions of one model are not independent, and the mean of models is held
            against alpha with its own standard error (one-sided 99 %).
        alpha: stated rate.
    """
    flags = np.asarray(flags, dtype=np.float64)
    if flags.ndim == 1:
        assert flags.sum() <= most_flags(len(flags), alpha), f"{int(flags.sum())} of {len(flags)} flagged at alpha {alpha}"
        return
    rates = flags.mean(axis=tuple(range(1, flags.ndim)))
    error = max(rates.std(ddof=1) / np.sqrt(len(rates)), np.sqrt(alpha * (1 - alpha) / flags.size))
    assert rates.mean() <= alpha + stats.norm.ppf(0.99) * error, f"rate {rates.mean():.4f} ± {error:.4f} at alpha {alpha}"
