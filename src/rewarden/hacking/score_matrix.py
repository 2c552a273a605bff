"""Do the columns of a score matrix rise and fall together over its rows, beyond what lengths explain?

In: margins [prompt, dimension] and numbers that must not make a correlation (token counts). Out: rank correlations of the
columns with intervals, permutation p values, and one test of all columns together. Ignorant of texts and models.
Letters: n prompts, D dimensions, P pairs of dimensions, B permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rewarden.statistics import benjamini_hochberg, monte_carlo_p
from rewarden.statistics.jackknife import jackknife_ends


@dataclass(frozen=True, eq=False)
class Association:
    """How columns go together. Arrays over pairs [P] are in the order of `np.triu_indices(D, 1)`.

    Attributes:
        rho: float64 [P], rank correlation of two columns, token counts partialled out; NaN where a column does not vary.
        low: float64 [P], lower end of its interval.
        high: float64 [P].
        p: float64 [P], one-sided: at least so much correlation when prompts of one column are shuffled.
        q: float64 [P], p adjusted for the number of pairs (Benjamini & Hochberg).
        z: float64 [P], rho in standard deviations of its permutation distribution.
        together: mean of rho over pairs, then lower and upper end of its interval.
        together_p: one-sided p of that mean when every column is shuffled by itself.
        together_z: the mean in standard deviations of its permutation distribution.
    """

    rho: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    q: np.ndarray
    z: np.ndarray
    together: tuple[float, float, float]
    together_p: float
    together_z: float


def association(margins: np.ndarray, counts: np.ndarray, *, level: float = 0.95, permutations: int = 9999,
                seed: int = 0) -> Association:
    """Partial rank correlations of the columns of a matrix.

    Each column is ranked, and what the ranks of its own token counts explain of it (least squares) is taken out. A permutation
    shuffles what is left of a column over prompts and takes the counts out again, so that the degrees of freedom they cost
    are those of the data. Intervals: jackknife over prompts on the scale of `jackknife_ends`, Student's quantiles.

    Args:
        margins: float64 [n, D], finite.
        counts: float64 [n, D, c], numbers to be taken out of each column; c may be 0.
        level: nominal coverage.
        permutations: B.
        seed: of a generator of its own.

    Source: Freedman & Lane 1983, J. Bus. Econ. Stat. 1:292 (permuted residuals).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(30, 1))
        >>> found = association(np.hstack([x, x**3, -x]), np.empty((30, 3, 0)), permutations=199)
        >>> found.rho.round(6).tolist(), float(found.p[0])
        ([1.0, -1.0, -1.0], 0.005)
    """
    n, width = margins.shape
    first, second = np.triu_indices(width, 1)
    units, takers = _units(margins, counts)
    rho = (units.T @ units)[first, second]
    shuffled = _shuffled(units, takers, permutations, seed)[:, first, second]  # [B, P]
    p = monte_carlo_p(shuffled, rho)
    mean, means = _mean(rho), np.array([_mean(row) for row in shuffled]) if np.isnan(rho).any() else shuffled.mean(axis=1)
    leave = np.array([_correlations(np.delete(margins, i, 0), np.delete(counts, i, 0)) for i in range(n)])  # [n, P]
    low, high = jackknife_ends(rho, leave, level, correlation=True)
    ends = jackknife_ends(np.array(mean), np.array([_mean(row) for row in leave]), level, correlation=True,
                          columns=_varying(rho, width))
    with np.errstate(invalid="ignore"):
        z = (rho - shuffled.mean(axis=0)) / shuffled.std(axis=0)
    return Association(rho, low, high, p, benjamini_hochberg(p), z, (mean, float(ends[0]), float(ends[1])),
                       float(monte_carlo_p(means, mean)), float((mean - means.mean()) / means.std()))


def _units(margins: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ranks of each column without its counts, of length 1 [n, D], and the maps [n, n] that take the counts out."""
    ranks = stats.rankdata(margins, axis=0)
    takers, columns = [], []
    for column in range(margins.shape[1]):
        known = np.column_stack([np.ones(len(margins)), stats.rankdata(counts[:, column], axis=0)])
        known = known[:, np.r_[True, np.ptp(known[:, 1:], axis=0) > 0]]
        # only directions the counts really span: two counts may be one
        left, sizes, _ = np.linalg.svd(known / np.linalg.norm(known, axis=0), full_matrices=False)
        basis = left[:, sizes > 1e-9 * sizes[0]]
        takers.append(np.eye(len(margins)) - basis @ basis.T)
        columns.append(takers[-1] @ ranks[:, column])
    return _scaled(np.column_stack(columns), axis=0), takers


def _scaled(columns: np.ndarray, axis: int) -> np.ndarray:
    """Columns of length 1; NaN where nothing is left of a column."""
    length = np.linalg.norm(columns, axis=axis, keepdims=True)
    return columns / np.where(length > 1e-9 * columns.shape[axis], length, np.nan)


def _correlations(margins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    units, _ = _units(margins, counts)
    return (units.T @ units)[np.triu_indices(margins.shape[1], 1)]


def _shuffled(units: np.ndarray, takers: list[np.ndarray], permutations: int, seed: int) -> np.ndarray:
    """Correlations [B, D, D] with every column shuffled over prompts by itself."""
    rng = np.random.default_rng(seed)
    columns = [_scaled(rng.permuted(np.tile(units[:, d], (permutations, 1)), axis=1) @ taker, axis=1)
               for d, taker in enumerate(takers)]
    stacked = np.stack(columns, axis=1)  # [B, D, n]
    return stacked @ stacked.transpose(0, 2, 1)


def _varying(rho: np.ndarray, width: int) -> int:
    """How many of the columns vary: k of them leave k(k − 1)/2 correlations."""
    known = int((~np.isnan(rho)).sum())
    return next(k for k in range(width, 0, -1) if k * (k - 1) // 2 <= known) if known else 2


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
