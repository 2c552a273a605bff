"""Which ids did the trainer have, when all it sends is text?

In: prompts and queries (prompt and response, decoded with special tokens). Out: ids of prompt and completion where they can be
told apart, and which rollouts' ids may be others than the trainer's. Ignorant of rewards. Letters: n rollouts.

What no text can show: a policy may write a text in other tokens than the tokenizer does ("a", "b" for "ab"). Then the ids here
decode to the same text and still are not those that the policy is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no character: several tokens become this one."""


@dataclass(frozen=True, eq=False)
class Retokenized:
    """Ids made from text.

    Attributes:
        prompt_ids: [n].
        completion_ids: [n]; empty where `unsplit`.
        unsplit: rollout -> why its query cannot be split into prompt and completion.
        drifted: bool [n]; decoded again, the ids do not give the query, or it holds bytes that are no character: the
            trainer's ids may be others.
    """

    prompt_ids: tuple[tuple[int, ...], ...]
    completion_ids: tuple[tuple[int, ...], ...]
    unsplit: dict[int, str]
    drifted: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of prompt and completion, int64 [n]."""
        return np.asarray([len(a) + len(b) for a, b in zip(self.prompt_ids, self.completion_ids, strict=True)], np.int64)


def retokenize(tokenizer: Any, prompts: Sequence[str], queries: Sequence[str]) -> Retokenized:
    """Ids of prompts and queries, tokenized as the trainer does: no special tokens are added, those in the text are read.

    Example:
        >>> from rewarden.training.arithmetic.tokenizer import build_tokenizer
        >>> found = retokenize(build_tokenizer(), ["1+2:", "1+2:"], ["1+2:3<eos>", "1+2="])
        >>> found.completion_ids, found.unsplit, found.drifted.tolist()
        (((6, 1), ()), {1: 'the query does not begin with the prompt'}, [False, False])
    """
    before, whole = _ids(tokenizer, prompts), _ids(tokenizer, queries)
    completions: list[tuple[int, ...]] = []
    unsplit: dict[int, str] = {}
    drifted = np.zeros(len(queries), bool)
    for place, (prompt, query, first, ids) in enumerate(zip(prompts, queries, before, whole, strict=True)):
        begins = query.startswith(prompt) or query.startswith(_text(tokenizer, first))  # as the trainer would have written it
        if not first or not begins:
            unsplit[place] = "the query does not begin with the prompt" if first else "the prompt has no token"
        elif ids[:len(first)] != first:
            unsplit[place] = ("the tokens of the query do not begin with those of the prompt: its last token and the "
                              "response's first are one")
        completions.append(() if place in unsplit else ids[len(first):])
        drifted[place] = place not in unsplit and (_text(tokenizer, ids) != query
                                                   or REPLACEMENT in _text(tokenizer, ids[len(first):]))
    return Retokenized(tuple(before), tuple(completions), unsplit, drifted)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)
