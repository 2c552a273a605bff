"""What is left of rewards, of preferences and of predictions when an activation is only what the dictionary rebuilds of it?

In: a model, sequences, a dictionary. Out: variables of a Result. Replacements by the mean activation and by zeros stand beside
the reconstruction: what is kept is measured between them. Ignorant of reconstruction errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.evaluation.language import PredictionHead
from rewarden.dictionaries.evaluation.reconstruction import everywhere, selected
from rewarden.dictionaries.evaluation.replacement import REPLACEMENTS, Replaced, replaced
from rewarden.dictionaries.harvesting.items import Piece
from rewarden.edits import Site
from rewarden.edits.base import KEPT
from rewarden.options.features import EvaluateOptions
from rewarden.reward_model import RewardModel
from rewarden.statistics import bootstrap_interval, share_interval, spearman

WHERE = ("read", "all")
"""Where activations are replaced: what the read-out reads, or every token at once."""
Variables = dict[str, tuple[tuple[str, ...], Any]]
Done = Callable[[int], object] | None


def rewards_kept(rm: RewardModel, pieces: Sequence[Piece], clusters: np.ndarray, dictionary: Dictionary, site: Site,
                 means: dict[str, Tensor], options: EvaluateOptions, progress: Done = None) -> tuple[Variables, float]:
    """Rewards before and after, and the engine's noise floor.

    Args:
        rm: the reward model.
        pieces: sequences.
        clusters: [item], sequences with the same prompt are not independent.
        dictionary: on the model's device.
        site: of `place_of`.
        means: "read" and "all" → what "mean" puts there.
        options: level, resamples, seed, special, replace_special.
        progress: called with the number of sequences finished.
    """
    reward, after, floor = np.full(len(pieces), np.nan), np.full((len(pieces), len(WHERE), len(REPLACEMENTS)), np.nan), 0.0
    for number, piece in enumerate(pieces):
        base = rm.base(piece.encoded, [site.kind] if site.kind in KEPT else [])
        if bool(torch.isfinite(base.values).all()):
            where = [selected(rm, piece.encoded, "read", options.special), everywhere(rm, piece.encoded, options)]
            found = replaced(base, dictionary, site, where, [means[name] for name in WHERE])
            reward[number], after[number] = found.base[rm.main], found.values[..., rm.main]
            floor = max(floor, found.noise_floor)
        if progress:
            progress(1)
    data = _rewards(reward, after, clusters, max(floor, rm.noise_floor), options)
    margins = _margins(pieces, reward[:, None, None]), _margins(pieces, after)
    if len(margins[0]):
        prompts = clusters[[piece.side == "chosen" for piece in pieces]]
        data |= _preferences(*margins, prompts, max(floor, rm.noise_floor), options)
    return data, floor


def _rewards(reward: np.ndarray, after: np.ndarray, clusters: np.ndarray, noise_floor: float, options: EvaluateOptions
             ) -> Variables:
    """Δreward and rank correlation, [where, replacement]; no correlation where all rewards are the same up to the noise."""
    axes, delta = ("where", "replacement"), after - reward[:, None, None]
    spread: dict[str, Any] = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed,
                              "clusters": clusters}
    mean, size = bootstrap_interval(delta, **spread), bootstrap_interval(np.abs(delta), **spread)
    data: Variables = {"reward": (("item",), reward), "reward_replaced": (("item", *axes), after)}
    for name, interval in (("delta_mean", mean), ("delta_size", size)):
        data |= interval.variables(name, axes)
    # with one vector at every token, what is left may be the same in every conversation: ranks of rounding say nothing
    told = np.where(_range(after) > 2 * noise_floor, after, 0.0)
    ranks = [[spearman(reward, told[:, i, j], **spread) for j in range(len(REPLACEMENTS))] for i in range(len(WHERE))]
    for name, end in (("rank_correlation", "estimate"), ("rank_correlation_low", "low"), ("rank_correlation_high", "high")):
        data[name] = (axes, np.asarray([[getattr(cell, end) for cell in row] for row in ranks], dtype=float))
    finite = np.isfinite(delta).all((1, 2))
    square = (delta[finite] ** 2).sum(0)  # [where, replacement]
    data["reward_spread"] = ((), np.std(reward[np.isfinite(reward)]) if np.isfinite(reward).any() else np.nan)
    data["reward_recovered"] = (("where",), 1 - _ratio(square[:, 0], square[:, 1]))
    return data


def _range(values: np.ndarray) -> np.ndarray:
    """Largest − smallest finite value over items, [...]; −∞ without any."""
    known = np.isfinite(values)
    return np.where(known, values, -np.inf).max(0) - np.where(known, values, np.inf).min(0)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) != 0)


def _margins(pieces: Sequence[Piece], values: np.ndarray) -> np.ndarray:
    """chosen − rejected [pair, ...] of the pieces that are sides of a pair."""
    sides = [[i for i, piece in enumerate(pieces) if piece.side == side] for side in ("chosen", "rejected")]
    return values[sides[0]] - values[sides[1]]


def _preferences(before: np.ndarray, after: np.ndarray, prompts: np.ndarray, noise_floor: float, options: EvaluateOptions
                 ) -> Variables:
    """Pair accuracy before [pair, 1, 1] and after [pair, where, replacement]; a tie, a margin within the noise, counts half."""
    finite = np.isfinite(before).all((1, 2)) & np.isfinite(after).all((1, 2))
    n = int(finite.sum())
    signs = [np.where(np.abs(side[finite]) <= noise_floor, 0.0, np.sign(side[finite])) for side in (before, after)]
    spread: dict[str, Any] = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed}
    mine = share_interval(signs[0][:, 0, 0] / 2 + 0.5, prompts[finite], **spread)
    theirs = share_interval(signs[1] / 2 + 0.5, prompts[finite], **spread)
    axes = ("where", "replacement")
    lost = np.asarray(mine.estimate) - theirs.estimate  # [where, replacement]
    recovered = np.where(lost[:, 1] > 0, 1 - _ratio(lost[:, 0], lost[:, 1]), np.nan)
    same = (signs[1] == signs[0]).mean(0) if n else np.full(signs[1].shape[1:], np.nan)
    return {**mine.variables("accuracy"), **theirs.variables("accuracy_replaced", axes),
            "accuracy_recovered": (("where",), recovered), "preference_kept": (axes, same), "pairs": ((), n)}


def predictions_kept(rm: RewardModel, head: PredictionHead, pieces: Sequence[Piece], clusters: np.ndarray,
                     dictionary: Dictionary, site: Site, mean: Tensor, options: EvaluateOptions, progress: Done = None
                     ) -> Variables:
    """Cross-entropy before and after at all tokens, and divergence from the unedited prediction, in nats per token."""
    lm = rm.reading(head)
    losses, tokens = [], []
    for piece in pieces:
        head.against = None
        base = lm.base(piece.encoded, [site.kind] if site.kind in KEPT else [])
        at = torch.as_tensor(base.reading.positions, device=lm.device)
        head.against = head.norm(base.activation("resid_post", lm.read_layer)[at].float())
        losses.append(replaced(base, dictionary, site, [everywhere(rm, piece.encoded, options)], [mean]))
        tokens.append(len(at))
        if progress:
            progress(1)
    return _predictions(losses, np.asarray(tokens), clusters, options)


def _predictions(losses: Sequence[Replaced], tokens: np.ndarray, clusters: np.ndarray, options: EvaluateOptions) -> Variables:
    spread: dict[str, Any] = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed,
                              "clusters": clusters}
    before = np.asarray([loss.base[0] for loss in losses])
    after, divergence = (np.stack([loss.values[0, :, column] for loss in losses]) for column in (0, 1))  # [item, replacement]
    share = tokens / tokens.sum()
    increase, lost = share @ (after - before[:, None]), share @ divergence
    data: Variables = {"tokens_predicted": (("item",), tokens), "cross_entropy": (("item",), before),
                       "cross_entropy_replaced": (("item", "replacement"), after),
                       "divergence": (("item", "replacement"), divergence),
                       "loss": ((), share @ before), "loss_increase": (("replacement",), increase),
                       "loss_recovered": (("reference",), 1 - _ratio(np.full(2, increase[0]), increase[1:])),
                       "divergence_mean": (("replacement",), lost),
                       "divergence_recovered": (("reference",), 1 - _ratio(np.full(2, lost[0]), lost[1:]))}
    # a mean over tokens is one of items weighted by their tokens
    weighted = len(tokens) * share[:, None]
    for name, values in (("loss_increase", weighted * (after - before[:, None])), ("divergence_mean", weighted * divergence)):
        interval = bootstrap_interval(values, **spread)
        data |= {f"{name}_low": (("replacement",), interval.low), f"{name}_high": (("replacement",), interval.high)}
    return data
