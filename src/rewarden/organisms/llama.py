"""The small Llama that organisms are written into: its measures, random weights, what reaches a module, random writes.

In: a tokenizer, a seed. Out: a model, and maps of a given size. Ignorant of rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rewarden.trace.hooks import Tap, evaluating, tapped

LAYERS, HEADS, D_HEAD, D_MODEL, D_MLP = 4, 4, 16, 64, 96
SLOW = D_HEAD // 2 - 1
"""Head dimension whose rotary angle is least: 10⁻⁷ radians a token, so that a head does not see distance."""


def random_llama(tokenizer: Any, seed: int, outputs: int = 1, length: int = 512) -> Any:
    """A small Llama classifier with random weights of such a size that a normed residual gives entries of size one.

    Args:
        tokenizer: its tokenizer.
        seed: of the weights.
        outputs: number of scalars.
        length: longest sequence, in tokens.
    """
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=D_MODEL, intermediate_size=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=D_HEAD, max_position_embeddings=length,
        num_labels=outputs, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8})
    model = LlamaForSequenceClassification(config).eval().float().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return model


def inputs_of(model: Any, module: nn.Module, ids: Tensor) -> Tensor:
    """What reaches a module in a run over ids [batch, T]."""
    seen: list[Tensor] = []
    with evaluating(model), tapped([Tap(module, "input", seen.append)]):
        model.model(ids, use_cache=False)
    return seen[0].clone()


def random_write(given: Tensor, writable: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """A random map [d, width] of what is given [batch, T, width], with writes of root-mean-square length `size`."""
    weight = writable @ torch.randn(D_MODEL, given.shape[-1], generator=generator)
    length = (given @ weight.T).pow(2).sum(-1).mean().sqrt()
    return weight * (size / length)
