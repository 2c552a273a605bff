"""Edits done by hand: torch hooks on the modules of each family, by their own paths. What the engine is graded against.

In: a transformers classifier, ids, edits. Out: its own logits with the edits in place, and what flowed at watched sites.
It shares nothing with `rewarden.edits` but the three fields of an edit: no taps, no discovery, no read-out of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rewarden.edits import Edit


@dataclass(frozen=True)
class Paths:
    """Module paths of a family: below the classifier for `layers` and `embed`, below the layer for the others.

    Attributes:
        attn: the attention module, whose first result (or that of `attn_write`) is added to the stream.
        out: the out-projection; its input is the heads side by side.
        attn_norm: the norm whose input is the stream that attention reads ("" where `attn` reads the stream itself).
        shared: attention and MLP read the same norm's result, so a change of one's input has to be put after the norm.
        down: the MLP's last linear map, "" for mixtures of experts.
        writes: whether the stream is input + attention + MLP (not so in post-norm encoders).
    """

    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    attn: str = "self_attn"
    attn_write: str = ""
    out: str = "self_attn.o_proj"
    attn_norm: str = "input_layernorm"
    mlp: str = "mlp"
    mlp_write: str = ""
    mlp_norm: str = "post_attention_layernorm"
    down: str = "mlp.down_proj"
    shared: bool = False
    writes: bool = True


LLAMA = Paths()
MOE = Paths(down="")
GEMMA = Paths(attn_write="post_attention_layernorm", mlp_norm="pre_feedforward_layernorm",
              mlp_write="post_feedforward_layernorm")
PATHS: dict[str, Paths] = {
    "llama": LLAMA, "qwen3": LLAMA, "mistral": LLAMA, "mixtral": MOE, "gpt_oss": MOE, "gemma2": GEMMA, "gemma3_text": GEMMA,
    "olmo2": replace(GEMMA, attn_norm="", mlp_norm=""),
    "phi": Paths(out="self_attn.dense", mlp_norm="input_layernorm", down="mlp.fc2", shared=True),
    "gpt2": Paths("transformer.h", "transformer.wte", "attn", "", "attn.c_proj", "ln_1", "mlp", "", "ln_2", "mlp.c_proj"),
    "gptj": Paths("transformer.h", "transformer.wte", "attn", "", "attn.out_proj", "ln_1", "mlp", "", "ln_1", "mlp.fc_out",
                  shared=True),
    "gpt_neox": Paths("gpt_neox.layers", "gpt_neox.embed_in", "attention", "", "attention.dense", down="mlp.dense_4h_to_h"),
    "opt": Paths("model.decoder.layers", "model.decoder.embed_tokens", "self_attn", "", "self_attn.out_proj",
                 "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm", "fc2"),
    "bloom": Paths("transformer.h", "transformer.word_embeddings", "self_attention", "self_attention.dense",
                   "self_attention.dense", mlp_write="mlp.dense_4h_to_h", down="mlp.dense_4h_to_h"),
    "modernbert": Paths(embed="model.embeddings.tok_embeddings", attn="attn", out="attn.Wo", attn_norm="attn_norm",
                        mlp_norm="mlp_norm", down="mlp.Wo"),
    "bert": Paths("bert.encoder.layer", "bert.embeddings.word_embeddings", writes=False),
}
"""Families whose modules are named here, one by one."""


def kinds(family: str) -> tuple[str, ...]:
    """Kinds of sites that can be edited by hand in a family (attention's own inputs apart)."""
    paths = PATHS[family]
    if not paths.writes:
        return ("embed", "resid_pre", "resid_post")
    return ("embed", "resid_pre", "resid_post", "attn_in", "mlp_in", "attn_out", "mlp_out", "z",
            *(("neurons",) if paths.down else ()))


@dataclass(frozen=True)
class Place:
    """A module, and whether its input or its output is the site."""

    module: nn.Module
    side: str


def place_of(model: nn.Module, family: str, kind: str, layer: int) -> Place:
    """Where a kind of site lives."""
    paths = PATHS[family]
    stack = model.get_submodule(paths.layers)
    if kind == "embed":
        return Place(model.get_submodule(paths.embed), "output")
    if kind == "resid_pre" and layer > 0:  # the same tensor as the output of the layer before
        kind, layer = "resid_post", layer - 1
    block = stack[layer]
    if kind in ("resid_pre", "resid_post"):
        return Place(block, "input" if kind == "resid_pre" else "output")
    path, side = {
        "attn_in": (paths.attn_norm or paths.attn, "input"), "mlp_in": (paths.mlp_norm or paths.mlp, "input"),
        "attn_out": (paths.attn_write or paths.attn, "output"), "mlp_out": (paths.mlp_write or paths.mlp, "output"),
        "z": (paths.out, "input"), "neurons": (paths.down, "input")}[kind]
    return Place(block.get_submodule(path), side)


def changed(hidden: Tensor, edit: Edit, heads: int, length: int) -> Tensor:
    """A copy of a hidden state [1, T, width] or [T, width] with one edit made, position by position.

    `heads` matters for edits of one head of `z` only.
    """
    out = hidden.clone().reshape(length, -1)
    site, value = edit.site, torch.as_tensor(edit.value, dtype=hidden.dtype)
    positions = range(length) if site.position is None else [site.position] if isinstance(site.position, int) else site.position
    size = 1 if site.kind == "neurons" else out.shape[1] // heads
    part = slice(None) if site.head is None else slice(site.head * size, (site.head + 1) * size)
    for number, position in enumerate(positions):
        new = value[number if len(value) > 1 else 0] if value.ndim == 2 else value
        if edit.mode == "replace":
            out[position, part] = new
        elif edit.mode == "add":
            out[position, part] += new
        else:
            out[position, part] *= new
    return out.reshape(hidden.shape)


def hook_edits(stack: ExitStack, place: Place, edits: Sequence[Edit], heads: int, length: int) -> None:
    """Register the edits of one place; they act in the order replace, scale, add."""
    def all_changed(hidden: Tensor) -> Tensor:
        for edit in sorted(edits, key=lambda edit: ("replace", "scale", "add").index(edit.mode)):
            hidden = changed(hidden, edit, heads, length)
        return hidden
    hook(stack, place, all_changed)


def hook(stack: ExitStack, place: Place, function: Callable[[Tensor], Tensor | None]) -> None:
    """Pass a module's hidden state through a function; None leaves it."""
    def after(module, args, result):
        hidden = result[0] if isinstance(result, tuple) else result
        new = function(hidden)
        return None if new is None else (new, *result[1:]) if isinstance(result, tuple) else new

    def before(module, args, kwargs):
        new = function(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handle = (place.module.register_forward_hook(after) if place.side == "output"
              else place.module.register_forward_pre_hook(before, with_kwargs=True))
    stack.callback(handle.remove)


def hook_shared_norm(stack: ExitStack, model: nn.Module, family: str, kind: str, layer: int, edits: Sequence[Edit],
                     length: int) -> None:
    """Attention and MLP read one norm: the edited stream is normed once more, for the one sublayer that shall see it."""
    paths = PATHS[family]
    block = model.get_submodule(paths.layers)[layer]
    norm = block.get_submodule(paths.attn_norm)
    seen: list[Tensor] = []
    hook(stack, Place(norm, "input"), lambda hidden: seen.append(hidden))

    def renormed(_: Tensor) -> Tensor:
        hidden = seen[-1]
        for edit in sorted(edits, key=lambda edit: ("replace", "scale", "add").index(edit.mode)):
            hidden = changed(hidden, edit, 1, length)
        return norm.forward(hidden)

    hook(stack, Place(block.get_submodule(paths.attn if kind == "attn_in" else paths.mlp), "input"), renormed)


def plain_run(model: nn.Module, family: str, ids: Sequence[int], edits: Sequence[Edit] = (),
              watch: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward of one sequence with edits.

    Args:
        model: a transformers classifier.
        family: key of `PATHS`.
        ids: token ids.
        edits: edits that act together.
        watch: kinds whose values are kept, after the edits.

    Returns:
        The classifier's logits [k], and kind → [layer, T, width].
    """
    config, length = model.config.get_text_config(), len(ids)
    paths, places = PATHS[family], {}
    for edit in edits:
        place = place_of(model, family, edit.site.kind, edit.site.layer)
        key = (edit.site.kind, edit.site.layer) if paths.shared and edit.site.kind in ("attn_in", "mlp_in") else place
        places.setdefault(key, (edit.site.kind, edit.site.layer, []))[2].append(edit)
    kept: dict[str, list[Tensor]] = {kind: [] for kind in watch}
    layers = range(len(model.get_submodule(paths.layers)))
    with ExitStack() as stack, torch.no_grad():
        for key, (kind, layer, mine) in places.items():
            if isinstance(key, Place):
                hook_edits(stack, key, mine, heads_of(model), length)
            else:
                hook_shared_norm(stack, model, family, kind, layer, mine, length)
        for kind in watch:
            for layer in layers:
                into = kept[kind]
                hook(stack, place_of(model, family, kind, layer),
                     lambda hidden, into=into: into.append(hidden.reshape(length, -1).clone()))
        saved, config.pad_token_id = config.pad_token_id, None  # or the classifier would look for the last token by its id
        stack.callback(setattr, config, "pad_token_id", saved)
        row = torch.as_tensor(list(ids), dtype=torch.long)[None]
        logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
    return logits.float(), {kind: torch.stack(values) for kind, values in kept.items()}


def heads_of(model: nn.Module) -> int:
    """Attention heads, from the config."""
    config = model.config.get_text_config()
    return getattr(config, "num_attention_heads", None) or config.n_head

