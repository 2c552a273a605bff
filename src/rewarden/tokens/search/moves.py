"""How a restart moves: gradient-guided steps, then exact scans of every position until nothing improves.

In: a space, a walk, options, and a journal that knows moves made before. Out: the walk, moved. Ignorant of files and models.
Source: GCG, Zou et al. 2023 (arXiv 2307.15043). No response is evaluated twice, as in Faster-GCG (Li et al. 2024), so that
steps to worse responses lead away from where the walk has been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from rewarden.options import SearchOptions
from rewarden.tokens.search.exchange import Draw, Move, Space, Walk
from rewarden.tokens.search.proposals import best_exchanges


class Journal(Protocol):
    """Moves that were made before, and those that are made now."""

    def move(self, walk: Walk, kind: str, number: int, make: Callable[[], Move]) -> Move:
        """A move from the record, or a new one that is recorded before it is returned."""
        ...


def climb(space: Space, walk: Walk, options: SearchOptions, journal: Journal) -> None:
    """Gradient-guided steps: candidates drawn from each position's most promising tokens, the best one taken.

    Ends at the best response met: after `steps`, after `patience` steps without an improvement, or when every promising
    exchange is known.
    """
    exchanges: tuple[np.ndarray, np.ndarray] | None = None
    without = 0

    def make() -> Move:
        nonlocal exchanges
        if exchanges is None:
            promised = space.objective.promised(walk.ids, space.allowed)
            exchanges = best_exchanges(promised, space.allowed, walk.ids, options.top_k)
        rng = np.random.default_rng([options.seed, walk.number, walk.steps + 1])
        return space.try_exchanges(walk, *exchanges, Draw(options.width, rng, options.wander))

    while walk.steps < options.steps and without < options.patience:
        before, move = walk.best, journal.move(walk, "step", walk.steps, make)
        space.take(walk, move)
        walk.steps += 1
        without = 0 if walk.best > before else without + 1
        if move.taken is not None:
            exchanges = None
        elif not len(move.ids):
            break
    walk.back()


def polish(space: Space, walk: Walk, options: SearchOptions, journal: Journal) -> None:
    """Scan every allowed token at one position after another, taking the best, until a whole sweep improves nothing.

    The walk is then certified: no exchange of one token by an allowed one that satisfies the constraints makes the score
    better by more than the noise floor.
    """
    length, unchanged = len(walk.ids), 0
    for scan in range(options.sweeps * length):
        position = length - 1 - scan % length  # from the end, where a scan is cheapest

        def make(position: int = position) -> Move:
            others = space.allowed[space.allowed != walk.ids[position]]
            return space.try_exchanges(walk, np.full(len(others), position), others)

        move = journal.move(walk, "scan", scan, make)
        space.take(walk, move)
        walk.scans += 1
        # after a scan its own position is settled: the others have to follow
        unchanged = 1 if move.taken is not None else unchanged + 1
        if unchanged >= length:
            walk.certified = True
            return
