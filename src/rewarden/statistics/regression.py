"""How does a quantity change with several others, when rows of one cluster are not independent?

In: y, columns x, a cluster id per row. Out: least-squares coefficients with CR2 standard errors, Satterthwaite degrees of
freedom, intervals and p. Ignorant of what is regressed. Letters: n rows, k columns, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.statistics.sampling import cluster_codes

TOLERANCE = 1e-8
"""Share of a column's norm below which what the others leave of it is rounding."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Coefficients [k], or [k, m] for m quantities regressed on the same columns, with their uncertainty.

    Attributes:
        coefficient: least squares.
        se: CR2 standard error (HC2 where every row is its own cluster).
        df: [k], Satterthwaite degrees of freedom: how many clusters a coefficient in effect rests on, less one or more.
        low, high: ends of the t interval.
        p: two-sided.
        n: rows used.
        n_clusters: clusters used.
        missing: rows left out because a value was not finite.
        r2: share of the variance about the mean that the fit explains, [] or [m].
    """

    coefficient: np.ndarray
    se: np.ndarray
    df: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    n: int
    n_clusters: int
    missing: int
    r2: np.ndarray


def clustered_regression(x: Any, y: Any, clusters: Any = None, *, level: float = 0.95) -> Regression:
    """Least squares whose intervals hold for few clusters, unequal clusters, unequal variances and rare features.

    Args:
        x: [n, k], of full column rank, with a column of ones where a level is wanted.
        y: [n] or [n, m]; rows with a value that is not finite are dropped and counted.
        clusters: [n], one id per row; rows are their own clusters by default.
        level: coverage of the intervals.

    Raises:
        RewardenError: fewer clusters than columns plus one, or columns that are sums of others.

    Source: Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, JBES 36:672.

    Example:
        >>> found = clustered_regression(np.ones((4, 1)), [1.0, 2.0, 3.0, 4.0])
        >>> float(found.coefficient[0]), round(float(found.se[0]), 4), round(float(found.df[0]), 6)
        (2.5, 0.6455, 3.0)
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    shape, y = y.shape[1:], y.reshape(len(y), -1)
    finite = np.isfinite(y).all(axis=1) & np.isfinite(x).all(axis=1)
    missing, codes = int((~finite).sum()), cluster_codes(y, clusters)[finite]
    order = np.argsort(codes, kind="stable")
    x, y, codes = x[finite][order], y[finite][order], np.unique(codes[order], return_inverse=True)[1].ravel()
    n, k, count = *x.shape, int(codes.max(initial=-1)) + 1
    if count <= k or independent_columns(x).sum() < k:
        raise RewardenError("this regression has no unique answer", where="clustered_regression",
                            why=f"{n} rows in {count} clusters, {k} columns of rank {int(independent_columns(x).sum())}",
                            fix="leave columns out, or add clusters")
    inverse = np.linalg.inv(x.T @ x)
    coefficient = inverse @ (x.T @ y)  # [k, m]
    residual = y - x @ coefficient
    starts = np.flatnonzero(np.r_[True, np.diff(codes) > 0])
    weights = _adjusted(x, inverse, starts) @ inverse  # [n, k]
    scores = (np.add.reduceat(weights * one[:, None], starts, axis=0) for one in residual.T)  # of each quantity, [K, k]
    se = np.sqrt(np.stack([np.square(score).sum(axis=0) for score in scores], axis=1))
    df = _degrees(x, weights, inverse, starts)
    half = stats.t.ppf(0.5 + level / 2, df)[:, None] * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(coefficient) / se, df[:, None])
        r2 = 1 - np.square(residual).sum(axis=0) / np.square(y - y.mean(axis=0)).sum(axis=0)
    shaped = [values.reshape(k, *shape) for values in (coefficient, se, coefficient - half, coefficient + half, p)]
    return Regression(shaped[0], shaped[1], df, shaped[2], shaped[3], shaped[4], n, count, missing, r2.reshape(shape))


def independent_columns(x: np.ndarray) -> np.ndarray:
    """Which columns are no sums of the columns before them, bool [k].

    Example:
        >>> independent_columns(np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 1.0]])).tolist()
        [True, False, True]
    """
    kept, basis = np.zeros(x.shape[1], dtype=bool), np.zeros((len(x), 0))
    for column in range(x.shape[1]):
        left = x[:, column] - basis @ (basis.T @ x[:, column])
        left -= basis @ (basis.T @ left)  # once more: the first pass leaves rounding
        size = np.linalg.norm(left)
        if size > TOLERANCE * np.linalg.norm(x[:, column]) and size > 0:
            kept[column] = True
            basis = np.column_stack([basis, left / size])
    return kept


def inflation(x: np.ndarray) -> np.ndarray:
    """Variance inflation factors [k] of columns without a column of ones: 1 where a column is uncorrelated with the others.

    Example:
        >>> inflation(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])).round(9).tolist()
        [1.0, 1.0]
    """
    centred = x - x.mean(axis=0)
    return np.diag(np.linalg.inv(np.atleast_2d(np.corrcoef(centred, rowvar=False))))


def _adjusted(x: np.ndarray, inverse: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A_g X_g of each cluster, [n, k], with A_g = (I − H_gg)^(−½)."""
    ends = np.r_[starts[1:], len(x)]
    leverage = np.einsum("ni,ij,nj->n", x, inverse, x)
    out = x / np.sqrt(np.maximum(1 - leverage, TOLERANCE))[:, None]  # right for clusters of one row
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        own = x[start:end]
        values, vectors = np.linalg.eigh(np.eye(end - start) - own @ inverse @ own.T)
        # a direction the cluster alone decides has no residual to weigh
        root = np.where(values > TOLERANCE, 1 / np.sqrt(np.maximum(values, TOLERANCE)), 0.0)
        out[start:end] = vectors @ (root[:, None] * (vectors.T @ own))
    return out


def _degrees(x: np.ndarray, a: np.ndarray, inverse: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(Σλ)²/Σλ² of the matrix GᵀG, G_g = (I − H)_g a_g, for each coefficient's column of a = A X (XᵀX)⁻¹ [n, k]."""
    found = np.empty(a.shape[1])
    for column in range(a.shape[1]):
        weight = a[:, column]
        own = np.add.reduceat(weight * weight, starts)  # [K]
        through = np.add.reduceat(weight[:, None] * x, starts, axis=0)  # [K, k]
        shared = through @ inverse
        square = through.T @ shared  # [k, k]
        trace = own.sum() - np.trace(square)
        spread = np.square(own).sum() - 2 * (own * (through * shared).sum(axis=1)).sum() + np.sum(square * square.T)
        found[column] = trace * trace / spread if spread > 0 else np.nan
    return found
