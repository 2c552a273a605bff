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

from rewarden.edits.arguments import Axes, of_row
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


@dataclass(eq=False)
class Recorded:
    """What one forward of several padded rows left.

    Attributes:
        kept: kind of site → list over layers of [row, T, width].
        calls: how each layer was called.
        attention: "q", "k", "v" → attention module → [row, head, T, d_head].
    """

    kept: dict[str, list[Tensor]]
    calls: dict[nn.Module, Call]
    attention: dict[str, dict[nn.Module, Tensor]]


def record(rm: RewardModel, rows: Sequence[Encoded], sites: Sequence[str] = (), *, attention: bool = True) -> Recorded:
    """Run some rows once, padded at the right, and keep what edits need.

    Args:
        rm: the reward model.
        rows: their tokens.
        sites: further kinds to keep, out of `KEPT`, "embed", "position".
        attention: record keys and values (through transformers' attention interface).
    """
    arch, width = rm.architecture, max(row.length for row in rows)
    always = ("resid_pre", "final")
    further = [site for site in dict.fromkeys(sites) if site not in (*always, "resid_post", "q", "k", "v")]
    store = Capture(arch, [*always, *further], lambda hidden: hidden)
    held: dict[str, dict[nn.Module, Tensor]] = {"q": {}, "k": {}, "v": {}}
    triangles: dict[int, tuple[Tensor, bool]] = {}  # masks are shared by the layers: each is looked at once

    def remember(call: Attention) -> Tensor:
        held["k"][call.module], held["v"][call.module] = call.key, call.value
        if "q" in sites:
            held["q"][call.module] = call.query
        mask = call.mask
        if mask is not None and id(mask) not in triangles:
            triangles[id(mask)] = mask, torch.equal(mask, torch.ones_like(mask).tril())  # held, or its id could come again
        return plain(call, triangle=mask is not None and triangles[id(mask)][1])

    layers = [block.layer for block in arch.blocks]
    with rm.lock, attending(arch.trunk, remember) if attention else nullcontext(), calls_of(layers) as calls:
        rm.forward(rows, store.taps())
    kept = {site: [value.reshape(-1, width, value.shape[-1]) for value in values] for site, values in store.kept.items()}
    return Recorded(kept, calls, held)


def runs_of(rm: RewardModel, rows: Sequence[Encoded], found: Recorded, axes: Axes, *, read: bool = True) -> list[BaseRun]:
    """Each row's own run, as if it had been alone.

    Args:
        rm: the reward model.
        rows: what was run.
        found: the forward of all of them.
        axes: of the layers' arguments; not used for a single row.
        read: apply the read-out (bare ids have no response to read).
    """
    where = rm.read_layer + 1
    runs = []
    for number, row in enumerate(rows):
        n = row.length
        kept = {site: [value[number if len(value) > 1 else 0, :n] for value in values] for site, values in found.kept.items()}
        held = {kind: {module: value[number, :, :n] for module, value in by_module.items()}
                for kind, by_module in found.attention.items()}
        calls = found.calls if len(rows) == 1 else {
            module: of_row(call, axes, number, n) for module, call in found.calls.items()}
        resid = [*kept.pop("resid_pre"), *kept.pop("final")]
        reading, values = Reading(np.asarray([n - 1])), torch.zeros(len(rm.names), device=rm.device)
        if read:
            reading = rm.readout.read(row)
            with torch.inference_mode():
                values = rm.readout.apply(resid[where][torch.as_tensor(reading.positions, device=rm.device)], reading)
        runs.append(BaseRun(rm, row, reading, resid, values, dict(calls), held["q"], held["k"], held["v"], kept))
    return runs
