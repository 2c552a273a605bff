"""Do two rankings of the same components agree, pair by pair, and could it be chance?

In: values [pair, component] of two quantities. Out: Spearman's correlation of each pair, and p values of the mean over pairs
under permuted components. Ignorant of models and of what the quantities are.
"""

from __future__ import annotations

import numpy as np
from scipy import stats


def unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each row, centred and of length 1, so that the dot product of two rows is Spearman's rho.

    Args:
        values: [pair, component]; ties take their average rank.

    Returns:
        [pair, component]; NaN rows where a value is missing, where all are equal, or where there are fewer than two.

    Example:
        >>> first, second = unit_ranks(np.array([[1.0, 5.0, 9.0]])), unit_ranks(np.array([[2.0, 1.0, 3.0]]))
        >>> float((first * second).sum())
        0.5
    """
    if values.shape[1] < 2:
        return np.full(values.shape, np.nan)
    ranks = stats.rankdata(values, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1, keepdims=True))
    known = np.isfinite(values).all(1, keepdims=True) & (length > 0)
    return np.where(known, centred / np.where(length > 0, length, 1.0), np.nan)


def permutation_p(first: np.ndarray, second: np.ndarray, groups: np.ndarray, *, together: bool, permutations: int, seed: int
                  ) -> np.ndarray:
    """Two-sided p of the mean rho over pairs, if one side's components were shuffled.

    Args:
        first: unit ranks [comparison, pair, component]; these are shuffled.
        second: unit ranks [comparison, pair, component].
        groups: bool [group, pair]: which pairs are averaged.
        together: one shuffle for all pairs, so that what pairs have in common stays; else one for each pair.
        permutations: shuffles m.
        seed: of a generator of its own.

    Returns:
        p [group, comparison] = (1 + shuffles at least as extreme) / (1 + m); NaN where no pair of the group has a rho.

    Source: Phipson & Smyth 2010, for the counts.

    Example:
        >>> ranks = unit_ranks(np.tile(np.arange(6.0), (8, 1)))[None]
        >>> permutation_p(ranks, ranks, np.ones((1, 8), bool), together=False, permutations=99, seed=0)
        array([[0.01]])
    """
    rho = (first * second).sum(-1)
    known = np.isfinite(rho)
    weight = (groups[:, None] & known[None]).astype(float)  # [group, comparison, pair]
    count = weight.sum(-1)
    weight /= np.maximum(count, 1)[..., None]
    observed = np.abs((weight * np.where(known, rho, 0.0)).sum(-1))
    asked = known.any(-1)  # comparisons that no pair has are not shuffled
    shuffled, fixed = (np.where(known[asked, :, None], ranks[asked], 0.0) for ranks in (first, second))
    rng, order = np.random.default_rng(seed), np.arange(first.shape[-1])
    hits = np.zeros(observed.shape, dtype=np.int64)
    for _ in range(permutations if asked.any() else 0):
        if together:
            drawn = shuffled[..., rng.permutation(order)]
        else:
            each = rng.permuted(np.broadcast_to(order, shuffled.shape[1:]), axis=1)
            drawn = np.take_along_axis(shuffled, each[None], axis=-1)
        null = np.einsum("gcp,cp->gc", weight[:, asked], np.einsum("cpn,cpn->cp", drawn, fixed))
        hits[:, asked] += np.abs(null) >= observed[:, asked] - 1e-12  # rounding must not break ties
    return np.where(count > 0, (hits + 1) / (permutations + 1), np.nan)
