"""By how much does a reward change when a text changes, and by how many tokens did the text change?

In: `Contrast`s, weighted sums of the rewards of conversations (a biased response minus a neutral one; or the interaction of a
stated view with an answer, four conversations). Out: one effect a contrast, every conversation scored once. Ignorant of why a
text was changed and of statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Conversation
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError
from rewarden.statistics import content_key

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of rewards whose weights add up to 0.

    Attributes:
        terms: weight and conversation; the weights sum to 0.
        axis: what was changed, such as "hedging".
        seed: the content that was changed; contrasts of one seed are not independent. Where it is not said, the prompt is what
            they share: see `cluster`.
        template: how it was changed, such as one phrase; contrasts of one template are not independent either.
        id: of this contrast.

    Raises:
        RewardenError: fewer than two terms, or weights that do not sum to 0.

    Example:
        >>> one = Contrast.of("Is it far?", biased="Perhaps it is.", neutral="It is.", axis="hedging")
        >>> [weight for weight, _ in one.terms]
        [1.0, -1.0]
    """

    terms: tuple[tuple[float, Conversation], ...]
    axis: str = ""
    seed: str = ""
    template: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        total = sum(weight for weight, _ in self.terms)
        if len(self.terms) < 2 or not abs(total) < 1e-9:
            raise RewardenError("a contrast compares rewards", where=f"Contrast({self.axis!r}, {self.id!r})",
                                why=f"it has {len(self.terms)} terms, whose weights sum to {total:g}",
                                fix="give at least two conversations, with weights that sum to 0")

    @classmethod
    def of(cls, prompt: Any, biased: str, neutral: str, *, axis: str = "", seed: str = "", template: str = "",
           id: str = "") -> Contrast:
        """Reward of the biased response minus reward of the neutral one, to the same prompt (string or messages)."""
        return cls(((1.0, Conversation.of(prompt, biased)), (-1.0, Conversation.of(prompt, neutral))), axis, seed, template, id)

    @property
    def cluster(self) -> str:
        """What contrasts that are not independent share: the seed, or the prompt (of the first term) where there is none.

        Example:
            >>> first, other = (Contrast.of(prompt, "Perhaps.", "Yes.") for prompt in ("Is it far?", "is it  far?"))
            >>> first.cluster == other.cluster, Contrast.of("Is it far?", "Perhaps.", "Yes.", seed="far").cluster
            (True, 'far')
        """
        return self.seed or prompt_key(self.terms[0][1])


def prompt_key(conversation: Conversation) -> str:
    """Short hash of a prompt, the same for prompts that differ in case, white space or Unicode form only.

    Example:
        >>> prompt_key(Conversation.of("Is it far?", "No.")) == prompt_key(Conversation.of("is it  far?", "Yes."))
        True
    """
    parts = [(message["role"], content_key(message["content"])) for message in conversation.prompt]
    return f"prompt {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def repeats(contrasts: Sequence[Contrast]) -> dict[int, int]:
    """Contrasts with the axis, the weights and the texts of an earlier one, and which that is, by position.

    Example:
        >>> repeats([Contrast.of("Hi", text, "Hello.", seed=str(n)) for n, text in enumerate(("Hey.", "Ho.", "Hey."))])
        {2: 0}
    """
    first: dict[tuple, int] = {}
    found = {}
    for number, one in enumerate(contrasts):
        key = (one.axis, *((weight, *((m["role"], m["content"]) for m in text.messages)) for weight, text in one.terms))
        if first.setdefault(key, number) != number:
            found[number] = first[key]
    return found


@dataclass(frozen=True, eq=False)
class Effects:
    """What contrasts came to.

    Attributes:
        effect: float64 [n, k], the weighted sums of each scalar, in reward units; NaN where a reward is not finite.
        tokens: float64 [n], the same weighted sum of numbers of response tokens: how much longer the changed text is.
        rewards: float32 [m, k], of the distinct conversations.
        spread: float64 [k], standard deviation of those rewards: a yardstick for effects.
        main: column that is the reward.
    """

    effect: np.ndarray
    tokens: np.ndarray
    rewards: np.ndarray
    spread: np.ndarray
    main: int = 0

    @property
    def reward(self) -> np.ndarray:
        """Effects on the reward, float64 [n]."""
        return self.effect[:, self.main]


def contrast_effects(rm: RewardModel, contrasts: Sequence[Contrast], *, batch_size: Any = "auto",
                     progress: Callable[[int], None] | None = None) -> Effects:
    """The effects of contrasts; a conversation that stands in several of them is run once.

    Args:
        rm: the reward model.
        contrasts: at least one.
        batch_size: rows per forward, or "auto".
        progress: called with the number of conversations done.

    Raises:
        RewardenError: no contrasts, or a conversation that cannot be encoded (the contrast is named).

    Example:
        >>> import rewarden as rw
        >>> found = contrast_effects(rw.load(), [Contrast.of("Hi", "Hello, hello!", "Hello!", axis="repetition")])
        >>> found.effect.shape
        (1, 1)
    """
    if not contrasts:
        raise RewardenError("no contrasts to score", where="contrasts", why="the list is empty", fix="give at least one")
    place: dict[tuple, int] = {}
    rows, which, weights, starts = [], [], [], []
    for number, contrast in enumerate(contrasts):
        starts.append(len(which))
        for weight, conversation in contrast.terms:
            key = tuple((m["role"], m["content"]) for m in conversation.messages)
            if key not in place:
                place[key] = len(rows)
                try:
                    rows.append(rm.encode(conversation))
                except RewardenError as error:
                    raise RewardenError(error.what, where=f"contrast {contrast.id or number} ({contrast.axis}), {error.where}",
                                        why=error.why, fix=error.fix) from error
            which.append(place[key])
            weights.append(weight)
    rewards = rm.reward_encoded(rows, batch_size=batch_size, progress=progress)
    held = np.where(np.isfinite(rewards), rewards, np.nan).astype(np.float64)
    length = np.array([(row.spans == RESPONSE).sum() for row in rows], dtype=np.float64)
    signed = np.asarray(weights)[:, None] * held[which]
    effect = np.add.reduceat(signed, starts, axis=0)
    tokens = np.add.reduceat(np.asarray(weights) * length[which], starts)
    spread = np.array([column[np.isfinite(column)].std(ddof=1) if np.isfinite(column).sum() > 1 else np.nan
                       for column in held.T])
    return Effects(effect, tokens, rewards, spread, rm.main)
