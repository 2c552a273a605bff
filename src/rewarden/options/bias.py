"""Options of the bias battery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewarden.options.checks import check, choices, interval, whole


@dataclass(frozen=True)
class BiasOptions:
    """How a reward model is asked about kinds of change, and what counts as a finding."""

    per_seed: int = 3
    """Templates that each seed meets on each axis; more make estimates sharper and the run longer."""
    alpha: float = 0.05
    """Chance of any false finding over all axes (holm), or share of findings that are false (bh)."""
    correction: Literal["holm", "bh"] = "holm"
    """Adjustment of p for the number of axes."""
    level: float = 0.95
    """Coverage of the intervals."""
    least_seeds: int = 30
    """Independent seeds an axis must have; fewer are refused."""
    least_templates: int = 6
    """Kinds of wording an axis must have; fewer are refused."""
    calibration: Literal["auto", "measure", "off"] = "auto"
    """Errors widened to what random-weight models show: as measured before, now (auto: own axes or tokenizers), or not."""
    seed: int = 0
    """Seed of the random-weight models."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass; auto fits the device."""

    def __post_init__(self) -> None:
        wrong = {**choices(self), **interval(self),
                 **whole(self, per_seed=1, least_seeds=3, least_templates=3)}
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            wrong["batch_size"] = "auto or a whole number from 1"
        check(self, **wrong)
