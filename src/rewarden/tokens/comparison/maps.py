"""Which models lie close together? Points in a plane whose distances come near to how much the models disagree.

In: a matrix of distances, or a Result with a matrix (model, other). Out: points with the stress of the fit. Ignorant of where
the distances come from. scikit-learn has both methods, but their names, defaults and stress differ between its versions.
Letters: M points, D axes, δ given distances, d distances of the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result

TOLERANCE = 1e-15
"""SMACOF stops when a step lowers the raw stress by less than this share of Σδ²."""
STEPS = 20_000
"""Most steps of one SMACOF run."""


@dataclass(frozen=True)
class Configuration:
    """Points found for a matrix of distances."""

    points: np.ndarray
    """float64 [M, D], centred, on principal axes (the widest first); in each axis the point farthest from 0 is positive."""
    stress: float
    """Kruskal's stress-1, √(Σ (d - δ)² / Σ d²) over pairs: 0 is a perfect fit, above 0.2 a poor one."""
    raw_stress: float
    """Σ (d - δ)² over pairs, what SMACOF lowers."""
    method: str
    """"classical" or "smacof"."""
    converged: bool
    """False when the steps ran out."""


def classical_mds(distance: Any, dims: int = 2) -> Configuration:
    """Principal coordinates: exact for distances of points in `dims` dimensions, one answer, no iteration.

    Args:
        distance: float [M, M], symmetric, not negative, 0 on the diagonal.
        dims: axes D.

    Raises:
        RewardenError: not a matrix of distances, or more axes than points - 1.

    Source: Torgerson 1952, Psychometrika 17:401; Gower 1966, Biometrika 53:325.

    Example:
        >>> found = classical_mds([[0, 3, 4], [3, 0, 5], [4, 5, 0]])
        >>> round(float(np.linalg.norm(found.points[1] - found.points[2])), 6), round(found.stress, 6)
        (5.0, 0.0)
    """
    delta = _distances(distance, dims)
    return _configuration(_principal_coordinates(delta, dims), delta, "classical", True)


def smacof(distance: Any, dims: int = 2, *, init: Any = "classical", n_init: int = 50, seed: int = 0) -> Configuration:
    """Points of least raw stress (metric MDS), by majorisation from several starts; the best one is kept.

    Args:
        distance: float [M, M], symmetric, not negative, 0 on the diagonal.
        dims: axes D.
        init: the first start: "classical" (the answer of `classical_mds`), "random", or points [M, D].
        n_init: starts; those after the first are random. The stress has local minima: of ten models' published distances
            8 starts missed the least one that 50 found.
        seed: of the random starts.

    Raises:
        RewardenError: not a matrix of distances, or impossible starts.

    Source: de Leeuw 1977 (SMACOF); Borg & Groenen 2005, Modern Multidimensional Scaling, ch. 8.

    Example:
        >>> found = smacof([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])  # a tetrahedron does not fit a plane
        >>> round(found.stress, 4), found.converged
        (0.1716, True)
    """
    delta = _distances(distance, dims)
    m, rng = len(delta), np.random.default_rng(seed)
    named = isinstance(init, str)
    first = None if named else np.asarray(init, dtype=np.float64)
    if (named and init not in ("classical", "random")) or (first is not None and first.shape != (m, dims)) or n_init < 1:
        raise RewardenError(f"cannot start from {init!r:.60} {n_init} times", where="smacof",
                            why=f"there are {m} points in {dims} dimensions",
                            fix="init='classical', init='random' or points [M, D]; n_init at least 1")
    if first is None:
        first = _principal_coordinates(delta, dims) if init == "classical" else _random_start(delta, dims, rng)
    starts = [first, *(_random_start(delta, dims, rng) for _ in range(n_init - 1))]
    runs = [_majorise(start, delta) for start in starts]
    points, converged = min(runs, key=lambda run: _raw_stress(run[0], delta))
    return _configuration(points, delta, "smacof", converged)


def model_map(agreement: Result, measure: str = "tau", *, method: Literal["smacof", "classical"] = "smacof", dims: int = 2,
              n_init: int = 50, seed: int = 0) -> Result:
    """A map of models: the distance of two models is 1 - agreement.

    Args:
        agreement: Result of `rank_agreement`, or any with a variable (..., model, other).
        measure: that variable: "tau", "spearman", "weighted_tau", "rbo", "overlap".
        method: "smacof" (least stress) or "classical" (principal coordinates).
        dims: axes.
        n_init: starts of SMACOF.
        seed: of its random starts.

    Returns:
        Result of kind "model_map", a map for each prompt (and end, and k, where the measure has them): `position` (..., model,
        axis), in units of the distance; `distance` and `fitted` (..., model, other), given and on the map; `stress` (...),
        stress-1; `n` models. Axes have no meaning of their own, and a map carries no interval: how sure a distance is says the
        interval of the measure. Warns where a stress is above 0.2 or SMACOF did not converge.

    Raises:
        RewardenError: no such measure, or one that is not defined for two models.

    Example:
        >>> tau = xr.DataArray([[1, 0.7, 0.6], [0.7, 1, 0.5], [0.6, 0.5, 1]], dims=["model", "other"])
        >>> found = model_map(Result("rank_agreement", xr.Dataset({"tau": tau}, coords={"model": ["a", "b", "c"]})))
        >>> found.fitted.round(3).tolist()
        [[0.0, 0.3, 0.4], [0.3, 0.0, 0.5], [0.4, 0.5, 0.0]]
    """
    if method not in ("smacof", "classical"):
        raise RewardenError(f"no method {method!r}", where="method=", fix="method='smacof' or method='classical'")
    held = matrices_of(agreement, measure)
    lead, m = held.shape[:-2], held.sizes["model"]
    distance = np.where(np.eye(m, dtype=bool), 0.0, 1.0 - held.values)
    position, fitted, stress = np.empty((*lead, m, dims)), np.empty(held.shape), np.empty(lead)
    converged = True
    for at in np.ndindex(lead):
        given = distance[at]
        one = classical_mds(given, dims) if method == "classical" else smacof(given, dims, n_init=n_init, seed=seed)
        position[at], fitted[at], stress[at] = one.points, _lengths(one.points), one.stress
        converged &= one.converged
    dims_of = held.dims[:-2]
    data = xr.Dataset({"position": ((*dims_of, "model", "axis"), position), "distance": (held.dims, distance),
                       "fitted": (held.dims, fitted), "stress": (dims_of, stress), "n": m},
                      coords={name: held[name] for name in (*dims_of, "model", "other") if name in held.coords})
    notes = [f"the map fits badly: stress-1 up to {stress.max():.2f}"] if stress.max() > 0.2 else []
    notes += [] if converged else [f"SMACOF did not converge within {STEPS} steps"]
    provenance = {**agreement.provenance, "measure": measure, "method": method, "n_init": n_init, "map_seed": seed}
    return Result("model_map", data, provenance, agreement.exact, None, (*agreement.warnings, *notes))


def matrices_of(result: Result, measure: str) -> xr.DataArray:
    """A variable of a Result as (..., model, other), checked.

    Raises:
        RewardenError: no such variable, or cells that are not finite, off the diagonal.
    """
    fitting = [str(name) for name, held in result.data.data_vars.items() if {"model", "other"} <= set(held.dims)]
    if measure not in fitting:
        raise RewardenError(f"no matrix {measure!r} of models", where="measure=",
                            why=f"this {result.kind} result has {fitting}",
                            fix=f"measure={fitting[0]!r}" if fitting else "pass the result of rank_agreement")
    held = result.data[measure].transpose(..., "model", "other")
    names = held["model"].values
    gaps = ~np.isfinite(held.values) & ~np.eye(len(names), dtype=bool)
    if gaps.any():
        *_, rows, columns = np.nonzero(gaps)
        pairs = sorted({f"{names[i]} and {names[j]}" for i, j in zip(rows, columns, strict=True) if i < j})
        raise RewardenError(f"{measure} is not defined for {', '.join(pairs[:5])}", where="measure=",
                            why="a model gives every token one reward, or k exceeds the tokens",
                            fix="leave that model or k out of rank_agreement")
    return held


def _distances(distance: Any, dims: int) -> np.ndarray:
    delta = np.asarray(distance, dtype=np.float64)
    square = delta.ndim == 2 and delta.shape[0] == delta.shape[1]
    if not square or not (np.isfinite(delta) & (delta >= 0)).all() or np.diag(delta).any() or not np.allclose(delta, delta.T):
        raise RewardenError(f"no matrix of distances: shape {delta.shape}", where="distance",
                            why="it is square, symmetric, finite, not negative, and 0 on the diagonal", fix="pass 1 - tau")
    if not 1 <= dims < len(delta):
        raise RewardenError(f"{dims} dimensions for {len(delta)} points", where="dims=", fix=f"at most {len(delta) - 1}")
    return (delta + delta.T) / 2


def _lengths(points: np.ndarray) -> np.ndarray:
    """Distances [M, M]."""
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


def _raw_stress(points: np.ndarray, delta: np.ndarray) -> float:
    return float(((_lengths(points) - delta) ** 2).sum() / 2)


def _principal_coordinates(delta: np.ndarray, dims: int) -> np.ndarray:
    centred = delta**2 - (delta**2).mean(axis=0)
    values, vectors = np.linalg.eigh(-0.5 * (centred - centred.mean(axis=1, keepdims=True)))  # ascending
    return vectors[:, ::-1][:, :dims] * np.sqrt(np.maximum(values[::-1][:dims], 0.0))


def _random_start(delta: np.ndarray, dims: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(scale=delta.mean() or 1.0, size=(len(delta), dims))


def _majorise(points: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, bool]:
    """Guttman transforms until the stress falls no further: never upwards, whatever the start."""
    m, before = len(delta), _raw_stress(points, delta)
    for _ in range(STEPS):
        length = _lengths(points)
        ratio = np.divide(delta, length, out=np.zeros_like(delta), where=length > 0)
        points = (np.diag(ratio.sum(axis=1)) - ratio) @ points / m
        after = _raw_stress(points, delta)
        if before - after <= TOLERANCE * (delta**2).sum():
            return points, True
        before = after
    return points, False


def _configuration(points: np.ndarray, delta: np.ndarray, method: str, converged: bool) -> Configuration:
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    turned = centred @ axes.T
    turned *= np.where(turned[np.abs(turned).argmax(axis=0), np.arange(turned.shape[1])] < 0, -1.0, 1.0)
    raw, length = _raw_stress(turned, delta), _lengths(turned)
    total = (length**2).sum() / 2
    return Configuration(turned, float(np.sqrt(raw / total)) if total > 0 else float("nan"), raw, method, converged)
