"""A model's attention in our hands: see it, or take its place, for every family on transformers' attention interface.

In: a trunk and a handler. While the context is open every attention of the trunk goes through the handler. One function is
registered, once and together with its mask function: without the latter causality is silently lost. Ignorant of edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

NAME = "rewarden"


@dataclass(frozen=True, eq=False)
class Attention:
    """One call of attention, as the family makes it: after position encoding, before grouped heads are repeated.

    Attributes:
        module: the attention module.
        query: [batch, head, S, d_head].
        key: [batch, kv_head, K, d_head].
        value: [batch, kv_head, K, d_head].
        mask: bool [batch or 1, 1, S, T], True where a position may be read, or None for all.
        scale: factor on the scores.
        softcap: scores become softcap·tanh(scores / softcap), or None.
        sinks: a learned score per head that takes part in the softmax and carries no value, or None.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def groups(self) -> int:
        """Query heads per key head."""
        return self.query.shape[1] // self.key.shape[1]


Handler = Callable[[Attention], Tensor]
"""Maps a call to head outputs [batch, head, S, d_head]."""

_handler: ContextVar[Handler | None] = ContextVar("rewarden_attention_handler", default=None)
_registration = Lock()
_registered = False
_taken: dict[int, list[Any]] = {}
"""id of a config → how many runs go through `NAME` now, and what it said before. Models may share a config."""


def plain(call: Attention, *, triangle: bool = False) -> Tensor:
    """What transformers computes itself; with `triangle` the mask is known to be the causal one, which is faster."""
    if call.softcap is None and call.sinks is None:
        mask = None if call.mask is None or triangle else call.mask[..., : call.key.shape[2]]
        return torch.nn.functional.scaled_dot_product_attention(
            call.query, call.key, call.value, attn_mask=mask, is_causal=triangle, scale=call.scale,
            enable_gqa=call.groups > 1)
    return pattern(call).to(call.value.dtype) @ call.value.repeat_interleave(call.groups, 1)


def pattern(call: Attention) -> Tensor:
    """Attention weights float32 [batch, head, S, K]; with a sink they sum to less than one."""
    scores = capped(call.query @ call.key.repeat_interleave(call.groups, 1).transpose(-1, -2) * call.scale, call.softcap)
    scores = scores.float()
    if call.mask is not None:
        # not −inf: a padding token may have nothing at all to read, and must not become NaN
        scores = scores.masked_fill(~call.mask[..., : scores.shape[-1]], torch.finfo(scores.dtype).min)
    if call.sinks is None:
        return scores.softmax(-1)
    sink = call.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores after the family's soft cap."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            scaling: float | None = None, dropout: float = 0.0, softcap: float | None = None,
            s_aux: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
    """The function transformers calls; without a handler in this thread it attends as ever."""
    call = Attention(module, query, key, value, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling,
                     softcap, s_aux)
    return (_handler.get() or plain)(call).transpose(1, 2).contiguous(), None


def _register() -> None:
    global _registered
    with _registration:  # threads that analyse different models arrive here together
        if _registered:
            return
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        def whole_mask(*args: Any, **kwargs: Any) -> Tensor | None:
            kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
            return sdpa_mask(*args, **kwargs)

        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, whole_mask)
        _registered = True


@contextmanager
def attending(trunk: nn.Module, handler: Handler = plain) -> Iterator[None]:
    """Let `handler` compute every attention of the trunk; its own way is put back, also after an error.

    One thread at a time per model (`RewardModel` holds a lock around its runs); a run of another thread attends as ever.

    Example:
        >>> import rewarden as rw
        >>> rm, seen = rw.load(), []
        >>> with attending(rm.architecture.trunk, lambda call: (seen.append(call.query.shape[1]), plain(call))[1]):
        ...     _ = rm.trace([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
        >>> len(seen) == rm.architecture.n_layers
        True
    """
    _register()
    config: Any = trunk.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    token = _handler.set(handler)
    with _registration:
        held = _taken.setdefault(id(config), [0, config._attn_implementation])
        held[0] += 1
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _registration:
            held[0] -= 1
            if not held[0]:
                config._attn_implementation = held[1]
                del _taken[id(config)]
        _handler.reset(token)


@dataclass
class AttentionRecord:
    """What was recorded of one sequence.

    Attributes:
        rows: query positions kept.
        pattern: layer → float32 [head, R, T].
        values: layer → float32 [head, T, d_head], repeated over grouped heads.
    """

    rows: Sequence[int]
    pattern: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def recording_attention(trunk: nn.Module, rows: Sequence[int]) -> Iterator[AttentionRecord]:
    """Record attention weights of the runs inside (batch of one) at some query positions."""
    record = AttentionRecord(rows)

    def keep(call: Attention) -> Tensor:
        layer = int(call.module.layer_idx)  # type: ignore[arg-type]  # every module on the interface knows its layer
        weights, values = pattern(call), call.value.repeat_interleave(call.groups, 1)
        record.pattern[layer] = weights[0][:, list(rows)]
        record.values[layer] = values[0].float()
        return weights.to(values.dtype) @ values

    with attending(trunk, keep):
        yield record
