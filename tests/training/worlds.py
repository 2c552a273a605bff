"""A tiny policy with random weights, rollouts of it, and what plain hooks say of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rewarden.training.arithmetic.tokenizer import build_tokenizer

WIDTH, DEPTH = 16, 3


@cache
def tokenizer() -> Any:
    return build_tokenizer()


def policy(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer()), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=DEPTH,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
                         eos_token_id=1, bos_token_id=None, initializer_range=0.3, **settings)
    return LlamaForCausalLM(config)


def saved(folder: Path, seed: int = 0) -> Path:
    """A policy on disk: TRL loads its reference from there."""
    policy(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def rollouts(count: int = 7, seed: int = 0, end: bool = True) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of prompts and completions of several lengths; every second completion ends."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 16, rng.integers(2, 7)).tolist() for _ in range(count)]
    completions = [[*rng.integers(3, 16, rng.integers(1, 9)).tolist(), *([1] * (end and i % 2))] for i in range(count)]
    return prompts, completions


def by_hand(model: Any, prompt: list[int], completion: list[int], layer: int) -> torch.Tensor:
    """What a layer returns at the completion's tokens, each sequence alone: hidden_states[layer + 1], but for the last layer,
    which transformers returns normed."""
    stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.config.num_hidden_layers)
    kept: list[torch.Tensor] = []
    handle = stack[layer].register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    was = model.training
    model.eval()
    with torch.no_grad():
        out = model(torch.tensor([prompt + completion]), output_hidden_states=True)
    model.train(was)
    handle.remove()
    if layer < len(stack) - 1:
        assert torch.equal(kept[0], out.hidden_states[layer + 1])
    return kept[0][0, len(prompt):]


def log_probs_by_hand(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log p of each token of a completion."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    return logits[len(prompt) - 1:-1].gather(-1, torch.tensor(completion)[:, None])[:, 0]


def cut(completion: list[int]) -> list[int]:
    """Without end and padding tokens at its end (a policy with random weights writes both)."""
    kept = list(completion)
    while kept and kept[-1] in (0, 1):
        kept.pop()
    return kept
