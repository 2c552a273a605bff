"""One move of a search: evaluate exchanges of one token, take the best that passes.

In: the response at hand and exchanges. Out: what was evaluated and which exchange was taken. No response is ever evaluated
twice. Ignorant of which exchanges are worth evaluating, and of what is stored where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rewarden.tokens.search.constraints import Checks
from rewarden.tokens.search.history import History
from rewarden.tokens.search.objective import Objective

FIRST_CHECKED, MOST_CHECKED = 16, 512
"""Responses whose constraints are looked at together: doubled from the first number while none passes."""


@dataclass(frozen=True, eq=False)
class Move:
    """What one move did.

    Attributes:
        positions: int32 [n], of the exchanges that were evaluated.
        ids: int32 [n], what stood there instead.
        scores: float32 [n].
        taken: the exchange that became the response at hand (position, id, score), or None.
    """

    positions: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    taken: tuple[int, int, float] | None = None


@dataclass(frozen=True, eq=False)
class Draw:
    """Some of many exchanges.

    Attributes:
        width: how many are evaluated.
        rng: draws them.
        wander: where none is better, the best of them is taken all the same, as GCG does.
    """

    width: int
    rng: np.random.Generator
    wander: bool


@dataclass(eq=False)
class Walk:
    """One restart.

    Attributes:
        number: which.
        ids: int64 [N], the response at hand.
        score: its score.
        best_ids, best: the best response so far and its score; moves to a worse one leave it.
        path: best score after the start and after each move.
        evaluated: responses evaluated up to there.
        steps: gradient-guided moves.
        scans: exact scans of a position.
        certified: no allowed exchange of one token is better by more than the noise floor.
    """

    number: int
    ids: np.ndarray
    score: float
    path: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    steps: int = 0
    scans: int = 0
    certified: bool = False
    best_ids: np.ndarray = field(init=False)
    best: float = field(init=False)

    def __post_init__(self) -> None:
        self.best_ids, self.best = self.ids, self.score

    def back(self) -> None:
        """Go back to the best response."""
        self.ids, self.score = self.best_ids, self.best


@dataclass(eq=False)
class Space:
    """What is searched, and what is known of it.

    Attributes:
        objective: the score.
        allowed: int64 [A], ids in increasing order.
        checks: which responses pass.
        history: scores so far.
        progress: called with the number of responses finished.
    """

    objective: Objective
    allowed: np.ndarray
    checks: Checks
    history: History
    progress: Callable[[int], object] | None = None

    def try_exchanges(self, walk: Walk, positions: np.ndarray, others: np.ndarray, draw: Draw | None = None) -> Move:
        """Evaluate exchanges and take the best one that is better than the best response by more than the noise floor.

        Args:
            walk: whose response is at hand; not changed.
            positions, others: int64 [n], the exchanges.
            draw: evaluate only some of them; what is known of the others counts all the same.
        """
        possible = self.checks.possible(walk.ids, positions, others)
        positions, others = positions[possible], others[possible]
        keys = self.history.exchanged(walk.ids, positions, others)
        scores = self.history.look_up(keys)
        fresh = np.flatnonzero(np.isnan(scores))
        if draw is not None:
            fresh = self._drawn(walk.ids, positions, others, draw.rng.permutation(fresh), draw.width)
        scores[fresh] = self.objective.exchanged(walk.ids, positions[fresh], others[fresh], self.progress)
        self.history.add(keys[fresh], scores[fresh])
        best = self.best_of(walk.ids, positions, others, scores, walk.best + self.objective.floor)
        if best is None and draw is not None and draw.wander:
            best = self.best_of(walk.ids, positions[fresh], others[fresh], scores[fresh])
            best = None if best is None else int(fresh[best])
        taken = None if best is None else (int(positions[best]), int(others[best]), float(scores[best]))
        return Move(positions[fresh].astype(np.int32), others[fresh].astype(np.int32), scores[fresh], taken)

    def best_of(self, ids: np.ndarray, positions: np.ndarray, others: np.ndarray, scores: np.ndarray,
                above: float = -np.inf) -> int | None:
        """Number of the best exchange that passes, looked for from the top; None where none above a score does."""
        better = np.flatnonzero(scores > above)
        better = better[np.argsort(-scores[better], kind="stable")]
        start, size = 0, FIRST_CHECKED
        while start < len(better):
            part = better[start:start + size]
            good = np.flatnonzero(self.checks.passed(_rows(ids, positions[part], others[part])))
            if len(good):
                return int(part[good[0]])
            start, size = start + size, min(2 * size, MOST_CHECKED)
        return None

    def _drawn(self, ids: np.ndarray, positions: np.ndarray, others: np.ndarray, order: np.ndarray, width: int) -> np.ndarray:
        """The first `width` of some exchanges that a text can say."""
        if not self.checks.constraints.round_trip:
            return np.sort(order[:width])
        kept = np.empty(0, np.int64)
        for start in range(0, len(order), width):
            if len(kept) >= width:
                break
            part = order[start:start + width]
            kept = np.concatenate([kept, part[self.checks.round_trip(_rows(ids, positions[part], others[part]))]])
        return np.sort(kept[:width])

    def take(self, walk: Walk, move: Move) -> None:
        """Make a move's exchange the response at hand."""
        if move.taken is not None:
            position, token, walk.score = move.taken
            walk.ids = walk.ids.copy()
            walk.ids[position] = token
            if walk.score > walk.best:
                walk.best_ids, walk.best = walk.ids, walk.score
        walk.path.append(walk.best)
        walk.evaluated.append(len(move.ids) + (walk.evaluated[-1] if walk.evaluated else 0))

    def remember(self, walk: Walk, move: Move) -> None:
        """Put a move that was made before into the history."""
        positions, ids = move.positions.astype(np.int64), move.ids.astype(np.int64)
        self.history.add(self.history.exchanged(walk.ids, positions, ids), move.scores)


def _rows(ids: np.ndarray, positions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Responses int64 [n, N] with one token exchanged."""
    rows = np.repeat(np.asarray(ids, np.int64)[None], len(others), 0)
    rows[np.arange(len(others)), positions] = others
    return rows
