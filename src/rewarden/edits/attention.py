"""Attention of a suffix: every row's own keys, and one shared copy of the base run's keys before it.

In: queries of some columns, keys of the suffix. Out: head outputs, equal to attention over the whole sequence. The prefix is
never copied per row. Ignorant of edits but those of q, k and v.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns
from rewarden.edits.writes import Cells, change_attention
from rewarden.trace.attention import Attention, capped, plain


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
        if self.start == 0 and call.softcap is None and call.sinks is None:
            return plain(call)
        return self._attend(call, keys[:, :self.start], values[:, :self.start])

    def _attend(self, call: Attention, keys: Tensor, values: Tensor) -> Tensor:
        """Attention over keys [kv_head, P, d_head] that all rows share, then over each row's own.

        The shared part is one product for all rows; both parts pass through one softmax.
        """
        batch, heads, length, width = call.query.shape
        kv_heads, groups, split = call.key.shape[1], call.groups, keys.shape[1]
        query = call.query.reshape(batch, kv_heads, groups * length, width)
        flat = query.transpose(0, 1).reshape(kv_heads, batch * groups * length, width)
        shared = torch.bmm(flat, keys.transpose(1, 2)).view(kv_heads, batch, groups * length, split).transpose(0, 1)
        own = query @ call.key.transpose(-1, -2)
        scores = self._masked(call, capped(torch.cat([shared, own], -1) * call.scale, call.softcap).float())
        if call.sinks is not None:
            sinks = call.sinks.float().reshape(1, kv_heads, groups, 1).expand(batch, -1, -1, length)
            scores = torch.cat([scores, sinks.reshape(*scores.shape[:-1], 1)], -1)
        weight = scores.softmax(-1).to(values.dtype)
        on_shared = weight[..., :split].transpose(0, 1).reshape(kv_heads, batch * groups * length, split)
        out = torch.bmm(on_shared, values).view(kv_heads, batch, groups * length, -1).transpose(0, 1)
        if own.shape[-1]:
            out = out + weight[..., split:split + own.shape[-1]] @ call.value
        return out.reshape(batch, heads, length, -1)

    def _masked(self, call: Attention, scores: Tensor) -> Tensor:
        if call.mask is None or self.columns.all_open(call.mask, scores.shape[-1]):
            return scores
        closed = ~call.mask[:, :, None, :, : scores.shape[-1]]
        rows = scores.view(*scores.shape[:2], call.groups, -1, scores.shape[-1])
        return rows.masked_fill(closed, float("-inf")).view(scores.shape)
