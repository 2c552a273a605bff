"""How far are rewards that were computed together from those of each row alone, and is that rounding?

In: rows and the rewards some fast way gave them. Out: a `Check`: the noise floor, and whether the way fits the model. Ignorant
of the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rewarden.encoding import Encoded

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

SAMPLE, HALF_SAMPLE = 16, 64
"""Rows that are also run alone: in float32, and in half precision, where each is one draw of a large rounding."""

TOLERANCE, HALF_TOLERANCE = 1e-3, 0.5
"""Share of the rewards' standard deviation that the largest difference (in half precision: the median one) may have."""

ULPS, HALF_ULPS = 64, 8
"""Units in the last place of the largest reward that it may have beside that."""


@dataclass(frozen=True)
class Check:
    """What a comparison with rows run alone says.

    Attributes:
        floor: twice the largest difference: of two rewards each is rounded.
        fits: the differences are rounding.
        apart: the largest difference.
    """

    floor: float
    fits: bool
    apart: float


def sample_of(n: int, dtype: torch.dtype) -> np.ndarray:
    """Which of n rows are also run alone, int64, evenly spaced."""
    count = SAMPLE if dtype in (torch.float32, torch.float64) else HALF_SAMPLE
    return np.unique(np.linspace(0, n - 1, min(count, n)).astype(np.int64)) if n else np.empty(0, np.int64)


def compare_with_alone(rm: RewardModel, rows: Sequence[Encoded], values: np.ndarray) -> Check:
    """Run rows one by one and compare.

    Args:
        rm: the reward model.
        rows: [n].
        values: float [n, k], their scalars by another way.

    Example:
        >>> import rewarden as rw
        >>> rm, talk = rw.load(), rw.Pair("Hi", "Hello!", "Go away.").conversations[0]
        >>> compare_with_alone(rm, [rm.encode(talk)], rm.reward([talk])).fits
        True
    """
    return judged(rm.reward_encoded(rows, batch_size=1), values, rm.dtype)


def judged(alone: np.ndarray, values: np.ndarray, dtype: torch.dtype) -> Check:
    """Compare scalars [n, k] of rows alone with those of another way."""
    finite = np.isfinite(alone) & np.isfinite(values)
    known = bool((np.isfinite(alone) == np.isfinite(values)).all())
    off = np.where(finite, np.abs(np.where(finite, alone, 0.0) - np.where(finite, values, 0.0)), np.nan)
    if not finite.any():
        return Check(0.0, known, 0.0)
    half = dtype not in (torch.float32, torch.float64)
    eps = torch.finfo(dtype).eps if half else torch.finfo(torch.float32).eps
    fits = known
    for column, kept in zip(range(off.shape[1]), finite.T, strict=True):
        if kept.any():
            rewards, differences = alone[kept, column], off[kept, column]
            size = float(np.abs(rewards).max())
            allowed = ((HALF_TOLERANCE if half else TOLERANCE) * float(rewards.std())
                       + (HALF_ULPS if half else ULPS) * eps * size)
            fits &= bool((np.median(differences) if half else differences.max()) <= allowed)
    apart = float(np.nanmax(off))
    return Check(2 * apart, fits, apart)
