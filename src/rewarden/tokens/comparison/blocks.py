"""How far could a statistic of a whole vocabulary be off, when it is too slow to resample token by token?

In: a number of items, or estimates with one block of items left out at a time. Out: random blocks; the ends of a delete-block
jackknife interval. Ignorant of the statistic. The bootstrap stays in `rewarden.statistics`; it resamples these blocks.
Letters: n items, B blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from rewarden.statistics.sampling import cluster_codes


def random_blocks(n: int, blocks: int, seed: int, clusters: Any = None) -> np.ndarray:
    """Block number int64 [n] of each item, from 0; blocks hold the same number of items, but for one.

    Args:
        n: items.
        blocks: at most this many; with fewer items every item is a block.
        seed: of a generator of its own.
        clusters: [n], one id per item; a cluster's items share a block, and blocks hold the same number of clusters.

    Example:
        >>> np.bincount(random_blocks(10, 3, seed=0)).tolist()
        [4, 3, 3]
    """
    codes = cluster_codes(np.empty(n), clusters)
    n_clusters = int(codes.max(initial=-1)) + 1
    return (np.random.default_rng(seed).permutation(n_clusters) % max(1, min(blocks, n_clusters)))[codes]


def jackknife_ends(estimate: np.ndarray, left_out: np.ndarray, level: float, *, correlation: bool = False,
                   of_pairs: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Interval from estimates that each leave out one block.

    Args:
        estimate: [...] on all items.
        left_out: [B, ...], without each block.
        level: nominal coverage.
        correlation: take the interval on Fisher's z, so that it stays within -1 and 1.
        of_pairs: the estimate is over pairs of B things, and each value leaves out one thing with all its pairs.

    Returns:
        Lower and upper end [...]: Student's t with B - 1 degrees of freedom; NaN where an estimate is not defined.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 11; pairs: Snijders & Borgatti 1999, Connections
    22(2):61.

    Example:
        >>> low, high = jackknife_ends(np.array(2.0), np.array([1.5, 2.0, 2.5]), 0.95)  # the mean of 3, 2 and 1
        >>> round(float(low), 2), round(float(high), 2)
        (-0.48, 4.48)
    """
    n = len(left_out)
    factor = (n - 2) / (2 * n) if of_pairs else (n - 1) / n  # a pair is left out twice
    error = np.sqrt(factor * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    reach = stats.t.ppf(0.5 + level / 2, n - 1) * error
    if not correlation:
        return estimate - reach, estimate + reach
    inside = np.clip(estimate, -1 + 1e-12, 1 - 1e-12)  # at the ends of the scale z is infinite and the error 0
    z, reach = np.arctanh(inside), reach / (1 - inside**2)
    still = error <= 1e-12
    return np.where(still, estimate, np.tanh(z - reach)), np.where(still, estimate, np.tanh(z + reach))
