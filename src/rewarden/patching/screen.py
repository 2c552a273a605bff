"""One pair's sweep, computed where it fits the budget; else estimated from gradients, and computed in part to see how well.

In: a reward model, pairs, options. Out: one `PairSweep` per pair, of exact effects or of estimates, and what was verified.
Ignorant of tables and intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rewarden.edits import EditBatch, Plan
from rewarden.edits.first_order import first_order, kinds_of, live_ids
from rewarden.edits.gradients import dropped_gradients, path_gradients, run_gradients
from rewarden.options import EstimateOptions
from rewarden.patching.cells import Cells
from rewarden.patching.pair import PairSweep, Sweeper
from rewarden.patching.sources import Source, mean_activations
from rewarden.patching.verification import Verified, draw


@dataclass(frozen=True, eq=False)
class Screened:
    """What is known of a pair whose effects were estimated.

    Attributes:
        verified: cells computed exactly.
        places: suffix of the variable → number of each cell's counterfactual, shaped as the effects; −1 where there is none.
        exact: float64 [n], exact effect of each counterfactual; NaN where only the estimate is known.
        saved: forwards of the exact sweep − forwards spent instead.
    """

    verified: Verified
    places: dict[str, np.ndarray]
    exact: np.ndarray
    saved: float

    def known(self, suffix: str, effects: np.ndarray) -> np.ndarray:
        """Exact effects of one variable's cells; NaN where only the estimate is known."""
        place = self.places[suffix]
        return np.where(place < 0, effects, self.exact[place])


@dataclass(eq=False)
class Screen(Sweeper):
    """Sweeps of pairs, each computed or estimated.

    Attributes:
        screened: pair → what is known of it, for the pairs that were estimated.
    """

    options: EstimateOptions
    screened: dict[int, Screened] = field(default_factory=dict)
    _index: int = field(default=-1, init=False)

    @property
    def sign(self) -> float:
        """Effect ÷ change of the reward."""
        return 1.0 if self.options.mode == "denoising" else -1.0

    @cached_property
    def mean_input(self) -> Tensor:
        """Mean residual over all tokens of all conversations, [layer, d]."""
        rows = [row for both in self.rows for row in both]
        return mean_activations(self.rm, rows, ["resid_pre"], read_only=False)["resid_pre"]

    def run(self, index: int) -> PairSweep:
        """All effects of one pair, or estimates of them."""
        self._index = index
        found = super().run(index)
        return replace(found, edits=len(self.screened[index].verified.rows)) if index in self.screened else found

    def fill(self, cells: Cells) -> tuple[float, float]:
        """Rewards of all cells; noise floor, and cost in forwards."""
        if not cells.edits:
            return 0.0, 0.0
        plan = self.rm.plan(cells.source.base, cells.edits)
        if plan.forwards <= self.options.budget:
            return super().fill(cells)
        change, cost = self._estimate(plan, cells.source)
        live = live_ids(plan)
        top, drawn = draw(change, live, self.options.top, self.options.sample, [self.options.seed, self._index])
        rows = np.sort(np.concatenate([top, drawn]))
        exact = np.zeros(plan.n)  # of those that cannot change anything
        exact[live] = np.nan
        floor, lost = 0.0, 0
        if len(rows):
            check = self.rm.plan(plan.base, some_rows(cells.edits, rows))
            edited = check.run()
            effects = self.sign * (edited.values[:, self.rm.main].double().cpu().numpy() - plan.base.reward)
            exact[rows] = np.where(np.isfinite(effects), effects, np.nan)
            lost = int((~np.isfinite(effects)).sum())
            floor, cost = edited.noise_floor, cost + check.forwards
        verified = Verified(rows, self.sign * change[rows], exact[rows], np.isin(rows, drawn), len(live) - len(top))
        self.screened[self._index] = Screened(verified, places(cells), exact, plan.forwards - cost)
        cells.take(plan.base.reward + change)
        cells.lost += lost
        return floor, cost

    def _estimate(self, plan: Plan, source: Source) -> tuple[np.ndarray, float]:
        """Estimated change of the reward float64 [n], and the cost in forwards (a backward counts as one)."""
        kinds, steps = kinds_of(plan), self.options.steps
        if self.options.method == "attribution":
            return first_order(plan, [run_gradients(plan.base, kinds)])[0], 2.0
        if self.options.method == "integrated":
            return first_order(plan, [path_gradients(plan.base, kinds, self._shift(source), steps)])[0], 2.0 * steps
        several = dropped_gradients(plan.base, kinds)
        return graddrop(plan, first_order(plan, several, softmax=True)), 1.0 + len(several)

    def _shift(self, source: Source) -> Tensor:
        """Source − base at layer 0's input [T, d]; 0 where a position has no counterpart."""
        if self.options.mode == "mean":
            source = replace(source, constants={"resid_pre": self.mean_input})
        now, where = source.base.activation("resid_pre").float(), np.flatnonzero(source.usable)
        there = now.clone()
        there[torch.as_tensor(where, device=now.device)] = source.at("resid_pre", 0, where).to(now)
        return there - now


def graddrop(plan: Plan, products: np.ndarray) -> np.ndarray:
    """AtP*'s size with the sign of the first order, float64 [n].

    Args:
        plan: of the edits.
        products: float64 [1 + L, n]: with the gradient, and with the gradient past each layer.
    """
    whole, dropped = products[0], np.abs(products[1:])
    layers = np.full(plan.n, float(len(dropped)))
    for unit in plan.units:
        if all(part.kind not in ("embed", "resid_pre") for part in unit.parts):
            layers[unit.ids] -= 1
    size = np.where(layers > 0, dropped.sum(0) / np.maximum(layers, 1), np.abs(whole))  # one layer: nothing to drop
    return np.where(whole < 0, -size, size)


def some_rows(edits: Sequence[EditBatch], rows: np.ndarray) -> list[EditBatch]:
    """The given rows of all edits together, int64 increasing, as edits of their own."""
    found, start = [], 0
    for edit in edits:
        mine = rows[(rows >= start) & (rows < start + len(edit))] - start
        start += len(edit)
        if len(mine):
            positions, heads = (None if one is None else np.asarray(one)[mine] for one in (edit.positions, edit.heads))
            values = edit.values[torch.as_tensor(mine, device=edit.values.device)]
            found.append(replace(edit, values=values, positions=positions, heads=heads))
    return found


def places(cells: Cells) -> dict[str, np.ndarray]:
    """Number of each cell's edit, shaped as the cells' rewards; −1 where none is needed."""
    numbered = copy(cells)
    numbered.rewards = {suffix: np.full(held.shape, -1.0) for suffix, held in cells.rewards.items()}
    numbered.take(np.arange(sum(map(len, cells.edits)), dtype=np.float64))
    return {suffix: held.astype(np.int64) for suffix, held in numbered.rewards.items()}
