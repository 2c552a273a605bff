"""Was the answer right, and how do outcome and features become one reward?

In: a verifier, columns of the data set; rewards of rollouts. Out: `OutcomeReward`, and `CompositeReward`, in which no wrong
answer ever outranks a right one to its prompt, whatever the features say. Ignorant of models and trainers. Letters: n rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.training.guards import refuse_monitors
from rewarden.training.rollouts import Ids
from rewarden.training.verifiers import verify_all

if TYPE_CHECKING:
    from rewarden.training.verifiers.protocol import Verifier


class OutcomeReward:
    """Whether completions are right.

    Args:
        verifier: see `rewarden.training.verifiers`.
        decode: ids of a completion -> its text, such as `tokenizer.decode`; special tokens are for the verifier to see or not.
        gold: the column with what is right.
        name: in logs; the verifier's own by default.

    Example:
        >>> from rewarden.training.verifiers import exact_match
        >>> reward = OutcomeReward(exact_match(), decode=lambda ids: "".join(map(chr, ids)))
        >>> reward([[1], [1]], [[52], [53]], gold=["4", "4"]).tolist()
        [1.0, 0.0]
    """

    def __init__(self, verifier: Verifier, decode: Callable[[Sequence[int]], str], *, gold: str = "gold", name: str = ""
                 ) -> None:
        self.verifier, self.decode, self.gold = verifier, decode, gold
        self.name = name or str(getattr(verifier, "name", "outcome"))

    def __call__(self, prompt_ids: Ids, completion_ids: Ids, **columns: Sequence[Any]) -> np.ndarray:
        """Verdicts float64 [n].

        Raises:
            RewardenError: no such column, another number of golds, or a gold that the verifier cannot read.
        """
        if self.gold not in columns:
            raise RewardenError(f"the data set has no column {self.gold!r}", where=f"OutcomeReward({self.name!r})",
                                why=f"it has {', '.join(sorted(columns)) or 'none'}", fix="add it, or name another one: gold=")
        golds = list(columns[self.gold])
        if len(golds) != len(completion_ids):
            raise RewardenError(f"{len(golds)} golds for {len(completion_ids)} completions",
                                where=f"OutcomeReward({self.name!r})", why="one is needed for each",
                                fix="repeat the gold of a prompt for each of its completions")
        return verify_all(self.verifier, [self.decode(list(ids)) for ids in completion_ids], golds)


def bounded(outcome: np.ndarray, features: np.ndarray, groups: Sequence[Any], margin: float = 0.1) -> np.ndarray:
    """Outcome plus features that are squeezed into ± margin among the equally right answers to one prompt.

    Args:
        outcome: float64 [n], 0 to 1.
        features: float64 [n]; what is not finite counts as the middle.
        groups: of each rollout its prompt [n].
        margin: below half of the smallest difference of two outcomes, so that no worse outcome can outrank a better one.

    Returns:
        float64 [n]; within a prompt, a larger outcome is a larger reward, whatever the features are.

    Raises:
        RewardenError: a margin that is too large for these outcomes.

    Source: HERO, arXiv 2510.07242 (stratified, bounded composition).

    Example:
        >>> bounded(np.array([1.0, 0.0, 0.0]), np.array([-9.0, 99.0, 5.0]), ["a"] * 3).round(3).tolist()
        [1.0, 0.1, -0.1]
    """
    outcome, features = np.asarray(outcome, np.float64), np.asarray(features, np.float64)
    levels = np.unique(outcome[np.isfinite(outcome)])
    gap = float(np.diff(levels).min()) if len(levels) > 1 else np.inf
    if not 0 <= margin < gap / 2:
        raise RewardenError(f"margin {margin:g}", where="bounded(margin=)",
                            why=f"outcomes differ by {gap:g} at least, and a worse one must not outrank a better one",
                            fix="give a margin from 0 to below half of that")
    out = outcome.copy()
    names: dict[Any, int] = {}
    codes = np.asarray([names.setdefault(group, len(names)) for group in groups])
    for code in range(len(names)):
        for level in levels:
            rows = np.flatnonzero((codes == code) & (outcome == level))
            known = rows[np.isfinite(features[rows])]
            low, high = (features[known].min(), features[known].max()) if len(known) else (0.0, 0.0)
            if high > low:
                half, middle = high / 2 - low / 2, high / 2 + low / 2  # halves first: sums of huge numbers overflow
                out[known] = level + margin * np.clip((features[known] - middle) / half, -1.0, 1.0)
    return out


class CompositeReward:
    """Outcome and features as one bounded reward.

    Where a trainer takes several rewards, pass them one by one instead: then each is logged and normalised by itself.

    Args:
        outcome: called with ids and columns, such as an `OutcomeReward`.
        features: rewards of ids, with their weights.
        margin: how far features may move a reward, see `bounded`.
        name: in logs.

    A prompt's rollouts are compared with each other where they are in one batch; a trainer that spreads them over processes
    compares the part of each process.
    """

    def __init__(self, outcome: Callable[..., np.ndarray], features: Mapping[Callable[..., np.ndarray], float], *,
                 margin: float = 0.1, name: str = "composite") -> None:
        if not features or not all(np.isfinite(weight) for weight in features.values()):
            raise RewardenError("nothing to compose", where="CompositeReward(features=)",
                                why=f"{len(features)} rewards with weights {list(features.values())}",
                                fix="give at least one reward with a finite weight")
        refuse_monitors([outcome, *features], "CompositeReward")
        self.outcome, self.features, self.margin, self.name = outcome, dict(features), float(margin), name

    def parts(self, prompt_ids: Ids, completion_ids: Ids, **columns: Sequence[Any]) -> dict[str, np.ndarray]:
        """Each reward by its name, float64 [n]."""
        found = {getattr(self.outcome, "name", "outcome"): np.asarray(self.outcome(prompt_ids, completion_ids, **columns))}
        for reward in self.features:
            found[getattr(reward, "name", "feature")] = np.asarray(reward(prompt_ids, completion_ids))
        return found

    def __call__(self, prompt_ids: Ids, completion_ids: Ids, **columns: Sequence[Any]) -> np.ndarray:
        """Rewards float64 [n]."""
        outcome, *rest = self.parts(prompt_ids, completion_ids, **columns).values()
        total = sum(weight * values for weight, values in zip(self.features.values(), rest, strict=True))
        return bounded(outcome, np.asarray(total), [tuple(ids) for ids in prompt_ids], self.margin)

    def bind(self, provider: Any) -> CompositeReward:
        """Hand a provider to every reward that reads a model."""
        for reward in (self.outcome, *self.features):
            if hasattr(reward, "bind"):
                reward.bind(provider)
        return self
