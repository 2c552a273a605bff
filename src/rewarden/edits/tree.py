"""What are the scalars of many sequences that begin alike? Each token is computed once, however many sequences share it.

In: a reward model and encoded rows. Out: scalars of each row. What all rows share is one recorded run; the rest of them is a
tree whose nodes are the columns of one call, each attending to the shared run and to its own ancestors. Ignorant of what the
rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.backend import CONE, Backend, backend_of
from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns, again
from rewarden.edits.inputs import LayerInputs
from rewarden.encoding import Encoded
from rewarden.readout import Reading
from rewarden.trace.attention import Attention, attending, plain
from rewarden.trace.hooks import evaluating

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

CPU_NODES, GPU_NODES = 384, 2048
"""Nodes of one call: every node sees every other one's key, if only through a closed mask."""

FEW = 3
"""Rows up to which a tree is not worth its base run."""


@dataclass(frozen=True, eq=False)
class Branches:
    """Part of a tree: nodes, and the rows that end in it.

    Attributes:
        ids: int64 [N], token of each node.
        depth: int64 [N], tokens after the shared beginning, from 0.
        parent: int64 [N], node before it, −1 for none.
        rows: numbers of the rows.
        paths: per row, its nodes in order.
    """

    ids: np.ndarray
    depth: np.ndarray
    parent: np.ndarray
    rows: list[int]
    paths: list[np.ndarray]

    def ancestors(self) -> np.ndarray:
        """bool [N, N]: which nodes a node may see: itself and what leads to it."""
        seen = np.eye(len(self.ids), dtype=bool)
        for node, parent in enumerate(self.parent):  # parents come first
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def branches(rows: Sequence[np.ndarray], size: int) -> list[Branches]:
    """Rows of ids cut into trees of about `size` nodes; a beginning that two trees share is in both.

    Example:
        >>> tree, = branches([np.array([5, 6]), np.array([5, 7])], size=8)
        >>> tree.ids.tolist(), tree.parent.tolist(), [path.tolist() for path in tree.paths]
        ([5, 6, 7], [-1, 0, 0], [[0, 1], [0, 2]])
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number].tolist())
    found: list[Branches] = []
    ids: list[int] = []
    depth: list[int] = []
    parent: list[int] = []
    members: list[int] = []
    paths: list[np.ndarray] = []
    for number in order:
        row = rows[number]
        last = paths[-1] if paths else np.empty(0, np.int64)
        same = 0
        while same < min(len(last), len(row)) and ids[last[same]] == row[same]:
            same += 1
        if ids and len(ids) + len(row) - same > size:
            found.append(_closed(ids, depth, parent, members, paths))
            ids, depth, parent, members, paths, last, same = [], [], [], [], [], last[:0], 0
        path = list(last[:same])
        for place in range(same, len(row)):
            parent.append(int(path[-1]) if path else -1)
            path.append(len(ids))
            ids.append(int(row[place]))
            depth.append(place)
        members.append(number)
        paths.append(np.asarray(path, np.int64))
    return [*found, _closed(ids, depth, parent, members, paths)] if members else found


def _closed(ids: list[int], depth: list[int], parent: list[int], rows: list[int], paths: list[np.ndarray]) -> Branches:
    return Branches(*(np.asarray(value, np.int64) for value in (ids, depth, parent)), rows, paths)


def score_rows(rm: RewardModel, rows: Sequence[Encoded], progress: Callable[[int], object] | None = None) -> np.ndarray:
    """Scalars float32 [n, k] of rows, what they share computed once.

    Equal to `rm.reward_encoded(rows)` within rounding; models off the light cone are run that way.

    Args:
        rm: the reward model.
        rows: encoded conversations, in any order; equal ones are computed once.
        progress: called with the number of rows finished.
    """
    distinct: dict[str, int] = {}
    which = np.asarray([distinct.setdefault(row.key(), len(distinct)) for row in rows], np.int64)
    first = [int(np.flatnonzero(which == number)[0]) for number in range(len(distinct))] if len(distinct) < len(rows) else None
    single = list(rows) if first is None else [rows[number] for number in first]
    shared = _shared([row.ids for row in single])
    typed = any(row.type_ids is not None for row in single)
    if len(single) <= FEW or shared < 1 or typed or not rm.architecture.causal or backend_of(rm).name != CONE:
        return rm.reward_encoded(rows, progress=progress)
    counts = np.bincount(which)
    out = np.empty((len(single), len(rm.names)), np.float32)
    tree = Tree(rm.base(max(single, key=lambda row: row.length)), shared, backend_of(rm))
    size = CPU_NODES if rm.device.type == "cpu" else GPU_NODES
    for part in branches([row.ids[shared:] for row in single], size):
        out[part.rows] = tree.score(part, [rm.readout.read(single[number]) for number in part.rows])
        if progress:
            progress(int(counts[part.rows].sum()))
    return out[which]


def _shared(rows: Sequence[np.ndarray]) -> int:
    """Tokens that all rows begin with, less one so that no row is left without a node of its own."""
    shortest = min(len(row) for row in rows)
    stacked = np.stack([row[:shortest] for row in rows])
    different = np.flatnonzero((stacked != stacked[0]).any(0))
    return min(int(different[0]) if len(different) else shortest, shortest - 1)


@dataclass(eq=False)
class Tree:
    """Runs trees behind one shared beginning.

    Attributes:
        base: a recorded run of the longest row: the shared keys, and how layers are called at every depth.
        shared: tokens of it that all rows share.
        backend: of this model.
    """

    base: BaseRun
    shared: int
    backend: Backend

    def __post_init__(self) -> None:
        self.inputs = LayerInputs(self.base)

    def score(self, part: Branches, readings: Sequence[Reading]) -> np.ndarray:
        """Scalars float32 [rows, k] of a part's rows, each at its own reading."""
        rm = self.base.rm
        with torch.inference_mode():
            stream = self._run(part)
            before = self.base.resid_pre[rm.read_layer + 1]
            found: list[Tensor] = []
            for path, reading in zip(part.paths, readings, strict=True):
                # what is read of the shared beginning (a gate, far before) is put in below
                where = torch.as_tensor(path[np.maximum(reading.positions - self.shared, 0)], device=stream.device)
                states = stream.index_select(0, where)
                early = torch.as_tensor(reading.positions < self.shared, device=stream.device)
                if bool(early.any()):
                    states[early] = before[torch.as_tensor(reading.positions, device=stream.device)[early]]
                found.append(states)
            alike = readings[0].targets is None and len({len(reading.positions) for reading in readings}) == 1
            if alike:
                return rm.readout.apply(torch.stack(found).float(), readings[0]).float().cpu().numpy()
            return torch.stack([rm.readout.apply(states.float(), reading).float()
                                for states, reading in zip(found, readings, strict=True)]).cpu().numpy()

    def _run(self, part: Branches) -> Tensor:
        """The residual stream after the last layer that matters, [N, d]."""
        rm, positions = self.base.rm, self.shared + part.depth
        columns = Columns(positions, self.base.length, rm.device)
        stream = self.inputs(part.ids, positions)[None]
        attention = TreeAttention(self.base, self.shared, columns, torch.as_tensor(part.ancestors(), device=rm.device))
        with rm.lock, evaluating(rm.model), attending(rm.architecture.trunk, attention):
            for block in rm.architecture.blocks[:rm.read_layer + 1]:
                stream = again(self.base.calls[block.layer], stream, columns, self.backend.axes)
        return stream[0]


@dataclass(eq=False)
class TreeAttention:
    """Attention of a tree's nodes: the shared keys, and those of a node's own ancestors.

    Attributes:
        base: its keys up to `shared` are everybody's.
        shared: tokens shared.
        columns: positions of the nodes.
        ancestors: bool [N, N].
    """

    base: BaseRun
    shared: int
    columns: Columns
    ancestors: Tensor

    def __post_init__(self) -> None:
        self._masks: dict[int, tuple[Tensor | None, Tensor]] = {}  # the key's own mask is held, or its id could come again

    def __call__(self, call: Attention) -> Tensor:
        """Head outputs [1, head, N, d_head]."""
        keys, values = self.base.keys[call.module][None, :, :self.shared], self.base.vals[call.module][None, :, :self.shared]
        return plain(Attention(call.module, call.query, torch.cat([keys, call.key], 2), torch.cat([values, call.value], 2),
                               self._mask(call.mask), call.scale, call.softcap, call.sinks))

    def _mask(self, mask: Tensor | None) -> Tensor:
        """bool [1, 1, N, shared + N]: what a position may see of the base run, it may see of its own branch."""
        if id(mask) not in self._masks:
            if mask is None:
                early = torch.ones(len(self.ancestors), self.shared, dtype=torch.bool, device=self.ancestors.device)
                own = self.ancestors
            else:
                early, own = mask[0, 0, :, :self.shared], mask[0, 0].index_select(1, self.columns.index) & self.ancestors
            self._masks[id(mask)] = mask, torch.cat([early, own], 1)[None, None]
        return self._masks[id(mask)][1]
