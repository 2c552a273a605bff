"""The smallest set of choices that brings a value below a goal.

In: a function from sets to values. Out: a set, and how it was found. Sets up to a size are all tried; larger ones are found
greedily, so their size is an upper bound. Ignorant of models and edits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from rewarden.errors import RewardenError

Subset = tuple[int, ...]
Evaluate = Callable[[Sequence[Subset]], np.ndarray]
"""Values of several sets of numbers of choices."""

MOST = 200_000
"""Sets of one size that an exhaustive search tries at most."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        members: the choices, in the order they were taken.
        values: after the first member, the first two, ..., all of them.
        reached: whether all of them together bring the value below the goal.
        pruned: choices that the greedy search took and that were not needed in the end.
        reason: why the goal was not reached, or "".
    """

    members: Subset = ()
    values: tuple[float, ...] = ()
    reached: bool = False
    pruned: int = 0
    reason: str = ""


def smallest_subset(evaluate: Evaluate, n: int, start: float, goal: float, *, max_size: int, exhaustive: int = 1,
                    least: float = 0.0) -> Found:
    """A small set of choices whose value is below the goal; the smallest one where its size is at most `exhaustive`.

    First all sets of one choice, of two, ... up to `exhaustive`: of the smallest ones that reach the goal, that of the lowest
    value. Then greedily: the best single choice, with it the one that lowers the value most, and so on, all that remain
    evaluated anew at each step. What is found so is pruned: while the set without one of its choices still reaches the goal,
    the one is left out that leaves the lowest value. No single choice can then be left out; a smaller set of other choices may
    exist.

    Args:
        evaluate: called with many sets at once; each set is asked for once.
        n: number of choices.
        start: value of the empty set.
        goal: to be below.
        max_size: choices of the greedy search before it gives up.
        exhaustive: see above.
        least: a step of the greedy search that lowers the value by no more than this ends it.

    Raises:
        RewardenError: more than `MOST` sets of one size.

    Example:
        >>> worth = np.array([3.0, 1.0, 2.5])
        >>> smallest_subset(lambda sets: np.array([4 - worth[list(s)].sum() for s in sets]), 3, 4.0, 0.0, max_size=3).members
        (0, 2)
    """
    known = Known(evaluate)
    members: Subset = ()
    for size in range(1, min(exhaustive, n, max_size) + 1):
        best = known.best(_every(n, size))
        if known.value(best) < goal:
            return Found(best, known.along(best), True)
        members = best if size == 1 else members
    if not members or not known.value(members) < start - least:
        return Found(reason="no edit moves the margin towards the other sign")
    while len(members) < min(max_size, n):
        longer = known.best([(*members, other) for other in range(n) if other not in members])
        if not known.value(longer) < known.value(members) - least:
            return Found(members, known.along(members), reason="no further edit moves the margin towards the other sign")
        members = longer
        if known.value(members) < goal:
            kept = known.pruned(members, goal)
            return Found(kept, known.along(kept), True, len(members) - len(kept))
    return Found(members, known.along(members), reason=f"not within {len(members)} edits")


def _every(n: int, size: int) -> list[Subset]:
    if size > 1 and math.comb(n, size) > MOST:
        raise RewardenError(f"too many sets of {size} out of {n} edits", where="exhaustive=",
                            why=f"{math.comb(n, size):,} of them, at most {MOST:,} are tried", fix=f"exhaustive={size - 1}")
    return list(combinations(range(n), size))


@dataclass(eq=False)
class Known:
    """Values of sets, each computed once."""

    evaluate: Evaluate
    held: dict[frozenset[int], float] = field(default_factory=dict)

    def values(self, sets: Sequence[Subset]) -> np.ndarray:
        """Values of the sets, the new ones evaluated together."""
        new = list({frozenset(members): members for members in sets if frozenset(members) not in self.held}.values())
        if new:
            self.held |= zip(map(frozenset, new), map(float, self.evaluate(new)), strict=True)
        return np.asarray([self.held[frozenset(members)] for members in sets])

    def value(self, members: Subset) -> float:
        """Value of one set."""
        return float(self.values([members])[0])

    def best(self, sets: Sequence[Subset]) -> Subset:
        """The set of the lowest value, the first of several; one that has no value (NaN) only if none has."""
        values = self.values(sets)
        return sets[int(np.argmin(np.where(np.isnan(values), np.inf, values)))]

    def along(self, members: Subset) -> tuple[float, ...]:
        """Values of the first member, the first two, ..."""
        return tuple(self.values([members[:k + 1] for k in range(len(members))]).tolist())

    def pruned(self, members: Subset, goal: float) -> Subset:
        """The set without what it does not need."""
        while len(members) > 1:
            shorter = self.best([members[:k] + members[k + 1:] for k in range(len(members))])
            if not self.value(shorter) < goal:
                break
            members = shorter
        return members
