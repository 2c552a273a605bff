"""The plain way to patch: torch hooks on an unmodified transformers model, one forward per site.

In: a Llama classifier, token ids, and what another run left. Out: rewards. What every peer is compared with, here and in the
peers' own processes. It imports nothing of rewarden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

Site = tuple[str, int, int, int | None]
"""Kind, layer, position, head."""
Record = dict[str, list[Tensor]]
"""Kind → one [token, width] per layer."""


def load(folder: str) -> nn.Module:
    """The classifier in float32."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def forward(model: nn.Module, ids: Tensor) -> Tensor:
    """Rewards [rows] of [rows, T] ids; no key-value cache is filled."""
    with torch.inference_mode():
        return model(ids, use_cache=False).logits[:, 0]


def place(model: nn.Module, kind: str, layer: int) -> tuple[nn.Module, bool]:
    """The module that a kind of site belongs to, and whether the site is its input (else its output)."""
    block = model.model.layers[layer]
    return {"resid_pre": (block, True), "attn_out": (block.self_attn, False), "mlp_out": (block.mlp, False),
            "z": (block.self_attn.o_proj, True)}[kind]


def hooked(model: nn.Module, kind: str, layer: int, change: Callable[[Tensor], Tensor]):
    """Let `change` replace what is at a kind of site; returns the hook's handle."""
    module, is_input = place(model, kind, layer)
    if is_input:
        return module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    return module.register_forward_hook(
        lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out))


def record(model: nn.Module, ids: Tensor, kinds: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z")) -> Record:
    """What one run leaves at every layer and token."""
    layers = range(len(model.model.layers))
    found: Record = {kind: [] for kind in kinds}

    def keep(kind: str) -> Callable[[Tensor], Tensor]:
        return lambda hidden: (found[kind].append(hidden[0].clone()), hidden)[1]

    with ExitStack() as stack:
        for kind in kinds:
            for layer in layers:
                stack.callback(hooked(model, kind, layer, keep(kind)).remove)
        forward(model, ids)
    return found


def patched(model: nn.Module, ids: Tensor, source: Record, sites: Sequence[Site], rows: int = 1) -> Tensor:
    """Reward [site] when the site holds what it held in the source; `rows` sites share a forward."""
    config: Any = model.config
    width = config.hidden_size // config.num_attention_heads

    def put(kind: str, layer: int, cells: list[tuple[int, int, int | None]]) -> Callable[[Tensor], Tensor]:
        def change(hidden: Tensor) -> Tensor:
            hidden = hidden.clone()
            for row, position, head in cells:
                part = slice(None) if head is None else slice(head * width, (head + 1) * width)
                hidden[row, position, part] = source[kind][layer][position, part]
            return hidden
        return change

    found = []
    for start in range(0, len(sites), rows):
        some = sites[start:start + rows]
        cells: dict[tuple[str, int], list[tuple[int, int, int | None]]] = {}
        for row, (kind, layer, position, head) in enumerate(some):
            cells.setdefault((kind, layer), []).append((row, position, head))
        with ExitStack() as stack:
            for (kind, layer), mine in cells.items():
                stack.callback(hooked(model, kind, layer, put(kind, layer, mine)).remove)
            found.append(forward(model, ids.expand(len(some), -1)))
    return torch.cat(found)
