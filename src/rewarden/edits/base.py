"""One recorded run of one conversation: what every edit of it starts from.

In: a reward model and a conversation. Out: `BaseRun`, with each layer's input, how the layers were called, keys and values, and
the sublayers' outputs that were asked for. Ignorant of edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.readout import Reading
from rewarden.trace.attention import Attention, attending, plain
from rewarden.trace.capture import Capture
from rewarden.trace.hooks import Call, calls_of

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

KEPT = ("attn_out", "mlp_out", "z", "neurons", "q")
"""Kinds that are stored only on request; residuals, keys and values always are."""


@dataclass(eq=False)
class BaseRun:
    """What one run of the model left, at every position.

    Attributes:
        rm: the reward model.
        encoded: the tokens.
        reading: where the read-out reads.
        resid_pre: list of [T, d], one per layer, and the last layer's output as item L.
        values: scalars float32 [k] of the run.
        calls: how each layer was called.
        keys: attention module → [kv_head, T, d_head], where attention runs through transformers' interface.
    """

    rm: RewardModel
    encoded: Encoded
    reading: Reading
    resid_pre: list[Tensor]
    values: Tensor
    calls: dict[nn.Module, Call] = field(default_factory=dict)
    queries: dict[nn.Module, Tensor] = field(default_factory=dict)
    keys: dict[nn.Module, Tensor] = field(default_factory=dict)
    vals: dict[nn.Module, Tensor] = field(default_factory=dict)
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens T."""
        return self.encoded.length

    @property
    def reward(self) -> float:
        """The scalar that is the reward."""
        return float(self.values[self.rm.main])

    def has(self, kind: str) -> bool:
        """Whether `activation` of this kind was recorded."""
        if kind in ("q", "k", "v"):
            return bool({"q": self.queries, "k": self.keys, "v": self.vals}[kind])
        return kind in ("resid_pre", "resid_post") or bool(self.kept.get(kind))

    def activation(self, kind: str, layer: int = 0) -> Tensor:
        """What is at a site, at every position: [T, width]; `z` is [T, head, d_head], `q`, `k`, `v` are too.

        Raises:
            RewardenError: the run did not record this kind, or the model has no such site.
        """
        if kind == "resid_pre":
            return self.resid_pre[layer]
        if kind == "resid_post":
            return self.resid_pre[layer + 1]
        if kind in ("q", "k", "v"):
            return self._attention(kind, layer).transpose(0, 1)
        if not self.kept.get(kind):
            raise RewardenError(f"the base run has no site {kind!r}", where="BaseRun",
                                why=f"it recorded {sorted(k for k, v in self.kept.items() if v)}",
                                fix=f"rm.base(conversation, sites=({kind!r},))")
        value = self.kept[kind][0 if kind in ("embed", "position") else layer]
        return value.unflatten(-1, (self.rm.architecture.n_heads, -1)) if kind == "z" else value

    def _attention(self, kind: str, layer: int) -> Tensor:
        held = {"q": self.queries, "k": self.keys, "v": self.vals}[kind]
        for module in self.rm.architecture.blocks[layer].layer.modules():
            if module in held:
                return held[module]
        raise RewardenError(f"the base run has no site {kind!r} in layer {layer}", where="BaseRun",
                            why="queries are recorded on request" if kind == "q" else
                            "this family does not call attention through transformers' interface",
                            fix=f"rm.base(conversation, sites=({kind!r},))")


def record(rm: RewardModel, encoded: Encoded, sites: Sequence[str] = (), *, attention: bool = True, read: bool = True
           ) -> BaseRun:
    """Run a conversation once and keep what edits need.

    Args:
        rm: the reward model.
        encoded: its tokens.
        sites: further kinds to keep, out of `KEPT`, "embed", "position".
        attention: record keys and values (through transformers' attention interface).
        read: apply the read-out (bare ids have no response to read).
    """
    arch = rm.architecture
    reading = rm.readout.read(encoded) if read else Reading(np.asarray([encoded.length - 1]))
    store = Capture(arch, ["resid_pre", "final", *(s for s in dict.fromkeys(sites) if s not in ("q", "k", "v"))],
                    lambda hidden: hidden)
    queries: dict[nn.Module, Tensor] = {}
    keys: dict[nn.Module, Tensor] = {}
    vals: dict[nn.Module, Tensor] = {}
    triangles: dict[int, bool] = {}  # masks are shared by the layers: looked at once

    def remember(call: Attention) -> Tensor:
        keys[call.module], vals[call.module] = call.key[0], call.value[0]
        if "q" in sites:
            queries[call.module] = call.query[0]
        mask = call.mask
        if mask is not None and id(mask) not in triangles:
            triangles[id(mask)] = torch.equal(mask, torch.ones_like(mask).tril())
        return plain(call, triangle=mask is not None and triangles[id(mask)])

    layers = [block.layer for block in arch.blocks]
    with rm.lock, attending(arch.trunk, remember) if attention else nullcontext(), calls_of(layers) as calls:
        rm.forward([encoded], store.taps())
    flat = {site: [value.reshape(-1, value.shape[-1]) for value in kept] for site, kept in store.kept.items()}
    resid = [*flat.pop("resid_pre"), *flat.pop("final")]
    where = arch.n_layers if rm.readout.layer is None else rm.readout.layer + 1
    with torch.inference_mode():
        values = rm.readout.apply(resid[where][torch.as_tensor(reading.positions, device=rm.device)], reading
                                  ) if read else torch.zeros(len(rm.names), device=rm.device)
    return BaseRun(rm, encoded, reading, resid, values, calls, queries, keys, vals, flat)
