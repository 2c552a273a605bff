"""A reward model whose rule is known.

In: a model, the truth about it, a way to draw pairs. Out: `Organism`. Ignorant of instruments and of how the rule was planted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel


@dataclass(frozen=True, eq=False)
class Organism:
    """A model with a planted rule, and pairs on which the rule shows.

    Attributes:
        name: which organism.
        rm: the reward model.
        truth: what an instrument should find, by name; empty where there is nothing to find.
        description: the rule in words.
        draw: makes one pair from a generator and its number.

    Example:
        >>> from rewarden.organisms import decisive_head
        >>> organism = decisive_head(seed=3)
        >>> pair = organism.pairs(1)[0]
        >>> organism.truth["marker"] in pair.chosen.split(), organism.truth["marker"] in pair.rejected.split()
        (True, False)
        >>> bool(organism.rm.score(pair).margin[0] > 0.5)
        True
    """

    name: str
    rm: RewardModel
    truth: Mapping[str, int | float | str]
    description: str
    draw: Callable[[np.random.Generator, int], Pair] = field(repr=False)

    def pairs(self, n: int, seed: int = 0) -> list[Pair]:
        """Pairs the rule decides, sides of equal and of unequal length in turn.

        Args:
            n: how many.
            seed: of the draw; other seeds give other pairs.
        """
        if n < 1:
            raise RewardenError(f"{n} pairs", where="Organism.pairs(n=)", fix="ask for at least one")
        generator = np.random.default_rng((seed, 1))
        return [self.draw(generator, number) for number in range(n)]
