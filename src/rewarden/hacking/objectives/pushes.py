"""What does raising one objective do to the others?

In: a model whose scalars are the objectives, conversations. Out: slopes of every objective along the gradient of each, by exact
edits. Ignorant of what objectives mean.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rewarden.conversation import Pair
from rewarden.edits.edit import Edit, Site
from rewarden.edits.gradients import run_gradients
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError
from rewarden.options import ConflictOptions
from rewarden.statistics.studentised import studentised_interval

if TYPE_CHECKING:
    from rewarden.edits.base import BaseRun
    from rewarden.reward_model import RewardModel

FARTHEST = 0.05
"""Largest push, as a share of the length of the activations pushed."""


def push_objectives(rm: RewardModel, pairs: Sequence[Pair], prompts: np.ndarray, sizes: np.ndarray, floor: float,
                    options: ConflictOptions) -> xr.Dataset:
    """Slopes of objectives, by pushing activations along the gradient of each in turn, both ways.

    Objective i is pushed by ± `step` of its size, to first order and by at most 5 % of the activations'
    length, in the residual stream after `layer`, at the response's tokens; slope = change of j over
    change of i between the two, each in its size. It is 1 for i = j; below 0, raising i lowers j.

    Args:
        rm: the model with the objectives as its scalars (`rows.read_rows`).
        pairs: the first response of one pair of each prompt is used, for up to `pushed` prompts.
        prompts: [n], prompt of each pair.
        sizes: float64 [K], unit of each objective.
        floor: changes up to this size are rounding, in reward units.
        options: `layer`, `step`, `pushed`, `level`, `resamples`, `seed`.

    Returns:
        `slope_item` [item, pushed, read], and `slope` with `slope_low/high` [pushed, read]: mean over items, symmetric
        bootstrap-t; ends are NaN for fewer than five items.

    Raises:
        RewardenError: a layer at or behind which nothing is read.
    """
    layer = rm.read_layer if options.layer is None else options.layer
    if layer > rm.read_layer:
        raise RewardenError(f"no reward is read behind layer {layer}", where="conflict(layer=)",
                            why=f"it is read after layer {rm.read_layer}", fix=f"give a layer up to {rm.read_layer}")
    rng = np.random.default_rng(options.seed)
    firsts = np.unique(prompts, return_index=True)[1]
    items = np.sort(rng.permutation(firsts)[:options.pushed])
    found = np.stack([_slopes(rm, rm.base(pairs[i].conversations[0]), layer, sizes, options.step, floor) for i in items])
    mean = studentised_interval(found, level=options.level, n_resamples=options.resamples, seed=options.seed)
    axes = ("pushed", "read")
    return xr.Dataset({"slope_item": (("item", *axes), found), **mean.variables("slope", axes)},
                      coords={"pushed": list(rm.names), "read": list(rm.names)})


def _slopes(rm: RewardModel, base: BaseRun, layer: int, sizes: np.ndarray, step: float, floor: float) -> np.ndarray:
    """Slopes [pushed, read] in one conversation; NaN where an objective does not move."""
    # the response and what the template writes behind it; the prompt, and a first token that attention rests on, stay
    after = slice(int(np.flatnonzero(base.encoded.spans == RESPONSE)[0]), base.length)
    site = Site("resid_post", layer, tuple(range(after.start, after.stop)))
    length = float((base.activation("resid_post", layer)[after].float()**2).sum())**0.5
    edits = []
    for number, size in enumerate(sizes):
        gradient = gradient_of(rm, base, layer, number)[after]  # [P, d]
        square = float((gradient**2).sum())
        # to first order a step of its size; where the gradient is faint that would leave all other states behind
        reach = min(step * float(size) / square, FARTHEST * length / square**0.5) if square > 0 else 0.0
        edits += [Edit(site, sign * reach * gradient, "add") for sign in (1, -1)]
    values = rm.edit(base, edits).astype(np.float64)  # [2K, K]
    moved = values[0::2] - values[1::2]
    own = np.where(np.abs(np.diag(moved)) > floor, np.diag(moved), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (moved / sizes) / (own / sizes)[:, None]
    return np.where(np.isfinite(slopes), slopes, np.nan)


def gradient_of(rm: RewardModel, base: BaseRun, layer: int, output: int) -> Tensor:
    """Gradient of one scalar with respect to the residual stream after a layer, [T, d]."""
    if layer < rm.read_layer:
        asked = copy.copy(rm)
        asked.main = output  # the same run, read for another scalar
        return run_gradients(replace(base, rm=asked), ["resid_post"]).at("resid_post", layer)
    residual = base.activation("resid_post", layer)
    at = int(base.reading.positions[-1])
    found = torch.zeros_like(residual, dtype=torch.float32)
    found[at] = rm.readout.direction(residual[at][None], base.reading, output)[0]
    return found
