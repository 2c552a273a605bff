"""Options of the regression of margins on style."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rewarden.options.checks import check, choices, whole


@dataclass(frozen=True)
class StyleOptions:
    """Which features of style stand in the regression, and how their slopes are judged."""

    features: list[str] = field(default_factory=list)
    """Names of features; by default all that differ in enough prompts, without the number of sentences."""
    alpha: float = 0.05
    """Chance of any false finding (holm), or share of false findings (fdr), allowed among the features."""
    adjust: Literal["holm", "fdr"] = "holm"
    """How p values are adjusted for the number of features."""
    level: float = 0.95
    """Coverage of the intervals over prompts."""
    prompts: int = 40
    """Fewest prompts with a finite margin; below it the regression is refused."""
    differing: int = 20
    """Fewest prompts in which a feature differs between the sides; a rarer one is left out and named."""
    exchanges: int = 1000
    """Copies of the margins with the sides of prompts exchanged at random, in which false flags are counted."""
    seed: int = 0
    """Seed of the exchanges."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass."""

    def __post_init__(self) -> None:
        wrong = choices(self) | whole(self, prompts=10, differing=2, exchanges=0, seed=0)
        for name in ("alpha", "level"):
            if not 0 < getattr(self, name) < 1:
                wrong[name] = "between 0 and 1"
        if isinstance(self.features, str) or not all(isinstance(name, str) for name in self.features):
            wrong["features"] = "a list of names"
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            wrong["batch_size"] = "auto or a whole number from 1"
        check(self, **wrong)
