"""What is the best of n samples worth, exactly?

In: rewards of the samples of one prompt. Out: for each n the probability that each sample is the one selected, and the
divergence of the selected from the unselected. No resampling anywhere. Ignorant of prompts and of gold.
Letters: m samples, N values of n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewarden.errors import RewardenError


def rank_weights(m: int, n: Sequence[int] | np.ndarray, replacement: bool = False) -> np.ndarray:
    """Probability that the k-th smallest of m is the largest of n drawn ones.

    Args:
        m: samples in the pool.
        n: how many are drawn, each ≥ 1; without replacement at most m.
        replacement: draw with replacement: (k/m)^n − ((k−1)/m)^n, best-of-n of the pool itself (plug-in). Without it,
            C(k−1, n−1)/C(m, n), whose mean over pools is best-of-n of the policy that made the pool (unbiased).

    Returns:
        float64 [N, m], ranks ascending; rows sum to 1.

    Raises:
        RewardenError: an n that cannot be drawn.

    Source: Stiennon et al. 2020, arXiv 2009.01325, appendix; Nakano et al. 2021, arXiv 2112.09332, §B.

    Example:
        >>> rank_weights(4, [1, 2, 4]).round(3).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.0, 0.167, 0.333, 0.5], [0.0, 0.0, 0.0, 1.0]]
    """
    n = np.asarray(n, dtype=np.int64)
    if m < 1 or not n.size or n.min() < 1 or (not replacement and n.max() > m):
        raise RewardenError(f"the best of {n.max(initial=0)} cannot be drawn from {m} samples", where="n",
                            why="without replacement n is at most the number of samples of the prompt",
                            fix="ask for a smaller n, give more samples a prompt, or draw with replacement (replacement=True)")
    if replacement:
        below = (np.arange(m + 1) / m) ** n[:, None]
        return np.diff(below, axis=1)
    # from the largest down: w_m = n/m, w_{k-1} = w_k (k−n)/(k−1)
    k = np.arange(m, 1, -1)
    steps = np.maximum(k - n[:, None], 0) / (k - 1)
    falling = np.concatenate([np.ones((len(n), 1)), steps], axis=1)
    return (np.cumprod(falling, axis=1) * (n / m)[:, None])[:, ::-1]


def selection(proxy: np.ndarray, n: Sequence[int] | np.ndarray, replacement: bool = False) -> np.ndarray:
    """Probability that each sample is selected as the best of n; tied samples share theirs.

    Args:
        proxy: float64 [m], finite.
        n: how many are drawn.
        replacement: see `rank_weights`.

    Returns:
        float64 [N, m] in the order of `proxy`.

    Example:
        >>> selection(np.array([1.0, 5.0, 5.0]), [1, 3]).round(3).tolist()
        [[0.333, 0.333, 0.333], [0.0, 0.5, 0.5]]
    """
    order = np.argsort(proxy, kind="stable")
    weights = rank_weights(len(proxy), n, replacement)
    starts = np.flatnonzero(np.r_[True, np.diff(proxy[order]) > 0])
    if len(starts) < len(proxy):
        sizes = np.diff(np.r_[starts, len(proxy)])
        weights = np.repeat(np.add.reduceat(weights, starts, axis=1) / sizes, sizes, axis=1)
    found = np.empty_like(weights)
    found[:, order] = weights
    return found


def best_of_n_divergence(n: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """KL divergence, in nats, of best-of-n from the policy, where rewards have no ties: log n − (n−1)/n. An upper bound else.

    Source: Stiennon et al. 2020, arXiv 2009.01325, appendix; Beirami et al. 2024, arXiv 2401.01879, for the bound.

    Example:
        >>> best_of_n_divergence([1, 2]).round(4).tolist()
        [0.0, 0.1931]
    """
    n = np.asarray(n, dtype=np.float64)
    return np.log(n) - (n - 1) / n


def divergence(weights: np.ndarray) -> np.ndarray:
    """KL divergence, in nats, of selection probabilities [..., m] from the pool they select from: Σ q log(q m); [...].

    Example:
        >>> divergence(np.array([[0.5, 0.5], [0.0, 1.0]])).round(4).tolist()
        [0.0, 0.6931]
    """
    positive = weights > 0
    terms = weights * np.log(np.where(positive, weights * weights.shape[-1], 1.0))
    return terms.sum(axis=-1)
