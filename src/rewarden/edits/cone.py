"""The light-cone engine: each row is computed from its first edited layer and position on, and nowhere else.

In: a base run and groups of rows. Out: residuals at the wanted positions. The layers are walked once per wave; rows join at
their own layer; of the last layer only wanted positions are finished. Without a light cone (bidirectional models) the same
walk runs whole sequences from the edited layer on. Ignorant of read-outs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.arguments import Axes
from rewarden.edits.attention import KeysKept, SuffixAttention
from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns, again
from rewarden.edits.downstream import Watch
from rewarden.edits.groups import Group, Rows
from rewarden.edits.units import Unit, Wanted
from rewarden.edits.writes import Cells, change, joined, taps_for
from rewarden.trace.attention import attending
from rewarden.trace.hooks import Tap, evaluating, tapped

CONTROL = -1
"""Unit number of the unedited row that measures the noise floor."""


@dataclass(eq=False)
class Cone:
    """Everything a wave needs.

    Attributes:
        base: the recorded run.
        units: units of the plan.
        wanted: positions and last layer.
        axes: which argument grows with the sequence along which axis.
        suffix: recompute only the suffix (causal models on the attention interface).
        budget: tokens per call.
        points: compute the first layer of late edits at the edited positions only (a trace wants all of them).
        watch: sees what edits changed downstream, or None.
    """

    base: BaseRun
    units: Sequence[Unit]
    wanted: Wanted
    axes: Axes
    suffix: bool
    budget: int
    points: bool = True
    watch: Watch | None = None
    attention: SuffixAttention = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.base.rm.device
        everything = Columns(np.arange(self.base.length), self.base.length, self.device)
        self.attention = SuffixAttention(self.base, everything)
        self.blocks = self.base.rm.architecture.blocks
        self.whole = everything
        self.late = np.asarray([unit.point for unit in self.units], dtype=np.int64)

    @contextmanager
    def open(self) -> Iterator[None]:
        """The model in our hands: lock, no gradients, our attention."""
        rm = self.base.rm
        with rm.lock, evaluating(rm.model), (
                attending(rm.architecture.trunk, self.attention) if self.suffix else nullcontext()):
            yield

    def columns(self, start: int) -> Columns:
        """Columns of a group."""
        if not self.suffix:
            return self.whole
        return Columns(np.arange(start, int(self.wanted.positions[-1]) + 1), self.base.length, self.device)

    def join_layer(self, rows: Rows, width: int) -> np.ndarray:
        """The layer at which each row enters the wave: after its first one where a single position is enough there."""
        return rows.layer + self.late[rows.unit] if self.uses_points(width) else rows.layer

    def uses_points(self, width: int) -> bool:
        """Whether the first layer of late edits is computed at the edited positions only."""
        return self.suffix and width > 1 and self.points

    def waves(self, group: Group) -> list[Rows]:
        """A group's rows by joining layer, cut into calls within the budget."""
        columns = self.columns(group.start)
        rows = group.rows.take(np.argsort(self.join_layer(group.rows, len(columns)), kind="stable"))
        heads = self.base.rm.architecture.n_heads
        scores = len(columns) * heads * (int(self.wanted.positions[-1]) + 1)  # float32 scores of one row
        size = max(1, min(self.budget // len(columns), SCORES // scores))
        count = -(-len(rows) // size)
        return [rows.take(part) for part in np.array_split(np.arange(len(rows)), count)]

    def run_group(self, group: Group, control: bool, done: Callable[[Rows, Tensor, Tensor | None], None]) -> None:
        """Residuals [rows, W, d] at the wanted positions for every row of a group, wave by wave.

        Args:
            group: the rows.
            control: add an unedited row to the first wave; one that is full with a single row has it run before.
            done: called with the rows, their residuals, and that of the control row or None.
        """
        columns = self.columns(group.start)
        entered = self.enter(group.rows, columns) if self.uses_points(len(columns)) else {}
        for number, rows in enumerate(self.waves(group)):
            if not control or number > 0:
                done(rows, self.wave(rows, columns, entered), None)
                continue
            first = int(self.join_layer(rows, len(columns)).min())
            unedited = Rows(*(np.asarray([value]) for value in (CONTROL, 0, group.start, first)))
            if len(rows) == 1 and 2 * len(columns) > self.budget:
                alone = self.wave(unedited, columns, entered)[0]
                done(rows, self.wave(rows, columns, entered), alone)
            else:
                residual = self.wave(rows.after(unedited), columns, entered)
                done(rows, residual[1:], residual[0])

    def enter(self, rows: Rows, columns: Columns) -> dict[tuple[int, int], tuple[np.ndarray, Tensor]]:
        """First layers of rows whose edits act after attention, at the edited positions only.

        Returns:
            (unit, index) → positions [p] and the layer's output there [p, d].
        """
        found: dict[tuple[int, int], tuple[np.ndarray, Tensor]] = {}
        late = self.late[rows.unit] == 1
        for layer in np.unique(rows.layer[late]):
            mine = rows.take(np.flatnonzero(late & (rows.layer == layer)))
            touched = [self._touched(int(u), int(i), int(layer)) for u, i in zip(mine.unit, mine.index, strict=True)]
            sizes = np.cumsum([len(p) for p in touched])
            start = 0
            while start < len(mine):
                stop = max(start + 1, int(np.searchsorted(sizes, (sizes[start - 1] if start else 0) + self.budget)))
                for row, at in self._enter_some(mine.take(np.arange(start, stop)), touched[start:stop], int(layer)):
                    found[row] = at
                start = stop
        return found

    def _touched(self, unit: int, index: int, layer: int) -> np.ndarray:
        parts = [part for part in self.units[unit].parts if part.layer == layer]
        return np.unique(np.concatenate([part.positions[index][part.live[index]] for part in parts]))

    def _enter_some(self, rows: Rows, touched: list[np.ndarray], layer: int
                    ) -> Iterator[tuple[tuple[int, int], tuple[np.ndarray, Tensor]]]:
        positions = np.concatenate(touched)
        if not len(positions):  # among several edits of a row, the first may be one that changes nothing
            nothing = (np.empty(0, np.int64), self.base.resid_pre[layer][:0])
            yield from (((int(u), int(i)), nothing) for u, i in zip(rows.unit, rows.index, strict=True))
            return
        offsets = np.cumsum([0, *(len(p) for p in touched)])
        columns = Columns(positions, self.base.length, self.device)
        cells = []
        for row, (unit, index) in enumerate(zip(rows.unit, rows.index, strict=True)):
            for part in self.units[unit].parts:
                if part.layer == layer:
                    at = part.positions[index][part.live[index]]
                    places = offsets[row] + np.searchsorted(touched[row], at)
                    cells.append((part, np.asarray([index]), np.zeros(len(at), np.int64), places))
        stream = self.base.resid_pre[layer].index_select(0, columns.index)[None]
        out = self._call(layer, stream, self._cells(cells), columns, point=True)[0]
        for row in range(len(rows)):
            where = slice(offsets[row], offsets[row + 1])
            yield (int(rows.unit[row]), int(rows.index[row])), (touched[row], out[where])

    def wave(self, rows: Rows, columns: Columns, entered: dict) -> Tensor:
        """Walk the layers once; residuals [rows, W, d] at the wanted positions."""
        joins = np.asarray([layer + ((int(u), int(i)) in entered)
                            for u, i, layer in zip(rows.unit, rows.index, rows.layer, strict=True)])
        edits = self._edits_by_layer(rows, entered)
        last, stream, count = self.wanted.last, None, 0
        wanted = self.wanted.positions[self.wanted.positions >= columns.positions[0]]
        final = Columns(wanted, self.base.length, self.device)
        for layer in range(int(joins.min()), last + 2):
            here = final if layer == last + 1 else columns
            new = np.flatnonzero(joins == layer)
            if len(new):
                fresh = self._joining(layer, rows, new, here, entered)
                assert (new == np.arange(count, count + len(new))).all()  # rows are sorted by joining layer
                stream = fresh if stream is None else torch.cat([stream, fresh])
                count += len(new)
            if stream is None:
                continue
            mine = edits.get(layer, [])
            cells = self._cells([(part, index, batch, here.column_of[at]) for part, index, batch, at in mine])
            before = [cell for cell in cells if cell.kind == "resid_pre"]
            if before:
                stream = change(stream, before, len(stream), 1)
            ids = self._ids(rows, count)
            if self.watch and layer > 0:
                self.watch.stream(layer - 1, ids, here, stream)
            if layer <= last:
                rest = [cell for cell in cells if cell.kind != "resid_pre"]
                stream = self._layer(layer, stream, rest, mine, columns, final, ids)
        assert stream is not None
        if len(final) == len(self.wanted.positions):
            return stream
        base = self.base.resid_pre[last + 1][torch.as_tensor(self.wanted.positions, device=stream.device)]
        out = base.expand(len(stream), -1, -1).clone()
        out[:, len(self.wanted.positions) - len(final):] = stream
        return out

    def _ids(self, rows: Rows, count: int) -> np.ndarray:
        """Result row of each row of the batch; −1 for the control row."""
        return np.asarray([-1 if u == CONTROL else self.units[u].ids[i]
                           for u, i in zip(rows.unit[:count], rows.index[:count], strict=True)]) if self.watch else np.empty(0)

    def _joining(self, layer: int, rows: Rows, new: np.ndarray, columns: Columns, entered: dict) -> Tensor:
        base = self.base.resid_pre[layer]
        at = (base[int(columns.positions[0]):int(columns.positions[-1]) + 1] if columns.contiguous
              else base.index_select(0, columns.index))
        fresh = at.expand(len(new), -1, -1).clone()
        came = [(k, entered.get((int(rows.unit[r]), int(rows.index[r])))) for k, r in enumerate(new)]
        found = [(k, *both) for k, both in came if both is not None]
        if found:
            batch = np.concatenate([np.full(len(positions), k) for k, positions, _ in found])
            places = columns.column_of[np.concatenate([positions for _, positions, _ in found])]
            kept = np.flatnonzero(places >= 0)
            values = torch.cat([value for _, _, value in found])
            index = torch.as_tensor(np.stack([batch[kept], places[kept], kept]), device=fresh.device)
            fresh[index[0], index[1]] = values[index[2]]
        return fresh

    def _edits_by_layer(self, rows: Rows, entered: dict) -> dict[int, list]:
        """layer → (part, rows of the unit, rows of the batch, positions), the cells still to be written in this wave."""
        found: dict[int, list] = {}
        units: dict[int, list[int]] = {}
        for row, unit in enumerate(rows.unit):
            if unit != CONTROL:
                units.setdefault(int(unit), []).append(row)
        for number, batch in units.items():
            index = rows.index[batch]
            first = self.units[number].layer
            done = (number, int(index[0])) in entered
            for part in self.units[number].parts:
                if done and part.layer == first:
                    continue
                live = part.live[index]
                which, cell = np.nonzero(live)
                found.setdefault(part.layer, []).append(
                    (part, index, np.asarray(batch)[which], part.positions[index][which, cell]))
        return found

    def _cells(self, items: list) -> list[Cells]:
        """Cells of one call, in as few pieces as possible; those without a column are left out."""
        device, cells = self.device, []
        for part, index, batch, places in items:
            values = part.values_of(index).to(device).flatten(0, 1)
            heads = None if part.heads is None else np.repeat(part.heads[index], part.positions.shape[1])
            kept = places >= 0
            if len(kept) < len(values) or not kept.all():
                flat = np.flatnonzero(part.live[index])[kept]
                batch, places, values = batch[kept], places[kept], values[torch.as_tensor(flat, device=device)]
                heads = None if heads is None else heads[flat]
            if len(batch):
                index_ = torch.as_tensor(np.stack([batch, places, batch if heads is None else heads]), device=device)
                cells.append(Cells(part.kind, part.mode, index_[0], index_[1], values,
                                   None if heads is None else index_[2], part.turn))
        return joined(cells)

    def _layer(self, layer: int, stream: Tensor, cells: list[Cells], items: list, columns: Columns, final: Columns,
               ids: np.ndarray) -> Tensor:
        """One layer of a wave; of the last one only the wanted columns are finished."""
        cut = self.suffix and layer == self.wanted.last and len(final) < len(columns)
        watching = self.watch.taps(layer, ids, final if cut else columns) if self.watch else []
        if layer < self.wanted.last or len(final) == len(columns):
            return self._call(layer, stream, cells, columns, watching)
        if not self.suffix:
            return self._call(layer, stream, cells, columns, watching).index_select(1, final.index)
        self.attention.own = {}
        try:
            before = [cell for cell in cells if cell.kind in ("attn_in", "k", "v")]
            self._call(layer, stream, before, columns, keep_keys=True)
            picked = stream.index_select(1, torch.as_tensor(columns.column_of[final.positions], device=stream.device))
            after = self._cells([(part, index, batch, final.column_of[at]) for part, index, batch, at in items
                                 if part.kind not in ("k", "v", "resid_pre")])
            return self._call(layer, picked, after, final, watching)
        finally:
            self.attention.own = None

    def _call(self, layer: int, stream: Tensor, cells: list[Cells], columns: Columns, watching: Sequence[Tap] = (), *,
              point: bool = False, keep_keys: bool = False) -> Tensor:
        """One call of one layer on these columns."""
        attention = self.attention
        if (not point and self.suffix and attention.own is None) or keep_keys:
            attention.start = int(columns.positions[0])
        attention.columns, attention.point, attention.keep_keys = columns, point, keep_keys
        attention.cells = [cell for cell in cells if cell.kind in ("q", "k", "v")]
        outside = [cell for cell in cells if cell.kind not in ("q", "k", "v")]
        taps = [*taps_for(self.base.rm.architecture, layer, outside, len(stream)), *watching]

        with tapped(taps):
            try:
                return again(self.base.calls[self.blocks[layer].layer], stream, columns, self.axes if self.suffix else {})
            except KeysKept:
                return stream


SCORES = 64_000_000
"""Attention scores of one call (float32: 256 MB)."""
