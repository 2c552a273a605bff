"""Do two matrices over the same models go together, and which of several explains a third?

In: symmetric matrices over models. Out: Mantel's correlation, and a joint regression (MRQAP), each with a permutation p.
Ignorant of what the matrices hold. Whole rows and columns are permuted together: the pairs of one model are not independent,
so that the two-sample permutation test of `rewarden.statistics` does not apply.
Letters: M models, N = M(M - 1)/2 pairs, K properties, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations as all_permutations
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import Significance, holm, require_n
from rewarden.statistics.jackknife import jackknife_ends

SLACK = 1e-10
"""Statistics that differ by less are ties: rounding must not decide whether the observed order counts as extreme."""
FEWEST = 4
"""Models below which nothing is correlated: three have three pairs."""
NO_INTERVAL = "no intervals of coefficients: without one of the models the properties do not determine them"

Alternative = Literal["greater", "less", "two-sided"]


def mantel(matrix: Any, other: Any, *, permutations: int = 5000, alternative: Alternative = "greater",
           seed: int = 0) -> Significance:
    """Spearman's correlation of two symmetric matrices, with a permutation p.

    Args:
        matrix, other: float [M, M], symmetric; the diagonal is not used.
        permutations: B, random orders of the models; when no more than this many exist (M up to 6 at 5,000) all are counted.
        alternative: "greater" (similar in one, similar in the other), "less" or "two-sided".
        seed: of a generator of its own.

    Returns:
        Significance: statistic over the upper triangles, p ((b + 1)/(B + 1) when drawn), n pairs, n_clusters models.

    Raises:
        RewardenError: other shapes, missing values, fewer than 4 models, or a matrix without any difference.

    Source: Mantel 1967, Cancer Research 27:209; Legendre & Legendre 2012, Numerical Ecology, §10.5.

    Example:
        >>> line = np.abs(np.subtract.outer(range(5), range(5)))
        >>> found = mantel(line, line)
        >>> round(float(found.statistic), 6), round(float(found.p), 4), found.method
        (1.0, 0.0167, 'Mantel, Spearman, exact')
    """
    first = _checked(matrix)
    second = _checked(other, like=first)
    m = len(first)
    orders, exact = _orders(m, permutations, seed)
    ranks = _matrix(_standard(stats.rankdata(upper(second))), m)
    found = _permuted(ranks, orders) @ _standard(stats.rankdata(upper(first)))  # [B]
    extreme = {"greater": found >= found[0] - SLACK, "less": found <= found[0] + SLACK,
               "two-sided": np.abs(found) >= abs(found[0]) - SLACK}
    if alternative not in extreme:
        raise RewardenError(f"alternative={alternative!r}", where="mantel", fix=f"one of {', '.join(extreme)}")
    name = f"Mantel, Spearman, {'exact' if exact else f'{permutations} random'}"
    return Significance(float(found[0]), float(extreme[alternative].mean()), m * (m - 1) // 2, name, m, 0)


def joint_regression(matrix: Any, matrices: Mapping[str, Any] | Result, *, permutations: int = 5000, level: float = 0.95,
                     seed: int = 0) -> Result:
    """How much does each property say about agreement when the others are held fixed?

    Ordinary least squares over pairs of models, and MRQAP by double semi-partialing: the part of a property that the others do
    not explain is permuted, whole rows and columns at once, and the coefficient's t compared. Unlike permuting the agreements
    it holds its level when properties are correlated.

    Args:
        matrix: float [M, M], symmetric.
        matrices: name -> float [M, M], or the Result of `property_matrices`.
        permutations: B, as in `mantel`.
        level: coverage of the intervals.
        seed: of a generator of its own.

    Returns:
        Result of kind "joint_regression". (property): `coefficient`, in units of the matrix for a similarity of 1 against 0;
        `low`, `high`, jackknife over models; `t`; `p`, two-sided; `p_holm`. Scalars: `intercept`, `r2`, `r2_p` (permuting
        whole rows and columns of the matrix), `n` pairs, `models`.

    Raises:
        RewardenError: as `mantel`; properties that determine each other; fewer pairs than coefficients + 2.

    Source: Dekker, Krackhardt & Snijders 2007, Psychometrika 72:563 (double semi-partialing).

    Example:
        >>> size = np.abs(np.subtract.outer([1, 2, 4, 8, 16], [1, 2, 4, 8, 16]))
        >>> found = joint_regression(3 - 2 * size, {"size": size})
        >>> found.coefficient.round(6).tolist(), round(float(found.r2), 6), round(float(found.p[0]), 4)
        ([-2.0], 1.0, 0.0083)
    """
    if isinstance(matrices, Result):
        given = {str(name): one.values for name, one in zip(matrices.property, matrices.data["similarity"], strict=True)}
    else:
        given = dict(matrices)
    y = _checked(matrix)
    held = np.stack([y, *(_checked(one, like=y) for one in given.values())])  # [1 + K, M, M]
    m, names = len(y), np.array(list(given), dtype=object)
    pairs, design = upper(y), _design(held[1:])
    n = len(pairs)
    require_n(n, len(held) + 2, "a joint regression over pairs of models")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise RewardenError(f"{', '.join(names)} determine each other", where="joint_regression",
                            why="over all pairs of models one is a sum of the others", fix="leave one out")
    orders, exact = _orders(m, permutations, seed)
    coefficient = _coefficients(pairs, design)
    partial = np.stack([_partial(pairs, design, at, orders) for at in range(1, len(held))])  # [K, B]
    p = (np.abs(partial) >= np.abs(partial[:, :1]) - SLACK).mean(axis=1)
    with np.errstate(divide="ignore"):
        t = partial[:, 0] * np.sqrt((n - len(held)) / np.maximum(1 - partial[:, 0]**2, 0))
    permuted = _permuted(y, orders)  # [B, N]
    r2 = 1 - (_residual(permuted, design)**2).sum(axis=1) / (_residual(permuted, design[:, :1])**2).sum(axis=1)
    left_out = np.stack([_coefficients(upper(part[0]), _design(part[1:])) for part in (without(held, i) for i in range(m))])
    low, high = jackknife_ends(coefficient, left_out, level, of_pairs=True)
    columns = {"coefficient": coefficient[1:], "low": low[1:], "high": high[1:], "t": t, "p": p, "p_holm": holm(p)}
    data = xr.Dataset({**{name: ("property", values) for name, values in columns.items()}, "intercept": coefficient[0],
                       "r2": r2[0], "r2_p": (r2 >= r2[0] - SLACK).mean(), "n": n, "models": m}, coords={"property": names})
    method = f"MRQAP, double semi-partialing, {'exact' if exact else f'{permutations} random'}"
    return Result("joint_regression", data, {"method": method, "level": level, "seed": seed},
                  warnings=(NO_INTERVAL,) if np.isnan(low).any() else ())


def upper(matrix: np.ndarray) -> np.ndarray:
    """Upper triangle [..., N], without the diagonal, of [..., M, M]."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def rank_correlation(matrix: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two upper triangles; NaN where one has no difference.

    Example:
        >>> round(rank_correlation(np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]]), np.array([[0, 1, 4], [1, 0, 9], [4, 9, 0]])), 6)
        1.0
    """
    with np.errstate(invalid="ignore"):
        return float(_standard(stats.rankdata(upper(matrix))) @ _standard(stats.rankdata(upper(other))))


def _standard(values: np.ndarray) -> np.ndarray:
    """Centred, of length 1."""
    centred = values - values.mean()
    return centred / np.sqrt((centred**2).sum())


def _matrix(values: np.ndarray, m: int) -> np.ndarray:
    """Symmetric [M, M] with this upper triangle [N] and 0 on the diagonal."""
    out = np.zeros((m, m))
    out[np.triu_indices(m, 1)] = values
    return out + out.T


def _checked(matrix: Any, like: np.ndarray | None = None) -> np.ndarray:
    held = np.asarray(matrix, dtype=np.float64)
    if held.ndim != 2 or held.shape[0] != held.shape[1] or (like is not None and held.shape != like.shape):
        raise RewardenError(f"a matrix of shape {held.shape}" + ("" if like is None else f" beside one of {like.shape}"),
                            where="matrix", fix="pass square matrices over the same models, in the same order")
    require_n(len(held), FEWEST, "a correlation of matrices over models")
    pairs = upper(held)
    if not np.isfinite(pairs).all() or not np.allclose(pairs, upper(held.T)) or np.ptp(pairs) == 0:
        raise RewardenError("this matrix cannot be correlated", where="matrix",
                            why="it must be symmetric and finite, and must tell some pairs of models apart",
                            fix="leave out models with missing values, or properties that all models share")
    return held


def _orders(m: int, permutations: int, seed: int) -> tuple[np.ndarray, bool]:
    """Orders of the models [B, M], the one given first: all there are, or it and as many random ones as asked for."""
    if permutations < 1:
        raise RewardenError(f"{permutations} permutations", where="permutations=", fix="permutations=5000")
    if math.factorial(m) <= permutations:
        return np.array(list(all_permutations(range(m)))), True
    drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(m), (permutations, 1)), axis=1)
    return np.vstack([np.arange(m), drawn]), False


def _permuted(matrix: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """[B, N], the upper triangle after rows and columns are put into each order."""
    rows, columns = np.triu_indices(len(matrix), 1)
    return matrix[orders[:, rows], orders[:, columns]]


def without(matrix: np.ndarray, model: int) -> np.ndarray:
    """[..., M - 1, M - 1], a model's row and column left out."""
    return np.delete(np.delete(matrix, model, axis=-2), model, axis=-1)


def _coefficients(y: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Least squares [1 + K]; NaN where the design does not determine them."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return np.full(design.shape[1], np.nan)
    return np.linalg.lstsq(design, y, rcond=None)[0]


def _design(matrices: np.ndarray) -> np.ndarray:
    """[N, 1 + K] of matrices [K, M, M]."""
    pairs = upper(matrices)
    return np.column_stack([np.ones(pairs.shape[1]), *pairs])


def _residual(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    """What the design [N, C] leaves of each row of values [..., N]."""
    basis = np.linalg.qr(design)[0]
    return values - values @ basis @ basis.T


def _partial(y: np.ndarray, design: np.ndarray, at: int, orders: np.ndarray) -> np.ndarray:
    """Partial correlation [B] of y with one column whose unexplained part is permuted; |t| rises with its size."""
    others = np.delete(design, at, axis=1)
    unexplained = _matrix(_residual(design[:, at], others), orders.shape[1])
    x, left = _residual(_permuted(unexplained, orders), others), _residual(y, others)
    length = np.sqrt((x**2).sum(axis=1) * (left @ left))
    return np.divide(x @ left, length, out=np.zeros(len(x)), where=length > SLACK)
