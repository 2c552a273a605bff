"""Do models that share a base, a developer or a size agree more? Representational similarity analysis of models.

In: a Result with a matrix of agreements between models, and a table of what is known of them. Out: for each property its
correlation with the agreement, and its part in a joint regression. Ignorant of where the agreements come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import holm
from rewarden.statistics.jackknife import jackknife_ends
from rewarden.tokens.comparison.mantel import (
    NO_INTERVAL,
    Alternative,
    joint_regression,
    mantel,
    rank_correlation,
    upper,
    without,
)
from rewarden.tokens.comparison.maps import matrices_of

Found = dict[str, np.ndarray]


def property_matrices(table: pd.DataFrame | Mapping[str, Sequence[Any]], *, models: Sequence[str] | None = None,
                      kinds: Mapping[str, Literal["category", "number"]] | None = None) -> Result:
    """How similar models are in each of their properties.

    Args:
        table: one row a model, one column a property: base, developer, parameters, rank, or any of your own.
        models: [row], names; by default the index of the table.
        kinds: "category" or "number" for columns whose type does not say it; numbers are numbers, all else is a category.

    Returns:
        Result of kind "property_matrices": `similarity` (property, model, other): 1 or 0 for equal or different categories,
        1/(1 + |difference|) for numbers (in the unit given: differences of 1 halve the similarity); coordinate `rule`
        (property), "equal" or "1/(1+|difference|)".

    Raises:
        RewardenError: missing values, or a property that is the same for all pairs of models.

    Source: Christian et al. 2025, arXiv 2506.07326, fig. 2C.

    Example:
        >>> found = property_matrices({"base": ["gemma", "gemma", "llama"], "size": [2, 27, 8]}, models=["a", "b", "c"])
        >>> found.similarity[0].tolist(), found.similarity[1, 0].round(3).tolist()
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [1.0, 0.038, 0.143])
    """
    frame = pd.DataFrame(dict(table), index=None if models is None else list(models))
    gaps = [f"{name} of {', '.join(map(str, frame.index[held.isna()]))}" for name, held in frame.items() if held.isna().any()]
    unknown = [f"{name}={kind}" for name, kind in (kinds or {}).items()
               if name not in frame or kind not in ("category", "number")]
    if gaps or unknown or frame.empty or not frame.index.is_unique:
        raise RewardenError("this table gives no matrices", where="property_matrices",
                            why="; ".join([*(f"missing: {gap}" for gap in gaps), *(f"kinds: {name}" for name in unknown)])
                            or "it needs a column, and a name of its own for each model",
                            fix="give every model a value in every column, or leave the column out")
    rules, matrices = [], []
    for name, column in frame.items():
        number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if (kinds or {}).get(str(name), "number" if number else "category") == "number":
            values = column.to_numpy(dtype=np.float64)
            rules.append("1/(1+|difference|)")
            matrices.append(1 / (1 + np.abs(values[:, None] - values)))
        else:
            codes = pd.factorize(column)[0]
            rules.append("equal")
            matrices.append((codes[:, None] == codes).astype(np.float64))
        if np.ptp(upper(matrices[-1])) == 0:
            raise RewardenError(f"{name} tells no two pairs of models apart", where=f"column {name!r}",
                                fix=f"table.drop(columns={name!r})")
    names = np.array([str(name) for name in frame.index], dtype=object)
    data = xr.Dataset({"similarity": (("property", "model", "other"), np.stack(matrices))},
                      coords={"property": np.array([str(name) for name in frame.columns], dtype=object),
                              "rule": ("property", np.array(rules, dtype=object)), "model": names, "other": names})
    return Result("property_matrices", data)


def model_similarity(agreement: Result, properties: Result, measure: str = "tau", *, permutations: int = 5000,
                     alternative: Alternative = "greater", level: float = 0.95, seed: int = 0) -> Result:
    """Which properties go with agreement, one at a time and jointly?

    Args:
        agreement: Result of `rank_agreement`, or any with a variable (..., model, other).
        properties: Result of `property_matrices`; it may know more models, and in another order.
        measure: the variable of `agreement`.
        permutations, alternative: of `mantel`; the joint regression is two-sided.
        level: coverage of the intervals.
        seed: of the permutations.

    Returns:
        Result of kind "model_similarity", for each prompt (and end, and k, where the measure has them). (..., property):
        `spearman` over pairs of models, `low`, `high` (jackknife over models, see `jackknife_ends`), `p` (Mantel),
        `p_holm` over properties; of the joint regression `coefficient`, `coefficient_low`, `coefficient_high`,
        `coefficient_p`, `coefficient_p_holm`. (...): `r2`, `r2_p`. `n` pairs, `models`.

        With ten models there are ten independent units, not 45: the intervals are wide, and say so. They are too short where
        a property separates the pairs almost completely (simulated coverage 0.8 instead of 0.95 at ten models).

    Raises:
        RewardenError: models without properties, fewer than 4 models, properties that determine each other.

    Source: Kriegeskorte, Mur & Bandettini 2008, Front. Syst. Neurosci. 2:4; `mantel`; `joint_regression`.

    Example:
        >>> names = list("abcde")
        >>> size = property_matrices({"size": [1, 2, 4, 8, 16]}, models=names)
        >>> tau = xr.DataArray(size.similarity[0] / 2, dims=["model", "other"], coords={"model": names, "other": names})
        >>> found = model_similarity(Result("rank_agreement", xr.Dataset({"tau": tau})), size)
        >>> found.spearman.round(6).tolist(), found.coefficient.round(6).tolist(), found.p.round(4).tolist()
        ([1.0], [0.5], [0.0083])
    """
    held = matrices_of(agreement, measure)
    names = held["model"].values.tolist()
    absent = [name for name in names if name not in properties.data["model"].values.tolist()]
    if absent:
        raise RewardenError(f"nothing is known of {', '.join(map(str, absent))}", where="properties=",
                            why=f"the table has {properties.data['model'].values.tolist()}",
                            fix="add a row for each model, named as in the agreement")
    known = Result(properties.kind, properties.data.sel(model=names, other=names))
    options = {"permutations": permutations, "seed": seed}
    lead, shape = held.dims[:-2], held.shape[:-2]
    parts = [{**_alone(held.values[at], known, alternative, level, options), **_jointly(held.values[at], known, level, options)}
             for at in np.ndindex(shape)]
    data = xr.Dataset({"n": len(names) * (len(names) - 1) // 2, "models": len(names)},
                      coords={**{dim: held[dim] for dim in lead}, **{name: known.data[name] for name in ("property", "rule")}})
    for name, first in parts[0].items():
        stacked = np.stack([part[name] for part in parts]).reshape((*shape, *first.shape))
        data[name] = ((*lead, *(["property"] if first.ndim else [])), stacked)
    provenance = {**agreement.provenance, "measure": measure, "alternative": alternative, "level": level, **options}
    notes = [] if np.isfinite(data["coefficient_low"].values).all() else [NO_INTERVAL]
    return Result("model_similarity", data, provenance, agreement.exact, None, (*agreement.warnings, *notes))


def _alone(matrix: np.ndarray, known: Result, alternative: Alternative, level: float, options: dict[str, int]) -> Found:
    """Each property by itself [K]."""
    tests = [mantel(matrix, one, alternative=alternative, **options) for one in known.similarity]
    rho, p = np.array([test.statistic for test in tests]), np.array([test.p for test in tests])
    left_out = np.array([[rank_correlation(without(matrix, i), without(one, i)) for one in known.similarity]
                         for i in range(len(matrix))])
    low, high = jackknife_ends(rho, left_out, level, correlation=True, of_pairs=True)
    return {"spearman": rho, "low": low, "high": high, "p": p, "p_holm": holm(p)}


def _jointly(matrix: np.ndarray, known: Result, level: float, options: dict[str, int]) -> Found:
    """Coefficients [K] and the explained share."""
    joint = joint_regression(matrix, known, level=level, **options).data
    ends = {"": "coefficient", "_low": "low", "_high": "high", "_p": "p", "_p_holm": "p_holm"}
    return {**{f"coefficient{end}": joint[name].values for end, name in ends.items()},
            **{name: joint[name].values for name in ("r2", "r2_p")}}
