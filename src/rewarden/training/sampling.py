"""What does a policy answer, as token ids?

In: a causal language model and prompt ids. Out: `Rolled`: completion ids, with the end token where the policy wrote one.
The same for the same seed, whatever the size of batches (but for the rounding of batched arithmetic); the global generator is
not touched. Ignorant of rewards. Letters: n prompts, B rows of one batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewarden.errors import RewardenError


@dataclass(frozen=True)
class Rolled:
    """Prompts and what a policy wrote after them.

    Attributes:
        prompt_ids: of each prompt [n].
        completion_ids: of each completion [n], the end token included where there is one.
        finished: bool [n], whether there is one.
    """

    prompt_ids: tuple[tuple[int, ...], ...]
    completion_ids: tuple[tuple[int, ...], ...]
    finished: np.ndarray

    def texts(self, tokenizer: Any) -> list[str]:
        """Completions as text, with their special tokens: what verifiers that look for an end read."""
        return tokenizer.batch_decode([list(ids) for ids in self.completion_ids], skip_special_tokens=False)


def roll_out(model: Any, prompt_ids: Sequence[Sequence[int]], *, seed: int, temperature: float = 1.0,
             max_new_tokens: int = 32, batch: int = 500) -> Rolled:
    """One completion a prompt; repeat a prompt for several.

    Args:
        model: a transformers causal language model whose config names `eos_token_id` and `pad_token_id`.
        prompt_ids: [n], each at least one token.
        seed: of the draws; row i draws from a generator of its own, of seed and i.
        temperature: 0 takes the likeliest token each time.
        max_new_tokens: longest completion, its end included.
        batch: prompts at once.

    Raises:
        RewardenError: no prompt, an empty one, a temperature below 0, or a model without the two ids.

    Example:
        >>> from rewarden.training.arithmetic import load_policy, sum_columns
        >>> model, tokenizer = load_policy()
        >>> roll_out(model, tokenizer(sum_columns([(12, 34)])["prompt"])["input_ids"], seed=0, temperature=0).finished
        array([ True])
    """
    prompts = [tuple(int(i) for i in ids) for ids in prompt_ids]
    end, pad = (getattr(model.config, name, None) for name in ("eos_token_id", "pad_token_id"))
    wrong = ("there is no prompt" if not prompts else "a prompt is empty" if not all(prompts) else
             "the temperature is below 0" if not temperature >= 0 else
             "the model's config names no end and no padding" if not isinstance(end, int) or not isinstance(pad, int) else "")
    if wrong:
        raise RewardenError("nothing can be drawn", where="roll_out", why=wrong,
                            fix="pass ids of prompts, a temperature from 0, and a model with eos_token_id and pad_token_id")
    completions: list[tuple[int, ...]] = []
    training = model.training
    model.eval()
    try:
        for start in range(0, len(prompts), batch):
            part = prompts[start: start + batch]
            noise = None if temperature == 0 else _noise(model, seed, range(start, start + len(part)), max_new_tokens)
            completions += _drawn(model, part, noise, temperature, max_new_tokens, end, pad)
    finally:
        model.train(training)
    return Rolled(tuple(prompts), tuple(completions), np.asarray([end in ids for ids in completions], bool))


def _noise(model: Any, seed: int, rows: range, steps: int) -> Tensor:
    """Gumbel noise [B, steps, V]: the argmax of logits and noise is a draw from their softmax."""
    shape = (steps, model.config.vocab_size)
    return torch.from_numpy(np.stack([np.random.default_rng((seed, row)).gumbel(size=shape) for row in rows])).float()


def _drawn(model: Any, prompts: Sequence[tuple[int, ...]], noise: Tensor | None, temperature: float, steps: int, end: int,
           pad: int) -> list[tuple[int, ...]]:
    """Completions of one batch."""
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(map(len, prompts))
    # left: what is generated follows the prompt at once
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)

    def noisy(seen: Tensor, scores: Tensor) -> Tensor:
        return scores if noise is None else scores.float() / temperature + noise[:, seen.shape[1] - width].to(scores.device)

    settings = GenerationConfig(do_sample=False, max_new_tokens=steps, eos_token_id=end, pad_token_id=pad)
    kept, model.generation_config = model.generation_config, GenerationConfig()  # no settings of the model's own
    try:
        with torch.no_grad():
            out = model.generate(ids, attention_mask=mask, generation_config=settings,
                                 logits_processor=LogitsProcessorList([noisy]))  # type: ignore[list-item]  # any callable will do
    finally:
        model.generation_config = kept
    rows = out[:, width:].tolist()
    return [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]
