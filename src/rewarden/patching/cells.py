"""The cells of one pair's sweep: which edit each needs, which need none, and where its reward belongs.

In: a `Source` and what is asked. Out: edits for one plan, and an array of rewards per variable once it has run. Ignorant of
pairs, modes and signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from rewarden.edits import EditBatch, Site, backend_of
from rewarden.edits.backend import HOOKS
from rewarden.patching.sources import Source

PER_HEAD = {"z": "_heads", "q": "_q", "k": "_k", "v": "_v"}
"""Kinds patched head by head → suffix of their variables: `effect_heads`, `effect_q`, ..."""


@dataclass(eq=False)
class Cells:
    """Edits of a sweep and the places of their results.

    Attributes:
        source: values to put in.
        by_position: one cell a position; else all positions are edited together.
        filled: positions asked for that have a counterpart.
        live: those of them where the source may differ from the base run.
        rewards: suffix of the variable → [site, layer, (position)] or [layer, head, (position)]: the reward of each cell. NaN
            where there is no counterpart; the base run's where nothing can change.
        edits: those that have to be run.
        slots: for each of `edits`, the cell or the row of cells that it fills: suffix and index.
        lost: edits whose reward is not finite; their cells are NaN.
    """

    source: Source
    by_position: bool
    filled: np.ndarray
    live: np.ndarray
    rewards: dict[str, np.ndarray] = field(default_factory=dict)
    edits: list[EditBatch] = field(default_factory=list)
    slots: list[tuple[str, tuple]] = field(default_factory=list)
    lost: int = 0

    def start(self, suffix: str, shape: tuple[int, int]) -> None:
        """A variable whose cells are the base run's reward until something else is known."""
        base = self.source.base
        if self.by_position:
            self.rewards[suffix] = np.full((*shape, base.length), np.nan)
            self.rewards[suffix][..., self.filled] = base.reward
        else:
            self.rewards[suffix] = np.full(shape, base.reward if len(self.filled) else np.nan)

    def add(self, suffix: str, cell: tuple[int, int], site: Site, values: Tensor) -> None:
        """One cell, or one for each position, of values [P, width]."""
        self.edits.append(EditBatch(site, values, positions=self.live) if self.by_position
                          else EditBatch(replace(site, position=tuple(self.live)), values[None]))
        self.slots.append((suffix, cell))

    def add_heads(self, suffix: str, site: Site, values: Tensor) -> None:
        """The heads of one layer, or each of them at each position, of values [P, H, d_head]."""
        by_head, heads = values.transpose(0, 1), np.arange(values.shape[1])
        if self.by_position:
            self.edits.append(EditBatch(site, by_head.flatten(0, 1), positions=np.tile(self.live, len(heads)),
                                        heads=np.repeat(heads, len(self.live))))
        else:
            self.edits.append(EditBatch(replace(site, position=tuple(self.live)), by_head, heads=heads))
        self.slots.append((suffix, (site.layer,)))

    def take(self, rewards: np.ndarray) -> None:
        """Put the rewards [row] of all edits, in their order, where they belong."""
        self.lost = int((~np.isfinite(rewards)).sum())
        rewards = np.where(np.isfinite(rewards), rewards, np.nan)
        ends = np.cumsum([len(edit) for edit in self.edits])
        for (suffix, cell), rows in zip(self.slots, np.split(rewards, ends[:-1]), strict=True):
            if self.by_position:
                here = self.rewards[suffix][cell]  # [T] or [H, T]
                here[..., self.live] = rows.reshape(*here.shape[:-1], -1)
            else:
                self.rewards[suffix][cell] = rows if len(cell) == 1 else rows[0]


def cells_of(source: Source, sites: Sequence[str], where: str) -> Cells:
    """All cells of a sweep.

    Args:
        source: values to put in.
        sites: kinds of activation.
        where: "read_out" (its positions together), "each" position by itself, or "all" together.
    """
    base, rm = source.base, source.base.rm
    asked = np.isin(np.arange(base.length), base.reading.positions) | (where != "read_out")
    here = source.usable & asked
    cells = Cells(source, where == "each", np.flatnonzero(here), np.flatnonzero(here & ~source.untouched))
    layers = range(rm.architecture.n_layers)
    whole = [kind for kind in sites if kind not in PER_HEAD]
    if whole:
        cells.start("", (len(whole), len(layers)))
    last = rm.read_layer
    closed = where == "all" and source.whole_state and backend_of(rm).name != HOOKS
    for number, kind in enumerate(whole):
        if kind == "embed":
            cells.rewards[""][number, 1:] = np.nan  # there is one embedding, not one a layer
        for layer in layers[:1] if kind == "embed" else layers:
            if closed and kind in ("resid_pre", "resid_post") and layer <= last:
                assert source.run is not None  # whole_state says so
                cells.rewards[""][number, layer] = source.run.reward
            elif len(cells.live):
                cells.add("", (number, layer), Site(kind, layer), source.at(kind, layer, cells.live))
    for kind in sites:
        if kind in PER_HEAD:
            cells.start(PER_HEAD[kind], (len(layers), base.activation(kind, 0).shape[1]))
            for layer in layers if len(cells.live) else ():
                cells.add_heads(PER_HEAD[kind], Site(kind, layer), source.at(kind, layer, cells.live))
    return cells
