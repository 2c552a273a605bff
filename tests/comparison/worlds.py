"""Small models to compare: families with random weights, and one with ArmoRM's head."""

from __future__ import annotations

from functools import cache

import torch
from tests.families import build
from tests.tokenizers_tiny import tiny_tokenizer
from torch import nn

import rewarden as rw
from rewarden.readout import Gate, GatedHead
from rewarden.reward_model import RewardModel

PAIRS = [rw.Pair(f"what is the {word} of France?", f"The {word} is {number} Paris.", f"{'no ' * (1 + number % 4)}{word}",
                 id=f"p{number}", subset="even" if number % 2 == 0 else "odd")
         for number, word in enumerate(["capital", "river", "dog", "weather", "colour", "food", "king", "sea", "hill", "song"])]


@cache
def tiny(family: str = "llama", seed: int = 0, **changes) -> RewardModel:
    """A model of a family with random weights, named after both."""
    name = f"{family}-{seed}{changes or ''}"
    return RewardModel(build(family, seed=seed, **changes), tiny_tokenizer(), name=name, check=False)


@cache
def gated(objectives: int = 3) -> RewardModel:
    """A Llama trunk read by a gated head of several objectives."""
    generator = torch.Generator().manual_seed(3)
    layers = [nn.Linear(32, 8), nn.Linear(8, objectives)]
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    plain = tiny()
    head = GatedHead(torch.randn(objectives, 32, generator=generator), Gate(layers, 1.0, 1.0), torch.eye(objectives),
                     plain.readout.norm)
    made = plain.reading(head)
    made.name = "gated"
    return made
