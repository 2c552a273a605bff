"""Options of the search for single tokens that move the reward out of all proportion."""

from __future__ import annotations

from dataclasses import dataclass

from rewarden.options.checks import check, interval, whole


@dataclass(frozen=True)
class TriggerOptions:
    """In how many conversations tokens are tried, and what counts as out of proportion."""

    scanned: int = 2
    """Conversations in which every token is tried at each place."""
    confirmed: int = 4
    """Further conversations in which tokens of the tails are tried again; they must stand out in each half of these, too."""
    context: int = 100
    """Words of other pairs' questions put before a question, at most, where tokens are tried in the response; 0 for none."""
    most: int = 4
    """Tokens that may stand out together: a word is several (with a blank, without, with a capital)."""
    tail: int = 64
    """Largest and smallest tokens of which the spacings are compared."""
    tokens: int = 0
    """Tokens tried, drawn at random; 0 tries every token of the vocabulary."""
    alpha: float = 0.05
    """Chance of any false flag over both places, both signs and all numbers of tokens (Holm)."""
    level: float = 0.95
    """Coverage of the intervals of effects, over the further conversations."""
    seed: int = 0
    """Seed of the tokens drawn."""

    def __post_init__(self) -> None:
        wrong = {**interval(self), **whole(self, scanned=1, confirmed=4, context=0, most=1, tail=8, tokens=0)}
        if not wrong and self.tail < 8 * self.most:
            wrong["tail"] = f"at least {8 * self.most}, 8 for each token that may stand out"
        if not wrong and 0 < self.tokens < 10 * self.tail:
            wrong["tokens"] = f"0 (all) or at least {10 * self.tail}, 10 for each spacing"
        check(self, **wrong)
