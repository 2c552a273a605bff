"""Which tensor each named site is, and a trace: what one run left at the sites asked for.

Sites: `embed`, `position` (once); `resid_pre`, `resid_post`, `attn_out`, `mlp_out`, `z`, `neurons` (every layer);
`final` (the residual the final norm sees). Writes are what is really added to the residual stream: after post-norms, times the
residual multiplier. Ignorant of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewarden.architecture import Architecture
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.trace.hooks import Tap

LAYER_SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "neurons")
SITES = ("embed", "position", *LAYER_SITES, "final")

Keep = Callable[[Tensor], Tensor]
"""What of a hidden state [batch, T, d] is kept (all of it, or some positions of each row)."""


def whole(hidden: Tensor) -> Tensor:
    """Keeps all of it."""
    return hidden


def at_positions(positions: Tensor, width: int) -> Keep:
    """Keeps [batch, P, d]: of each row of a batch padded to `width`, its own positions, int64 [batch, P]."""
    count = len(positions)

    def keep(hidden: Tensor) -> Tensor:
        if len(hidden) == 1 and count > 1:
            flat = hidden.shape[1] > width  # some MLPs see [batch·T, d]; learned positions are looked up once for all
            hidden = hidden.reshape(count, width, -1) if flat else hidden.expand(count, -1, -1)
        return hidden[torch.arange(count, device=hidden.device)[:, None], positions]

    return keep


@dataclass(eq=False)
class Capture:
    """Taps that store hidden states of a run.

    Args:
        architecture: the model's parts.
        sites: names out of `SITES`.
        keep: applied to each hidden state [batch, T, d] before it is stored.
        layers: layers wanted, default all.

    Attributes:
        kept: site → list over layers (one item for `embed`, `position`, `final`) of [batch, P, d] tensors.
    """

    architecture: Architecture
    sites: Sequence[str]
    keep: Keep
    layers: Sequence[int] | None = None
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    def taps(self) -> list[Tap]:
        """The taps to open around a forward."""
        unknown = [site for site in self.sites if site not in SITES]
        if unknown:
            raise RewardenError(f"unknown sites {unknown}", where="sites=", fix=f"use names out of {list(SITES)}")
        self.kept.clear()
        return [tap for site in self.sites for tap in self._taps_of(site)]

    def of_row(self, row: int) -> dict[str, list[Tensor]]:
        """What was kept of one row of the batch, [P, d] each; what was looked up once for all rows is every row's."""
        return {site: [value[row if len(value) > 1 else 0] for value in values] for site, values in self.kept.items()}

    def _taps_of(self, site: str) -> list[Tap]:
        arch, store = self.architecture, self.kept.setdefault(site, [])
        if site == "embed":
            return [Tap(arch.embedding, "output", self._store(store, arch.embedding_scale))]
        if site == "position":
            return [Tap(arch.position_embedding, "output", self._store(store))] if arch.position_embedding else []
        if site == "final":
            where = (arch.final_norm, "input") if arch.final_norm is not None else (arch.blocks[-1].layer, "output")
            return [Tap(*where, self._store(store))]
        if site in ("attn_out", "mlp_out"):
            arch.require("writes", f"the site {site!r}")
        if site == "z":
            arch.require("heads", "the site 'z'")
        layers = range(arch.n_layers) if self.layers is None else self.layers
        if site == "neurons" and any(arch.blocks[layer].down_projection is None for layer in layers):
            raise RewardenError("this model's MLPs have no single down-projection", where="site 'neurons'",
                                why="a mixture of experts has neurons per expert", fix="leave neurons=False")
        taps = []
        for layer in layers:
            block = arch.blocks[layer]
            module, side, scale = {
                "resid_pre": (block.layer, "input", 1.0), "resid_post": (block.layer, "output", 1.0),
                "attn_out": (block.attn, "output", block.scale), "mlp_out": (block.mlp, "output", block.scale),
                "z": (block.out_projection, "input", 1.0), "neurons": (block.down_projection, "input", 1.0)}[site]
            assert module is not None  # arch.require above
            # families that add into the write's own buffer (Falcon) would change it after we saw it
            taps.append(Tap(module, side, self._store(store, scale, copy=site in ("attn_out", "mlp_out"))))
        return taps

    def _store(self, store: list[Tensor], scale: float = 1.0, copy: bool = False) -> Callable[[Tensor], None]:
        def watch(hidden: Tensor) -> None:
            value = self.keep(hidden if hidden.ndim == 3 else hidden[None])
            value = value if scale == 1.0 else value * scale
            store.append(value.clone() if copy and value.data_ptr() == hidden.data_ptr() else value)
        return watch


@dataclass(eq=False)
class Trace:
    """What one conversation's run left at each site.

    `trace["resid_post"]` is [layer, position, d]; `z` is [layer, position, head, d_head]; `embed`, `position` and
    `final` are [position, d].

    Attributes:
        encoded: the tokens.
        positions: int64 [P], the positions kept.
        layers: the layers kept.
    """

    encoded: Encoded
    positions: Sequence[int]
    layers: Sequence[int]
    n_heads: int
    _kept: dict[str, list[Tensor]]
    _stacked: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that were captured."""
        return tuple(self._kept)

    def __getitem__(self, site: str) -> Tensor:
        if site not in self._kept or not self._kept[site]:
            raise RewardenError(f"the trace has no site {site!r}", where="trace", why=f"it has {list(self._kept)}",
                                fix="ask for it: rm.trace(conversation, sites=(...))")
        if site not in self._stacked:
            kept = self._kept[site]
            value = torch.stack(kept) if site in LAYER_SITES else kept[0]
            self._stacked[site] = value.unflatten(-1, (self.n_heads, -1)) if site == "z" else value
        return self._stacked[site]

    def __contains__(self, site: object) -> bool:
        return site in self._kept and bool(self._kept[str(site)])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{site} {list(self[site].shape)}" for site in self._kept if self._kept[site])
        return f"Trace of {self.encoded.length} tokens: {shapes}"
