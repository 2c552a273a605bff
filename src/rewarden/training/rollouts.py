"""Which token ids are the prompt, which are the completion, and which of them count?

In: ids of prompts and completions, as a trainer has them. Out: `Rollouts`: checked once, with a key; sequences as the model
sees them. Nothing is decoded and tokenized again. Ignorant of models and rewards. Letters: n rollouts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rewarden.encoding import PROMPT, RESPONSE, Encoded
from rewarden.errors import RewardenError

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Prompts and completions of one batch, as ids.

    Attributes:
        prompt_ids: of each prompt [n].
        completion_ids: of each completion [n], unpadded; whether an end-of-sequence token stands at the end does not matter.
        ends: ids that end a sequence or fill one up; they are cut off where they stand at the end of a completion, so that a
            trainer that keeps them and one that strips them get the same rewards.

    Example:
        >>> batch = Rollouts.of([[5, 6]], [[7, 8, 1]], ends=(1,))
        >>> batch.completion_ids, batch.sequences()[0].ids.tolist()
        (((7, 8),), [5, 6, 7, 8])
    """

    prompt_ids: tuple[tuple[int, ...], ...]
    completion_ids: tuple[tuple[int, ...], ...]
    ends: frozenset[int] = frozenset()

    @classmethod
    def of(cls, prompt_ids: Ids, completion_ids: Ids, ends: Collection[int] = ()) -> Rollouts:
        """Check and cut ids.

        Args:
            prompt_ids: [n], each at least one token.
            completion_ids: [n].
            ends: see `Rollouts`.

        Raises:
            RewardenError: lists of different lengths, no rollout, an empty prompt, or what is no list of ids.
        """
        if len(prompt_ids) != len(completion_ids) or not len(prompt_ids):
            raise RewardenError(f"{len(prompt_ids)} prompts and {len(completion_ids)} completions", where="Rollouts",
                                why="a rollout is one prompt and one completion, and there must be one at least",
                                fix="give as many completions as prompts; repeat a prompt that has several")
        ends = frozenset(int(i) for i in ends)
        prompts = tuple(_whole(ids, "prompt", place) for place, ids in enumerate(prompt_ids))
        completions = tuple(_cut(_whole(ids, "completion", place), ends) for place, ids in enumerate(completion_ids))
        empty = [place for place, ids in enumerate(prompts) if not ids]
        if empty:
            raise RewardenError(f"{len(empty)} prompts are empty", where=f"prompt {empty[0]}",
                                why="the first token of a completion would have no context", fix="pass ids with the template's")
        return cls(prompts, completions, ends)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @cached_property
    def key(self) -> str:
        """Hash of all ids and of where completions begin."""
        told = hashlib.sha256()
        for prompt, completion in zip(self.prompt_ids, self.completion_ids, strict=True):
            told.update(np.asarray([len(prompt), len(completion), *prompt, *completion], np.int64).tobytes())
        return told.hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """Completion tokens that count, int64 [n]."""
        return np.asarray([len(ids) for ids in self.completion_ids], np.int64)

    def sequences(self) -> list[Encoded]:
        """Prompt and completion of each rollout as the model sees them, with their spans."""
        return [_sequence(prompt, completion)
                for prompt, completion in zip(self.prompt_ids, self.completion_ids, strict=True)]

    def rows(self, places: Sequence[int] | np.ndarray) -> Rollouts:
        """Some of them."""
        return Rollouts(tuple(self.prompt_ids[i] for i in places), tuple(self.completion_ids[i] for i in places), self.ends)


def _whole(ids: Any, what: str, place: int) -> tuple[int, ...]:
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or not all(
            isinstance(i, (int, np.integer)) and not isinstance(i, bool) and i >= 0 for i in values):
        raise RewardenError(f"a {what} is no list of token ids", where=f"{what} {place}", why=f"got {ids!r:.80}",
                            fix="pass ids, whole numbers from 0, not text")
    return tuple(int(i) for i in values)


def _cut(ids: tuple[int, ...], ends: frozenset[int]) -> tuple[int, ...]:
    stop = len(ids)
    while stop and ids[stop - 1] in ends:
        stop -= 1
    return ids[:stop]


def _sequence(prompt: tuple[int, ...], completion: tuple[int, ...]) -> Encoded:
    ids = np.asarray([*prompt, *completion], np.int64)
    spans = np.concatenate([np.full(len(prompt), PROMPT, np.uint8), np.full(len(completion), RESPONSE, np.uint8)])
    return Encoded(ids, spans, np.zeros((len(ids), 2), np.int64), "", names=("",) * len(ids))
