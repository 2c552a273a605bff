"""What do these edits change, cell by cell, and which of the cells can matter?

In: a base run and edits. Out: units of like rows in canonical form, with the cells marked that can reach a wanted value and
are not what is there already. Ignorant of how rows are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.base import KEPT, BaseRun
from rewarden.edits.checks import check, check_finite, inside
from rewarden.edits.edit import Edit, EditBatch, Edits
from rewarden.edits.writes import AFTER_ATTENTION
from rewarden.errors import RewardenError


@dataclass(eq=False)
class Part:
    """One edit of each of a unit's rows, in canonical form.

    Attributes:
        kind: of site; `resid_post` of layer l has become `resid_pre` of l + 1, and `embed` too where it can.
        positions: int64 [n, P].
        values: [n or 1, P or 1, width].
        heads: int64 [n], or None for whole vectors.
        live: bool [n, P], cells that can change a wanted value.
        turn: how many parts of its unit come before it at the same kind, layer and mode.
    """

    kind: str
    layer: int
    mode: str
    positions: np.ndarray
    values: Tensor
    heads: np.ndarray | None
    live: np.ndarray = field(init=False)
    turn: int = 0

    def __post_init__(self) -> None:
        self.live = np.ones(self.positions.shape, bool)

    def values_of(self, index: np.ndarray) -> Tensor:
        """Values [m, P, width] of some rows."""
        chosen = self.values[index] if len(self.values) > 1 and len(index) != len(self.values) else self.values
        return chosen.expand(len(index), self.positions.shape[1], -1)


@dataclass(eq=False)
class Unit:
    """Rows with edits of the same kinds, layers and modes: one counterfactual each.

    Attributes:
        parts: the edits that act together in a row.
        ids: int64 [n], the rows' places in the result.
    """

    parts: list[Part]
    ids: np.ndarray

    @cached_property
    def layer(self) -> int:
        """The first layer that any of its edits touches."""
        return min(part.layer for part in self.parts)

    @cached_property
    def point(self) -> bool:
        """Whether in its first layer every edit acts after attention: no other position sees it before the next layer."""
        return all(part.kind in AFTER_ATTENTION for part in self.parts if part.layer == self.layer)

    def live(self) -> np.ndarray:
        """bool [n]: rows that may change anything."""
        return np.logical_or.reduce([part.live.any(1) for part in self.parts])

    def starts(self, length: int) -> np.ndarray:
        """First live position of each row, int64 [n]."""
        return np.minimum.reduce([np.where(part.live, part.positions, length).min(1) for part in self.parts])


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is read of a row: positions, and the last layer that matters.

    Attributes:
        positions: int64 [W], increasing: read positions and traced ones.
        last: layer after which the values are read.
        causal: whether a position is blind to later ones.
    """

    positions: np.ndarray
    last: int
    causal: bool


def needed_sites(edits: Edits, rm: object) -> tuple[str, ...]:
    """Kinds the base run must keep so that edits that change nothing are recognised."""
    kinds = {edit.site.kind for unit in listed(edits) for edit in (unit if isinstance(unit, (list, tuple)) else [unit])}
    found = [kind for kind in KEPT if kind in kinds]
    if "embed" in kinds:
        found += ["embed", *(["position"] if rm.architecture.position_embedding is not None else [])]  # type: ignore
    return tuple(found)


def check_edits(edits: Edits) -> None:
    """Refuse what is no edit."""
    given = listed(edits)
    if not given:
        raise RewardenError("no edits", where="rm.edit", fix="pass at least one Edit")
    for item in given:
        together = item if isinstance(item, (list, tuple)) else [item]
        if not together or not (isinstance(item, EditBatch) or all(isinstance(edit, Edit) for edit in together)):
            raise RewardenError(f"{type(item).__name__} is not an edit", where="rm.edit", why="each counterfactual is an "
                                "Edit, a list of Edits that act together, or an EditBatch", fix="wrap it in Edit(...)")


def listed(edits: Edits) -> list[Edit | Sequence[Edit] | EditBatch]:
    """The edits as a list of units."""
    return [edits] if isinstance(edits, (Edit, EditBatch)) else list(edits)


def make_units(base: BaseRun, edits: Edits, wanted: Wanted) -> tuple[list[Unit], int]:
    """Canonical units of all edits, and the number of rows.

    Raises:
        RewardenError: no edits, sites the model does not have, positions or widths that do not fit.
    """
    check_edits(edits)
    batches: list[Unit] = []
    alike: dict[tuple, list[tuple[int, Sequence[Edit]]]] = {}
    row = 0
    for item in listed(edits):
        if isinstance(item, EditBatch):
            batches.append(Unit([_batch_part(base, item)], np.arange(row, row + len(item))))
            row += len(item)
            continue
        together = (item,) if isinstance(item, Edit) else tuple(item)
        alike.setdefault(tuple(_likeness(edit, row) for edit in together), []).append((row, together))
        row += 1
    units = batches + [Unit([_part(base, [edits[j] for _, edits in rows]) for j in range(len(rows[0][1]))],
                            np.asarray([number for number, _ in rows])) for rows in alike.values()]
    check_finite([part.values for unit in units for part in unit.parts])
    for unit in units:
        first = [part for part in unit.parts if part.kind == "embed" or (part.kind == "resid_pre" and part.layer == 0)]
        unit.parts = [_canonical(base, part, alone=len(first) == 1) for part in unit.parts]
        for number, part in enumerate(unit.parts):
            part.turn = sum((p.kind, p.layer, p.mode) == (part.kind, part.layer, part.mode) for p in unit.parts[:number])
            part.live = _live(base, part, wanted, alone=len(unit.parts) == 1)
        unit.parts = [part for part in unit.parts if part.live.any()] or unit.parts[:1]
    return units, row


LARGE = 4096
"""Numbers from which on a value stays the caller's own tensor instead of being stacked with others."""


def _likeness(edit: Edit, row: int) -> tuple:
    """Edits with equal keys can share a unit."""
    site, value = edit.site, edit.value
    assert isinstance(value, Tensor)
    positions = len(site.position) if isinstance(site.position, tuple) else site.position is None
    own = row if value.ndim == 2 and value.numel() > LARGE else -1
    return (site.kind, site.layer, site.head is None, edit.mode, positions, value.shape, value.dtype, own)


def _part(base: BaseRun, edits: Sequence[Edit]) -> Part:
    site = edits[0].site
    at = [edit.site.position for edit in edits]
    positions = (np.tile(np.arange(base.length), (len(edits), 1)) if site.position is None
                 else inside(base, np.asarray(at, dtype=np.int64).reshape(len(edits), -1), site))
    values = [edit.value for edit in edits]
    stacked = values[0][None] if len(values) == 1 else torch.stack(values)  # type: ignore[index, arg-type]
    stacked = stacked.reshape(len(values), *([1] * (3 - stacked.ndim)), *stacked.shape[1:])
    heads = None if site.head is None else np.asarray([edit.site.head for edit in edits], dtype=np.int64)
    check(base, site, stacked, positions.shape[1], heads)
    return Part(site.kind, site.layer, edits[0].mode, positions, stacked, heads)


def _batch_part(base: BaseRun, batch: EditBatch) -> Part:
    site, values, n = batch.site, batch.values, len(batch)
    if batch.positions is not None:
        positions = inside(base, np.asarray(batch.positions, dtype=np.int64), site)[:, None]
    elif site.position is None:
        positions = np.tile(np.arange(base.length), (n, 1))
    else:
        one = inside(base, np.atleast_2d(np.asarray(site.position, dtype=np.int64)), site)
        positions = np.repeat(one, n, 0)
    values = values[:, None] if values.ndim == 2 else values
    heads = None if site.head is None else np.full(n, site.head)
    heads = heads if batch.heads is None else np.asarray(batch.heads, dtype=np.int64)
    check(base, site, values, positions.shape[1], heads)
    return Part(site.kind, site.layer, batch.mode, positions, values, heads)


def _canonical(base: BaseRun, part: Part, alone: bool) -> Part:
    """`resid_post` l is `resid_pre` l + 1; an embedding row is the first residual less the position embedding.

    Several edits of the embedding and the first residual keep their order in whole forwards only (not `alone`).
    """
    if part.kind == "resid_post":
        part.kind, part.layer = "resid_pre", part.layer + 1
    if part.kind == "embed":
        part.layer = 0
        if alone and _embedding_is_residual(base):
            if part.mode != "add":
                index = torch.as_tensor(part.positions, device=base.resid_pre[0].device)
                embed = base.activation("embed")[index] if part.mode == "scale" else 1.0
                part.values = part.values.to(base.resid_pre[0].device) * embed
                if base.has("position"):
                    part.values = part.values + base.activation("position")[index]
                part.mode = "replace"
            part.kind = "resid_pre"
    return part


def _embedding_is_residual(base: BaseRun) -> bool:
    if not base.has("embed"):
        return False
    total = base.activation("embed") + (base.activation("position") if base.has("position") else 0)
    return torch.allclose(total.float(), base.resid_pre[0].float(), rtol=1e-4, atol=1e-5)


def _live(base: BaseRun, part: Part, wanted: Wanted, alone: bool) -> np.ndarray:
    """Cells that can reach a wanted value, less those that put there what is there already."""
    if (part.kind == "resid_pre" and part.layer == wanted.last + 1) or (
            part.layer == wanted.last and part.kind in AFTER_ATTENTION):
        live = np.isin(part.positions, wanted.positions)
    elif part.layer > wanted.last:
        live = np.zeros(part.positions.shape, bool)
    else:
        live = part.positions <= wanted.positions[-1] if wanted.causal else np.ones(part.positions.shape, bool)
    return live & ~_changes_nothing(base, part, alone)


def _first(values: Tensor) -> np.ndarray:
    """The first number of each vector: float64 without the last axis."""
    one = values[..., 0]
    return one.numpy() if one.device.type == "cpu" and one.dtype == torch.float32 else one.double().cpu().numpy()


def _changes_nothing(base: BaseRun, part: Part, alone: bool) -> np.ndarray:
    shape = part.positions.shape
    if part.mode != "replace":
        nothing = (part.values == (0.0 if part.mode == "add" else 1.0)).all(-1).cpu().numpy()
        return np.broadcast_to(nothing, shape)
    if not alone or not base.has(part.kind):
        return np.zeros(shape, bool)  # among other edits, holding a value is a change of its own
    now = base.activation(part.kind, part.layer)
    if part.kind == "neurons" and part.heads is not None:
        now = now[..., None]
    elif now.ndim == 3 and part.heads is None:
        now = now.flatten(1)
    where = (part.positions,) if part.heads is None else (part.positions, part.heads[:, None])
    if not (_first(part.values.to(now.dtype)) == _first(now)[where]).any():  # the first number tells nearly all that differ
        return np.zeros(shape, bool)
    same = np.empty(shape, bool)
    step = max(1, 2**24 // (shape[1] * now.shape[-1]))  # rows compared at once: 64 MB of float32
    for start in range(0, shape[0], step):
        rows = np.arange(start, min(shape[0], start + step))
        at = torch.as_tensor(part.positions[rows], device=now.device)
        there = now[at] if part.heads is None else now[at, torch.as_tensor(part.heads[rows], device=now.device)[:, None]]
        same[rows] = (part.values_of(rows).to(there.device, there.dtype) == there).all(-1).cpu().numpy()
    return same
