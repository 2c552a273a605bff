"""What is maximised: the reward of one or several prompts and models at once, in one number that is always to be made larger.

In: responses, and exchanges of one token. Out: scores. A score is the mean (or the worst) over prompts and models of rewards,
raw or in standard deviations, times −1 where the smallest is searched; so are the gradients. Ignorant of how one searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from rewarden.edits.base import BaseRun
from rewarden.edits.gradients import run_gradients
from rewarden.errors import RewardenError
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.scan import listed_prompts, with_readout
from rewarden.tokens.slot import Prompt, Slot, find_slot
from rewarden.tokens.vocabulary import every_id

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

Direction = Literal["max", "min"]
Aggregate = Literal["mean", "worst"]

ROWS = 8192
"""Embedding rows that meet a gradient at once."""


@dataclass(eq=False)
class Member:
    """One prompt under one model.

    Attributes:
        model: number of the model.
        prompt: number of the prompt.
        candidates: exchanges of a token, evaluated.
        centre, spread: the score is (reward − centre) / spread.
    """

    model: int
    prompt: int
    candidates: Candidates
    centre: float = 0.0
    spread: float = 1.0

    @property
    def rm(self) -> RewardModel:
        """The model."""
        return self.candidates.rm

    @property
    def slot(self) -> Slot:
        """Where the response stands."""
        return self.candidates.slot


@dataclass(eq=False)
class Objective:
    """A score to be made larger.

    Attributes:
        members: every prompt under every model.
        sign: 1 to find the largest rewards, -1 the smallest.
        aggregate: "mean" over members, or "worst": the smallest of the signed rewards.
    """

    members: list[Member]
    sign: float
    aggregate: Aggregate = "mean"
    _held: tuple[bytes, list[BaseRun]] | None = field(default=None, repr=False)

    @property
    def floor(self) -> float:
        """Difference of two scores up to which it may be rounding."""
        floors = [max(m.candidates.floor, m.rm.noise_floor) / m.spread for m in self.members]
        return float(np.mean(floors) if self.aggregate == "mean" else max(floors))

    def scores(self, rewards: np.ndarray) -> np.ndarray:
        """Scores float32 [...] of rewards [..., member]; −inf where one is not finite."""
        centre, spread = (np.asarray([getattr(m, name) for m in self.members]) for name in ("centre", "spread"))
        signed = self.sign * (np.asarray(rewards, np.float64) - centre) / spread
        with np.errstate(invalid="ignore"):
            out = signed.mean(-1) if self.aggregate == "mean" else signed.min(-1)
        return np.where(np.isfinite(signed).all(-1), out, -np.inf).astype(np.float32)

    def bases(self, ids: np.ndarray) -> list[BaseRun]:
        """The response's run under each member; those of the last response are held."""
        key = np.asarray(ids, np.int64).tobytes()
        if self._held is None or self._held[0] != key:
            self._held = None  # lets go of the earlier runs before the new ones are made
            self._held = key, [member.candidates.base(ids) for member in self.members]
        return self._held[1]

    def at(self, ids: np.ndarray) -> float:
        """Score of a response."""
        rewards = np.asarray([base.reward for base in self.bases(ids)])
        return float(self.scores(rewards))

    def exchanged(self, ids: np.ndarray, positions: np.ndarray, others: np.ndarray,
                  progress: Callable[[int], object] | None = None) -> np.ndarray:
        """Scores float32 [n] with token `others[i]` at `positions[i]` of the response, exact.

        Args:
            ids: int64 [N], the response.
            positions: int64 [n], which token, from 0.
            others: int64 [n], what stands there instead.
            progress: called with the number of responses finished.
        """
        if not len(others):
            return np.empty(0, np.float32)
        found = [member.candidates.substitute(base, positions, others, progress if number == 0 else None)[:, member.rm.main]
                 for number, (member, base) in enumerate(zip(self.members, self.bases(ids), strict=True))]
        return self.scores(np.stack(found, -1))

    def promised(self, ids: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Scores float32 [N, n] with each of `others` at each position of the response, to first order.

        The reward's gradient at the embedding times the difference of the embeddings: equal to the gradient at a one-hot
        input. Scale, norm and positions that a family puts between the embedding and its first layer are part of it.

        Args:
            ids: int64 [N], the response.
            others: int64 [n], token ids.
        """
        found = []
        for member, base in zip(self.members, self.bases(ids), strict=True):
            found.append(base.reward + first_order(base, member.slot.start, np.asarray(ids, np.int64), others))
        return self.scores(np.stack(found, -1))

    def rewards(self, rows: np.ndarray) -> np.ndarray:
        """Rewards float32 [n, member] of whole responses [n, N], each by a forward of its own."""
        return np.stack([member.rm.reward_encoded([member.slot.filled(row) for row in rows])[:, member.rm.main]
                         for member in self.members], -1)


def first_order(base: BaseRun, start: int, ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Change of the reward to first order, float32 [N, n], with each of `others` in the place of each token.

    Args:
        base: the response's run.
        start: token position at which the response begins.
        ids: int64 [N], the response.
        others: int64 [n].
    """
    arch = base.rm.architecture
    gradient = run_gradients(base, ("embed",)).at("embed")[start:start + len(ids)].float()  # [N, d]

    def rows(some: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return arch.embedding(torch.as_tensor(some, device=base.rm.device)).float() * arch.embedding_scale  # [n, d]

    now = (gradient * rows(ids)).sum(-1, keepdim=True)  # [N, 1]
    parts = [(gradient @ rows(others[k:k + ROWS]).T - now).cpu().numpy() for k in range(0, len(others), ROWS)]
    return np.concatenate(parts, 1)


def make_objective(rm: RewardModel | Sequence[RewardModel], prompt: Prompt | Sequence[Prompt], length: int,
                   direction: Direction = "max", *, system: str | None = None, aggregate: Aggregate = "mean") -> Objective:
    """Every prompt under every model, with room for a response.

    Raises:
        RewardenError: an unknown direction, a length below 1, no prompt or model, an ensemble, or vocabularies that differ.
    """
    if direction not in ("max", "min"):
        raise RewardenError(f"unknown direction {direction!r}", where="direction=", fix="use 'max' or 'min'")
    if not isinstance(length, int | np.integer) or length < 1:
        raise RewardenError(f"a response of {length!r} tokens", where="length=", fix="ask for a whole number from 1")
    models = [with_readout(one, None) for one in (rm if isinstance(rm, Sequence) else [rm])]
    if not models:
        raise RewardenError("no model", where="rm=", fix="pass a reward model, or several with one vocabulary")
    for other in models[1:]:
        check_same_vocabulary(models[0], other)
    members = [Member(m, p, Candidates(model, find_slot(model, text, system, room=length), repeated=True))
               for m, model in enumerate(models) for p, text in enumerate(listed_prompts(prompt))]
    return Objective(members, 1.0 if direction == "max" else -1.0, aggregate)


def shared_ids(models: Sequence[RewardModel]) -> np.ndarray:
    """Ids that every model has a token and an embedding for, int64 [V]."""
    return min((every_id(model) for model in models), key=len)


def check_same_vocabulary(first: RewardModel, other: RewardModel) -> None:
    """Refuse models whose ids stand for different tokens; ids that only one of them has are left out.

    Raises:
        RewardenError: an id that both have with different names.
    """
    ids = shared_ids([first, other]).tolist()
    names = [model.tokenizer.convert_ids_to_tokens(ids) for model in (first, other)]
    unlike = [i for i, (a, b) in enumerate(zip(*names, strict=True)) if a != b]
    if unlike:
        i = unlike[0]
        raise RewardenError(f"{first.name} and {other.name} have different vocabularies", where="rm=",
                            why=f"{len(unlike)} of {len(ids)} ids differ; id {i} is {names[0][i]!r} and {names[1][i]!r}",
                            fix="search with models of one vocabulary, or with each by itself")


def standardise(objective: Objective, allowed: np.ndarray, length: int, n: int, seed: int) -> None:
    """Give each model the mean and standard deviation (n − 1) of its rewards of random responses, over all prompts.

    Args:
        objective: changed in place.
        allowed: int64 [A], ids that responses are drawn from, uniformly and independently.
        length: tokens of a response.
        n: responses, the same ones for every prompt and model.
        seed: of the draw.

    Raises:
        RewardenError: a model that gives all of them one reward.
    """
    rows = np.random.default_rng([seed, 2**31]).choice(allowed, (n, length))
    rewards = objective.rewards(rows).astype(np.float64)
    for number in {member.model for member in objective.members}:
        mine = [k for k, member in enumerate(objective.members) if member.model == number]
        values = rewards[:, mine]
        values = values[np.isfinite(values)]
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if not spread > 0:
            raise RewardenError(f"{objective.members[mine[0]].rm.name} gives {n} random responses one reward",
                                where="scale='z'", why="there is no standard deviation to divide by", fix="use scale='raw'")
        for k in mine:
            objective.members[k].centre, objective.members[k].spread = float(values.mean()), spread
