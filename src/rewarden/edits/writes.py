"""How edits change the tensors that flow through a layer.

In: the cells (row, position, value) to change at one site. Out: taps that change them. A cell is a row of the batch and a
column of its tokens; which token a column is, the engine knows. Ignorant of light cones and of plans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rewarden.architecture import Architecture
from rewarden.blocks import Block
from rewarden.trace.attention import Attention
from rewarden.trace.hooks import Tap

AFTER_ATTENTION = ("mlp_in", "attn_out", "mlp_out", "z", "neurons", "q")
"""Kinds whose edit at a position changes, within its layer, this position only."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one kind, layer and mode that change together.

    Attributes:
        kind: of site.
        mode: replace, add or scale.
        rows: int64 [m], row of the batch.
        columns: int64 [m], column of the row.
        values: [m, width] ([m, 1] broadcasts).
        heads: int64 [m], or None for whole vectors.
        turn: place among the cells of its mode; two edits of one row at one site must not share a turn.
    """

    kind: str
    mode: str
    rows: Tensor
    columns: Tensor
    values: Tensor
    heads: Tensor | None = None
    turn: int = 0

    def write(self, hidden: Tensor) -> Tensor:
        """Change hidden [batch, S, width], or [batch, S, head, width] where the cells have heads, in place."""
        values = self.values.to(hidden.dtype)
        where = (self.rows, self.columns) if self.heads is None else (self.rows, self.columns, self.heads)
        if self.mode == "replace":
            hidden[where] = values.expand(-1, hidden.shape[-1])
        elif self.mode == "scale":
            hidden[where] = hidden[where] * values
        else:
            hidden.index_put_(where, values.expand(-1, hidden.shape[-1]), accumulate=True)
        return hidden


def change(hidden: Tensor, cells: list[Cells], batch: int, n_heads: int, scale: float = 1.0) -> Tensor:
    """A copy of a module's hidden state with the cells changed.

    Args:
        hidden: [batch, S, width], or flattened to [batch·S, width], or [batch, head, S, d_head] of attention.
        cells: of one site; replace, then scale, then add.
        batch: rows.
        n_heads: heads the width divides into, for cells with a head.
        scale: residual multiplier: cells hold what is added to the stream, hidden what is multiplied before.
    """
    out = hidden.reshape(batch, -1, hidden.shape[-1]).clone()
    for cell in ordered(cells):
        if scale != 1.0 and cell.mode != "scale":
            cell = replace(cell, values=cell.values / scale)
        cell.write(out if cell.heads is None else out.unflatten(-1, (n_heads, -1)))
    return out.reshape(hidden.shape)


def ordered(cells: list[Cells]) -> list[Cells]:
    """Replace before scale before add; of one mode, by turn."""
    return sorted(cells, key=lambda cell: (("replace", "scale", "add").index(cell.mode), cell.turn))


def taps_for(architecture: Architecture, layer: int, cells: list[Cells], batch: int) -> list[Tap]:
    """Taps on the modules of one layer (or on the embedding) that change every cell as it passes."""
    block = architecture.blocks[layer]
    taps: list[Tap] = []
    for kind in dict.fromkeys(cell.kind for cell in cells):
        mine = [cell for cell in cells if cell.kind == kind]
        if kind == "embed":
            taps.append(_changing(architecture.embedding, "output", mine, batch, 1, architecture.embedding_scale))
        elif kind in ("resid_pre", "resid_post"):
            taps.append(_changing(block.layer, "input" if kind == "resid_pre" else "output", mine, batch))
        elif kind in ("attn_in", "mlp_in"):
            taps += _branch_taps(block, kind, mine, batch)
        elif kind in ("attn_out", "mlp_out"):
            module = block.attn if kind == "attn_out" else block.mlp
            taps.append(_changing(module, "output", mine, batch, 1, block.scale))
        elif kind == "z":
            taps.append(_changing(block.out_projection, "input", mine, batch, architecture.n_heads))
        elif kind == "neurons":
            taps.append(_changing_neurons(block.down_projection, mine, batch))
    return taps


def _changing(module: nn.Module | None, side: str, cells: list[Cells], batch: int, heads: int = 1,
              scale: float = 1.0) -> Tap:
    assert module is not None  # the plan refused sites the model does not have
    return Tap(module, side, lambda hidden: change(hidden, cells, batch, heads, scale))


def _changing_neurons(module: nn.Module | None, cells: list[Cells], batch: int) -> Tap:
    assert module is not None
    return Tap(module, "input", lambda hidden: change(hidden, cells, batch, hidden.shape[-1]))


def _branch_taps(block: Block, kind: str, cells: list[Cells], batch: int) -> list[Tap]:
    """The sublayer reads norm(edited stream); the stream beside it, and a sublayer that shares the norm, do not see it."""
    branch = block.attn_in if kind == "attn_in" else block.mlp_in
    assert branch is not None
    norm = branch.norm
    if norm is None:
        return [_changing(branch.reads, "input", cells, batch)]
    stream: list[Tensor] = []

    def reread(hidden: Tensor) -> Tensor:
        return norm.forward(change(stream.pop(), cells, batch, 1)).reshape(hidden.shape)  # forward: past the taps

    def see(hidden: Tensor) -> None:
        stream[:] = [hidden]

    return [Tap(norm, "input", see), Tap(branch.reads, "input", reread)]


def change_attention(call: Attention, cells: list[Cells]) -> Attention:
    """The call with queries, keys and values changed; their heads lie on an axis of their own."""
    changed = {"q": call.query, "k": call.key, "v": call.value}
    for cell in ordered(cells):
        # [batch, head, S, d_head] -> [batch, S, head, d_head], a copy
        held = changed[cell.kind].transpose(1, 2).clone(memory_format=torch.contiguous_format)
        if cell.heads is None:
            cell.write(held.view(*held.shape[:2], -1))
        else:
            cell.write(held)
        changed[cell.kind] = held.transpose(1, 2)
    return Attention(call.module, changed["q"], changed["k"], changed["v"], call.mask, call.scale, call.softcap, call.sinks)


def joined(cells: list[Cells]) -> list[Cells]:
    """The same cells in as few pieces as there are sites, modes and turns."""
    groups: dict[tuple, list[Cells]] = {}
    for cell in cells:
        groups.setdefault((cell.kind, cell.mode, cell.turn, cell.heads is None, cell.values.shape[-1]), []).append(cell)
    return [same[0] if len(same) == 1 else replace(
        same[0], rows=torch.cat([c.rows for c in same]), columns=torch.cat([c.columns for c in same]),
        values=torch.cat([c.values for c in same]),
        heads=None if same[0].heads is None else torch.cat([c.heads for c in same]))  # type: ignore[misc]  # all or none
        for same in groups.values()]
