"""What reward does each word get, when several tokens spell it?

In: a scan of the vocabulary, or scored responses. Out: one row for each word. Ignorant of what the words mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import texts
from rewarden.tokens.words.matching import normal_text, words_of

Prompts = int | str | Sequence[int | str] | None
"""Numbers or texts of scored prompts; None for all."""


@dataclass(frozen=True, eq=False)
class WordTable:
    """One row for each word of a scan, or for each text of scored responses."""

    words: np.ndarray
    """object [word], sorted."""
    reward: np.ndarray
    """float64 [prompt, word], the mean over the word's tokens ("love", " Love", " LOVE"); NaN where none is finite."""
    tokens: np.ndarray
    """int64 [word], tokens (or responses) behind it."""
    prompts: list[str]
    """Labels [prompt]."""


def word_table(scores: Result, prompts: Prompts = None, words: Collection[str] | None = None) -> WordTable:
    """Mean reward of each word.

    Tokens of one word are averaged, not clustered: a word then counts once. Clustering would let words with many spellings
    in the vocabulary, the frequent ones, weigh more.

    Args:
        scores: a scan (`TokenScores`), or a Result with `reward` (prompt, response) whose texts are taken whole.
        prompts: numbers or texts of prompts; all by default.
        words: only these (see `shared_words`); all by default.

    Raises:
        RewardenError: another kind of Result, or no such prompt.

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> scan = token_scores([[1, 3, 9]], token_id=[1, 2, 3], text=["love", " Love", "!"], prompts=["Hi"])
        >>> table = word_table(scan)
        >>> table.words.tolist(), table.reward.tolist(), table.tokens.tolist()
        (['love'], [[2.0]], [2])
    """
    held = scores.data.get("reward")
    if held is None or held.dims not in (("prompt", "token"), ("prompt", "response")):
        raise RewardenError(f"a {scores.kind!r} result holds no scores of words",
                            why="it needs reward (prompt, token) or (prompt, response)",
                            fix="pass the result of rw.score_vocabulary or rw.score_responses; of shared scores one model's, "
                                "shared.of(model)")
    labels = words_of(scores) if held.dims[1] == "token" else texts(normal_text(str(t)) for t in held["response"].values)
    allowed = None if words is None else {normal_text(word) for word in words}
    named = np.array([i for i, label in enumerate(labels) if label and (allowed is None or label in allowed)], np.int64)
    found, row = np.unique(labels[named], return_inverse=True)
    known = [str(label) for label in held["prompt"].values]
    at = _prompt_numbers(known, prompts)
    reward = held.values[at][:, named].astype(np.float64)
    finite = np.isfinite(reward)
    count = np.array([np.bincount(row[f], minlength=len(found)) for f in finite], float).reshape(len(at), len(found))
    total = np.array([np.bincount(row, v, minlength=len(found)) for v in np.where(finite, reward, 0.0)]).reshape(count.shape)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return WordTable(found, mean, np.bincount(row, minlength=len(found)), [known[i] for i in at])


def _prompt_numbers(known: list[str], prompts: Prompts) -> list[int]:
    wanted = range(len(known)) if prompts is None else [prompts] if isinstance(prompts, int | str) else list(prompts)
    found = []
    for prompt in wanted:
        if prompt not in known and not (isinstance(prompt, int | np.integer) and -len(known) <= prompt < len(known)):
            raise RewardenError(f"no prompt {prompt!r} was scored", where="prompts=", why=f"there are {known}",
                                fix="use these texts, or their numbers from 0")
        found.append(known.index(prompt) if isinstance(prompt, str) else int(prompt) % len(known))
    if not found:
        raise RewardenError("no prompt was chosen", where="prompts=", fix="leave it out for all")
    return found


def match_words(patterns: Iterable[str], words: Sequence[str] | np.ndarray) -> np.ndarray:
    """Which words are in a list whose entries may end in `*` (any ending).

    Args:
        patterns: entries of a value dictionary.
        words: normalised [word].

    Returns:
        bool [word].

    Example:
        >>> match_words(["Kind*", "care"], ["kindness", "care", "careful"]).tolist()
        [True, True, False]
    """
    wanted = [normal_text(pattern) for pattern in patterns]
    whole = {pattern for pattern in wanted if not pattern.endswith("*")}
    stems = tuple(pattern[:-1] for pattern in wanted if pattern.endswith("*"))
    return np.array([word in whole or word.startswith(stems) for word in words], bool)


def shared_words(scans: Sequence[Result]) -> list[str]:
    """Words that every scan has, sorted: what to give an analysis as `words=` when models with other vocabularies are compared.

    Raises:
        RewardenError: no scans, or no word in common.

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> scans = [token_scores([[0, 0]], token_id=[1, 2], text=both, prompts=["Hi"]) for both in (["a", " b"], ["B", "c"])]
        >>> shared_words(scans)
        ['b']
    """
    held = [set(words_of(scan).tolist()) - {""} for scan in scans]
    common = sorted(set.intersection(*held)) if held else []
    if not common:
        raise RewardenError("no word in common", where=f"{len(held)} scans", fix="pass scans of whole vocabularies")
    return common
