"""Options of the search for optimal and pessimal responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewarden.options.checks import check, choices


@dataclass(frozen=True)
class SearchOptions:
    """How responses are searched, and what of several prompts or models is made the best of."""

    restarts: int = 4
    """Random starts; each ends in a response of its own, the best one counts."""
    steps: int = 100
    """Gradient-guided steps of a restart at most; 0 goes straight to exact scans."""
    width: int = 256
    """Candidates evaluated in a gradient-guided step, each one token away from the response at hand."""
    top_k: int = 128
    """Tokens a position from which candidates are drawn: those that the gradient promises most of."""
    patience: int = 20
    """Gradient-guided steps in a row without an improvement after which a restart goes on to exact scans."""
    wander: bool = True
    """Where no candidate is better, go on from the best new one, as GCG does; off stays until a better one is drawn."""
    polish: Literal["every", "best", "none"] = "every"
    """Which restarts end with exact scans of every position until nothing improves: all of them, the best one, or none."""
    sweeps: int = 20
    """Scans of every position at most; a restart that still improves then has no certificate."""
    aggregate: Literal["mean", "worst"] = "mean"
    """What several prompts or models come to: their mean, or the worst of them for the direction searched."""
    scale: Literal["raw", "z"] = "raw"
    """Rewards as they are, or in standard deviations of each model's rewards of random responses."""
    reference_sample: int = 64
    """Random responses of the same length that give each model's mean and standard deviation, for scale=z."""
    seed: int = 0
    """Seed of the starts, of the candidates drawn and of the random responses."""

    def __post_init__(self) -> None:
        wrong = choices(self)
        for name, least in (("restarts", 1), ("steps", 0), ("width", 1), ("top_k", 1), ("patience", 1), ("sweeps", 1),
                            ("reference_sample", 3), ("seed", 0)):
            if getattr(self, name) < least:
                wrong[name] = f"{least} or larger"
        check(self, **wrong)
