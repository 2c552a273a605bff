"""When the same content is written in several styles: how much is style worth beside content, and does style hide content?

In: rewards of a good and a bad answer in each style (RM-Bench's grid, or a data set whose pairs carry versions). Out: a Result
of kind "style_content": content, style and their interaction per item, with means and intervals. Ignorant of texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.fitting import fitting
from rewarden.preferences import prompt_keys, rewards_of
from rewarden.preferences.benchmarks import STYLES
from rewarden.preferences.candidates import Item, items_of
from rewarden.result import Result
from rewarden.statistics import Verdict, holm, require_n
from rewarden.statistics.regression import clustered_regression

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

ITEMS = 20
"""Fewest independent items."""


def grid_rewards(scores: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Rewards [item, side, style] of the items of a style grid; items without a finite reward are left out.

    Args:
        scores: a score Result, or rewards [n, 2].
        pairs: the n pairs, loaded with the layout "style-grid".

    Raises:
        RewardenError: pairs of another layout, no whole item, or items with different numbers of styles.

    Example:
        >>> pairs = [Pair("2+2?", "4", "5", metadata={"item": "a", "candidates": [2, 2], "style_chosen": i,
        ...          "style_rejected": j}) for i in (0, 1) for j in (0, 1)]
        >>> grid_rewards([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0], [2.0, 0.5]], pairs).tolist()
        [[[1.0, 2.0], [0.0, 0.5]]]
    """
    items = _whole_items(scores, pairs)
    sizes = {size for item in items for size in (item.chosen.size, item.rejected.size)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise RewardenError("no grid of styles", where="pairs",
                            why=f"{len(items)} items with finite rewards, of {sorted(sizes)} styles a side",
                            fix="pass pairs whose items have the same two or more styles on both sides")
    return np.array([[item.chosen, item.rejected] for item in items])


def grid_prompts(scores: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Prompt [item] of each item of `grid_rewards`: what `style_content` takes as clusters, where items share prompts.

    Args:
        scores, pairs: as for `grid_rewards`.

    Example:
        >>> pairs = [Pair("2+2?", "4", "5", metadata={"item": item, "candidates": [2, 2], "style_chosen": i,
        ...          "style_rejected": j}) for item in "ab" for i in (0, 1) for j in (0, 1)]
        >>> grid_prompts(np.zeros((8, 2)), pairs).tolist()
        [0, 0]
    """
    asked: dict[tuple[str, str], Any] = {}
    for pair, prompt in zip(pairs, prompt_keys(pairs), strict=True):
        asked.setdefault((pair.subset, str(pair.metadata["item"])), prompt)
    return np.array([asked[item.subset, item.id] for item in _whole_items(scores, pairs)])


def _whole_items(scores: Any, pairs: Sequence[Pair]) -> list[Item]:
    return [item for item in items_of(scores, pairs, "style") if item.finite]


def carries_versions(pair: Pair) -> bool:
    """Whether a pair's metadata hold each response in the three styles, under "styles".

    Example:
        >>> carries_versions(Pair("2+2?", "4", "5"))
        False
    """
    styles = pair.metadata.get("styles")
    return isinstance(styles, Mapping) and all(
        isinstance(styles.get(side), Sequence) and not isinstance(styles[side], str) and len(styles[side]) == len(STYLES)
        for side in ("chosen", "rejected"))


def version_rewards(rm: RewardModel, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the versions that pairs carry.

    Args:
        rm: the reward model.
        pairs: any; those that carry no versions, or one that the model cannot read, are passed over.

    Returns:
        Rewards [item, side, style], NaN where one is not finite, and the place [item] of each item among the pairs: what
        `style_content` takes, with `prompt_keys` of these pairs as clusters.

    Raises:
        RewardenError: no version can be read.

    Example:
        >>> import rewarden as rw
        >>> rewards, places = version_rewards(rw.load(), rw.load_pairs("demo", limit=8))
        >>> rewards.shape[1:], len(rewards) == len(places)
        ((2, 3), True)
    """
    versions = [Pair(prompt=pair.prompt, chosen=chosen, rejected=rejected, id=f"{place}", subset=pair.subset)
                for place, pair in enumerate(pairs) if carries_versions(pair)
                for chosen, rejected in zip(*(pair.metadata["styles"][side] for side in ("chosen", "rejected")), strict=True)]
    read = fitting(rm, versions).pairs
    places, counts = np.unique([int(pair.id) for pair in read], return_counts=True)
    whole = set(places[counts == len(STYLES)].tolist())
    kept = [pair for pair in read if int(pair.id) in whole]
    if not kept:
        return np.empty((0, 2, len(STYLES))), np.empty(0, dtype=np.int64)
    rewards = rewards_of(rm.score(kept), kept)
    return rewards.reshape(-1, len(STYLES), 2).transpose(0, 2, 1), np.array(sorted(whole))


def exchanged_styles(rewards: Any, clusters: Any, seed: int) -> np.ndarray:
    """Rewards [item, side, style] with the styles of each prompt in an order drawn at random, the same for both sides.

    What is left says nothing of style: the null of `style_content` for real rewards, which follow style in natural texts even
    where a model's weights are random.

    Example:
        >>> sorted(exchanged_styles(np.arange(6.0).reshape(1, 2, 3), [0], seed=1)[0, 0].tolist())
        [0.0, 1.0, 2.0]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    prompts, codes = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(rewards.shape[2]), (len(prompts), 1)), axis=1)
    return np.take_along_axis(rewards, order[codes.ravel()][:, None, :], axis=2)


def style_content(rewards: Any, clusters: Any = None, *, styles: Sequence[str] = (), alpha: float = 0.05, level: float = 0.95,
                  provenance: Mapping[str, Any] | None = None, noise_floor: float | None = None) -> Result:
    """Content, style and their interaction in rewards of two answers, each in several styles.

    Args:
        rewards: [item, side, style]: side 0 the better answer; styles from plain to elaborate. Items with a reward that is not
            finite are dropped and counted.
        clusters: [item], the prompt of each item; items are their own clusters by default.
        styles: names; RM-Bench's for three.
        alpha: chance of any false finding among styles and interactions (Holm).
        level: coverage of the intervals (CR2, clustered).
        provenance: kept in the Result.
        noise_floor: of rewards; smaller means are never flagged.

    Returns:
        Result "style_content". `content` (item): mean over styles of good − bad; `style` (item, step): what the more elaborate
        style earns, mean over both answers, less the plainest; `interaction` (item, step): by how much good − bad is larger
        in that style than in the plainest (below 0: style hides content). Of each its `…_mean`, `…_low`, `…_high`; of
        `style` and `interaction` also `…_p`, `…_p_adjusted`, `…_flagged`. `worth` (step): |style| by content. `n`.

    Raises:
        RewardenError: another shape, or fewer than 20 clusters.

    Source: Liu et al. 2024 (arXiv 2410.16184) for the grid.

    Example:
        >>> good = np.random.default_rng(0).normal(size=(30, 1, 1))
        >>> found = style_content(good + np.array([[1.0, 1.5], [0.0, 0.5]])[None])
        >>> float(found.data["content_mean"].round(6)), found.data["style_mean"].round(6).values.tolist()
        (1.0, [0.5])
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 3 or rewards.shape[1] != 2 or rewards.shape[2] < 2:
        raise RewardenError("rewards of styles have the wrong shape", where="style_content", why=f"got {rewards.shape}",
                            fix="pass [item, 2 sides, at least 2 styles]")
    whole = np.isfinite(rewards).all(axis=(1, 2))
    kept = rewards[whole]
    codes = np.arange(len(kept)) if clusters is None else np.asarray(clusters)[whole]
    require_n(len(np.unique(codes)), ITEMS, "style against content")
    names = list(styles) or (list(STYLES) if kept.shape[2] == len(STYLES) else [str(one) for one in range(kept.shape[2])])
    parts = {"content": (kept[:, 0] - kept[:, 1]).mean(axis=1)[:, None],
             "style": kept.mean(axis=1)[:, 1:] - kept.mean(axis=1)[:, :1],
             "interaction": (kept[:, 0] - kept[:, 1])[:, 1:] - (kept[:, 0] - kept[:, 1])[:, :1]}
    fields: dict[str, Any] = {}
    for name, values in parts.items():
        dims = ("step",) if name != "content" else ()
        fits = [clustered_regression(np.ones((len(values), 1)), column, codes, level=level) for column in values.T]
        fields[name] = (("item", *dims), values if dims else values[:, 0])
        for end, attribute in (("mean", "coefficient"), ("low", "low"), ("high", "high"), ("p", "p")):
            found = np.array([getattr(fit, attribute)[0] for fit in fits])
            fields[f"{name}_{end}"] = (dims, found if dims else found[0])
    fields |= _judged(fields, alpha, noise_floor or 0.0)
    content = abs(float(fields["content_mean"][1]))
    fields["worth"] = ("step", np.abs(fields["style_mean"][1]) / content if content > 0 else np.full(len(names) - 1, np.nan))
    fields["n"] = ((), len(np.unique(codes)))
    dropped = int((~whole).sum())
    warnings = (f"{dropped} items without finite rewards are left out",) if dropped else ()
    return Result("style_content", xr.Dataset(fields, coords={"step": names[1:], "item": np.flatnonzero(whole)}),
                  {**(provenance or {}), "alpha": alpha, "level": level, "plainest": names[0]}, exact=True,
                  noise_floor=noise_floor, warnings=warnings)


def _judged(fields: Mapping[str, Any], alpha: float, floor: float) -> dict[str, Any]:
    """Adjusted p and flags of styles and interactions, which are one family."""
    pooled = holm(np.concatenate([fields["style_p"][1], fields["interaction_p"][1]]))
    found = {}
    for name, adjusted in zip(("style", "interaction"), np.split(pooled, 2), strict=True):
        found[f"{name}_p_adjusted"] = ("step", adjusted)
        found[f"{name}_flagged"] = ("step", (adjusted <= alpha) & (np.abs(fields[f"{name}_mean"][1]) > floor))
    return found


def verdicts(result: Result) -> dict[str, Verdict]:
    """One verdict for each style and for each interaction; the evidence is |mean| in half-widths of its interval."""
    data, found = result.data, {}
    for part in ("style", "interaction"):
        for step in data["step"].values:
            one = {name: float(data[f"{part}_{name}"].sel(step=step)) for name in ("mean", "low", "high", "p")}
            half = (one["high"] - one["low"]) / 2
            flagged = bool(data[f"{part}_flagged"].sel(step=step))
            found[f"{part} {step}"] = Verdict(f"{part} {step}", flagged, abs(one["mean"]) / half if half > 0 else 0.0,
                                              one["mean"], one["low"], one["high"], one["p"], int(data["n"]))
    return found
