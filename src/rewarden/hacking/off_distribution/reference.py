"""How far is an activation from those of clean runs?

In: clean activations [n, d]. Out: a `Reference` with squared Mahalanobis distances of others: in the leading directions, where
most of the variance is, outside them, and in all. One distance over hundreds of directions would not see a large step along one
of them. Never builds a d × d matrix when n < d. Ignorant of models and of thresholds. Letters: n rows, d width, k directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rewarden.errors import RewardenError

Method = Literal["ledoit_wolf", "pca"]

RELATIVE_FLOOR = 1e-12
"""Variance of a direction, relative to the mean square of the activations, below which it is rounding."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A covariance that is known along some directions and the same in all others.

    Attributes:
        mean: float64 [d].
        axes: float64 [k, d], orthonormal.
        variance: float64 [k], along the axes.
        rest: variance of every direction at right angles to the axes.
        leading: how many axes count as leading, the first ones.
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    rest: float
    leading: int

    @classmethod
    def fit(cls, rows: np.ndarray, method: Method = "ledoit_wolf", components: int = 32) -> Reference:
        """The reference of clean rows.

        Args:
            rows: [n, d], at least three.
            method: "ledoit_wolf" shrinks the sample covariance S to (1 − ρ) S + ρ tr(S)/d · I with the ρ that is estimated to
                come closest to the truth; "pca" keeps the leading directions and pools the variance of the others.
            components: leading directions, at most (n − 1) // 2; "pca" knows the variance of these only.

        Raises:
            RewardenError: fewer than three rows, or values that are not finite.

        Source: Ledoit & Wolf 2004, J. Multivariate Analysis 88:365, eqs. 7-12.

        Example:
            >>> rows = np.random.default_rng(0).normal(size=(200, 4))
            >>> bool(Reference.fit(rows).squares(np.full((1, 4), 9.0))[0, -1] > 100)
            True
        """
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < 3 or not np.isfinite(rows).all():
            raise RewardenError("no distance can be fitted", where="Reference.fit", why=f"rows of shape {rows.shape}, "
                                f"{int((~np.isfinite(rows)).any(-1).sum()) if rows.ndim == 2 else 0} not finite",
                                fix="give at least three finite rows [n, d]")
        n, d = rows.shape
        mean = rows.mean(0)
        spectrum, axes = _principal(rows - mean)
        floor = RELATIVE_FLOOR * float((rows**2).mean()) + np.finfo(np.float64).tiny
        if method == "pca":
            k = min(components, (n - 1) // 2, len(spectrum))
            rest = spectrum[k:].sum() / max(d - k, 1)
            return cls(mean, axes[:k], np.maximum(spectrum[:k], floor), max(rest, floor), k)
        shrinkage, scale = _ledoit_wolf(rows - mean, spectrum)
        variance = (1 - shrinkage) * spectrum + shrinkage * scale
        return cls(mean, axes, np.maximum(variance, floor), max(shrinkage * scale, floor), min(components, (n - 1) // 2))

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """Squared distances [n, 3] of rows [n, d]: along the leading axes, along all others, and their sum; [n, 1] where all
        directions are leading."""
        centred = np.asarray(rows, dtype=np.float64) - self.mean
        along = centred @ self.axes.T  # [n, k]
        scaled = along**2 / self.variance
        inside = scaled[:, :self.leading].sum(-1)
        if self.leading >= len(self.mean):
            return inside[:, None]
        outside = scaled[:, self.leading:].sum(-1)
        if len(self.axes) < len(self.mean):
            # a difference of two sums of squares would lose its digits where nearly all of a row lies along the axes
            outside = outside + ((centred - along @ self.axes) ** 2).sum(-1) / self.rest
        return np.stack([inside, outside, inside + outside], -1)

    def along(self, rows: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Signed distance [n] of rows [n, d] in what a direction [d] reads: w·(x − mean) ÷ √(wᵀ Σ w).

        Its square is a part of the squared distance: the rest is the distance in what the direction does not read.
        """
        read = self.axes @ direction
        outside = max(float(direction @ direction - read @ read), 0.0) if len(self.axes) < len(self.mean) else 0.0
        spread = np.sqrt((read**2 * self.variance).sum() + self.rest * outside)
        centred = np.asarray(rows, dtype=np.float64) - self.mean
        return centred @ direction / spread if spread > 0 else np.zeros(len(centred))


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [k] of the covariance (÷ n), largest first, and eigenvectors [k, d]; those that are rounding left out."""
    n, d = centred.shape
    if n > d:
        values, vectors = np.linalg.eigh(centred.T @ centred / n)
        values, axes = values[::-1], vectors.T[::-1]
    else:
        values, left = np.linalg.eigh(centred @ centred.T / n)
        values, axes = values[::-1], left.T[::-1] @ centred
    kept = values > max(values[0], 0.0) * 1e-12
    values, axes = values[kept], axes[kept]
    return values, axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _ledoit_wolf(centred: np.ndarray, spectrum: np.ndarray) -> tuple[float, float]:
    """Shrinkage ρ and the variance it shrinks to, from centred rows and the covariance's eigenvalues."""
    n, d = centred.shape
    scale = spectrum.sum() / d
    distance = (spectrum**2).sum() / d - scale**2  # d², of eq. 8
    if distance <= 0:
        return 1.0, float(scale)
    spread = (((centred**2).sum(1) ** 2).sum() / n - (spectrum**2).sum()) / (n * d)  # b̄², of eq. 10
    return float(min(max(spread, 0.0), distance) / distance), float(scale)
