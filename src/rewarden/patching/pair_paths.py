"""The edges of one pair: its runs, what senders write differently, one plan, and the effects.

In: a reward model, pairs, options. Out: one `PairPaths` per pair. Ignorant of tables and intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.conversation import Pair
from rewarden.edits import BaseRun, Edit, EditBatch, Site
from rewarden.options import PatchOptions, PathOptions
from rewarden.patching.components import frozen_direction
from rewarden.patching.edges import RECORDED, Node, is_parallel, ledger, receivers_of, senders_of, write_differences
from rewarden.patching.pair import NOT_FINITE, UNEQUAL, Sweeper
from rewarden.patching.sources import Source

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

HELD = 2**26
"""Numbers that the edits of one plan hold (256 MB); what needs more is done in several plans."""

READ_OUT = Node("read_out")


@dataclass(eq=False)
class PairPaths:
    """What one pair gave.

    Attributes:
        effect: float64 [sender, receiver], senders and receivers in the order of `Edges`.
        frozen, base_scale: float64 [sender], `direct_frozen` and `direct_base_scale`.
        reward_base, reward_source: of the two runs.
        noise_floor: of the engine.
        forwards: cost of everything, in forwards of this conversation.
        edits: counterfactuals.
        lost: counterfactuals whose reward is not finite; their effects are NaN.
        apart: why there are no effects, or "".
    """

    effect: np.ndarray
    frozen: np.ndarray
    base_scale: np.ndarray
    reward_base: float
    reward_source: float
    noise_floor: float = 0.0
    forwards: float = 0.0
    edits: int = 0
    lost: int = 0
    apart: str = ""


@dataclass(eq=False)
class Edges:
    """Runs the edges of pairs under one set of options.

    Attributes:
        rm: the reward model.
        pairs: all pairs of the call.
        options: which edges, and how.
        asked: senders and receivers in the order asked.
        senders: in the order of the computation.
        receivers: the read-out last, whether asked for or not.
        sign: effect = sign · (reward of the base run − reward with the edit).
        sweeper: which run is the base, which the source, and how they are aligned.
    """

    rm: RewardModel
    pairs: list[Pair]
    options: PathOptions
    asked: tuple[list[Node], list[Node]] = field(init=False)
    senders: list[Node] = field(init=False)
    receivers: list[Node] = field(init=False)
    sign: float = field(init=False)
    sweeper: Sweeper = field(init=False)

    def __post_init__(self) -> None:
        rm, options = self.rm, self.options
        self.asked = senders_of(rm, options.senders), receivers_of(rm, options.receivers)
        self.senders = sorted(self.asked[0], key=lambda node: (node.writes_at, node.head))
        self.receivers = [*(node for node in self.asked[1] if node != READ_OUT), READ_OUT]
        self.sign = -1.0 if options.mode == "denoising" else 1.0
        self.sweeper = Sweeper(rm, self.pairs, PatchOptions(mode=options.mode, alignment=options.alignment,
                                                            positions=options.positions))

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        """Kinds of activation that the runs keep."""
        kinds = {"attn", "mlp", *(node.kind for node in [*self.senders, *self.receivers])}
        both = ("embed", "position") if self.rm.architecture.position_embedding is not None else ()
        return (*both, *(site for kind, site in RECORDED.items() if kind in kinds and site not in both))

    @cached_property
    def reach(self) -> list[int]:
        """How many of the senders, in their order, each receiver hears."""
        turns = np.asarray([node.writes_at for node in self.senders])
        parallel = is_parallel(self.rm, self.sweeper.base_row(0))
        return [int((turns < node.reads_at(parallel)).sum()) for node in self.receivers]

    def run(self, index: int) -> PairPaths:
        """All edges of one pair."""
        base, run = self.sweeper.recorded_runs(index, self.recorded)
        assert run is not None  # both modes have a source
        nothing = np.full((len(self.senders), len(self.receivers)), np.nan)
        found = PairPaths(nothing, nothing[:, 0].copy(), nothing[:, 0].copy(), base.reward, run.reward,
                          forwards=1.0 if run is base else 2.0)
        if not np.isfinite([base.reward, run.reward]).all() or not self.sweeper.comparable(index):
            found.apart = UNEQUAL if not self.sweeper.comparable(index) else NOT_FINITE
            return found
        found.frozen = self.sign * (ledger(base, self.senders) - ledger(run, self.senders))
        self._fill(found, Source(base, self.sweeper.positions_of[index], run))
        return found

    def _fill(self, found: PairPaths, source: Source) -> None:
        base = source.base
        asked = source.usable.copy()
        if self.options.positions == "read_out":
            asked &= np.isin(np.arange(base.length), base.reading.positions)
        if not asked.any():
            return  # no counterpart: missing, not 0
        found.base_scale[:] = 0.0
        for column, reach in enumerate(self.reach):
            found.effect[:reach, column] = 0.0
        where = np.flatnonzero(asked & ~source.untouched)
        if not len(where):
            return
        step = max(1, HELD // (len(where) * self.rm.architecture.d_model))
        for start in range(0, len(self.senders), step):
            moved = write_differences(source, self.senders[start:start + step], where)
            self._fill_some(found, base, start, moved, where)

    def _fill_some(self, found: PairPaths, base: BaseRun, start: int, moved: Tensor, where: np.ndarray) -> None:
        """Edges of some senders, the first of them number `start`, from their differences [sender, position, d]."""
        slots: list[tuple[slice, int]] = []
        edits: list[EditBatch | list[Edit]] = []
        held = 0
        for column, (node, reach) in enumerate(zip(self.receivers, self.reach, strict=True)):
            count = max(0, min(len(moved), reach - start))
            own = list(self._edits(base, node, moved[:count], where)) if count else []
            if own:
                edits += own
                slots.append((slice(start, start + count), column))
                held += base.length * self.rm.architecture.d_model if node.kind == "head" else 0
            if edits and (held > HELD or node == READ_OUT):
                self._run_edits(found, base, edits, slots)
                slots, edits, held = [], [], 0
        read = torch.as_tensor(np.isin(base.reading.positions, where), device=moved.device)
        seen = torch.as_tensor(np.isin(where, base.reading.positions), device=moved.device)
        change = (frozen_direction(base)[read] * moved[:, seen]).sum((-1, -2)).double().cpu().numpy()
        found.base_scale[start:start + len(moved)] = -self.sign * change

    def _run_edits(self, found: PairPaths, base: BaseRun, edits: list[EditBatch | list[Edit]], slots: list[tuple[slice, int]]
                   ) -> None:
        plan = self.rm.plan(base, edits)
        edited = plan.run()
        effect = self.sign * (edited.base - edited.values)[:, self.rm.main].double().cpu().numpy()
        effect = np.where(np.isfinite(effect), effect, np.nan)
        start = 0
        for rows, column in slots:
            stop = start + rows.stop - rows.start
            found.effect[rows, column] = effect[start:stop]
            start = stop
        found.noise_floor = max(found.noise_floor, edited.noise_floor)
        found.lost += int(np.isnan(effect).sum())
        found.forwards, found.edits = found.forwards + plan.forwards, found.edits + plan.n

    def _edits(self, base: BaseRun, node: Node, moved: Tensor, where: np.ndarray) -> Iterator[EditBatch | list[Edit]]:
        """Counterfactuals of one receiver, one for each of the differences [sender, position, d]."""
        if node == READ_OUT:
            seen = np.isin(where, base.reading.positions)
            site = Site("resid_post", self.rm.read_layer, tuple(where[seen].tolist()))
            if seen.any():
                yield EditBatch(site, moved[:, torch.as_tensor(seen, device=moved.device)], "add")
            return
        site = Site("mlp_in" if node.kind == "mlp" else "attn_in", node.layer, tuple(where.tolist()))
        if node.kind != "head":
            yield EditBatch(site, moved, "add")
            return
        others = self._hold_others(base, node, where)
        for value in moved:
            yield [Edit(site, value, "add"), *(others if value.any() else ())]

    def _hold_others(self, base: BaseRun, node: Node, where: np.ndarray) -> list[Edit]:
        """Two edits that leave one head's output as it is and put the base run's values at all other heads."""
        first = int(where.min()) if self.rm.architecture.causal else 0
        z = base.activation("z", node.layer)[first:]  # [position, head, d_head]
        mine = torch.zeros(z.shape[1:], dtype=z.dtype, device=z.device)
        mine[node.head] = 1.0
        site = Site("z", node.layer, tuple(range(first, base.length)))
        return [Edit(site, mine.flatten(), "scale"), Edit(site, (z * (1 - mine)).flatten(1), "add")]
