"""What is put in the place of an activation, and which of its positions stands for which of ours.

In: base runs, alignment rules. Out: position maps and `Source`s: values for any site of any position. Ignorant of sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.alignment import Alignment, Rule
from rewarden.edits import BaseRun
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.readout import Reading

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def require_one_model(rm: object) -> None:
    """Refuse an ensemble.

    Raises:
        RewardenError: `rm` is not one reward model.
    """
    if not hasattr(rm, "architecture"):
        raise RewardenError(f"{type(rm).__name__} has no single residual stream: causal analyses take one model at a time",
                            where="rm=", why="the members of an ensemble are different models, and an edit is of one of them",
                            fix="[rw.patch(model, pairs) for model in rm.models], and so for the other analyses")


def counterparts(row: Encoded, other: Encoded, reading: Reading, other_reading: Reading, rule: Rule) -> np.ndarray:
    """Position in `other` of each token of `row`, int64 [T]; −1 where it has none.

    What the read-out reads always goes to what it reads in the other run, wherever it stands (the first token of some
    encoders): one by one where both sides are read as often, else the last to the last.

    Args:
        row, other: the two conversations.
        reading, other_reading: where they are read.
        rule: of `Alignment`.

    Raises:
        RewardenError: rule "equal_only" and unequal lengths.

    Example:
        >>> import rewarden as rw
        >>> rm, pair = rw.load(), rw.Pair("Hi", "Hello!", "Go away.")
        >>> rows = [rm.encode(side) for side in pair.conversations]
        >>> bool(counterparts(*rows, *map(rm.readout.read, rows), "read_out")[-1] == rows[1].length - 1)
        True
    """
    pairs = Alignment.of(row.ids, other.ids, rule).pairs
    mine, theirs = reading.positions, other_reading.positions
    if len(mine) != len(theirs):
        mine, theirs = mine[-1:], theirs[-1:]
    found = np.full(row.length, -1, dtype=np.int64)
    if rule != "read_out":
        kept = ~np.isin(pairs[:, 1], theirs)  # one position never stands for two
        found[pairs[kept, 0]] = pairs[kept, 1]
    found[mine] = theirs
    return found


@dataclass(frozen=True, eq=False)
class Source:
    """Values for the sites of a base run.

    Attributes:
        base: the run that is edited.
        position_of: int64 [T], the position in `run` of each token of the base; −1 where there is none.
        run: the run the values come from; None where they are the same at every position.
        constants: kind → [layer, ...], with `run` None; zeros where a kind is not listed.
    """

    base: BaseRun
    position_of: np.ndarray
    run: BaseRun | None = None
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, kind: str, layer: int, positions: np.ndarray) -> Tensor:
        """Values [n, d], or [n, head, d_head] of sites with heads, for positions [n] of the base."""
        if self.run is None:
            like = self.base.activation(kind, layer)
            value = self.constants[kind][layer].to(like.device) if kind in self.constants else like.new_zeros(like.shape[1:])
            return value.expand(len(positions), *value.shape)
        held, where = self.run.activation(kind, layer), self.position_of[positions]
        if len(where) and where[-1] - where[0] == len(where) - 1 and (np.diff(where) == 1).all():
            return held[int(where[0]):int(where[-1]) + 1]  # a view: no copy of the trace
        return held[torch.as_tensor(where, device=held.device)]

    @property
    def usable(self) -> np.ndarray:
        """bool [T]: whether there is a value for a position."""
        return self.position_of >= 0 if self.run is not None else np.full(self.base.length, True)

    @property
    def untouched(self) -> np.ndarray:
        """bool [T]: positions where the two runs must agree, having seen the same tokens so far."""
        if self.run is None or not self.base.rm.architecture.causal:
            return np.zeros(self.base.length, bool)
        n = min(self.base.length, self.run.length)
        same = np.cumprod(self.base.encoded.ids[:n] == self.run.encoded.ids[:n]).astype(bool)
        here = np.arange(self.base.length)
        return np.pad(same, (0, self.base.length - n)) & (self.position_of == here)

    @property
    def whole_state(self) -> bool:
        """Whether the residual stream at all positions decides the source's reward from any layer on.

        True for runs of equal length, aligned index by index, read alike, whose layers were called with the same arguments.
        """
        run = self.run
        if run is None or run.length != self.base.length or (self.position_of != np.arange(run.length)).any():
            return False
        if run.reading.targets is not None or not np.array_equal(run.reading.positions, self.base.reading.positions):
            return False
        return all(_same_call(call.tensors(), self.base.calls[module].tensors()) for module, call in run.calls.items())


def _same_call(mine: Mapping[tuple, Tensor], theirs: Mapping[tuple, Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[path], theirs[path]) for path in mine)


def mean_activations(rm: RewardModel, rows: Sequence[Encoded], kinds: Sequence[str], *, read_only: bool) -> dict[str, Tensor]:
    """Mean of each kind of activation over conversations: kind → [layer, d] or [layer, head, d_head], float32.

    Conversations whose reward is not finite are left out.

    Args:
        rm: the reward model.
        rows: the conversations; every token counts the same.
        kinds: kinds of site.
        read_only: average over the positions that the read-out reads, else over all.

    Raises:
        RewardenError: no conversation with a finite reward.
    """
    totals: dict[str, Tensor] = {}
    count = 0
    for row in rows:
        run = rm.base(row, recorded(kinds))
        if not np.isfinite(run.reward):
            continue
        where = torch.as_tensor(run.reading.positions if read_only else np.arange(run.length), device=rm.device)
        count += len(where)
        for kind in kinds:
            layers = range(1 if kind == "embed" else rm.architecture.n_layers)
            total = torch.stack([run.activation(kind, layer)[where].float().sum(0).cpu().double() for layer in layers])
            totals[kind] = totals[kind] + total if kind in totals else total
    if not count:
        raise RewardenError("no conversation to take the mean of", where="mode='mean'", why="no reward is finite",
                            fix="look at rm.score(pairs)")
    return {kind: (total / count).float() for kind, total in totals.items()}


def recorded(kinds: Sequence[str]) -> tuple[str, ...]:
    """What a base run has to keep for these kinds of site."""
    asked = tuple(kind for kind in kinds if kind not in ("resid_pre", "resid_post", "k", "v"))  # these are kept always
    return (*asked, "position") if "embed" in asked else asked


def derangement(n: int, seed: int) -> np.ndarray:
    """For each of n pairs another one, int64 [n]: one random cycle through all.

    Raises:
        RewardenError: fewer than two pairs.

    Example:
        >>> bool((derangement(5, seed=0) != np.arange(5)).all())
        True
    """
    if n < 2:
        raise RewardenError("one pair has no other pair to take activations from", where="mode='resample'",
                            fix="give at least two pairs, or use mode='noising'")
    order = np.random.default_rng(seed).permutation(n)
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, -1)
    return found
