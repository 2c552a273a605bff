"""Sites of a sweep, and the same sweep as rewarden's edits.

In: recorded runs, sizes. Out: lists of sites, `EditBatch`es in the same order. Ignorant of clocks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness import plain
from harness.models import Shape, random_ids
from harness.plain import Site
from rewarden import EditBatch, Encoded, RewardModel
from rewarden import Site as Place
from rewarden.edits import BaseRun, Edited, Plan
from rewarden.encoding import PROMPT

KINDS = ("resid_pre", "attn_out", "mlp_out")
RECORDED = ("attn_out", "mlp_out", "z")
"""What a base run keeps beside the residual stream, keys and values."""


@dataclass(frozen=True)
class Runs:
    """Token ids of two runs of equal length that share a prefix."""

    base: list[int]
    source: list[int]
    shared: int

    @classmethod
    def of(cls, tokens: int, shared: int, seed: int = 0) -> Runs:
        """Random ids; the first `shared` are equal, the token after them is not."""
        base, source = random_ids(tokens, 2 * seed), random_ids(tokens, 2 * seed + 1)
        source[:shared] = base[:shared]
        while source[shared] == base[shared]:
            source[shared] += 1
        return cls(base, source, shared)


def encoded(ids: Sequence[int]) -> Encoded:
    """Bare ids; a classifier reads the last one."""
    n = len(ids)
    return Encoded(np.asarray(ids, np.int64), np.full(n, PROMPT, np.uint8), np.zeros((n, 2), np.int64), "")


def recorded(rm: RewardModel, runs: Runs) -> tuple[BaseRun, BaseRun]:
    """Both runs with everything a sweep takes from them."""
    return rm.base(encoded(runs.base), sites=RECORDED), rm.base(encoded(runs.source), sites=RECORDED)


def sites_by_position(layers: int, positions: Sequence[int], kinds: Sequence[str] = KINDS) -> list[Site]:
    """Every kind at every layer and position."""
    return [(kind, layer, position, None) for kind in kinds for layer in range(layers) for position in positions]


def edits_by_position(source: BaseRun, positions: Sequence[int], kinds: Sequence[str] = KINDS) -> list[EditBatch]:
    """The same, one batch per kind and layer."""
    index = torch.as_tensor(positions)
    return [EditBatch(Place(kind, layer), source.activation(kind, layer)[index].flatten(1), positions=positions)
            for kind in kinds for layer in range(source.rm.architecture.n_layers)]


def sites_at_read_out(shape: Shape, tokens: int) -> list[Site]:
    """Residual, both sublayers and every head of all layers at the last token."""
    return sites_by_position(shape.layers, [tokens - 1]) + [
        ("z", layer, tokens - 1, head) for layer in range(shape.layers) for head in range(shape.heads)]


def edits_at_read_out(source: BaseRun) -> list[EditBatch]:
    """The same."""
    last, arch = source.length - 1, source.rm.architecture
    heads = np.arange(arch.n_heads or 0)
    return edits_by_position(source, [last]) + [
        EditBatch(Place("z", layer, last), source.activation("z", layer)[last], heads=heads) for layer in range(arch.n_layers)]


def sample(sites: Sequence[Site], count: int, shared: int = 0) -> list[int]:
    """Numbers of some sites after the shared prefix, drawn evenly."""
    after = [number for number, site in enumerate(sites) if site[2] >= shared]
    return sorted(random.Random(0).sample(after, min(count, len(after))))


@dataclass
class Sweep:
    """One sweep of one model: the sites, rewarden's edits, and the sample that others are timed on."""

    rm: RewardModel
    model: nn.Module
    shape: Shape
    runs: Runs
    sites: list[plain.Site]
    make_edits: Callable[[BaseRun], list[EditBatch]]
    size: int

    def __post_init__(self) -> None:
        self.base, self.source = recorded(self.rm, self.runs)
        self.ids = torch.tensor([self.runs.base])
        self.left = plain.record(self.model, torch.tensor([self.runs.source]))
        self.which = sample(self.sites, self.size, self.runs.shared)
        self.sampled = [self.sites[i] for i in self.which]
        self.factor = len(self.sites) / len(self.sampled)

    def plan(self) -> Plan:
        """Edits made and planned."""
        return self.rm.plan(self.base, self.make_edits(self.source))

    def ours(self) -> Edited:
        """Edits made, planned and run."""
        return self.plan().run()

    def hooks(self, rows: int = 1) -> Tensor:
        """The sample, by hooks."""
        return plain.patched(self.model, self.ids, self.left, self.sampled, rows)


def trace_bytes(base: BaseRun) -> int:
    """What a base run holds: residual stream, sublayer outputs, keys and values of all layers and positions."""
    tensors = [*base.resid_pre, *base.keys.values(), *base.vals.values(), *(t for kept in base.kept.values() for t in kept)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
