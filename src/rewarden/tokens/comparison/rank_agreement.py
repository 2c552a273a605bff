"""How far do several models agree on which tokens are good, over the whole vocabulary and at its ends?

In: `SharedScores`, or any scores [model, item]. Out: a `rank_agreement` Result with one matrix (model, other) for each measure.
Ignorant of models and of what the items are.
Letters: M models, T tokens, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import holm, require_n
from rewarden.statistics.jackknife import jackknife_ends
from rewarden.statistics.sampling import cluster_codes
from rewarden.tokens.comparison.blocks import random_blocks
from rewarden.tokens.comparison.concordance import order_of, taus
from rewarden.tokens.comparison.rank_biased_overlap import Ties, depth_needed, overlap, rank_biased_overlap, ranking
from rewarden.tokens.comparison.shared import SharedScores

ENDS = ("top", "bottom")
MANY_TIES = 0.01
"""Share of pairs of tokens whose order a model leaves open, from which the result warns."""


@dataclass(frozen=True)
class _Scores:
    """Finite rewards of one prompt."""

    values: np.ndarray
    """float64 [M, T]."""
    floor: np.ndarray
    """[M], noise floors; 0 where not measured."""
    clusters: np.ndarray | None
    """[T]."""


def rank_agreement(scores: SharedScores | Any, names: Sequence[str] | None = None, *, k: Sequence[int] = (10, 100, 1000),
                   p: float = 0.9, rbo_ties: Ties = "b", blocks: int = 20, clusters: Sequence[Any] | np.ndarray | None = None,
                   level: float = 0.95, seed: int = 0) -> Result:
    """Rank correlations and overlaps of every two models.

    A token whose reward is not finite for one model is left out for all, so that every number speaks of the same tokens.

    Args:
        scores: `SharedScores`, or float [model, item] with `names`.
        names: [model], for an array.
        k: lengths of the beginnings whose overlap is counted.
        p: persistence of RBO, between 0 and 1.
        rbo_ties: how RBO treats tied tokens, see `rewarden.tokens.rank_biased_overlap.overlap`: "b" (as tau-b: a model agrees
            with itself fully), "a" (average over all orders of tied tokens) or "w" (Webber et al. 2010: tied is equal).
        blocks: random blocks of tokens for the intervals; 0 for none. The correlations are computed once without each block:
            for ten models and 128,256 tokens about 45 s instead of 3.
        clusters: [item], one id per token; tokens of a cluster stay in one block (`content_clusters(texts)` keeps "love",
            " love" and "Love" together).
        level: coverage of the intervals.
        seed: of the blocks.

    Returns:
        Result of kind "rank_agreement". (prompt, model, other): `tau` (Kendall's tau-b) and `spearman` (average ranks);
        (prompt, end, model, other) for the ends "top" (best tokens first) and "bottom": `weighted_tau` (additive hyperbolic),
        `rbo` and `rbo_chance` (unrelated rankings with these ties). The correlations have `_low` and `_high`: delete-block
        jackknife with Student's t on Fisher's z. RBO and overlap have no interval: they describe the ends of one list, and
        tokens drawn anew would be another list's ends.

        (prompt, end, k, model, other): `overlap`, share of the first k tokens that both models have there (the average over
        all orders of tied tokens, so that below 1 on the diagonal tells what ties leave open), NaN where k > tokens;
        `overlap_p`, hypergeometric, that unrelated rankings share as many; `overlap_p_holm`, adjusted over all pairs, k, ends
        and prompts. (prompt, k): `overlap_chance` = k / n.

        (prompt, model): `distinct` rewards, `missing` tokens of this model, `unresolved`, share of pairs of tokens that are
        tied or closer than the model's noise floor; (prompt): `n`. (prompt, model, other): `tau_noise`, what re-ordering the
        unresolved pairs of both models could change in tau at most (to first order), and `below_noise`, |tau| ≤ tau_noise.

    Raises:
        RewardenError: an array without names, impossible options, fewer than two models or three tokens.

    Source: Kendall 1945 (tau-b); Vigna 2015 (weighted tau); Corsi & Urbano 2024 (RBO); Efron & Tibshirani 1993, ch. 11
    (jackknife).

    Example:
        >>> scores = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]]
        >>> found = rank_agreement(scores, ["a", "b"], k=[1, 2], blocks=0)
        >>> round(float(found.tau[0, 0, 1]), 3), found.overlap[0, 0, :, 0, 1].tolist()
        (0.667, [0.0, 1.0])
    """
    named, prompts, values, floor = _read(scores, names)
    _check(k, p, rbo_ties, blocks, level)
    fixed = None if clusters is None else cluster_codes(values[0, 0], clusters)
    finite = np.isfinite(values)  # [M, P, T]
    common = finite.all(axis=0)
    parts = []
    for at in range(len(prompts)):
        rows = common[at]
        require_n(int(rows.sum()), 3, "rank agreement")
        one = _Scores(values[:, at, rows], floor, None if fixed is None else fixed[rows])
        part = _ends(one, list(k), p, rbo_ties).merge(_resolution(one)).merge(_correlations(one, blocks, level, seed))
        parts.append(part.assign(n=int(rows.sum()), missing=("model", (~finite[:, at]).sum(axis=1))))
    data = xr.concat(parts, dim="prompt").assign_coords(model=named, other=named, end=list(ENDS), k=list(k), prompt=prompts)
    data["below_noise"] = abs(data["tau"]) <= data["tau_noise"]
    data["overlap_p_holm"] = (data["overlap_p"].dims, _holm_of_pairs(data["overlap_p"].values))
    provenance = {**(scores.provenance if isinstance(scores, SharedScores) else {}), "p": p, "rbo_ties": rbo_ties,
                  "blocks": blocks, "level": level, "seed": seed}
    exact, before = (scores.exact, scores.warnings) if isinstance(scores, SharedScores) else (True, ())
    return Result("rank_agreement", data, provenance, exact, None, (*before, *_warnings(data)))


def _read(scores: SharedScores | Any, names: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names [M], prompts [P], rewards float64 [M, P, T], noise floors [M]."""
    if isinstance(scores, SharedScores):
        data = scores.data
        values = data["reward"].values.astype(np.float64)
        return data["model"].values, data["prompt"].values, values, np.nan_to_num(data["floor"].values)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or names is None or len(names) != len(values) or len(set(names)) < max(2, len(values)):
        raise RewardenError(f"scores of shape {values.shape} with names {names}", where="rank_agreement",
                            why="an array is [model, item], with a different name for each of two or more models",
                            fix="rank_agreement(np.stack([a, b]), ['a', 'b'])")
    label = np.array([""], dtype=object)
    return np.array(list(map(str, names)), dtype=object), label, values[:, None], np.zeros(len(values))


def _check(k: Sequence[int], p: float, rbo_ties: str, blocks: int, level: float) -> None:
    rules = (
        (len(k) and min(k) >= 1 and len(set(k)) == len(k), f"k={k!r}: different whole numbers from 1"),
        (0 < p < 1, f"p={p!r}: between 0 and 1"),
        (rbo_ties in ("a", "b", "w"), f"rbo_ties={rbo_ties!r}: 'b', 'a' or 'w'"),
        (blocks == 0 or blocks > 1, f"blocks={blocks!r}: 0 for no intervals, or 2 and more"),
        (0 < level < 1, f"level={level!r}: between 0 and 1"))
    wrong = [rule for kept, rule in rules if not kept]
    if wrong:
        raise RewardenError("impossible options", where="rank_agreement", why="; ".join(wrong), fix="change these values")


def _pairs(n: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(n) for j in range(i + 1, n))


def _estimates(values: np.ndarray) -> np.ndarray:
    """[measure 4, M, M]: tau-b, Spearman, weighted tau from the top and from the bottom."""
    orders = [order_of(row) for row in values]
    found = np.ones((4, len(values), len(values)))
    middle = np.stack([order.less + (order.same - 1) / 2 for order in orders])  # average ranks, from 0
    middle -= middle.mean(axis=1, keepdims=True)
    length = np.sqrt((middle**2).sum(axis=1))
    for i, j in _pairs(len(values)):
        pair = taus(orders[i], orders[j])
        rho = middle[i] @ middle[j] / (length[i] * length[j]) if length[i] and length[j] else np.nan
        found[:, i, j] = found[:, j, i] = [pair.tau, rho, pair.weighted_top, pair.weighted_bottom]
    found[:, length == 0, length == 0] = np.nan
    return found


def _correlations(one: _Scores, blocks: int, level: float, seed: int) -> xr.Dataset:
    estimate = _estimates(one.values)
    fields = {"": estimate}
    if blocks:
        block = random_blocks(one.values.shape[1], blocks, seed, one.clusters)
        left_out = np.stack([_estimates(one.values[:, block != b]) for b in range(block.max() + 1)])
        fields["_low"], fields["_high"] = jackknife_ends(estimate, left_out, level, correlation=True)
    out = {}
    for end, held in fields.items():
        out |= {f"{name}{end}": (("model", "other"), held[at]) for at, name in enumerate(("tau", "spearman"))}
        out[f"weighted_tau{end}"] = (("end", "model", "other"), held[2:])
    return xr.Dataset(out)


def _ends(one: _Scores, k: list[int], p: float, ties: Ties) -> xr.Dataset:
    """RBO and the overlap of the first k, from the top and from the bottom."""
    m, n = one.values.shape
    deep, reached = depth_needed(p, n), [size for size in k if size <= n]
    rbo, chance = np.empty((2, 2, m, m))
    shared, p_value = np.full((2, 2, len(k), m, m), np.nan)
    for end, sign in enumerate((1, -1)):
        places = [ranking(sign * row) for row in one.values]
        for i, j in [*_pairs(m), *((i, i) for i in range(m))]:
            found = overlap(places[i], places[j], max([deep, *reached]), ties)
            for held, agreement in ((rbo, found.agreement), (chance, found.chance)):
                held[end, i, j] = held[end, j, i] = rank_biased_overlap(agreement[:deep], p)
            for at, size in enumerate(k):
                if size > n:
                    continue
                count = found.shared[size - 1]
                shared[end, at, i, j] = shared[end, at, j, i] = count / size
                if i != j:
                    p_value[end, at, i, j] = p_value[end, at, j, i] = _chance_of(count, n, size)
    dims = ("end", "k", "model", "other")
    of_chance = [size / n if size <= n else np.nan for size in k]
    return xr.Dataset({"rbo": (("end", "model", "other"), rbo), "rbo_chance": (("end", "model", "other"), chance),
                       "overlap": (dims, shared), "overlap_p": (dims, p_value), "overlap_chance": ("k", of_chance)})


def _chance_of(count: float, n: int, size: int) -> float:
    """p that two unrelated beginnings of this size, of n items, share as many; a broken count is rounded down: p only rises."""
    return float(stats.hypergeom.sf(np.floor(count + 1e-9) - 1, n, size, size))


def _resolution(one: _Scores) -> xr.Dataset:
    """How much of the order each model leaves open."""
    n = one.values.shape[1]
    ordered = np.sort(one.values, axis=1)
    near = [np.searchsorted(row, row + floor, side="right") - np.arange(n) - 1 for row, floor in zip(ordered, one.floor)]
    unresolved = np.array([count.sum() for count in near]) / (n * (n - 1) / 2)
    noise = 2 * (unresolved[:, None] + unresolved)
    np.fill_diagonal(noise, 0.0)
    return xr.Dataset({"distinct": ("model", [len(np.unique(row)) for row in ordered]), "unresolved": ("model", unresolved),
                       "tau_noise": (("model", "other"), noise)})


def _holm_of_pairs(p: np.ndarray) -> np.ndarray:
    """Holm's p [..., M, M] over the upper triangles; each pair counts once."""
    rows, columns = np.triu_indices(p.shape[-1], 1)
    upper = p[..., rows, columns]
    adjusted = np.full(p.shape, np.nan)
    adjusted[..., rows, columns] = adjusted[..., columns, rows] = holm(upper.ravel()).reshape(upper.shape)
    return adjusted


def _warnings(data: xr.Dataset) -> list[str]:
    notes = []
    for name in data["model"].values:
        own = data.sel(model=name)
        if int(own["distinct"].min()) == 1:
            notes.append(f"{name} gives every token the same reward: its correlations are not defined")
        elif float(own["unresolved"].max()) > MANY_TIES:
            notes.append(f"{name} leaves the order of {float(own['unresolved'].max()):.0%} of the pairs of tokens open: "
                         f"{int(own['distinct'].min())} distinct rewards among {int(data['n'].min())}")
    if int(data["missing"].max()):
        notes.append(f"{int(data['missing'].max())} tokens or fewer of a model have no finite reward and are left out for all")
    short = [size for size in data["k"].values.tolist() if size > int(data["n"].min())]
    if short:
        notes.append(f"no overlap for k = {', '.join(map(str, short))}: there are {int(data['n'].min())} tokens")
    return notes
