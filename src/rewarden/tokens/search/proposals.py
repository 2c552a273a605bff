"""Which exchanges of one token are worth evaluating? Those that the gradient promises most of.

In: promised scores. Out: (position, id) pairs. Also one step's candidates by themselves, for measuring what a step costs.
Ignorant of what happens to them. Source: GCG, Zou et al. 2023 (arXiv 2307.15043), algorithm 1, lines 2-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rewarden.edits.base import BaseRun
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.search.objective import Direction, make_objective, shared_ids
from rewarden.tokens.slot import Prompt

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def best_exchanges(promised: np.ndarray, others: np.ndarray, ids: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """At each position the tokens that are promised the best scores, without the one that stands there.

    Args:
        promised: [N, n], promised score of each token at each position.
        others: int64 [n], the tokens.
        ids: int64 [N], the response.
        top_k: tokens a position.

    Returns:
        Positions and ids, int64 [≤ N·top_k] each, position by position, best first.

    Example:
        >>> at, tokens = best_exchanges(np.array([[3.0, 2.0, 1.0]]), np.array([5, 6, 7]), np.array([5]), 1)
        >>> at.tolist(), tokens.tolist()
        ([0], [6])
    """
    values = np.where(others[None] == ids[:, None], -np.inf, promised)
    k = min(top_k, len(others))
    chosen = np.argpartition(-values, k - 1, axis=1)[:, :k]  # [N, k]
    order = np.argsort(-np.take_along_axis(values, chosen, 1), axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, 1)
    positions = np.repeat(np.arange(len(ids)), k)
    finite = np.take_along_axis(values, chosen, 1).ravel() > -np.inf
    return positions[finite], others[chosen.ravel()[finite]]


@dataclass(frozen=True, eq=False)
class Step:
    """Candidates of one gradient-guided step.

    Attributes:
        candidates: evaluates them.
        base: the run of the response at hand.
        positions: int64 [width], which token of the response.
        ids: int64 [width], what stands there instead.
    """

    candidates: Candidates
    base: BaseRun
    positions: np.ndarray
    ids: np.ndarray

    def evaluate(self) -> np.ndarray:
        """Scalars float32 [width, k] of every candidate: what a step spends its time on."""
        return self.candidates.substitute(self.base, self.positions, self.ids)


def draw_step(rm: RewardModel, prompt: Prompt, length: int, *, width: int = 512, top_k: int = 256, seed: int = 0,
              direction: Direction = "max", ids: Sequence[int] | None = None) -> Step:
    """One step's candidates for a random response, drawn but not evaluated: what a benchmark times is `.evaluate()`.

    Args:
        rm: the reward model.
        prompt: the user's text, or messages.
        length: tokens of the response.
        width: candidates.
        top_k: tokens a position that they are drawn from.
        seed: of the response and of the draw.
        direction: "max" or "min".
        ids: the response at hand, in place of a random one.

    Example:
        >>> import rewarden as rw
        >>> draw_step(rw.load(), "Hi", 3, width=8).evaluate().shape
        (8, 1)
    """
    objective, rng = make_objective(rm, prompt, length, direction), np.random.default_rng(seed)
    allowed = shared_ids([rm])
    response = rng.choice(allowed, length) if ids is None else np.asarray(ids, np.int64)
    positions, others = best_exchanges(objective.promised(response, allowed), allowed, response, top_k)
    drawn = rng.permutation(len(others))[:width]
    return Step(objective.members[0].candidates, objective.bases(response)[0], positions[drawn], others[drawn])
