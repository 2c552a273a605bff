"""What a model takes: how many tokens, which ids, which arguments.

In: a transformers model, its tokenizer. Out: the longest sequence, ids to probe it with. Ignorant of read-outs and rewards.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from rewarden.errors import RewardenError


def token_limit(model: nn.Module, tokenizer: Any, asked: int | None) -> int | None:
    """The longest sequence to encode: what was asked for, or the smaller of the model's and the tokenizer's limit.

    Raises:
        RewardenError: more was asked for than the model has learned positions for, or less than one token.
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config  # type: ignore
    stated = [getattr(config, n, None) for n in ("max_position_embeddings", "n_positions", "max_seq_len")]
    table = position_table(model, [value for value in stated if isinstance(value, int)])
    if asked is not None:
        if asked < 1 or (table is not None and asked > table):
            why = f"the model has learned positions for {table} tokens" if asked > 0 else "it must be positive"
            raise RewardenError(f"max_length={asked}", where="max_length=", why=why, fix="choose a limit it can take")
        return asked
    # tokenizers without a limit say 1e30
    known = [value for value in [*stated, table, getattr(tokenizer, "model_max_length", None)]
             if isinstance(value, int) and 0 < value < 10**9]
    return min(known) if known else None


def position_table(model: nn.Module, stated: list[int]) -> int | None:
    """Tokens a learned position table has room for (some start after a padding row), None where positions are computed."""
    for name, module in model.named_modules():
        positions = "position" in name or name.endswith(("wpe", "pos_emb"))
        if positions and isinstance(module, nn.Embedding) and any(0 <= module.num_embeddings - n <= 8 for n in stated):
            start = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(module.num_embeddings - start, *stated)
    return None


def probe_ids(model: nn.Module) -> Tensor:
    """A few distinct ordinary ids that every vocabulary has, clear of the special ones at its start."""
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return torch.tensor([(7 + 31 * i) % max(8, size - 4) + 3 for i in range(9)]).clamp_max(size - 1)


def accepts(trunk: nn.Module, argument: str) -> bool:
    """Whether the forward has an argument of this name."""
    return argument in inspect.signature(trunk.forward).parameters
