"""Attention of a suffix: every row's own keys, and one shared copy of the base run's keys before it.

In: queries of some columns, keys of the suffix. Out: head outputs, equal to attention over the whole sequence. Of edits it
knows those of q, k and v.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns
from rewarden.edits.writes import Cells, change_attention
from rewarden.trace.attention import Attention, capped, plain

COPIED = 32
"""Queries of a row from which on copying the shared keys to it, for one fused attention, is faster than sharing them
(measured from 4 × 256 to 256 × 4 rows × queries, prefixes of 32 to 511)."""


class KeysKept(Exception):
    """Ends a layer's call once its keys and values are known: the rest of the layer is not needed for these columns."""


@dataclass(eq=False)
class SuffixAttention:
    """The handler of the light-cone engine; its fields say what the current call is.

    Attributes:
        base: the run whose keys precede the suffix.
        columns: of the queries.
        start: first position of the suffix; own keys are those of start..T−1.
        own: keys and values of the suffix by module, from an earlier call (the queries are then a part of it); None
            takes those of the call itself.
        keep_keys: stop after noting keys and values in `own`.
        point: queries read the base run's keys only (nothing before them in this layer was edited).
        cells: edits of q, k, v in this call.
    """

    base: BaseRun
    columns: Columns
    start: int = 0
    own: dict[nn.Module, tuple[Tensor, Tensor]] | None = None
    keep_keys: bool = False
    point: bool = False
    cells: list[Cells] = field(default_factory=list)

    def __call__(self, call: Attention) -> Tensor:
        """Head outputs [batch, head, S, d_head]."""
        if self.cells:
            call = change_attention(call, self.cells)
        if self.keep_keys:
            assert self.own is not None
            self.own[call.module] = (call.key, call.value)
            raise KeysKept
        keys, values = self.base.keys[call.module], self.base.vals[call.module]
        if self.point:
            return self._attend(replace(call, key=call.key[:, :, :0], value=call.value[:, :, :0]), keys, values)
        if self.own is not None:
            own = self.own[call.module]
            call = replace(call, key=own[0], value=own[1])
        keys, values = keys[:, :self.start], values[:, :self.start]
        if self.start == 0 or call.query.shape[2] >= COPIED:
            batch = len(call.query)
            return plain(replace(call, key=torch.cat([keys.expand(batch, -1, -1, -1), call.key], 2),
                                 value=torch.cat([values.expand(batch, -1, -1, -1), call.value], 2)) if self.start else call)
        return self._attend(call, keys, values)

    def _attend(self, call: Attention, keys: Tensor, values: Tensor) -> Tensor:
        """Attention over keys [kv_head, P, d_head] that all rows share, then over each row's own, in one softmax.

        The shared part is one product for all rows. Axes: kv_head, batch, group, S.
        """
        batch, heads, length, width = call.query.shape
        kv_heads, groups, split = call.key.shape[1], call.groups, keys.shape[1]
        flat = (call.query * call.scale).reshape(batch, kv_heads, groups * length, width).transpose(0, 1).contiguous()
        shared = torch.bmm(flat.view(kv_heads, -1, width), keys.transpose(1, 2))
        scores = [self._masked(call, shared.view(kv_heads, batch, groups, length, split), 0)]
        alone = call.key.shape[2]
        if alone:
            own = torch.bmm(flat.view(kv_heads * batch, -1, width), _rows_apart(call.key).transpose(1, 2))
            scores.append(self._masked(call, own.view(kv_heads, batch, groups, length, alone), split))
        if call.sinks is not None:  # a learned score per head, without a value
            scores.append(call.sinks.float().reshape(kv_heads, 1, groups, 1, 1).expand(-1, batch, -1, length, -1))
        weights = (torch.cat(scores, -1) if len(scores) > 1 else scores[0]).softmax(-1).to(values.dtype)
        out = torch.bmm(weights[..., :split].reshape(kv_heads, -1, split), values).view(kv_heads * batch, -1, values.shape[-1])
        if alone:
            part = weights[..., split:split + alone].reshape(kv_heads * batch, groups * length, alone)
            out = torch.baddbmm(out, part, _rows_apart(call.value))
        return out.view(kv_heads, batch, groups * length, -1).transpose(0, 1).reshape(batch, heads, length, -1)

    def _masked(self, call: Attention, scores: Tensor, first: int) -> Tensor:
        """float32 scores of the keys from `first` on, capped and masked."""
        scores = capped(scores, call.softcap).float()
        stop = first + scores.shape[-1]
        if call.mask is None or self.columns.all_open(call.mask, stop):
            return scores
        return scores.masked_fill_(~call.mask[0, 0, :, first:stop], float("-inf"))


def _rows_apart(held: Tensor) -> Tensor:
    """Keys or values [batch, kv_head, S, d_head] as [kv_head · batch, S, d_head]."""
    return held.transpose(0, 1).reshape(-1, *held.shape[2:])
