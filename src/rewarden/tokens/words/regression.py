"""Least squares with errors that hold when the noise is not the same everywhere (HC3).

In: a design matrix and an outcome. Out: coefficients with intervals and p. Ignorant of what is regressed on what.
Letters: n items, k columns of the design, the constant included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rewarden.errors import RewardenError

SAME = 1e-12
"""Outcomes that differ by less than this share of the largest are one number: what is left of them is rounding."""

FULL_LEVERAGE = 1e-10
"""Below this 1 − h an item lies on the line by construction and has no error of its own."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Coefficients [k] with what is known of each; NaN where the data do not tell."""

    coefficient: np.ndarray
    """Least squares."""
    se: np.ndarray
    """HC3 standard errors; NaN where one item alone decides a coefficient."""
    low: np.ndarray
    """Lower end of the interval, t distribution with n − k degrees of freedom."""
    high: np.ndarray
    """Upper end."""
    p: np.ndarray
    """Two-sided, of the coefficient being 0."""
    n: int
    """Items."""


def ols_hc3(design: np.ndarray, outcome: np.ndarray, level: float = 0.95) -> Fit:
    """Least squares with HC3 errors: each residual is taken as if its item had been left out of the fit.

    Args:
        design: float [n, k], finite, the constant included.
        outcome: float [n], finite.
        level: nominal coverage of the intervals.

    Returns:
        Fit; all NaN with no more items than columns, or with columns that depend on each other. Where
        all outcomes are equal, slopes are exactly 0 with p = 1.

    Raises:
        RewardenError: an impossible level.

    Source: MacKinnon & White 1985, J. Econometrics 29:305; Long & Ervin 2000 for its use at small n.

    Example:
        >>> x = np.arange(6.0)
        >>> fit = ols_hc3(np.column_stack([np.ones(6), x]), 2 * x + [0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
        >>> fit.coefficient.round(3).tolist(), fit.se.round(3).tolist()
        ([0.043, 1.983], [0.1, 0.033])
    """
    if not 0 < level < 1:
        raise RewardenError(f"level {level!r} is no coverage", where="level=", fix="use a number between 0 and 1, such as 0.95")
    n, k = design.shape
    nothing = np.full(k, np.nan)
    if n <= k or np.linalg.matrix_rank(design) < k:
        return Fit(nothing, nothing, nothing, nothing, nothing, n)
    q, r = np.linalg.qr(design)
    coefficient = np.linalg.solve(r, q.T @ outcome)
    size = np.abs(outcome).max()
    if np.ptp(outcome) <= SAME * size:  # one number: what is left of it is rounding, and no evidence of anything
        coefficient[np.abs(coefficient) <= SAME * size] = 0.0
        return Fit(coefficient, 0 * coefficient, coefficient, coefficient, np.where(coefficient == 0, 1.0, 0.0), n)
    free = 1.0 - (q**2).sum(axis=1)  # [n], 1 − leverage
    if free.min() < FULL_LEVERAGE:
        return Fit(coefficient, nothing, nothing, nothing, nothing, n)
    left_out = (outcome - design @ coefficient) / free
    se = np.sqrt(((np.linalg.solve(r, q.T) * left_out) ** 2).sum(axis=1))
    half = stats.t.ppf(0.5 + level / 2, n - k) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(se > 0, 2 * stats.t.sf(np.abs(coefficient) / se, n - k), np.where(coefficient == 0, 1.0, 0.0))
    return Fit(coefficient, se, coefficient - half, coefficient + half, p, n)
