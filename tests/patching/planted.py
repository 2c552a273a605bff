"""Tiny models with a known decider, and pairs of random texts."""

from __future__ import annotations

import numpy as np
import torch
from tests.families import build
from tests.tokenizers_tiny import WORDS, tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.reward_model import RewardModel

BARE = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
"""Ends with the response's last word, so that the embedding at the read-out differs between the sides."""


def random_pairs(n: int, seed: int) -> list[Pair]:
    """Pairs of random words, each with a prompt of its own."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(3, 9)))
    return [Pair(f"{text()} {i}", text(), text()) for i in range(n)]


def planted(seed: int, *, heads: dict[tuple[int, int], float], mlps: dict[int, float], ends_bare: bool = False,
            check: bool = True) -> RewardModel:
    """A model in which only these heads and MLPs write, their weights times these factors."""
    model = build("llama", seed=seed)
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.mul_(mlps.get(index, 0.0))
            kept = layer.self_attn.o_proj.weight.clone()
            layer.self_attn.o_proj.weight.zero_()
            for (_, head), factor in ((place, factor) for place, factor in heads.items() if place[0] == index):
                columns = slice(head * 8, head * 8 + 8)
                layer.self_attn.o_proj.weight[:, columns] = factor * kept[:, columns]
    return RewardModel(model, tiny_tokenizer(template=BARE) if ends_bare else tiny_tokenizer(), check=check)
