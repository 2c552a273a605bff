"""The run of a conversation that begins as one that was run already: only what differs is computed.

In: a recorded run, tokens of the same number, how many of them are the same. Out: a `BaseRun`, equal to one made anew within
rounding. Ignorant of edits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.edits.attention import SuffixAttention
from rewarden.edits.backend import CONE, backend_of
from rewarden.edits.base import BaseRun
from rewarden.edits.columns import Columns, again
from rewarden.edits.inputs import LayerInputs
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.trace.attention import Attention, attending
from rewarden.trace.hooks import evaluating


def can_follow(base: BaseRun) -> bool:
    """Whether runs can be made from this one: causal models whose attention can be taken over."""
    return backend_of(base.rm).name == CONE and base.encoded.type_ids is None


def following(base: BaseRun, encoded: Encoded) -> BaseRun:
    """The run of other tokens behind the same beginning.

    Args:
        base: the recorded run; of `can_follow`.
        encoded: as many tokens, the last of which may differ.

    Returns:
        A run with residuals, keys and values; sublayers' outputs are not kept.

    Raises:
        RewardenError: another number of tokens.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> talks = [rw.Pair("Hi", text, "x").conversations[0] for text in ("a", "b")]
        >>> new = following(rm.base(talks[0]), rm.encode(talks[1]))
        >>> bool(abs(new.reward - rm.base(talks[1]).reward) < 1e-5)
        True
    """
    if encoded.length != base.length:
        raise RewardenError(f"{encoded.length} tokens cannot follow a run of {base.length}", where="following",
                            fix="make the run anew with rm.base(...)")
    rm, axes = base.rm, backend_of(base.rm).axes
    different = np.flatnonzero(encoded.ids != base.encoded.ids)
    shared = int(different[0]) if len(different) else base.length - 1
    columns = Columns(np.arange(shared, base.length), base.length, rm.device)
    attention = SuffixAttention(base, columns, start=shared)
    keys: dict[nn.Module, Tensor] = {}
    values: dict[nn.Module, Tensor] = {}

    def remember(call: Attention) -> Tensor:
        keys[call.module] = torch.cat([base.keys[call.module][:, :shared], call.key[0]], 1)
        values[call.module] = torch.cat([base.vals[call.module][:, :shared], call.value[0]], 1)
        return attention(call)

    with torch.inference_mode(), rm.lock, evaluating(rm.model), attending(rm.architecture.trunk, remember):
        stream = LayerInputs(base)(encoded.ids[shared:], columns.positions)[None]
        resid = [torch.cat([base.resid_pre[0][:shared], stream[0]])]
        for number, block in enumerate(rm.architecture.blocks, 1):
            stream = again(base.calls[block.layer], stream, columns, axes)
            resid.append(torch.cat([base.resid_pre[number][:shared], stream[0]]))
        reading = rm.readout.read(encoded)
        found = rm.readout.apply(resid[rm.read_layer + 1][torch.as_tensor(reading.positions, device=rm.device)], reading)
    return BaseRun(rm, encoded, reading, resid, found, dict(base.calls), {}, keys, values, {})
