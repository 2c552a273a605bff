"""What is left of mean effects without the pairs whose patched states are divergent, and how sure is that?

In: effects [pair, component], which of them are divergent, prompts. Out: intervals over prompts, of means and of the change of
a mean. Ignorant of models and of distances. Letters: C components.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from rewarden.statistics.studentised import studentised_interval

LEAST = 3
"""Prompts on either side below which a difference has no interval: with two, Welch's covers too little."""


def mean_ends(values: np.ndarray, prompts: np.ndarray, *, level: float, resamples: int, seed: int
              ) -> tuple[np.ndarray, np.ndarray]:
    """Ends [C] of the interval of each component's mean effect; NaN with fewer than five prompts.

    A prompt's unit is the mean plus its influence on it, so that prompts of several pairs count as they do in the mean.

    Args:
        values: [pair, C], NaN where there is none.
        prompts: [pair].
        level, resamples, seed: as for `studentised_interval`, which covers where pairs are few; BCa ends do not.

    Example:
        >>> low, high = mean_ends(np.arange(8.0)[:, None], np.arange(8), level=0.95, resamples=500, seed=0)
        >>> bool(low[0] < 3.5 < high[0])
        True
    """
    member, put = _member(prompts), np.isfinite(values)
    count, units = member @ put, (member @ put > 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums, n = member @ np.where(put, values, 0.0), put.sum(0)
        mean = sums.sum(0) / n
        held = np.where(count > 0, mean + units * (sums - mean * count) / n, np.nan)
    found = studentised_interval(held, level=level, n_resamples=resamples, seed=seed)
    return np.asarray(found.low), np.asarray(found.high)


def change_without(values: np.ndarray, divergent: np.ndarray, prompts: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """By how much the mean effect of all pairs exceeds that of the pairs that are not divergent, of the same pairs.

    It is the share of divergent pairs times the difference between their mean effect and that of the others: Welch's interval
    of that difference, with what a prompt gives to both taken into account; which pairs are divergent is held fixed.

    Args:
        values: [pair, C], NaN where there is none.
        divergent: bool [pair, C].
        prompts: [pair].
        level: coverage.

    Returns:
        `shift` [C] with `shift_low`, `shift_high`: 0 where no pair is divergent, NaN where all are; the ends are NaN with
        fewer than `LEAST` prompts on either side.

    Source: Welch 1947, Biometrika 34:28, over prompts.

    Example:
        >>> effect = np.array([[1.0], [1.2], [0.8], [3.0], [3.4], [3.2]])
        >>> found = change_without(effect, effect > 2, np.arange(6), 0.95)
        >>> round(float(found["shift"][0]), 2), bool(found["shift_low"][0] < 1.1 < found["shift_high"][0])
        (1.1, True)
    """
    member, put = _member(prompts), np.isfinite(values)
    held, sums, units = np.where(put, values, 0.0), [], []
    means = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for mine in (put & divergent, put & ~divergent):
            means.append(np.where(mine, held, 0.0).sum(0) / mine.sum(0))
            sums.append(member @ np.where(mine, (held - means[-1]) / mine.sum(0), 0.0))
            units.append((member @ mine > 0).sum(0))
        parts = [count / (count - 1) * (one**2).sum(0) for one, count in zip(sums, units, strict=True)]
        total = np.maximum(sum(parts) - 2 * (sums[0] * sums[1]).sum(0), 0.0)
        small = sum(part**2 / (count - 1) for part, count in zip(parts, units, strict=True))
        df = np.where(small > 0, sum(parts) ** 2 / small, np.minimum(*units) - 1)
        share = (put & divergent).sum(0) / put.sum(0)
        reach = share * stats.t.ppf(0.5 + level / 2, df) * np.sqrt(total)
    shift = np.where(share > 0, share * (means[0] - means[1]), 0.0)
    reach = np.where(share == 0, 0.0, np.where(np.minimum(*units) >= LEAST, reach, np.nan))
    shift, reach = (np.where(put.any(0), one, np.nan) for one in (shift, reach))
    return {"shift": shift, "shift_low": shift - reach, "shift_high": shift + reach}


def _member(prompts: np.ndarray) -> np.ndarray:
    """1 where a pair has a prompt, [prompt, pair]."""
    codes = np.unique(prompts, return_inverse=True)[1]
    return np.eye(int(codes.max(initial=-1)) + 1)[codes].T
