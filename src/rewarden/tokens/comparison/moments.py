"""What shape has the distribution of a model's rewards over its vocabulary, and is one tail longer than the other?

In: `TokenScores` or `SharedScores`. Out: a `moments` Result: moments, quantile skews and tail asymmetries, each with a
bootstrap interval over tokens. Ignorant of models and of what tokens mean.
Letters: n finite rewards, B blocks of tokens, Q quantile measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval, require_n
from rewarden.statistics.sampling import cluster_codes
from rewarden.tokens.comparison.blocks import random_blocks
from rewarden.tokens.comparison.shared import SharedScores
from rewarden.tokens.scores import TokenScores

MOMENTS = ("mean", "variance", "skewness", "kurtosis")
FIELDS = ("value", "low", "high")


def moments(scores: TokenScores | SharedScores, *, quantiles: Sequence[float] = (0.25, 0.1),
            tails: Sequence[float] = (0.01, 0.001), special: bool = True,
            clusters: Sequence[Any] | np.ndarray | None = None, blocks: int = 200, level: float = 0.95,
            n_resamples: int = 1000, seed: int = 0) -> Result:
    """Moments and asymmetries of the rewards of each prompt.

    Args:
        scores: one model's scan, or the shared tokens of several.
        quantiles: q of the quantile skews, between 0 and ½: 0.25 is Bowley's, 0.1 Kelly's.
        tails: shares t of the tail asymmetries, between 0 and ½; a vocabulary of fewer than 1/t tokens has no such tail.
        special: keep control tokens and tokens whose bytes are no text.
        clusters: [token], one id per token, resampled together (`content_clusters(texts)` keeps "love", " love" and "Love"
            together).
        blocks: the bootstrap resamples this many random blocks of tokens; the single tokens of a vocabulary are too many.
        level: coverage of the intervals.
        n_resamples: bootstrap resamples.
        seed: of the blocks and the bootstrap.

    Returns:
        Result of kind "moments". `value`, `low`, `high` (model where there are several, prompt, moment), BCa bootstrap over
        blocks; `n` and `missing` (not finite) tokens. Moments: "mean" and "variance" (population moments, in units of the
        reward and squared), "skewness" m₃/m₂^1.5, "kurtosis" m₄/m₂² - 3; "quantile skew q", (Q(1-q) + Q(q) - 2 median) /
        (Q(1-q) - Q(q)), -1 to 1; "tail asymmetry t", log of (Q(1-t) - median) / (median - Q(t)). All but the first two are 0
        for a symmetric distribution, apart from kurtosis, which is 0 for a normal one; positive when the upper tail is longer.
        Quantiles interpolate linearly. NaN where not defined (no spread, too few tokens).

    Raises:
        RewardenError: impossible options, or fewer than three tokens.

    Source: Hinkley 1975, Biometrika 62:101 (quantile skew); Efron & Tibshirani 1993, ch. 14 (BCa).

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> scores = token_scores([[0.0, 0.0, 0.0, 1.0]], token_id=range(4), text=list("abcd"), prompts=["Hi"])
        >>> found = moments(scores, quantiles=[0.25], tails=[], n_resamples=50)
        >>> dict(zip(found.moment, found.value[0].round(3).tolist()))
        {'mean': 0.25, 'variance': 0.188, 'skewness': 1.155, 'kurtosis': -0.667, 'quantile skew 0.25': 1.0}
    """
    wrong = [share for share in (*quantiles, *tails) if not 0 < share < 0.5]
    if wrong or blocks < 2:
        raise RewardenError(f"quantiles={quantiles!r}, tails={tails!r}, blocks={blocks}", where="moments",
                            fix="shares between 0 and 0.5, such as quantiles=[0.25], tails=[0.01]; at least 2 blocks")
    data = scores.data
    kept = np.ones(data.sizes["token"], dtype=bool)
    if not special:
        flagged = (data["special"] | data["byte"]).values
        kept = ~(flagged.any(axis=0) if flagged.ndim == 2 else flagged)
    rewards = data["reward"].values[..., kept].astype(np.float64)
    codes = cluster_codes(kept, clusters)[kept]
    names = [*MOMENTS, *(f"quantile skew {q}" for q in quantiles), *(f"tail asymmetry {t}" for t in tails)]
    lead = rewards.shape[:-1]
    found = {field: np.full((*lead, len(names)), np.nan) for field in FIELDS}
    n, options = np.isfinite(rewards).sum(axis=-1), {"level": level, "n_resamples": n_resamples, "seed": seed}
    for at in np.ndindex(lead):
        finite = np.isfinite(rewards[at])
        require_n(int(n[at]), 3, "moments of the rewards")
        block = random_blocks(int(n[at]), blocks, seed, codes[finite])
        parts = [_moments(rewards[at][finite], block, options),
                 _quantiles(rewards[at][finite], block, list(quantiles), list(tails), options)]
        for field in FIELDS:
            found[field][at] = np.concatenate([part[field] for part in parts])
    dims = data["reward"].dims[:-1]
    out = xr.Dataset({**{field: ((*dims, "moment"), values) for field, values in found.items()},
                      "n": (dims, n), "missing": (dims, rewards.shape[-1] - n)},
                     coords={**{dim: data[dim].values for dim in dims}, "moment": np.array(names, dtype=object)})
    provenance = {**scores.provenance, "special": special, "blocks": blocks, **options}
    notes = (*scores.warnings, *_warnings(out, tails, scores))
    return Result("moments", out, provenance, scores.exact, scores.noise_floor, notes)


Found = dict[str, np.ndarray]


def _moments(rewards: np.ndarray, block: np.ndarray, options: dict[str, Any]) -> Found:
    """Fields of `FIELDS`, each [4]. Moments of a resample of blocks follow from sums per block, so that no token is touched."""
    # Of equal rewards the mean can be off by rounding, which must not pass for spread.
    centre, spread = (rewards.mean(), rewards.std()) if np.ptp(rewards) > 0 else (rewards[0], 1.0)
    z = (rewards - centre) / spread  # powers of standardised rewards keep their digits
    sums = np.stack([np.bincount(block, z**power) for power in range(5)], axis=1)  # [B, power]
    interval = bootstrap_interval(sums, statistic=partial(_from_sums, centre, spread), **options)
    return {field: end[:4] for field, end in zip(FIELDS, (interval.estimate, interval.low, interval.high), strict=True)}


def _from_sums(centre: float, spread: float, sums: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean, variance, skewness, excess kurtosis and n from sums of powers 0…4 of (x - centre) / spread."""
    n, *powers = sums.sum(axis=axis)
    a, b, c, d = (power / n for power in powers)
    m2, m3, m4 = b - a**2, c - 3 * a * b + 2 * a**3, d - 4 * a * c + 6 * a**2 * b - 3 * a**4
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([centre + spread * a, spread**2 * m2, m3 / m2**1.5, m4 / m2**2 - 3, n])


def _quantiles(rewards: np.ndarray, block: np.ndarray, quantiles: list[float], tails: list[float],
               options: dict[str, Any]) -> Found:
    """Fields of `FIELDS`, each [Q]."""
    found = {field: np.full(len(quantiles) + len(tails), np.nan) for field in FIELDS}
    there = [t for t in tails if len(rewards) * t >= 1]
    measured = np.array([True] * len(quantiles) + [t in there for t in tails], dtype=bool)
    if measured.any():
        order = np.argsort(rewards)
        statistic = partial(_asymmetries, rewards[order], block[order], quantiles, there)
        # Blocks are what is resampled, by number; a column for each measure, as the bootstrap takes one number per column.
        numbers = np.repeat(np.arange(block.max() + 1)[:, None], measured.sum(), axis=1)
        interval = bootstrap_interval(numbers, statistic=statistic, **options)
        for field, end in zip(FIELDS, (interval.estimate, interval.low, interval.high), strict=True):
            found[field][measured] = end
    return found


def _asymmetries(rewards: np.ndarray, block: np.ndarray, quantiles: list[float], tails: list[float], drawn: np.ndarray,
                 axis: int = 0) -> np.ndarray:
    """Quantile skews, then tail asymmetries [Q], of the tokens of the drawn blocks [any number, Q]; rewards [n] ascend."""
    shares = np.array([*quantiles, *tails])
    up_to = np.cumsum(np.bincount(drawn[:, 0].astype(np.int64), minlength=block.max() + 1)[block])  # tokens drawn, ascending
    place = np.concatenate([[0.5], shares, 1 - shares]) * (up_to[-1] - 1)
    below, above = (rewards[np.searchsorted(up_to, end(place), side="right")] for end in (np.floor, np.ceil))
    middle, *ends = below + (place - np.floor(place)) * (above - below)
    low, high = np.split(np.array(ends), 2)
    up, down = high - middle, middle - low
    with np.errstate(divide="ignore", invalid="ignore"):
        skew, tail = (up - down) / (up + down), np.log(up / down)
    return np.where(np.arange(len(shares)) < len(quantiles), skew, np.where(np.isfinite(tail), tail, np.nan))


def _warnings(out: xr.Dataset, tails: Sequence[float], scores: TokenScores | SharedScores) -> list[str]:
    smallest, missing = int(out["n"].min()), int(out["missing"].max())
    notes = [f"no tail asymmetry {t}: it takes {int(np.ceil(1 / t))} tokens, there are {smallest}"
             for t in tails if smallest * t < 1]
    if missing:
        notes.append(f"up to {missing} tokens of a prompt have no finite reward and are left out")
    variance = float(out["value"].sel(moment="variance").min())
    if scores.noise_floor is not None and np.sqrt(variance) <= scores.noise_floor:
        notes.append(f"the spread of the rewards, {np.sqrt(variance):.2g}, is within the noise floor: their shape is rounding")
    return notes
