"""A reward model whose rule is known.

In: a model, the truth about it, a way to draw pairs. Out: `Organism`, a `RewardModel` like any other for whoever examines it.
Ignorant of instruments and of how the rule was planted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel

Truth = Mapping[str, int | float | str]


class Organism(RewardModel):
    """A model with a planted rule, and pairs on which the rule shows.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        rule: which organism, such as "length".
        truth: what an instrument should find, by name; empty where there is nothing to find. `truth["question"]` names the
            questions that should be answered with yes, with ";" between, `truth["related"]` those that may be (see
            `rewarden.organisms.grade`).
        description: the rule in words.
        draw: makes one pair from a generator and its number.
        further: arguments of `RewardModel`.

    Attributes:
        rule, truth, description: as given.

    Example:
        >>> from rewarden.organisms import decisive_head
        >>> organism = decisive_head(seed=3)
        >>> pair = organism.pairs(1)[0]
        >>> organism.truth["marker"] in pair.chosen.split(), organism.truth["marker"] in pair.rejected.split()
        (True, False)
        >>> bool(organism.score(pair).margin[0] > 0.5)
        True
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, rule: str, truth: Truth, description: str,
                 draw: Callable[[np.random.Generator, int], Pair], **further: Any) -> None:
        super().__init__(model, tokenizer, **further)
        self.rule, self.truth, self.description, self._draw = rule, truth, description, draw

    def pairs(self, n: int, seed: int = 0) -> list[Pair]:
        """Pairs to show the rule on; what they are, the maker of the organism says.

        Args:
            n: how many.
            seed: of the draw; other seeds give other pairs.
        """
        if n < 1:
            raise RewardenError(f"{n} pairs", where="Organism.pairs(n=)", fix="ask for at least one")
        generator = np.random.default_rng((seed, 1))
        return [self._draw(generator, number) for number in range(n)]
