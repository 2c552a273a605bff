"""What does a reward say of rollouts that a trainer's process hands over, and what of it is worth a line in its log?

In: any reward of ids, bound to the model it reads; ids and columns. Out: `Scored`: rewards, their parts, tokens. Threads take
turns. Ignorant of trainers, texts and HTTP. Letters: n rollouts, F features, R tokens of a completion.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel
from rewarden.training.composition import CompositeReward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.model_reward import ModelReward
from rewarden.training.rollouts import Ids

LOGGED = 8
"""Parts that are told, at most: those that come first."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Rewards of a batch and where they come from.

    Attributes:
        rewards: float64 [n]; NaN where there is none.
        parts: float64 [n] by name: shares of features, scalars of a reward model, drift between policy and reference.
        tokens: of each rollout what each of its tokens is paid, float64 [R], summing to the reward; None for rewards that
            know no tokens.
    """

    rewards: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: tuple[np.ndarray, ...] | None = None


class Scorer:
    """A reward as a fixed scorer in a process of its own.

    Args:
        reward: called as `reward(prompt_ids, completion_ids)`, with columns as keywords where it takes such; or a
            `RewardModel`.

    Attributes:
        name: of the reward.
        lock: held while it scores; whoever uses the same tokenizer from several threads takes it, too.

    The model that a feature reward reads is the one it is bound to here, in this process. It stays as it is while a policy
    trains elsewhere: a fixed scorer, unless somebody copies weights into it.

    Raises:
        RewardenError: what cannot be called, is bound to no model, or needs the other rollouts of a prompt.

    Example:
        >>> import numpy as np
        >>> def length(prompt_ids, completion_ids):
        ...     return np.asarray([len(ids) for ids in completion_ids])
        >>> Scorer(length)([[5]], [[6, 7]], gold=["unused"]).rewards.tolist()
        [2.0]
    """

    def __init__(self, reward: Any) -> None:
        reward = ModelReward(reward) if isinstance(reward, RewardModel) else reward
        if not callable(reward):
            raise RewardenError(f"{reward!r:.60} is no reward", where="Scorer(reward)", why="a reward is called with ids",
                                fix="pass a FeatureReward, an OutcomeReward, a RewardModel, or a function of ids")
        if isinstance(reward, CompositeReward):
            raise RewardenError("a composite reward ranks the rollouts of one prompt", where=f"Scorer({reward.name!r})",
                                why="a trainer's process asks about one rollout at a time, where features would count nothing",
                                fix="score a function of ids that adds up outcome and features, or train with TRL")
        self.reward, self.lock = reward, RLock()
        self.name = str(getattr(reward, "name", None) or getattr(reward, "__name__", type(reward).__name__))
        self._limit = _vocabulary(reward)
        taken = inspect.signature(reward).parameters.values()
        self._every = any(one.kind is one.VAR_KEYWORD for one in taken)
        self._named = {one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}

    @property
    def pays_tokens(self) -> bool:
        """Whether it can say what each token is paid."""
        return isinstance(self.reward, FeatureReward)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are told: the same of every batch."""
        if isinstance(self.reward, FeatureReward):
            return (*self.reward.readout.features.names[:LOGGED], *(("drift",) if self.reward.source == "both" else ()))
        names = self.reward.rm.names if isinstance(self.reward, ModelReward) else ()
        return tuple(names[:LOGGED]) if len(names) > 1 else ()

    def __call__(self, prompt_ids: Ids, completion_ids: Ids, **columns: Sequence[Any]) -> Scored:
        """Rewards and parts of rollouts.

        Raises:
            RewardenError: ids that are none or not in the model's vocabulary, a column that is not there, or another number
                of rewards than rollouts.
        """
        highest = max((int(i) for ids in (*prompt_ids, *completion_ids) for i in ids), default=0)
        if self._limit is not None and highest >= self._limit:
            raise RewardenError(f"no token has the id {highest}", where=f"reward {self.name!r}",
                                why=f"its model has {self._limit}", fix="use the tokenizer of the model that the reward reads")
        with self.lock:
            if isinstance(self.reward, FeatureReward):
                return self._of_features(self.reward, prompt_ids, completion_ids)
            if isinstance(self.reward, ModelReward):
                parts = self.reward.parts(prompt_ids, completion_ids)
                found = parts[self.reward.rm.names[self.reward.rm.main]]
                return Scored(found, {name: parts[name] for name in self.parts})
            given = {name: column for name, column in columns.items() if self._every or name in self._named}
            found = np.asarray(self.reward(prompt_ids, completion_ids, **given), np.float64)
        if found.shape != (len(completion_ids),):
            raise RewardenError(f"{found.shape} rewards for {len(completion_ids)} completions", where=f"reward {self.name!r}",
                                why="one is needed for each", fix="mend the reward")
        return Scored(found)

    def _of_features(self, reward: FeatureReward, prompt_ids: Ids, completion_ids: Ids) -> Scored:
        assert reward.provider is not None  # see _vocabulary
        told = reward.values(reward.provider.rollouts(prompt_ids, completion_ids))
        reward.provider.forget()  # no batch is asked about twice, and none should be held for the next one
        parts = {name: told.drift if told.drift is not None and name == "drift" else told.shares[:, place]
                 for place, name in enumerate(self.parts)}
        paid = tuple((own - reward.centre / len(own)) / reward.spread if len(own) else own for own in told.tokens)
        return Scored(told.reward, parts, paid)


def _vocabulary(reward: Any) -> int | None:
    """Ids that the reward's model has, where it is known.

    Raises:
        RewardenError: a feature reward that is bound to no model.
    """
    if isinstance(reward, ModelReward):
        return int(reward.rm.architecture.embedding.num_embeddings)  # type: ignore[arg-type]
    if not isinstance(reward, FeatureReward):
        return None
    if reward.provider is None:
        raise RewardenError(f"{reward.name!r} has no model to read yet", where="Scorer(reward)",
                            why="in a trainer's own process there is nobody to bind it",
                            fix="FeatureReward(readout, ActivationProvider(model, tokenizer))")
    return int(reward.provider.architecture().embedding.num_embeddings)  # type: ignore[arg-type]
