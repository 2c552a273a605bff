"""How far could a statistic be off that is too slow, or too bound to its items, to resample?

In: an estimate, and the same with one block of items (a prompt, say) left out at a time. Out: the ends of a delete-block
jackknife interval. Ignorant of the statistic. Letters: B blocks.
"""

from __future__ import annotations

import numpy as np
from scipy import stats


def jackknife_ends(estimate: np.ndarray, left_out: np.ndarray, level: float, *, correlation: bool = False, columns: int = 2,
                   of_pairs: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Interval from estimates that each leave out one block.

    Args:
        estimate: [...] on all items.
        left_out: [B, ...], without each block.
        level: nominal coverage.
        correlation: take the interval on the scale on which the spread of a correlation r hardly depends on r, so that it
            stays within -1 and 1: ½·log((1 + (c−1)·r) / (1 − r)) with c = `columns`; Fisher's z for two.
        columns: how many columns a correlation is of: 2, or c for the mean of the correlations of every two of c columns, which
            lies above −1/(c−1).
        of_pairs: the estimate is over pairs of B things, and each value leaves out one thing with all its pairs.

    Returns:
        Lower and upper end [...]: Student's t with B - 1 degrees of freedom; NaN where an estimate is not defined.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 11; pairs: Snijders & Borgatti 1999, Connections
    22(2):61; the scale: Fisher 1925, Statistical Methods for Research Workers, §35 and §40.

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
    # at the ends of the scale z is infinite and the error 0
    inside = np.clip(estimate, -1 / (columns - 1) + 1e-12, 1 - 1e-12)
    above, below = 1 + (columns - 1) * inside, 1 - inside
    z, reach = 0.5 * np.log(above / below), reach * columns / (2 * above * below)
    with np.errstate(over="ignore"):
        low, high = (1 - columns / (np.exp(2 * end) + columns - 1) for end in (z - reach, z + reach))
    still = error <= 1e-12
    return np.where(still, estimate, low), np.where(still, estimate, high)
