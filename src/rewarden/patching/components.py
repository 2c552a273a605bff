"""The components of a model (heads, attention blocks, MLPs), what they write at the read-out, and how two runs differ there.

In: base runs that recorded `attn_out`, `mlp_out` and, for heads, `z`. Out: one number or one vector per component, always in
the order of a `Layout`. Ignorant of pairs and statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewarden.edits import BaseRun
from rewarden.lens.attribution import projection_weight, read_heads
from rewarden.patching.sources import Source
from rewarden.trace.capture import Trace

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

SITES = {"attn": "attn_out", "mlp": "mlp_out", "head": "z"}
"""Kind of component → the site that holds what it writes."""


@dataclass(frozen=True)
class Layout:
    """The components of a model in order: heads, attention blocks, MLPs, each by layer.

    Attributes:
        kinds: "head", "attn" or "mlp" [component].
        layers: int [component].
        heads: int [component], −1 where the component is no head.

    Example:
        >>> import rewarden as rw
        >>> Layout.of(rw.load(), heads=True).names[5:7]
        ['head.0.5', 'head.1.0']
    """

    kinds: np.ndarray
    layers: np.ndarray
    heads: np.ndarray

    @classmethod
    def of(cls, rm: RewardModel, *, heads: bool) -> Layout:
        """Components of the layers up to the one that is read; heads where asked for and where the model has them."""
        depth = range(rm.read_layer + 1)
        count = rm.architecture.n_heads if heads and "heads" not in rm.architecture.gaps else 0
        rows = [("head", layer, head) for layer in depth for head in range(count)]
        rows += [(kind, layer, -1) for kind in ("attn", "mlp") for layer in depth]
        return cls(*(np.asarray(column) for column in zip(*rows, strict=True)))

    @property
    def names(self) -> list[str]:
        """As in "head.3.5", "attn.3", "mlp.3"."""
        numbers = zip(self.kinds, self.layers, self.heads, strict=True)
        return [f"{kind}.{layer}" if head < 0 else f"{kind}.{layer}.{head}" for kind, layer, head in numbers]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.layers.max()) + 1

    @property
    def sites(self) -> tuple[str, ...]:
        """What a base run has to record."""
        return tuple(site for kind, site in SITES.items() if kind in self.kinds)

    def coordinates(self) -> dict[str, Any]:
        """Of the axis `component` of an xarray Dataset."""
        return {"component": self.names, "kind": ("component", self.kinds.tolist()), "layer": ("component", self.layers),
                "head": ("component", self.heads)}

    def flat(self, attn: np.ndarray, mlp: np.ndarray, heads: np.ndarray | None) -> np.ndarray:
        """Values [layer], [layer], [layer, head] in the order of the components; NaN for heads that were not computed."""
        out = np.full(len(self.kinds), np.nan)
        out[self.kinds == "attn"], out[self.kinds == "mlp"] = attn[:self.depth], mlp[:self.depth]
        if heads is not None:
            out[self.kinds == "head"] = heads[:self.depth].ravel()
        return out


def frozen_direction(run: BaseRun) -> Tensor:
    """What a write [R, d] contributes to the reward at the run's own norm scale: the direction of the attribution ledger."""
    return run.rm.readout.frozen(_read(run), run.reading, run.rm.main).weight


def raw_direction(run: BaseRun) -> Tensor:
    """The head's weight [R, d] put on the raw residual, as if there were no norm before it."""
    readout = run.rm.readout
    return readout.weights_normed(readout.norm(_read(run)), run.reading, run.rm.main)[0]


def _read(run: BaseRun) -> Tensor:
    """The residual that is read, [R, d]."""
    layer = run.rm.read_layer
    return run.activation("resid_post", layer)[torch.as_tensor(run.reading.positions, device=run.rm.device)].float()


def contributions(run: BaseRun, direction: Tensor, layout: Layout) -> np.ndarray:
    """Product of each component's write at the read-out with a direction [R, d], biases of a block included: [component]."""
    arch, where = run.rm.architecture, torch.as_tensor(run.reading.positions, device=run.rm.device)
    kept = {site: [value[where] for value in run.kept[site]] for site in layout.sites}
    trace = Trace(run.encoded, run.reading.positions.tolist(), range(arch.n_layers), arch.n_heads, kept)
    attn, mlp = ((direction * trace[site].float()).sum((-1, -2)).double().cpu().numpy() for site in ("attn_out", "mlp_out"))
    if "head" not in layout.kinds:
        return layout.flat(attn, mlp, None)
    heads = [read_heads(trace, layer, arch.blocks[layer], direction).values for layer in range(layout.depth)]
    return layout.flat(attn, mlp, torch.stack(heads).double().cpu().numpy())


def head_changes(source: Source, layer: int, positions: np.ndarray) -> Tensor:
    """Change of the attention write [head, P, d] when one head's output is the source's; a post-norm moves with it."""
    base, block = source.base, source.base.rm.architecture.blocks[layer]
    assert block.out_projection is not None  # a layout has heads only where they were found
    at = torch.as_tensor(positions, device=base.rm.device)
    here, there = base.activation("z", layer)[at].float(), source.at("z", layer, positions).float()  # [P, head, d_head]
    matrix = projection_weight(block.out_projection).unflatten(1, here.shape[1:])  # [d, head, d_head]
    moved = torch.einsum("phk,dhk->hpd", there - here, matrix)
    if block.post_norm is None:
        return block.scale * moved
    bias = getattr(block.out_projection, "bias", None)
    written = torch.einsum("phk,dhk->pd", here, matrix) + (0 if bias is None else bias.float())
    return block.scale * (block.post_norm(written + moved) - block.post_norm(written))
