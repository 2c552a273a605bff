"""Edits by hooks on whole forwards: for every model, at the price of one forward a row. Also what the engine is tested on.

In: a base run and rows. Out: residuals at the wanted positions. Ignorant of light cones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns
from rewarden.edits.downstream import Watch
from rewarden.edits.groups import Rows
from rewarden.edits.units import Part, Unit, Wanted
from rewarden.edits.writes import Cells, change_attention, joined, taps_for
from rewarden.trace.attention import Attention, attending, plain
from rewarden.trace.hooks import Tap


@dataclass(eq=False)
class Hooks:
    """Whole forwards with taps.

    Attributes:
        base: the recorded run.
        units: units of the plan.
        wanted: positions and last layer.
        budget: tokens per forward.
        watch: as in `Cone`.
    """

    base: BaseRun
    units: Sequence[Unit]
    wanted: Wanted
    budget: int
    watch: Watch | None = None

    def run(self, rows: Rows, done: Callable[[Rows, Tensor, Tensor | None], None]) -> None:
        """Residuals [rows, W, d] of every row; the first batch also has an unedited row."""
        size = max(1, self.budget // self.base.length)
        for start in range(0, len(rows), size):
            part = rows.take(np.arange(start, min(len(rows), start + size)))
            residual = self.forward(part, control=start == 0)
            if start == 0:
                done(part, residual[1:], residual[0])
            else:
                done(part, residual, None)

    def forward(self, rows: Rows, control: bool = False) -> Tensor:
        """One forward of some rows (after an unedited one)."""
        rm, base, shift = self.base.rm, self.base, int(control)
        arch, n = rm.architecture, len(rows) + int(control)
        by_layer: dict[int, list[Cells]] = {}
        for row, (unit, index) in enumerate(zip(rows.unit, rows.index, strict=True)):
            for part in self.units[unit].parts:
                kind, layer = part.kind, part.layer
                if kind == "resid_pre" and layer > 0:
                    kind, layer = "resid_post", layer - 1
                by_layer.setdefault(layer, []).append(self._cells(part, kind, int(index), row + shift))
        taps, attention = [], {}
        ids = np.asarray([-1] * shift + [int(self.units[u].ids[i]) for u, i in zip(rows.unit, rows.index, strict=True)])
        everything = Columns(np.arange(base.length), base.length, rm.device)
        for layer in range(arch.n_layers):
            cells = joined(by_layer.get(layer, []))
            taps += taps_for(arch, layer, [cell for cell in cells if cell.kind not in ("q", "k", "v")], n)
            inside = [cell for cell in cells if cell.kind in ("q", "k", "v")]
            attention |= {module: inside for module in arch.blocks[layer].layer.modules() if inside}
            taps += self._watching(layer, ids, everything)
        kept: list[Tensor] = []
        where = torch.as_tensor(self.wanted.positions, device=rm.device)
        last = arch.blocks[self.wanted.last].layer
        whole = Tap(last, "output", lambda hidden: kept.append(hidden.reshape(n, base.length, -1)[:, where]))

        def handler(call: Attention) -> Tensor:
            return plain(change_attention(call, attention[call.module]) if call.module in attention else call)

        if base.keys:  # as the base run was made, so that a row without edits is the base run
            with rm.lock, attending(arch.trunk, handler):
                rm.forward([base.encoded] * n, [*taps, whole])
        else:
            rm.forward([base.encoded] * n, [*taps, whole])
        return kept[0]

    def _watching(self, layer: int, ids: np.ndarray, columns: Columns) -> list[Tap]:
        watch = self.watch
        if watch is None:
            return []

        def see(hidden: Tensor) -> None:
            watch.stream(layer, ids, columns, hidden.reshape(len(ids), -1, hidden.shape[-1]))

        return [*watch.taps(layer, ids, columns), Tap(self.base.rm.architecture.blocks[layer].layer, "output", see)]

    def _cells(self, part: Part, kind: str, index: int, row: int) -> Cells:
        positions = part.positions[index]
        values = part.values[index if len(part.values) > 1 else 0]
        device, m = self.base.rm.device, len(positions)
        heads = None if part.heads is None else torch.full((m,), int(part.heads[index]), device=device)
        return Cells(kind, part.mode, torch.full((m,), row, device=device), torch.as_tensor(positions, device=device),
                     values.to(device).expand(m, -1), heads, part.turn)
