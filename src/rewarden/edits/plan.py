"""What has to be computed for these edits, and what need not be.

In: a base run and edits. Out: rows in canonical form, those that cannot change anything taken out, the rest in groups that
start at nearly the same position. Ignorant of how rows are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rewarden.blocks import projection_weight
from rewarden.edits.base import KEPT, BaseRun
from rewarden.edits.edit import Edit, EditBatch, Edits, Site
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
    """

    kind: str
    layer: int
    mode: str
    positions: np.ndarray
    values: Tensor
    heads: np.ndarray | None
    live: np.ndarray = field(init=False)

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


def listed(edits: Edits) -> list[Edit | Sequence[Edit] | EditBatch]:
    """The edits as a list of units."""
    return [edits] if isinstance(edits, (Edit, EditBatch)) else list(edits)


def make_units(base: BaseRun, edits: Edits, wanted: Wanted) -> tuple[list[Unit], int]:
    """Canonical units of all edits, and the number of rows.

    Raises:
        RewardenError: no edits, sites the model does not have, positions or widths that do not fit.
    """
    given = listed(edits)
    if not given:
        raise RewardenError("no edits", where="rm.edit", fix="pass at least one Edit")
    batches: list[Unit] = []
    alike: dict[tuple, list[tuple[int, Sequence[Edit]]]] = {}
    row = 0
    for item in given:
        if isinstance(item, EditBatch):
            batches.append(Unit([_batch_part(base, item)], np.arange(row, row + len(item))))
            row += len(item)
            continue
        together = (item,) if isinstance(item, Edit) else tuple(item) if isinstance(item, (list, tuple)) else ()
        if not together or not all(isinstance(edit, Edit) for edit in together):
            raise RewardenError(f"{type(item).__name__} is not an edit", where="rm.edit", why="each counterfactual is an "
                                "Edit, a list of Edits that act together, or an EditBatch", fix="wrap it in Edit(...)")
        alike.setdefault(tuple(_likeness(edit, row) for edit in together), []).append((row, together))
        row += 1
    units = batches + [Unit([_part(base, [edits[j] for _, edits in rows]) for j in range(len(rows[0][1]))],
                            np.asarray([number for number, _ in rows])) for rows in alike.values()]
    for unit in units:
        unit.parts = [_canonical(base, part) for part in unit.parts]
        for part in unit.parts:
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
    positions = (np.broadcast_to(np.arange(base.length), (len(edits), base.length)) if site.position is None
                 else _inside(base, np.asarray(at, dtype=np.int64).reshape(len(edits), -1), site))
    values = [edit.value for edit in edits]
    stacked = values[0][None] if len(values) == 1 else torch.stack(values)  # type: ignore[index, arg-type]
    stacked = stacked.reshape(len(values), *([1] * (3 - stacked.ndim)), *stacked.shape[1:])
    heads = None if site.head is None else np.asarray([edit.site.head for edit in edits], dtype=np.int64)
    _check(base, site, stacked, positions.shape[1], heads)
    return Part(site.kind, site.layer, edits[0].mode, positions, stacked, heads)


def _batch_part(base: BaseRun, batch: EditBatch) -> Part:
    site, values, n = batch.site, batch.values, len(batch)
    if batch.positions is not None:
        positions = _inside(base, np.asarray(batch.positions, dtype=np.int64), site)[:, None]
    elif site.position is None:
        positions = np.broadcast_to(np.arange(base.length), (n, base.length))
    else:
        one = _inside(base, np.atleast_2d(np.asarray(site.position, dtype=np.int64)), site)
        positions = np.broadcast_to(one, (n, one.shape[1]))
    values = values[:, None] if values.ndim == 2 else values
    heads = None if site.head is None else np.full(n, site.head)
    heads = heads if batch.heads is None else np.asarray(batch.heads, dtype=np.int64)
    _check(base, site, values, positions.shape[1], heads)
    return Part(site.kind, site.layer, batch.mode, positions, values, heads)


def _inside(base: BaseRun, positions: np.ndarray, site: Site) -> np.ndarray:
    if positions.min() < -base.length or positions.max() >= base.length:
        raise RewardenError(f"position {site.position} outside the conversation", where=repr(site),
                            why=f"it has {base.length} tokens", fix="count from 0, or from the end with -1")
    found = np.where(positions < 0, positions + base.length, positions)
    if found.ndim == 2 and found.shape[1] > 1 and (np.diff(np.sort(found, 1), axis=1) == 0).any():
        raise RewardenError("the same position twice in one edit", where=repr(site),
                            why="which value counts would not be defined", fix="name each position once")
    return found


def _check(base: BaseRun, site: Site, values: Tensor, n_positions: int, which: np.ndarray | None) -> None:
    arch = base.rm.architecture
    if site.kind != "embed" and not 0 <= site.layer < arch.n_layers:
        raise RewardenError(f"no layer {site.layer}", where=repr(site), why=f"the model has layers 0 to {arch.n_layers - 1}",
                            fix="choose one of them")
    block = arch.blocks[site.layer]
    if site.kind in ("attn_out", "mlp_out"):
        arch.require("writes", f"the site {site.kind!r}")
    if site.kind == "z":
        arch.require("heads", "the site 'z'")
    missing = {"neurons": block.down_projection, "attn_in": block.attn_in, "mlp_in": block.mlp_in}
    if site.kind in missing and missing[site.kind] is None:
        raise RewardenError(f"this model has no site {site.kind!r}", where=repr(site),
                            why="its layers have no single module for it", fix="edit attn_out or mlp_out instead")
    if site.kind in ("q", "k", "v") and not base.keys:
        raise RewardenError(f"the site {site.kind!r} cannot be edited in this model", where=repr(site),
                            why="its attention does not run through transformers' interface", fix="edit z or attn_out")
    heads, width = width_of(base, site, which is not None)
    if which is not None and not (which.min() >= 0 and which.max() < heads):
        raise RewardenError(f"no head {which[(which < 0) | (which >= heads)][0]}", where=repr(site),
                            why=f"there are {heads}", fix="choose one of them")
    if values.shape[-1] not in (width, 1) or values.shape[-2] not in (1, n_positions):
        raise RewardenError(f"the value of an edit has shape {tuple(values.shape[-2:])}", where=repr(site),
                            why=f"the site holds {n_positions} positions of width {width}",
                            fix="give [width], or [positions, width]")
    if not torch.isfinite(values).all():
        raise RewardenError("the value of an edit is not finite", where=repr(site), fix="look at the run it comes from")


def width_of(base: BaseRun, site: Site, per_head: bool) -> tuple[int, int]:
    """Heads of a site, and the width of its values, whole or of one head."""
    arch = base.rm.architecture
    if site.kind in ("q", "k", "v"):
        held = base.vals if site.kind == "v" else base.keys
        like = next(iter(held.values()))
        heads = arch.n_heads if site.kind == "q" else like.shape[0]
        return heads, like.shape[-1] * (1 if per_head else heads)
    if site.kind in ("z", "neurons"):
        block = arch.blocks[site.layer]
        module = block.out_projection if site.kind == "z" else block.down_projection
        assert module is not None  # checked before
        full = projection_weight(module).shape[1]
        heads = arch.n_heads if site.kind == "z" else full
        return heads, full // heads if per_head else full
    return 1, arch.d_model


def _canonical(base: BaseRun, part: Part) -> Part:
    """`resid_post` l is `resid_pre` l + 1; an embedding row is the first residual less the position embedding."""
    if part.kind == "resid_post":
        part.kind, part.layer = "resid_pre", part.layer + 1
    if part.kind == "embed":
        part.layer = 0
        if _embedding_is_residual(base):
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
    same = np.empty(shape, bool)
    step = max(1, 2**24 // (shape[1] * now.shape[-1]))  # rows compared at once: 64 MB of float32
    for start in range(0, shape[0], step):
        rows = np.arange(start, min(shape[0], start + step))
        at = torch.as_tensor(part.positions[rows], device=now.device)
        there = now[at] if part.heads is None else now[at, torch.as_tensor(part.heads[rows], device=now.device)[:, None]]
        same[rows] = (part.values_of(rows).to(there.device, there.dtype) == there).all(-1).cpu().numpy()
    return same


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that will be run, flat: which unit, which of its rows, first position, first layer."""

    unit: np.ndarray
    index: np.ndarray
    start: np.ndarray
    layer: np.ndarray

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, which: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.unit[which], self.index[which], self.start[which], self.layer[which])

    def after(self, others: Rows) -> Rows:
        """Others, then these."""
        return Rows(*(np.concatenate([getattr(others, f.name), getattr(self, f.name)]) for f in fields(self)))


def live_rows(units: list[Unit], wanted: Wanted, length: int) -> Rows:
    """Rows that may change a wanted value; the others are the base run's."""
    found = []
    for number, unit in enumerate(units):
        alive = np.flatnonzero(unit.live())
        if len(alive):
            start = unit.starts(length)[alive] if wanted.causal else np.zeros(len(alive), np.int64)
            found.append(np.stack([np.full(len(alive), number), alive, start, np.full(len(alive), unit.layer)]))
    return Rows(*(np.concatenate(found, 1) if found else np.zeros((4, 0), np.int64)))


WASTE = 0.03
"""Share of a group's tokens that lie before their row's first edited position."""


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that are computed from the same position on."""

    start: int
    rows: Rows


def grouped(rows: Rows, end: int, budget: int, last_start: int) -> list[Group]:
    """Rows by start: starts share a group while little is recomputed for it, or while all fits one call.

    Args:
        rows: the rows.
        end: one past the last position computed.
        budget: tokens per call.
        last_start: no group starts after this position (the first one wanted at the last layer's end).
    """
    start = np.minimum(rows.start, last_start)
    groups: list[Group] = []
    values, counts = np.unique(start, return_counts=True)
    first = 0
    while first < len(values):
        origin, total, waste, stop = values[first], int(counts[first]), 0, first + 1
        while stop < len(values):
            more = waste + int(counts[stop]) * int(values[stop] - origin)
            tokens = (total + int(counts[stop])) * int(end - origin)
            if more > WASTE * tokens and tokens > budget:
                break
            total, waste, stop = total + int(counts[stop]), more, stop + 1
        chosen = np.isin(start, values[first:stop])
        groups.append(Group(int(origin), rows.take(np.flatnonzero(chosen))))
        first = stop
    return groups
