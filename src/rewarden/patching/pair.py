"""The sweep of one pair: its runs, its source, one plan, and the effects.

In: a reward model, pairs, options. Out: one `PairSweep` per pair. Ignorant of tables, intervals and disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from rewarden.conversation import Pair
from rewarden.edits import BaseRun
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.options import PatchOptions
from rewarden.patching.cells import Cells, cells_of
from rewarden.patching.sources import Source, counterparts, derangement, mean_activations, recorded
from rewarden.scores import encode_pairs

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

UNEQUAL, NOT_FINITE = "unequal length", "not finite"
"""Why a pair has no effects."""


@dataclass(frozen=True, eq=False)
class PairSweep:
    """What one pair gave.

    Attributes:
        effects: suffix of the variable → float64 [site, layer, (position)] or [layer, head, (position)]; positions are those of
            the base run, from its start.
        reward_base: of the base run.
        reward_source: of the source run; NaN where there is none.
        margin: chosen − rejected.
        noise_floor: of the engine in this sweep.
        forwards: cost of everything, in forwards of this conversation.
        edits: counterfactuals.
        lost: counterfactuals whose reward is not finite.
        apart: why there are no effects, or "".
    """

    effects: dict[str, np.ndarray]
    reward_base: float
    reward_source: float
    margin: float
    noise_floor: float = 0.0
    forwards: float = 0.0
    edits: int = 0
    lost: int = 0
    apart: str = ""


@dataclass(eq=False)
class Sweeper:
    """Runs pairs under one set of options.

    Attributes:
        rm: the reward model.
        pairs: all pairs of the call.
        options: what is patched, and how.
    """

    rm: RewardModel
    pairs: Sequence[Pair]
    options: PatchOptions
    rows: list[tuple[Encoded, Encoded]] = field(init=False)
    donors: np.ndarray | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rows = encode_pairs(self.rm, self.pairs)
        if self.options.mode == "resample":
            self.donors = derangement(len(self.pairs), self.options.seed)
        if not any(self.comparable(index) for index in range(len(self.pairs))):
            raise RewardenError("no pair has sides of equal length", where="alignment='equal_only'",
                                why=f"{len(self.pairs)} pairs of unequal length", fix="use alignment='suffix'")

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """Mean activations over all conversations."""
        return mean_activations(self.rm, [row for both in self.rows for row in both], self.options.sites,
                                read_only=self.options.positions == "read_out")

    def base_row(self, index: int) -> Encoded:
        """Tokens of the run that is edited."""
        return self.rows[index][1 if self.options.mode == "denoising" else 0]

    def source_row(self, index: int) -> Encoded | None:
        """Tokens of the run that activations are taken from, or None."""
        if self.donors is not None:
            return self.rows[self.donors[index]][0]
        return {"noising": self.rows[index][1], "denoising": self.rows[index][0]}.get(self.options.mode)

    def comparable(self, index: int) -> bool:
        """False where the alignment has nothing to say on this pair: unequal lengths under "equal_only"."""
        source = self.source_row(index)
        return source is None or self.options.alignment != "equal_only" or source.length == self.base_row(index).length

    @cached_property
    def positions_of(self) -> list[np.ndarray]:
        """For each pair, position in the source run of each token of the base run, int64 [T]; −1 where there is none."""
        found, read = [], self.rm.readout.read
        for index in range(len(self.pairs)):
            base, source = self.base_row(index), self.source_row(index)
            found.append(np.full(base.length, -1, dtype=np.int64) if source is None or not self.comparable(index)
                         else counterparts(base, source, read(base), read(source), self.options.alignment))
        return found

    def recorded_runs(self, index: int, sites: Sequence[str]) -> tuple[BaseRun, BaseRun | None]:
        """The run that is edited, and the one that activations are taken from, if any: the same one where both say the same."""
        row, source = self.base_row(index), self.source_row(index)
        base, *others = self.rm.bases([row] if source is None or source.key() == row.key() else [row, source], sites)
        return base, None if source is None else others[0] if others else base

    def run(self, index: int) -> PairSweep:
        """All effects of one pair."""
        sites = self.options.sites
        base, run = self.recorded_runs(index, recorded(sites))
        chosen, rejected = self._sides(index, base, run)
        finite = np.isfinite([chosen, rejected, base.reward, 0.0 if run is None else run.reward]).all()
        apart = NOT_FINITE if not finite else "" if self.comparable(index) else UNEQUAL
        if apart:
            source = Source(base, np.full(base.length, -1), base)  # no position has a counterpart
        else:
            source = Source(base, self.positions_of[index], run, self.means if self.options.mode == "mean" else {})
        cells = cells_of(source, sites, self.options.positions)
        floor, cost = self.fill(cells)
        sign = -1.0 if self.options.mode == "denoising" else 1.0
        effects = {suffix: sign * (base.reward - rewards) for suffix, rewards in cells.rewards.items()}
        runs = 1.0 + (run is not None and run is not base) + {"noising": 0, "denoising": 0, "mean": 3}.get(self.options.mode, 1)
        return PairSweep(effects, base.reward, np.nan if run is None else run.reward, chosen - rejected, floor, runs + cost,
                         sum(map(len, cells.edits)), cells.lost, apart)

    def _sides(self, index: int, base: BaseRun, run: BaseRun | None) -> tuple[float, float]:
        """Rewards of the chosen and the rejected response."""
        if self.options.mode == "denoising":
            assert run is not None  # source_row
            return run.reward, base.reward
        if self.options.mode == "noising":
            assert run is not None
            return base.reward, run.reward
        return base.reward, float(self.rm.reward_encoded([self.rows[index][1]])[0, self.rm.main])

    def fill(self, cells: Cells) -> tuple[float, float]:
        """Run all edits as one plan; noise floor, and cost in forwards."""
        if not cells.edits:
            return 0.0, 0.0
        plan = self.rm.plan(cells.source.base, cells.edits)
        edited = plan.run()
        cells.take(edited.values[:, self.rm.main].cpu().double().numpy())
        return edited.noise_floor, plan.forwards
