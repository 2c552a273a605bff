"""Does the model have this site, at these positions, of this width?

In: a base run, a site, values. Out: positions counted from the start, or one clear error. Ignorant of what edits do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewarden.blocks import projection_weight
from rewarden.edits.base import BaseRun
from rewarden.edits.edit import Site
from rewarden.errors import RewardenError


def inside(base: BaseRun, positions: np.ndarray, site: Site) -> np.ndarray:
    """Positions of the conversation, counted from its start."""
    if positions.min() < -base.length or positions.max() >= base.length:
        raise RewardenError(f"position {site.position} outside the conversation", where=repr(site),
                            why=f"it has {base.length} tokens", fix="count from 0, or from the end with -1")
    found = np.where(positions < 0, positions + base.length, positions) if positions.min() < 0 else positions
    if found.ndim == 2 and found.shape[1] > 1 and (np.diff(np.sort(found, 1), axis=1) == 0).any():
        raise RewardenError("the same position twice in one edit", where=repr(site),
                            why="which value counts would not be defined", fix="name each position once")
    return found


def check(base: BaseRun, site: Site, values: Tensor, n_positions: int, which: np.ndarray | None) -> None:
    """Refuse what the model cannot take: layer, part, head, width."""
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


def check_finite(values: Sequence[Tensor]) -> None:
    """Refuse values that are not finite; small ones are looked at together."""
    small = [value.reshape(-1) for value in values if value.numel() <= SMALL]
    alike = {(value.device, value.dtype): [] for value in small}
    for value in small:
        alike[value.device, value.dtype].append(value)
    joined = [torch.cat(some) for some in alike.values()] + [value for value in values if value.numel() > SMALL]
    if not all(bool(torch.isfinite(value).all()) for value in joined):
        bad = sum(not bool(torch.isfinite(value).all()) for value in values)
        raise RewardenError(f"the values of {bad} edits are not finite", where="rm.edit", why="NaN or infinity",
                            fix="look at the run they come from")


SMALL = 65536
"""Numbers up to which a value is copied to be looked at with others."""


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
    return 1, int(arch.embedding.embedding_dim) if site.kind == "embed" else arch.d_model  # type: ignore[arg-type]
