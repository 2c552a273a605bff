"""What is the answer to OpenRLHF's question about rollouts?

In: queries, prompts and labels. Out: `rewards`, maybe `scores`, and `extra_logs`, each a number. Nothing of one question is
kept for the next. Ignorant of HTTP. Letters: n rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.options.serving import ServeOptions
from rewarden.training.openrlhf.retokenized import Retokenized, retokenize
from rewarden.training.scorer import Scored, Scorer


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer.

    Attributes:
        rewards: float64 [n].
        scores: float64 [n] from 0 to 1, for dynamic filtering; None where nothing scores.
        logs: means over the question's rollouts; the same names in every answer.
    """

    rewards: np.ndarray
    scores: np.ndarray | None
    logs: dict[str, float]


class Answerer:
    """A reward, asked in text.

    Args:
        reward: any reward of ids, or a `RewardModel`; labels are its column `gold`.
        tokenizer: the policy's; ids are made with it as the trainer makes them.
        scores: another reward, from 0 to 1, such as an `OutcomeReward`: OpenRLHF filters prompts by it. A rollout without a
            number scores 0.
        options: limits, and what a rollout without a number is paid.

    The logs of an answer: parts of the reward (`feature/latent 12`), and `rewarden/drift`, `rewarden/missing` (shares of
    rollouts), `rewarden/tokens` (of completions), `rewarden/fixed_scorer` (always 1: the model that is read here does not
    follow the policy in training). A part's mean is over rollouts that have a number; 0 where none has.

    Example:
        >>> import numpy as np
        >>> from rewarden.training.arithmetic.tokenizer import build_tokenizer
        >>> def length(prompt_ids, completion_ids):
        ...     return np.asarray([len(ids) for ids in completion_ids])
        >>> Answerer(length, build_tokenizer())(["1+2:03"], ["1+2:"], ["3"]).rewards.tolist()
        [2.0]
    """

    def __init__(self, reward: Any, tokenizer: Any, *, scores: Any = None, options: ServeOptions | None = None) -> None:
        self.scorer, self.tokenizer = Scorer(reward), tokenizer
        self.judge = None if scores is None else Scorer(scores)
        self.options = ServeOptions() if options is None else options

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> Answer:
        """The answer.

        Raises:
            RewardenError: rollouts that are too long, or have no number and are refused (`missing=None`), labels that a
                verifier cannot read, or scores outside of 0 to 1.
        """
        with self.scorer.lock:  # tokenizers are no more for two threads at once than models are
            found = retokenize(self.tokenizer, prompts, queries)
            self._check_sizes(found)
            if found.unsplit and self.options.missing is None:
                place, why = next(iter(found.unsplit.items()))
                raise RewardenError(f"{len(found.unsplit)} of {len(queries)} queries cannot be split", where=f"query {place}",
                                    why=why, fix="use the policy's tokenizer, end prompts where a token ends, do not truncate "
                                                 "prompts; or serve with missing=-3.0, a low reward")
            rows = [place for place in range(len(queries)) if place not in found.unsplit]
            scored = self._ask(self.scorer, found, rows, labels)
            judged = None if self.judge is None else self._ask(self.judge, found, rows, labels)
        rewards = _spread(scored, rows, len(queries))
        lacking = ~np.isfinite(rewards)
        if lacking.any() and self.options.missing is None:
            raise RewardenError(f"{int(lacking.sum())} of {len(queries)} rollouts have no reward",
                                where=f"query {int(np.flatnonzero(lacking)[0])}",
                                why="the completion has no token that counts, or the reward is not finite",
                                fix="serve with missing=-3.0, or another low number for such rollouts")
        if self.options.missing is not None:
            rewards = np.where(lacking, self.options.missing, rewards)
        return Answer(rewards, self._scores(judged, rows, len(queries)), self._logs(scored, found, lacking))

    def _check_sizes(self, found: Retokenized) -> None:
        longest = int(found.sizes.max())
        if longest > self.options.max_tokens:
            raise RewardenError(f"a rollout of {longest} tokens", where=f"query {int(found.sizes.argmax())}",
                                why=f"at most {self.options.max_tokens} are read",
                                fix="shorten it, or serve with a larger max_tokens")

    @staticmethod
    def _ask(scorer: Scorer, found: Retokenized, rows: Sequence[int], labels: Sequence[Any]) -> Scored | None:
        if not rows:
            return None
        return scorer([found.prompt_ids[i] for i in rows], [found.completion_ids[i] for i in rows],
                      gold=[labels[i] for i in rows])

    def _scores(self, judged: Scored | None, rows: Sequence[int], count: int) -> np.ndarray | None:
        if self.judge is None:
            return None
        scores = np.nan_to_num(_spread(judged, rows, count), nan=0.0)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise RewardenError("scores outside of 0 to 1", where=f"scores={self.judge.name!r}",
                                why=f"they are from {scores.min():g} to {scores.max():g}",
                                fix="pass a reward from 0 to 1, such as an OutcomeReward")
        return scores

    def _logs(self, scored: Scored | None, found: Retokenized, lacking: np.ndarray) -> dict[str, float]:
        parts = {} if scored is None else scored.parts
        logs = {}
        for name in self.scorer.parts:
            values = parts.get(name, np.empty(0))
            known = values[np.isfinite(values)]
            logs[f"{self.scorer.name}/{name}"] = float(known.mean()) if len(known) else 0.0
        return {**logs, "rewarden/drift": float(found.drifted.mean()), "rewarden/missing": float(lacking.mean()),
                "rewarden/tokens": float(np.mean([len(ids) for ids in found.completion_ids])), "rewarden/fixed_scorer": 1.0}


def _spread(scored: Scored | None, rows: Sequence[int], count: int) -> np.ndarray:
    out = np.full(count, np.nan)
    if scored is not None:
        out[list(rows)] = scored.rewards
    return out
