"""Do models prefer the same responses?

In: members with their rewards, the prompt of each pair. Out: rewards and margins, accuracy with paired differences, shares of
pairs judged alike beside what chance gives, rank correlations; the pairs judged differently. Ignorant of what is inside models.
Letters: M members, n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.comparison.matrices import BLOCKS, jackknifed, pairs_of_models, prompt_blocks, symmetric
from rewarden.comparison.members import Member
from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.options import CompareOptions
from rewarden.result import Result
from rewarden.statistics import share_interval
from rewarden.statistics.linearised import change_interval
from rewarden.tokens.comparison.rank_agreement import rank_agreement

if TYPE_CHECKING:
    import pandas as pd

RANKED = 10
"""Responses at either end whose overlap is counted."""

LEAST = 3
"""Items from which there is a rank correlation."""


def compare_rewards(members: Sequence[Member], clusters: np.ndarray, options: CompareOptions) -> xr.Dataset:
    """Everything that needs scores only; see `rewarden.compare` for the layout."""
    reward = np.stack([member.reward for member in members])  # [M, n, side]
    margin = np.stack([member.margin for member in members])
    won = preferred(margin, np.asarray([member.floor for member in members]))
    data = xr.Dataset({
        "reward": (("model", "pair", "side"), reward), "margin": (("model", "pair"), margin),
        "spread": ("model", [member.spread for member in members]),
        "floor": ("model", [member.floor for member in members])})
    spread = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed}
    share = share_interval(won.T, clusters, **spread)
    data = data.assign({**share.variables("accuracy", "model"), "n": ("model", share.n)})
    return data.merge(_alike(won, clusters, options)).merge(_ranks(reward, margin, clusters, options))


def preferred(margin: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """1 where the chosen response is preferred, 0 where the rejected one is, ½ within rounding, NaN where unknown: [M, n]."""
    return np.where(np.isfinite(margin), (np.sign(margin) * (np.abs(margin) > floor[:, None]) + 1) / 2, np.nan)


def _alike(won: np.ndarray, clusters: np.ndarray, options: CompareOptions) -> xr.Dataset:
    """Shares of pairs judged alike, and differences in accuracy, of every two models."""
    m = len(won)
    spread = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed}
    held: dict[str, dict[tuple[int, int], float]] = {name: {} for name in (
        "agreement", "agreement_low", "agreement_high", "agreement_chance", "kappa", "kappa_low", "kappa_high", "n_both")}
    gap = np.zeros((3, m, m))
    for i, j in pairs_of_models(m):
        both = np.isfinite(won[i]) & np.isfinite(won[j])
        first, second, where = won[i, both], won[j, both], clusters[both]
        same = share_interval(_same(first, second), where, **spread)
        kappa = jackknifed(lambda kept, a=first, b=second: _kappa(a[kept], b[kept]), prompt_blocks(where, options.seed),
                           options.level)
        found = (same.estimate, same.low, same.high, _chance(first, second), *kappa, int(both.sum()))
        for name, value in zip(held, found, strict=True):
            held[name][i, j] = float(value)
        paired = change_interval(second, first, where, level=options.level)
        ends = np.asarray([paired.estimate, paired.low, paired.high], dtype=np.float64)
        gap[:, i, j], gap[:, j, i] = ends, -ends[[0, 2, 1]]
    one = ("agreement", "agreement_low", "agreement_high", "kappa", "kappa_low", "kappa_high")
    fields = {name: (("model", "other"), symmetric(m, values, 1.0 if name in one else np.nan)) for name, values in held.items()}
    names = ("accuracy_gap", "accuracy_gap_low", "accuracy_gap_high")
    return xr.Dataset({**fields, **{name: (("model", "other"), value) for name, value in zip(names, gap, strict=True)}})


def _same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 where both prefer the same response, 0 where they do not, ½ where either is indifferent."""
    return first * second + (1 - first) * (1 - second)


def _chance(first: np.ndarray, second: np.ndarray) -> float:
    """Share judged alike if their mistakes were unrelated: two models of high accuracy agree for that reason alone."""
    if len(first) == 0:
        return float("nan")
    p, q = first.mean(), second.mean()
    return float(p * q + (1 - p) * (1 - q))


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's κ: agreement beyond chance, as a share of what is possible."""
    chance = _chance(first, second)
    return float((_same(first, second).mean() - chance) / (1 - chance)) if chance < 1 - 1e-12 else float("nan")


def _ranks(reward: np.ndarray, margin: np.ndarray, clusters: np.ndarray, options: CompareOptions) -> xr.Dataset:
    """Rank correlations over all responses and over margins."""
    parts = [_rank(values, where, options) for values, where in (
        (reward.reshape(len(reward), -1), np.repeat(clusters, 2)), (margin, clusters))]
    return xr.Dataset({name: (("quantity", "model", "other"), np.stack([part[name] for part in parts])) for name in parts[0]},
                      coords={"quantity": ["reward", "margin"]})


def _rank(values: np.ndarray, clusters: np.ndarray, options: CompareOptions) -> dict[str, np.ndarray]:
    """Rank correlations [M, M] with their ends over items [M, n] that are finite for both; NaN below three."""
    m, finite = len(values), np.isfinite(values)
    alike = bool((finite == finite[0]).all())  # then all models at once, which is faster
    out = {f"{name}{end}": np.full((m, m), np.nan) for name in ("kendall", "spearman") for end in ("", "_low", "_high")}
    for group in [np.arange(m)] if alike else map(np.array, pairs_of_models(m)):
        if finite[group].all(axis=0).sum() < LEAST:
            continue
        found = rank_agreement(values[group], [str(place) for place in group], k=[RANKED], blocks=BLOCKS, clusters=clusters,
                               level=options.level, seed=options.seed).data.isel(prompt=0)
        for name, held in out.items():
            held[np.ix_(group, group)] = found[name.replace("kendall", "tau")].values
    return out


def disagreements(result: Result, pairs: Sequence[Pair] | None = None, first: int | str = 0, second: int | str = 1,
                  n: int = 20) -> pd.DataFrame:
    """The pairs that two models judge differently, the most decided ones first.

    Args:
        result: of `rewarden.compare`.
        pairs: the compared pairs, to have their texts in the table.
        first, second: names or numbers of two models.
        n: rows.

    Returns:
        Columns `pair`, `subset`, `margin` of both models (in SD of each model's rewards), `right` (the model that prefers the
        chosen response), `decided` (the smaller of both sizes, by which rows are ordered); with pairs also `prompt`,
        `chosen`, `rejected`. A margin within rounding is no judgement.

    Raises:
        RewardenError: no such model, or other pairs.

    Example:
        >>> import rewarden as rw
        >>> pairs = rw.load_pairs("demo", limit=12)
        >>> found = rw.compare([rw.load(), rw.load("demo:reward_model_b")], pairs, inside_pairs=0, resamples=100)
        >>> bool((disagreements(found).filter(like="margin").prod(axis=1) < 0).all())
        True
    """
    import pandas as pd

    data = result.data
    names = [str(name) for name in data["model"].values]
    places = [_place(names, one) for one in (first, second)]
    if pairs is not None and len(pairs) != data.sizes["pair"]:
        raise RewardenError(f"{len(pairs)} pairs for a comparison of {data.sizes['pair']}", where="disagreements(pairs=)",
                            fix="pass the pairs that were compared, in the same order")
    margin, floor, unit = (data[name].values[places] for name in ("margin", "floor", "spread"))
    won = preferred(margin, floor)
    scaled = margin / unit[:, None]
    rows = np.flatnonzero(np.abs(won[0] - won[1]) == 1)  # NaN and ½ are no judgement
    decided = np.abs(scaled[:, rows]).min(axis=0)
    rows = rows[np.argsort(-decided, kind="stable")][:n]
    right = [names[places[0]] if won[0, row] == 1 else names[places[1]] for row in rows]
    table: dict[str, Any] = {"pair": data["pair"].values[rows].astype(str), "subset": data["subset"].values[rows].astype(str),
                             **{f"margin {names[place]}": scaled[number, rows] for number, place in enumerate(places)},
                             "right": right, "decided": np.abs(scaled[:, rows]).min(axis=0)}
    if pairs is not None:
        sides = [pairs[row].conversations for row in rows]
        table |= {"prompt": [str(chosen.prompt[-1]["content"]) for chosen, _ in sides],
                  "chosen": [str(chosen.messages[-1]["content"]) for chosen, _ in sides],
                  "rejected": [str(rejected.messages[-1]["content"]) for _, rejected in sides]}
    return pd.DataFrame(table)


def _place(names: list[str], one: int | str) -> int:
    if isinstance(one, str) and one in names:
        return names.index(one)
    if isinstance(one, int) and 0 <= one < len(names):
        return one
    raise RewardenError(f"no model {one!r} in this comparison", where="disagreements", why=f"it compares {names}",
                        fix="name one of them, or give its number")
