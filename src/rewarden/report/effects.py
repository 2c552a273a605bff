"""Effects with their intervals and marks as rows, for the tables of the report and of the command line.

In: a Result of `rewarden.patching` that holds `mean`, `low`, `high`, ... Out: DataFrames, and a sentence on what stands apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rewarden.errors import RewardenError
from rewarden.report.words import interval
from rewarden.result import Result

PARTS = ("mean", "low", "high", "n", "p_adjusted", "marked")
"""What is known of each cell, where the result has it."""

SUFFIXES = {"": "", "_heads": "z", "_q": "q", "_k": "k", "_v": "v"}
"""Ends of the variables' names -> the site they speak of; whole vectors name theirs on an axis."""


def effect_rows(result: Result, suffix: str = "") -> pd.DataFrame:
    """One row per cell: its axes, then mean, interval, n, adjusted p and mark, in the order of the result.

    Args:
        result: with variables `mean<suffix>` and the like.
        suffix: "" for whole sites, "_heads", "_direct", ...

    Example:
        >>> from rewarden.plots.effect_examples import patch_result
        >>> effect_rows(patch_result(layers=2, heads=1), "_heads").columns.tolist()
        ['layer', 'head', 'mean', 'low', 'high', 'p_adjusted', 'marked']
    """
    axes = [str(dim) for dim in result.data[f"mean{suffix}"].dims]
    table = result.frame(f"mean{suffix}")[[*axes, f"mean{suffix}"]].rename(columns={f"mean{suffix}": "mean"})
    for part in PARTS[1:]:
        if f"{part}{suffix}" in result.data:
            table[part] = result.data[f"{part}{suffix}"].transpose(*axes).values.ravel()
    return table


def cell_rows(result: Result) -> pd.DataFrame:
    """Every cell of a patch result, whole sites and heads in one table, the largest magnitude first.

    Returns:
        Columns site, layer, head (−1 where the site is a whole vector), position where the result has one, and what is known
        of the cell. Cells without a value are left out.
    """
    tables = []
    for suffix, site in SUFFIXES.items():
        if f"mean{suffix}" in result.data:
            rows = effect_rows(result, suffix).rename(columns={"kv_head": "head"})
            tables.append(rows.assign(**{name: value for name, value in (("site", site), ("head", -1)) if name not in rows}))
    table = pd.concat(tables, ignore_index=True)
    first = [name for name in ("site", "layer", "head", "position") if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    return by_size(table[np.isfinite(table["mean"])])


def by_size(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, the largest magnitude of the mean first; equal ones stay in their order."""
    return table.sort_values("mean", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def cell_name(site: str, layer: int, head: int = -1) -> str:
    """What a cell is called in a sentence: "head.3.5", "mlp_out.2".

    Example:
        >>> cell_name("z", 3, 5), cell_name("mlp_out", 2), cell_name("k", 1, 0)
        ('head.3.5', 'mlp_out.2', 'k.1.0')
    """
    return f"{'head' if site == 'z' else site}.{layer}" + (f".{head}" if head >= 0 else "")


def decider(result: Result) -> tuple[str, str] | None:
    """The head or MLP that decides alone, by name and in a sentence; None where none does, or where it cannot be asked.

    Args:
        result: of `rewarden.patch`.

    Example:
        >>> from rewarden.plots.effect_examples import patch_result
        >>> decider(patch_result()) is None  # an example without the tests that this needs
        True
    """
    from rewarden.hacking.calibration import null_words
    from rewarden.patching.deciding import deciding  # torch

    try:
        found = deciding(result)
    except RewardenError:  # no heads, token by token, or too few parts or prompts
        return None
    for name, one in found.items():
        if one.flag:
            kind, layer, *head = name.split(".")
            part = f"head {head[0]} of layer {layer}" if kind == "head" else f"the MLP of layer {layer}"
            kinds = "heads and MLPs" if any(other.startswith("mlp") for other in found) else "heads"
            return name, (f"One part decides: {part} has an effect of {interval(one.estimate, one.low, one.high)} on the "
                          f"reward, out of proportion to all {len(found) - 1} other {kinds} (p = {one.p:.2g}; n = {one.n} "
                          f"pairs). {null_words('deciding')}")
    return None


CORRELATION = {"rho": "rho_mean", "low": "rho_low", "high": "rho_high", "n": "n", "p": "p_pattern"}
"""Columns of `correlation_rows` -> variables over all pairs."""

BY_LENGTH = {"rho": "rho_by_length", "low": "low_by_length", "high": "high_by_length", "n": "n_by_length",
             "p": "p_pattern_by_length"}


def correlation_rows(result: Result) -> pd.DataFrame:
    """Every comparison of an agreement result for every set of components, over all pairs and by which side is longer.

    Returns:
        Columns convention, comparison, components, pairs ("all" or the relation of lengths), rho, low, high, n, p; what no pair
        defines is left out.
    """
    data, rows = result.data, []
    for comparison in data["comparison"].values:
        for kind in data["type"].values:
            cell = data.sel(comparison=comparison, type=kind)
            about = {"convention": str(cell["convention"].values), "comparison": str(comparison), "components": str(kind)}
            parts = [("all", cell, CORRELATION)]
            parts += [(str(name), cell.sel(length=name), BY_LENGTH) for name in data["length"].values]
            rows += [{**about, "pairs": name, **{column: part[variable].item() for column, variable in variables.items()}}
                     for name, part, variables in parts if part[variables["n"]].item()]
    return pd.DataFrame(rows, columns=["convention", "comparison", "components", "pairs", *CORRELATION])
