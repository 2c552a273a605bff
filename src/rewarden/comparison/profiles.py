"""Do the same parts of two models write their preference?

In: each model's ledger of the margin. Out: the share of the margin's mean square that each part writes (by name, or by kind and
depth where models are built differently), the correlation of two such profiles without the inflation of common noise, and how
many of the largest parts are shared, beside what chance gives. The mean contribution to chosen − rejected would say nothing of
a model that is as often wrong as right. Ignorant of models. Letters: n pairs, C parts, k parts on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.comparison.inside import Inside
from rewarden.comparison.matrices import jackknifed, pairs_of_models, prompt_blocks, symmetric
from rewarden.errors import RewardenError
from rewarden.options import CompareOptions

GROUPS = {"head": "attention", "attn": "attention", "attn_bias": "attention", "mlp": "MLP", "mlp_bias": "MLP",
          "neuron": "MLP", "embed": "embedding", "position": "embedding"}
"""Kinds of components, as they are put together where models are built differently; what is constant is left out."""


class Shared(NamedTuple):
    """How many of the k largest parts two models share."""

    count: int
    """Parts on top in both."""
    jaccard: float
    """The same over all parts on top in either."""
    expected: float
    """Mean count of unrelated rankings."""
    p: float
    """Probability of at least so many for unrelated rankings."""
    expected_by_kind: float
    """The same for rankings that are unrelated but for how many of the top fall into each stratum (kind and layer)."""
    p_by_kind: float


def shared_of_top(first: np.ndarray, second: np.ndarray, k: int, strata: Sequence | None = None) -> Shared:
    """How many of the k largest of C parts do two rankings share, and how many would unrelated ones?

    Args:
        first, second: sizes [C]; ties go to the part that stands first.
        k: parts on top, at most C.
        strata: stratum of each part [C]. Late layers write more in nearly every model; counted within strata, that alone is no
            agreement.

    Raises:
        RewardenError: k out of range, or sizes that do not match.

    Source: the hypergeometric law; with strata the sum of independent ones.

    Example:
        >>> found = shared_of_top(np.array([5.0, 4.0, 1.0, 0.0]), np.array([3.0, 0.0, 2.0, 1.0]), k=2)
        >>> found.count, found.expected, round(found.p, 3)
        (1, 1.0, 0.833)
    """
    if not 1 <= k <= len(first) or len(first) != len(second):
        raise RewardenError(f"{k} parts on top of {len(first)} and {len(second)}", where="shared_of_top",
                            why="both rankings need the same parts, and at least k of them", fix="choose a smaller k")
    top = [np.zeros(len(first), dtype=bool) for _ in range(2)]
    for mask, sizes in zip(top, (first, second), strict=True):
        mask[np.argsort(-np.asarray(sizes, dtype=np.float64), kind="stable")[:k]] = True
    count = int((top[0] & top[1]).sum())
    codes = np.zeros(len(first), dtype=np.int64) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    laws = [_law(*top, np.zeros(len(first), dtype=np.int64)), _law(*top, codes.ravel())]
    means = [float(law @ np.arange(len(law))) for law in laws]
    tails = [float(min(1.0, law[count:].sum())) for law in laws]
    return Shared(count, count / (2 * k - count), means[0], tails[0], means[1], tails[1])


def _law(first: np.ndarray, second: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Probability of 0, 1, … shared parts, given how many of each top lie in each stratum."""
    law = np.ones(1)
    for code in np.unique(codes):
        size, a, b = int((codes == code).sum()), int(first[codes == code].sum()), int(second[codes == code].sum())
        law = np.convolve(law, stats.hypergeom.pmf(np.arange(min(a, b) + 1), size, a, b))
    return law


def profile_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation over parts of two mean profiles, from values [n, C] of independent units.

    The plain correlation of two means is wrong for few units: their own noise adds to both variances, and noise that both
    share through the same texts adds to the covariance. Products of different units have neither.

    Returns:
        Near −1 to 1, beyond where noise makes it so; NaN where a profile does not stand out of its noise.

    Source: the cross-product over distinct units is the U-statistic of the product of means (Hoeffding 1948).
    """
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (first, second))

    def across(x: np.ndarray, y: np.ndarray) -> float:
        return float(x.sum(axis=0) @ y.sum(axis=0) - (x * y).sum())

    own = across(a, a), across(b, b)
    return across(a, b) / float(np.sqrt(own[0] * own[1])) if min(own) > 0 else float("nan")


def by_prompt(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Means of each prompt's rows, [prompts, C]: the independent units."""
    codes = np.unique(clusters, return_inverse=True)[1].ravel()
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]


class Matched(NamedTuple):
    """The ledgers of several models in common parts."""

    names: list[str]
    strata: list[str]
    values: list[np.ndarray | None]
    """One a model, [n, C]; None where it has no ledger."""
    by_name: bool


def matched_parts(found: Sequence[Inside | None]) -> Matched:
    """Parts that all models have: components of the same name, or kinds by depth where models are built differently.

    Kinds are attention and MLP in as many steps of depth as the shallowest model has layers, and the embedding; a step holds
    the layers of a deeper model that lie in it.
    """
    held = [inside for inside in found if inside is not None and inside.ledger is not None]
    parts = [[part for part in inside.components if part[1] in GROUPS] for inside in held]
    if all([name for name, _, _ in one] == [name for name, _, _ in parts[0]] for one in parts):
        keep = [row for row, part in enumerate(held[0].components) if part[1] in GROUPS]
        values = [None if inside is None or inside.ledger is None else inside.ledger[:, keep] for inside in found]
        return Matched([name for name, _, _ in parts[0]], [f"{kind}.{layer}" for _, kind, layer in parts[0]], values, True)
    steps = min(inside.lens.shape[1] - 1 for inside in held)
    names = ["embedding", *(f"{kind} {step + 1}/{steps}" for step in range(steps) for kind in ("attention", "MLP"))]
    values = []
    for inside in found:
        if inside is None or inside.ledger is None:
            values.append(None)
            continue
        layers, summed = inside.lens.shape[1] - 1, np.zeros((len(inside.ledger), len(names)))
        for column, (_, kind, layer) in enumerate(inside.components):
            group = GROUPS.get(kind)
            if group is not None:
                name = group if group == "embedding" else f"{group} {layer * steps // layers + 1}/{steps}"
                summed[:, names.index(name)] += inside.ledger[:, column]
        values.append(summed)
    return Matched(names, [name.split(" ")[0] for name in names], values, False)


def compare_profiles(found: Sequence[Inside | None], spread: np.ndarray, clusters: np.ndarray,
                     options: CompareOptions) -> xr.Dataset:
    """Ledgers side by side; see `rewarden.compare` for the layout.

    Args:
        found: one a model; at least one has a ledger.
        spread: [M], SD of each model's rewards.
        clusters: [n], prompt of each pair.
        options: of the comparison.
    """
    parts, m = matched_parts(found), len(found)
    k = min(options.components, len(parts.names))
    raw = np.full((m, len(clusters), len(parts.names)), np.nan)
    for place, (values, inside) in enumerate(zip(parts.values, found, strict=True)):
        if values is not None and inside is not None:
            raw[place] = values / spread[place]
    weighted = raw * raw.sum(axis=2, keepdims=True)  # z_i = d_i · margin_i: their mean is the profile
    blocks = prompt_blocks(clusters, options.seed)
    share = np.stack([np.stack(jackknifed(lambda kept, z=z: _shares(z[kept]), blocks, options.level, correlation=False))
                      for z in weighted])  # [M, 3, C]
    ends: list[dict[tuple[int, int], np.ndarray | float]] = [{}, {}, {}]
    shared: dict[tuple[int, int], np.ndarray | float] = {}
    for i, j in pairs_of_models(m):
        values, shared[i, j] = (np.nan,) * 3, np.full(len(Shared._fields), np.nan)
        if np.isfinite(weighted[[i, j]]).all():
            a, b = (by_prompt(weighted[one], clusters) for one in (i, j))
            # not on Fisher's z: in noise the estimate can leave −1 to 1, and ends that were cut before would seem certain
            values = np.clip(jackknifed(lambda kept, a=a, b=b: profile_correlation(a[kept], b[kept]), prompt_blocks(
                np.arange(len(a)), options.seed), options.level, correlation=False), -1, 1)
            shared[i, j] = np.asarray(shared_of_top(np.abs(share[i, 0]), np.abs(share[j, 0]), k, parts.strata))
        for place, value in enumerate(values):
            ends[place][i, j] = value
    counts = symmetric(m, shared)
    data = {"contribution": (("model", "inside", "component"), raw)}
    data |= {f"share{end}": (("model", "component"), share[:, place]) for place, end in enumerate(("", "_low", "_high"))}
    data |= {f"profile{end}": (("model", "other"), symmetric(m, values, 1.0))
             for end, values in zip(("", "_low", "_high"), ends, strict=True)}
    data |= {f"shared_{name}": (("model", "other"), counts[..., place]) for place, name in enumerate(Shared._fields)}
    return xr.Dataset({**data, "top": k, "matched_by_name": parts.by_name},
                      coords={"component": parts.names, "stratum": ("component", parts.strata)})


def _shares(weighted: np.ndarray) -> np.ndarray:
    """Share of the margin's mean square that each part writes, from products [n, C] of contribution and margin; sums to 1."""
    total = weighted.sum()
    return weighted.sum(axis=0) / total if total > 0 else np.full(weighted.shape[1], np.nan)
