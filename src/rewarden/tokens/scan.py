"""What does a reward model love and hate? Every token of the vocabulary scored as the response, id by id.

In: a reward model and prompts. Out: `TokenScores`. The response slot holds one id; every other id is put there by an edit of
what enters layer 0, so the prompt is run once. Ignorant of what is made of the scores.
Source: Christian et al., arXiv 2506.07326, without its text path (see `text_mode`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewarden.edits.inputs import check_ids
from rewarden.errors import RewardenError
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.scores import TokenScores, token_scores
from rewarden.tokens.slot import Prompt, find_slot, token_ids
from rewarden.tokens.text_mode import score_as_text
from rewarden.tokens.vocabulary import describe_ids, every_id

if TYPE_CHECKING:
    from rewarden.readout import Readout
    from rewarden.reward_model import RewardModel


TOGETHER = 16
"""Prompts whose runs are recorded, and held, together."""


def score_vocabulary(rm: RewardModel, prompt: Prompt | Sequence[Prompt], *, system: str | None = None,
                     ids: Sequence[int] | np.ndarray | None = None, mode: Literal["ids", "text"] = "ids",
                     readout: Readout | None = None, progress: Callable[[int], object] | None = None) -> TokenScores:
    """The reward of every token as the whole response.

    Args:
        rm: the reward model.
        prompt: the user's text, a conversation, or several of them (a list of message dicts is one conversation).
        system: text of a system message put before each.
        ids: candidates; by default every id that has a token and an embedding.
        mode: "ids" puts each id itself into the response slot; "text" is the published path: decode, render, tokenise
            again, with a second BOS where the tokenizer adds one, so that many tokens are scored as others.
        readout: another read-out of the same model (a direction, a probe) in place of its own.
        progress: called with the number of candidates finished.

    Returns:
        `TokenScores`: `reward` (prompt, token), `ties`, `distinct`; flags of each token; `scalars` where the model has
        several. `noise_floor` is twice the largest difference met between unedited rows and the base run, or on a sample of
        candidates between the engine and the candidate run alone: smaller differences are rounding. `.top(n)` and
        `.bottom(n)` are tables of the extremes; `.save(path)` keeps all.

    Raises:
        RewardenError: no prompt, an unknown mode, ids that the model has no embedding for, an ensemble.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> scores = rw.score_vocabulary(rm, "Hi", ids=range(300, 320))
        >>> scores.reward.shape, bool(scores.top(1)["reward"][0] == scores.reward.max())
        ((1, 20), True)
    """
    if mode not in ("ids", "text"):
        raise RewardenError(f"unknown mode {mode!r}", where="mode=", fix="use 'ids' or 'text'")
    rm = with_readout(rm, readout)
    prompts = listed_prompts(prompt)
    chosen = every_id(rm) if ids is None else token_ids(ids, "ids=")
    check_ids(rm, chosen)
    known = describe_ids(rm, chosen)
    slots = [find_slot(rm, text, system) for text in prompts]
    labels = apart([slot.label for slot in slots])
    values, floor = [], rm.noise_floor
    for start in range(0, len(slots), TOGETHER):
        some = [Candidates(rm, slot) for slot in slots[start:start + TOGETHER]]
        if mode == "text":
            for candidates in some:
                found, rounding = score_as_text(rm, candidates.slot.messages, known.text, progress)
                values, floor = [*values, found], max(floor, rounding)
            continue
        bases = rm.bases([candidates.slot.filled([candidates.first(chosen)]) for candidates in some])
        for candidates, base in zip(some, bases, strict=True):
            base = candidates.usable(base, chosen)
            values.append(candidates.substitute(base, np.zeros(len(chosen), np.int64), chosen, progress))
            floor = max(floor, candidates.floor)
    scalars = np.stack(values)  # [prompt, token, scalar]
    provenance = {**rm.provenance(), "mode": mode, "system": system or "", "candidates": len(chosen)}
    return token_scores(scalars[..., rm.main], token_id=chosen, text=known.text, piece=known.piece, bytes_=known.bytes,
                        flags=known.flags, prompts=labels, provenance=provenance, noise_floor=floor,
                        scalars=(rm.names, scalars) if len(rm.names) > 1 else None, warnings=_notes(scalars[..., rm.main]))


def listed_prompts(prompt: Any) -> list[Prompt]:
    """One or several prompts as a list; a list of message dicts is one conversation.

    Raises:
        RewardenError: none at all.
    """
    one = isinstance(prompt, str) or not isinstance(prompt, Sequence) or (len(prompt) > 0 and isinstance(prompt[0], dict))
    prompts = [prompt] if one else list(prompt)
    if not prompts:
        raise RewardenError("no prompt", where="prompt=", fix="pass a text, a conversation, or a list of them")
    return prompts


def apart(names: Sequence[str]) -> list[str]:
    """Labels, those that occur before with a number.

    Example:
        >>> apart(["a", "b", "a"])
        ['a', 'b', 'a #2']
    """
    found: list[str] = []
    for number, name in enumerate(names):
        label, other = name, number
        while label in found or (label != name and label in names):
            label, other = f"{name} #{other}", other + 1
        found.append(label)
    return found


def with_readout(rm: RewardModel, readout: Readout | None) -> RewardModel:
    """The same model read in another way (or `rm` itself).

    Raises:
        RewardenError: an ensemble, which has no inside to edit.
    """
    if isinstance(rm, str):
        raise RewardenError(f"{rm!r} is the name of a model", where="rm", fix=f"rewarden.load({rm!r})")
    if not hasattr(rm, "architecture"):
        raise RewardenError(f"{type(rm).__name__} has no vocabulary to scan", where="rm", why="its members may have different "
                            "tokenizers", fix="scan each member by itself")
    return rm if readout is None else rm.reading(readout)


def _notes(reward: np.ndarray) -> list[str]:
    lost = int((~np.isfinite(reward)).sum())
    return [f"{lost} rewards are not finite: they have no rank"] if lost else []
