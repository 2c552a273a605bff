"""What does a reward model say of rollouts, given as ids?

In: a `RewardModel` of the policy's tokenizer, ids. Out: its scalars. Nothing is rendered or tokenized: the model reads exactly
the prompt and the completion. Ignorant of trainers. Letters: n rollouts.
"""

from __future__ import annotations

import numpy as np

from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel
from rewarden.training.rollouts import Ids, Rollouts


class ModelReward:
    """A reward model as a reward of ids.

    Args:
        rm: the model; its tokenizer must be the policy's, or one of the same ids.
        name: in logs; the model's own by default.

    Ids are taken as they stand, an end-of-sequence token included: a head that reads the last token reads that one, as it
    does where a chat template writes it.

    Example:
        >>> import rewarden as rw
        >>> ModelReward(rw.load())([[5, 6, 7]] * 2, [[8, 9], []]).round(3).tolist()
        [..., nan]
    """

    def __init__(self, rm: RewardModel, *, name: str = "") -> None:
        self.rm, self.name = rm, name or rm.name

    def __repr__(self) -> str:
        return f"ModelReward({self.name!r}: {self.rm.names[self.rm.main]})"

    def __call__(self, prompt_ids: Ids, completion_ids: Ids) -> np.ndarray:
        """Rewards float64 [n]; NaN for completions without a token.

        Raises:
            RewardenError: ids that are none, or a rollout longer than the model reads.
        """
        return self.parts(prompt_ids, completion_ids)[self.rm.names[self.rm.main]]

    def parts(self, prompt_ids: Ids, completion_ids: Ids) -> dict[str, np.ndarray]:
        """Each of the model's scalars by its name, float64 [n]."""
        rows = Rollouts.of(prompt_ids, completion_ids).sequences()
        limit = self.rm.encoder.max_length
        if limit is not None and max(row.length for row in rows) > limit:
            raise RewardenError(f"a rollout of {max(row.length for row in rows)} tokens", where=repr(self),
                                why=f"the model reads {limit}", fix="shorten prompts or completions")
        some = [place for place, ids in enumerate(completion_ids) if len(ids)]
        out = np.full((len(rows), len(self.rm.names)), np.nan)
        if some:
            out[some] = self.rm.reward_encoded([rows[place] for place in some])
        return {name: out[:, place] for place, name in enumerate(self.rm.names)}
