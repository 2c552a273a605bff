"""How does the reward change with an activation, to first order, at every site and position at once?

In: a base run and kinds of site. Out: `Gradients`, by one forward and one backward. A gradient is the derivative of what an
edit of mode "add" does, through the very taps of edits, so a site is here what it is to `rm.edit`, in every family. Ignorant
of what is put in the place of an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rewarden.edits.base import BaseRun
from rewarden.edits.checks import check, width_of
from rewarden.edits.edit import Site
from rewarden.edits.writes import Cells, change_attention, taps_for
from rewarden.errors import RewardenError
from rewarden.trace.attention import Attention, attending, plain
from rewarden.trace.hooks import Tap

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

HEADED = ("z", "q", "k", "v")
"""Kinds whose activation has an axis of heads."""

MIXED = "mixed"
"""What attention returns, before anything else happens to it: [T, head·d_head]; kept beside gradients of q or k."""

Key = tuple[str, int]
"""Kind and layer; `resid_post` of layer l is `resid_pre` of l + 1, up to L."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Derivatives of the reward of one run.

    Attributes:
        base: the run.
        kept: (kind, layer) → float32 [T, width].
        calls: layer → how attention was called, where gradients of q or k were asked for.
    """

    base: BaseRun
    kept: dict[Key, Tensor]
    calls: dict[int, Attention] = field(default_factory=dict, repr=False)

    def at(self, kind: str, layer: int = 0) -> Tensor:
        """Gradient at a site, shaped as `BaseRun.activation`: [T, d], or [T, head, d_head].

        Raises:
            RewardenError: it was not asked for.
        """
        key = ("resid_pre", layer + 1) if kind == "resid_post" else (kind, layer)
        if key not in self.kept:
            raise RewardenError(f"no gradient was taken at {kind!r} of layer {layer}", where="Gradients.at",
                                fix=f"run_gradients(base, ({kind!r},))")
        value = self.kept[key]
        return value.unflatten(-1, (width_of(self.base, Site(kind, layer), False)[0], -1)) if kind in HEADED else value


def run_gradients(base: BaseRun, kinds: Sequence[str], *, shift: Tensor | None = None) -> Gradients:
    """Gradients of the reward at every layer and position, by one forward and one backward.

    Args:
        base: the recorded run of a conversation.
        kinds: of site; "resid_pre" and "resid_post" come together.
        shift: [T, d], added to layer 0's input first: the gradient of another run then.

    Raises:
        RewardenError: a kind that this model does not have.

    Example:
        >>> import rewarden as rw
        >>> base = rw.load().base(rw.Pair("Hi", "Hello!", "Go away.").conversations[0])
        >>> run_gradients(base, ["resid_post"]).at("resid_post", 0).shape == base.activation("resid_post", 0).shape
        True
    """
    return Graph.of(base, kinds, shift=shift).backward()


def path_gradients(base: BaseRun, kinds: Sequence[str], shift: Tensor, steps: int) -> Gradients:
    """Mean gradient along the straight line from layer 0's input to that input plus `shift` [T, d].

    The line is cut into `steps` equal pieces, the gradient taken at their midpoints. Source: Sundararajan et al. 2017 (arXiv
    1703.01365), eq. 3; Hanna et al. 2024 (arXiv 2403.17806) for activations inside the model.
    """
    runs = [run_gradients(base, kinds, shift=shift * ((step + 0.5) / steps)) for step in range(steps)]
    return replace(runs[0], kept={key: torch.stack([run.kept[key] for run in runs]).mean(0) for key in runs[0].kept})


def dropped_gradients(base: BaseRun, kinds: Sequence[str]) -> list[Gradients]:
    """The gradient; then, for each layer up to the read-out, the one that does not flow through what this layer writes.

    One forward, and a backward for each. Source: GradDrop, Kramár et al. 2024 (arXiv 2403.00745), §3.1.2.
    """
    graph = Graph.of(base, kinds, droppable=True)
    last = base.rm.read_layer
    return [graph.backward(keep=True), *(graph.backward(layer, keep=layer < last) for layer in range(last + 1))]


class _Past(torch.autograd.Function):
    """What leaves a layer. Its gradient goes back into the layer or, where that is dropped, to what entered it only."""

    @staticmethod
    def forward(ctx: Any, entered: Tensor, left: Tensor, layer: int, dropped: list[int]) -> Tensor:
        ctx.layer, ctx.dropped = layer, dropped
        return left.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if ctx.layer in ctx.dropped:
            return gradients[0], None, None, None
        return None, gradients[0], None, None


@dataclass(eq=False)
class Graph:
    """A forward whose graph is kept for one or more backwards.

    Attributes:
        base: the run.
        leaves: (kind, layer) → [T, width]: what is added there, zeros but for a shift.
        value: the reward.
        calls: see `Gradients`.
        dropped: layers that the next backward goes past.
    """

    base: BaseRun
    leaves: dict[Key, Tensor]
    value: Tensor
    calls: dict[int, Attention]
    dropped: list[int]

    @classmethod
    def of(cls, base: BaseRun, kinds: Sequence[str], *, shift: Tensor | None = None, droppable: bool = False) -> Graph:
        """Run forward; `droppable` lets backwards go past a layer, see `run_gradients` for the rest."""
        rm, dropped, final = base.rm, [], []
        if next(rm.model.parameters()).is_inference():
            raise RewardenError("the model was made in inference mode", where="gradients", why="PyTorch keeps no graph for it",
                                fix="load it outside torch.inference_mode()")
        with torch.inference_mode(False), torch.enable_grad():
            leaves = _leaves(base, kinds, shift)
            entering = {key: leaf for key, leaf in leaves.items() if key == ("resid_pre", 0)}
            inside = {key: leaf for key, leaf in leaves.items() if key not in entering}
            taps = [*_taps(base, entering), *(_past_layers(rm, dropped) if droppable else []), *_taps(base, inside),
                    Tap(rm.architecture.blocks[rm.read_layer].layer, "output", lambda hidden: final.append(hidden))]
            calls = _forward(base, leaves, taps)
            residual = final[0].reshape(base.length, -1)[torch.as_tensor(base.reading.positions, device=rm.device)]
            value = rm.readout.apply(residual.float(), base.reading)[rm.main]
        return cls(base, leaves, value, calls, dropped)

    def backward(self, drop: int | None = None, keep: bool = False) -> Gradients:
        """Gradients of every leaf; 0 where the reward does not depend on it.

        Args:
            drop: a layer that the gradient goes past.
            keep: leave the graph for another backward.
        """
        self.dropped[:] = [] if drop is None else [drop]
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if self.value.requires_grad:
            found = torch.autograd.grad(self.value, list(self.leaves.values()), retain_graph=keep, allow_unused=True)
        kept = {key: torch.zeros_like(leaf, requires_grad=False) if gradient is None else gradient
                for (key, leaf), gradient in zip(self.leaves.items(), found, strict=True)}
        return Gradients(self.base, kept, self.calls)


def _leaves(base: BaseRun, kinds: Sequence[str], shift: Tensor | None) -> dict[Key, Tensor]:
    """One leaf for each site, refusing those that this model does not have."""
    n_layers = base.rm.architecture.n_layers
    widths: dict[Key, int] = {}
    for kind in kinds:
        sites = [Site(kind, layer) for layer in range(1 if kind == "embed" else n_layers)]
        for site in sites:
            check(base, site, torch.zeros(1, 1), base.length, None)
        if kind in ("resid_pre", "resid_post"):
            widths |= {("resid_pre", layer): base.rm.architecture.d_model for layer in range(n_layers + 1)}
        else:
            widths |= {(kind, site.layer): width_of(base, site, False)[1] for site in sites}
        if kind in ("q", "k"):
            widths |= {(MIXED, layer): base.rm.architecture.n_heads * width_of(base, Site("v"), True)[1]
                       for layer in range(n_layers)}
    if shift is not None:
        widths["resid_pre", 0] = base.rm.architecture.d_model
    leaves = {key: torch.zeros(base.length, width, device=base.rm.device) for key, width in widths.items()}
    if shift is not None:
        leaves["resid_pre", 0] += shift.to(base.rm.device)
    return {key: leaf.requires_grad_() for key, leaf in leaves.items()}


def _cells(kind: str, leaf: Tensor) -> Cells:
    positions = torch.arange(len(leaf), device=leaf.device)
    return Cells(kind, "add", torch.zeros_like(positions), positions, leaf)


def _taps(base: BaseRun, leaves: dict[Key, Tensor]) -> list[Tap]:
    """Taps that add each leaf at its site. A residual is changed where it leaves a layer, so that read-outs see it too."""
    taps = []
    for (kind, layer), leaf in leaves.items():
        if kind == "resid_pre" and layer > 0:
            kind, layer = "resid_post", layer - 1
        if kind not in ("q", "k", "v", MIXED):
            taps += taps_for(base.rm.architecture, layer, [_cells(kind, leaf)], 1)
    return taps


def _past_layers(rm: RewardModel, dropped: list[int]) -> list[Tap]:
    taps = []
    for number, block in enumerate(rm.architecture.blocks):
        entered: list[Tensor] = []
        taps += [Tap(block.layer, "input", lambda hidden, entered=entered: entered.append(hidden)),
                 Tap(block.layer, "output", lambda hidden, entered=entered, number=number: _Past.apply(
                     entered.pop(), hidden, number, dropped))]
    return taps


def _forward(base: BaseRun, leaves: dict[Key, Tensor], taps: list[Tap]) -> dict[int, Attention]:
    """One forward, as the base run was made; how attention was called in the layers with a leaf on what it returns."""
    rm, calls = base.rm, {}
    if not base.keys:
        rm.forward([base.encoded], taps, gradients=True)
        return calls
    layer_of: dict[nn.Module, int] = {module: layer for layer, block in enumerate(rm.architecture.blocks)
                                      for module in block.layer.modules()}

    def handler(call: Attention) -> Tensor:
        layer = layer_of[call.module]
        cells = [_cells(kind, leaves[kind, layer]) for kind in ("q", "k", "v") if (kind, layer) in leaves]
        mixed = plain(change_attention(call, cells))  # [1, head, T, d_head]
        if (MIXED, layer) not in leaves:
            return mixed
        calls[layer] = replace(call, query=call.query.detach(), key=call.key.detach(), value=call.value.detach())
        return mixed + leaves[MIXED, layer].unflatten(-1, (mixed.shape[1], -1)).transpose(0, 1).to(mixed.dtype)

    with rm.lock, attending(rm.architecture.trunk, handler):
        rm.forward([base.encoded], taps, gradients=True)
    return calls
