"""Path patching by hand: three passes with plain torch hooks, everything else frozen. Shares no code with the engine.

Source of the three passes: Wang et al., arXiv 2211.00593, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PLACES = {
    "llama": ("model.layers", "self_attn.o_proj", "mlp", "model.embed_tokens", ""),
    "gemma2": ("model.layers", "self_attn.o_proj", "mlp", "model.embed_tokens", ""),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp", "transformer.wte", "transformer.wpe"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp", "gpt_neox.embed_in", ""),
    "phi": ("model.layers", "self_attn.dense", "mlp", "model.embed_tokens", ""),
}
"""Family → list of layers, out-projection and MLP of a layer, token and position embedding."""

Key = tuple[str, int]
"""What flows there and in which layer: ("z", 1), ("mlp", 0), ("embed", −1), ("position", −1)."""


@dataclass
class ThreePasses:
    """One model in our hands.

    Attributes:
        model: sequence classifier.
        family: key of `PLACES`.
        heads: per layer.
        read: hidden states of all layers (as transformers gives them) → score; the classifier's logit when None.
    """

    model: nn.Module
    family: str
    heads: int = 4
    read: Callable[[tuple[Tensor, ...]], float] | None = None

    def __post_init__(self) -> None:
        layers, out, mlp, embed, position = PLACES[self.family]
        self.places: dict[Key, tuple[nn.Module, str]] = {("embed", -1): (self.model.get_submodule(embed), "output")}
        if position:
            self.places["position", -1] = (self.model.get_submodule(position), "output")
        for index, layer in enumerate(self.model.get_submodule(layers)):  # type: ignore[arg-type]
            self.places["z", index] = (layer.get_submodule(out), "input")
            self.places["mlp", index] = (layer.get_submodule(mlp), "output")

    def run(self, ids: np.ndarray, change: Callable[[Key, Tensor], Tensor]) -> tuple[float, dict[Key, Tensor]]:
        """Score of a run in which `change` sees every place's [T, width] and gives what takes its stead, and all of these."""
        seen: dict[Key, Tensor] = {}

        def changed(key: Key, hidden: Tensor) -> Tensor:
            seen[key] = change(key, hidden[0])
            return seen[key][None]

        with ExitStack() as stack, torch.inference_mode():
            for key, (module, side) in self.places.items():
                if side == "input":
                    handle = module.register_forward_pre_hook(lambda _, args, key=key: (changed(key, args[0]), *args[1:]))
                else:
                    handle = module.register_forward_hook(lambda _, args, out, key=key: changed(key, out))
                stack.callback(handle.remove)
            config = self.model.config
            saved, config.pad_token_id = config.pad_token_id, None
            try:
                out = self.model(input_ids=torch.as_tensor(ids)[None], output_hidden_states=True)
            finally:
                config.pad_token_id = saved
        return (float(out.logits[0, 0]) if self.read is None else self.read(out.hidden_states)), seen

    def plain(self, ids: np.ndarray) -> tuple[float, dict[Key, Tensor]]:
        """Score and places of a run as it is."""
        return self.run(ids, lambda _, hidden: hidden)

    def forced(self, ids: np.ndarray, forced: dict[Key, Tensor]) -> tuple[float, dict[Key, Tensor]]:
        """Score of a run where these places hold these [T, width]."""
        return self.run(ids, lambda key, hidden: forced.get(key, hidden))

    def with_sender(self, name: str, base: dict[Key, Tensor], source: dict[Key, Tensor], pairs: np.ndarray
                    ) -> dict[Key, Tensor]:
        """Everything as in the base run, but the sender's output as in the source at pairs [n, 2] of (base, source)."""
        key, columns = self.place(name, base)
        value = base[key].clone()
        value[pairs[:, 0], columns] = source[key][pairs[:, 1], columns]
        return {**base, key: value}

    def edge(self, sender: str, receiver: str, ids: np.ndarray, base: dict[Key, Tensor], source: dict[Key, Tensor],
             pairs: np.ndarray) -> float:
        """The score when the receiver alone hears the sender's change, and all that follows it moves."""
        frozen = self.with_sender(sender, base, source, pairs)
        if receiver == "read_out":
            return self.forced(ids, frozen)[0]
        key, columns = self.place(receiver, base)
        del frozen[key]  # the receiver computes
        heard = base[key].clone()
        heard[:, columns] = self.forced(ids, frozen)[1][key][:, columns]
        return self.forced(ids, {key: heard})[0]

    def place(self, name: str, base: dict[Key, Tensor]) -> tuple[Key, slice]:
        """Where a component's output is, and which columns of it are the component's."""
        kind, layer, head = place_of(name)
        key = ("z" if kind in ("attn", "head") else kind, layer)
        width = base[key].shape[1] // self.heads
        return key, slice(head * width, (head + 1) * width) if kind == "head" else slice(None)


def place_of(name: str) -> tuple[str, int, int]:
    """Kind, layer and head of a name."""
    kind, *numbers = name.split(".")
    layer, head = [*map(int, numbers), -1, -1][:2]
    return kind, layer, head
