"""How is a number that belongs to two models laid out, and how far could it be off?

In: a statistic of two models, blocks of prompts. Out: arrays [model, other, ...] with the ends of delete-block jackknife
intervals. Ignorant of what the statistic is. Letters: M models, B blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rewarden.statistics.jackknife import jackknife_ends
from rewarden.tokens.comparison.blocks import random_blocks

BLOCKS = 40
"""Blocks of prompts: Student's t with 39 degrees of freedom."""


def pairs_of_models(m: int) -> Iterator[tuple[int, int]]:
    """Every two of m models."""
    return ((i, j) for i in range(m) for j in range(i + 1, m))


def symmetric(m: int, values: dict[tuple[int, int], np.ndarray | float], diagonal: float = np.nan) -> np.ndarray:
    """[M, M, ...] from a value for every two models; the diagonal holds one number."""
    shape = np.shape(next(iter(values.values())))
    out = np.full((m, m, *shape), diagonal, dtype=np.float64)
    for (i, j), value in values.items():
        out[i, j] = out[j, i] = value
    return out


def prompt_blocks(clusters: np.ndarray, seed: int, blocks: int = BLOCKS) -> np.ndarray:
    """Block number of each item; a prompt's items share a block."""
    return random_blocks(len(clusters), blocks, seed, clusters)


def jackknifed(statistic: Callable[[np.ndarray], np.ndarray | float], blocks: np.ndarray, level: float, *,
               correlation: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic with the ends of its interval.

    Args:
        statistic: from a mask of items kept, bool [n], to a number or an array.
        blocks: [n], of `prompt_blocks`.
        level: nominal coverage.
        correlation: the interval is taken on Fisher's z.

    Returns:
        Estimate, lower and upper end, of the statistic's shape; NaN ends with fewer than two blocks.
    """
    estimate = np.asarray(statistic(np.ones(len(blocks), dtype=bool)), dtype=np.float64)
    count = int(blocks.max(initial=-1)) + 1
    if count < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    left_out = np.stack([np.asarray(statistic(blocks != block), dtype=np.float64) for block in range(count)])
    low, high = jackknife_ends(estimate, left_out, level, correlation=correlation)
    return estimate, low, high
