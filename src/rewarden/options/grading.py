"""Options of grading an instrument on organisms."""

from __future__ import annotations

from dataclasses import dataclass

from rewarden.options.checks import check, whole


@dataclass(frozen=True)
class GradeOptions:
    """How many organisms and null models an instrument is tried on."""

    doses: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Sizes of the planted rule, in units of each organism's stated dose; larger than 0."""
    seeds: int = 20
    """Organisms of each rule and dose."""
    nulls: int = 200
    """Random-weight models."""
    alpha: float = 0.05
    """Error rate that the instrument states."""

    def __post_init__(self) -> None:
        wrong = whole(self, seeds=1, nulls=2)
        if not self.doses or not all(0 < dose < float("inf") for dose in self.doses):
            wrong["doses"] = "one or more finite numbers above 0"
        if not 0 < self.alpha < 1:
            wrong["alpha"] = "between 0 and 1 (0.05 for 5 % of null models)"
        check(self, **wrong)
