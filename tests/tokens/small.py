"""Reward models with a vocabulary of 200, and every response of two tokens scored by plain forwards.

In: a seed. Out: models, rewards. The brute force shares nothing with the search: whole rows through the bare trunk.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from tests.families import build, config_of
from tests.tokenizers_tiny import TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rewarden.reward_model import RewardModel
from rewarden.tokens.slot import find_slot

PROMPT = "w3 w5"
SIZE = 200
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>"]
FOREIGN = ("é", "日", "ж")
"""Tokens that are not ASCII."""


@cache
def tokenizer_of_200() -> PreTrainedTokenizerFast:
    """Ids 0–6 are special, 7–9 not ASCII; the others are words, all of them stable when written and read again."""
    words = [f"w{number}" for number in range(SIZE - len(SPECIAL) - len(FOREIGN))]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *FOREIGN, *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
                                        pad_token="<pad>", additional_special_tokens=SPECIAL[4:])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@cache
def small(seed: int = 0, scale: float = 0.3) -> RewardModel:
    """A random reward model; by default with weights so large that two tokens interact strongly."""
    model = build("llama", seed=seed, scale=scale, vocab_size=SIZE, num_hidden_layers=2)
    return RewardModel(model, tokenizer_of_200(), name=f"small-{seed}", check=False)


@cache
def language_model(seed: int = 0):
    """A random causal language model of the 200 tokens, with probabilities that differ by orders of magnitude."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of("llama", vocab_size=SIZE, num_hidden_layers=2)).eval().float()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3 if parameter.ndim > 1 else parameter.data
    return model.requires_grad_(False)


def every_pair(rm: RewardModel, prompt: str = PROMPT) -> np.ndarray:
    """Reward float32 [first, second] of every response of two tokens, by whole forwards of the bare trunk."""
    slot = find_slot(rm, prompt)
    pairs = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE))
    ends = [torch.as_tensor(part.ids).expand(4000, -1) for part in (slot.before, slot.after)]
    out = []
    with torch.inference_mode():
        for some in pairs.split(4000):
            hidden = rm.architecture.trunk(input_ids=torch.cat([ends[0], some, ends[1]], 1)).last_hidden_state[:, -1]
            out.append(rm.model.score(hidden)[:, 0])  # type: ignore[operator, union-attr]
    return torch.cat(out).view(SIZE, SIZE).numpy()


def neighbours(table: np.ndarray, ids: list[int]) -> np.ndarray:
    """Rewards [400] of a pair with one of its tokens exchanged (itself included)."""
    return np.concatenate([table[:, ids[1]], table[ids[0]]])
