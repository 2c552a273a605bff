"""What a searched response must be: made of allowed tokens, stable when written as text, natural to a language model.

In: what the caller asks for. Out: allowed ids, and which responses pass. Ignorant of rewards and of how one searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Conversation
from rewarden.errors import RewardenError
from rewarden.tokens.search.history import History
from rewarden.tokens.search.naturalness import Likelihood, language_model, vocabulary_size
from rewarden.tokens.search.objective import Objective, check_same_vocabulary, shared_ids
from rewarden.tokens.slot import Slot, token_ids
from rewarden.tokens.vocabulary import Vocabulary, describe_ids

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

SETS: dict[str, Callable[[Vocabulary], np.ndarray]] = {
    "text": lambda known: ~known.special & ~known.byte,
    "printable": lambda known: ~known.special & ~known.byte & np.asarray([text.isprintable() for text in known.text], bool),
    "ascii": lambda known: ~known.special & ~known.byte & np.asarray(
        [text.isascii() and text.isprintable() for text in known.text], bool),
    "stable": lambda known: ~known.special & known.round_trip,
}
"""Sets of tokens by name: no control tokens and no parts of characters; printable ones; printable ASCII; tokens that come
back as themselves when a response of this one token is tokenised."""

SLACK = 1e-3
"""By how much a bound on a mean log-probability may be missed through rounding before a response is left out for it."""


@dataclass(frozen=True)
class Naturalness:
    """A bound on how unlikely a response may be.

    Attributes:
        lm: a causal language model with the same ids: a transformers model, or a reward model made of one.
        bound: least mean log-probability per token, in nats; -3 is a perplexity of 20.
        context: text before the response; by default the conversation as the reward model is shown it, after each prompt.
    """

    lm: Any
    bound: float
    context: str | None = None


@dataclass(frozen=True)
class Constraints:
    """What a response must be.

    Attributes:
        allowed: token ids; a function of the `Vocabulary` that gives a bool per token; one name or several of "text" (no
            control tokens, no parts of characters), "printable", "ascii" (printable ASCII) and "stable" (the token alone comes
            back as itself). None allows every token. With several models a token must pass for each.
        round_trip: the response as text, written into the conversation and tokenised, must give the same ids, for every
            prompt and model.
        naturalness: a `Naturalness`, or its language model and bound as a pair.

    Example:
        >>> Constraints(allowed=("ascii", "stable"), round_trip=True).describe()
        'allowed=ascii,stable; round_trip'
    """

    allowed: Sequence[int] | np.ndarray | str | Sequence[str] | Callable[[Vocabulary], np.ndarray] | None = None
    round_trip: bool = False
    naturalness: Naturalness | tuple[Any, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.naturalness, tuple):
            object.__setattr__(self, "naturalness", Naturalness(*self.naturalness))
        unknown = [name for name in self.names if name not in SETS]
        if unknown:
            raise RewardenError(f"no set of tokens is called {unknown[0]!r}", where="Constraints(allowed=)",
                                fix=f"use {sorted(SETS)}, token ids, or a function of the vocabulary")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of sets, where `allowed` is such."""
        given = [self.allowed] if isinstance(self.allowed, str) else self.allowed
        if given is None or callable(given) or not len(given) or not all(isinstance(name, str) for name in given):
            return ()
        return tuple(given)  # type: ignore[arg-type]

    def describe(self) -> str:
        """One line, for provenance."""
        what = ",".join(self.names) or ("" if self.allowed is None else "function" if callable(self.allowed) else "ids")
        bound = f"log-probability >= {self.naturalness.bound:g}" if isinstance(self.naturalness, Naturalness) else ""
        return "; ".join(part for part in (f"allowed={what}" if what else "", "round_trip" * self.round_trip, bound) if part)

    def ids(self, models: Sequence[RewardModel]) -> np.ndarray:
        """The allowed ids, int64 [A], in increasing order.

        Raises:
            RewardenError: none at all, or ids that a model does not have.
        """
        every = shared_ids(models)
        rules = [SETS[name] for name in self.names] or ([self.allowed] if callable(self.allowed) else [])
        chosen = every
        if rules:
            kept = np.ones(len(every), bool)
            for model in models:
                known = describe_ids(model, every)
                for rule in rules:
                    kept &= np.asarray(rule(known), bool)
            chosen = every[kept]
        elif self.allowed is not None:
            chosen = np.unique(token_ids(self.allowed, "Constraints(allowed=)"))  # type: ignore[arg-type]  # no name is left here
            strange = np.setdiff1d(chosen, every)
            if len(strange):
                raise RewardenError(f"token id {strange[0]}", where="Constraints(allowed=)", fix="leave it out",
                                    why=f"{len(strange)} of these ids have no token or no embedding in every model")
        if not len(chosen):
            raise RewardenError("nothing satisfies the constraints: no token is allowed", where="Constraints(allowed=)",
                                why=f"none of {len(every)} tokens passes {self.describe()}", fix="allow more tokens")
        return chosen


@dataclass(eq=False)
class Checks:
    """Which responses pass.

    Attributes:
        constraints: what is asked.
        objective: its prompts and models.
        history: hashes of responses.
        likelihood: of the language model, where a bound is asked for.
    """

    constraints: Constraints
    objective: Objective
    history: History
    likelihood: Likelihood | None = None
    _stable: dict[int, bool] = field(default_factory=dict, repr=False)
    _known: dict[int, bool] = field(default_factory=dict, repr=False)

    @property
    def bound(self) -> float:
        """Least mean log-probability."""
        asked = self.constraints.naturalness
        return asked.bound if isinstance(asked, Naturalness) else -np.inf

    def round_trip(self, rows: np.ndarray) -> np.ndarray:
        """bool [n]: the texts of responses [n, N] give these ids again, for every prompt and model."""
        return self._remembered(self._stable, rows, self._round_trip)

    def _round_trip(self, rows: np.ndarray) -> np.ndarray:
        passed = np.ones(len(rows), bool)
        for member in self.objective.members:
            left = np.flatnonzero(passed)
            if len(left):
                passed[left] = round_trips(member.rm, member.slot, rows[left])
        return passed

    def possible(self, ids: np.ndarray, positions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """bool [n]: False where an exchange cannot pass, as told without running it."""
        if self.likelihood is None:
            return np.ones(len(others), bool)
        return self.likelihood.best_mean(ids, positions, others) >= self.bound - SLACK

    def passed(self, rows: np.ndarray) -> np.ndarray:
        """bool [n]: responses int64 [n, N] that satisfy all that is asked (ids are taken as allowed)."""
        return self._remembered(self._known, rows, self._passed)

    def _passed(self, rows: np.ndarray) -> np.ndarray:
        good = self.round_trip(rows) if self.constraints.round_trip else np.ones(len(rows), bool)
        left = np.flatnonzero(good)
        if self.likelihood is not None and len(left):
            good[left] = self.likelihood(rows[left]) >= self.bound
        return good

    def _remembered(self, known: dict[int, bool], rows: np.ndarray, look: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What is known of responses [n, ≤ N]; the others are looked at once."""
        keys = [int(self.history.key(row)) for row in rows]
        fresh = [n for n, key in enumerate(keys) if key not in known]
        if fresh:
            known |= {keys[n]: bool(value) for n, value in zip(fresh, look(rows[fresh]), strict=True)}
        return np.asarray([known[key] for key in keys], bool)


def make_checks(constraints: Constraints, objective: Objective, history: History, allowed: np.ndarray) -> Checks:
    """The checks of a search.

    Raises:
        RewardenError: a language model without a head, with other ids, or a context without a token.
    """
    asked = constraints.naturalness
    if not isinstance(asked, Naturalness):
        return Checks(constraints, objective, history)
    first = objective.members[0].rm
    if hasattr(asked.lm, "tokenizer") and hasattr(asked.lm, "architecture"):
        check_same_vocabulary(first, asked.lm)
    model = language_model(asked.lm)
    if vocabulary_size(model) <= allowed.max():
        raise RewardenError("the language model has other tokens", where="naturalness=", fix="use one with the same tokenizer",
                            why=f"it predicts {vocabulary_size(model)} ids, the search uses ids up to {allowed.max()}")
    contexts = [m.slot.before.ids for m in objective.members if m.model == 0]
    if asked.context is not None:
        ids = first.tokenizer(asked.context)["input_ids"] or [i for i in [first.tokenizer.bos_token_id] if i is not None]
        contexts = [np.asarray(ids, np.int64)]
    if not all(len(context) for context in contexts):
        raise RewardenError("no token before the response", where="Naturalness(context=)",
                            why="a language model gives the first token no probability", fix="pass a context")
    return Checks(constraints, objective, history, Likelihood(model, contexts))


def round_trips(rm: RewardModel, slot: Slot, rows: np.ndarray) -> np.ndarray:
    """bool [n]: the conversation with the decoded response, rendered and tokenised, has the ids of the filled slot.

    Where the encoder cuts the prompt, what is left of it is not compared.
    """
    texts = rm.tokenizer.batch_decode(rows.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    talks = [Conversation([*slot.messages, {"role": "assistant", "content": text}]) if text.strip() else None for text in texts]
    found: list[list[int] | None] = [None] * len(rows)
    whole = [n for n, talk in enumerate(talks) if talk is not None]
    if rm.encoder.scheme == "text_pair":
        prompt = "\n\n".join(message["content"] for message in slot.messages)
        again = rm.tokenizer([prompt] * len(whole), [texts[n] for n in whole], verbose=False)["input_ids"] if whole else []
    else:
        again = rm.encoder.tokenise([rm.encoder.render(rm.readout.messages(talks[n])) for n in whole]) if whole else []
    for n, ids in zip(whole, again, strict=True):
        found[n] = ids
    cut, after = slot.before.truncated, slot.after.ids.tolist()
    start = [] if cut else slot.before.ids.tolist()
    length = slot.before.length + cut + rows.shape[1] + len(after)

    def same(ids: list[int] | None, row: list[int]) -> bool:
        end = [*start, *row, *after]
        return ids is not None and len(ids) == length and ids[-len(end):] == end

    return np.asarray([same(ids, row) for ids, row in zip(found, rows.tolist(), strict=True)], bool)
