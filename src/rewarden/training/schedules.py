"""How much does a reward count at a step of training?

In: the share of training done, 0 to 1. Out: a factor. Ignorant of rewards and trainers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from rewarden.errors import RewardenError

Shape = Literal["constant", "linear", "cosine", "step"]


@dataclass(frozen=True)
class Schedule:
    """A factor that goes from one number to another over a part of training.

    Attributes:
        shape: "constant" (`start` throughout), "linear", "cosine" (flat at both ends), "step" (jumps at `begin`).
        start: factor before `begin`.
        stop: factor after `end`.
        begin, end: shares of training, 0 to 1.

    Example:
        >>> warm = Schedule("linear", 0.0, 1.0, end=0.5)
        >>> [warm(share) for share in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """

    shape: Shape = "constant"
    start: float = 1.0
    stop: float = 1.0
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        wrong = (f"no shape is called {self.shape!r}" if self.shape not in ("constant", "linear", "cosine", "step") else
                 "factors must be finite" if not (math.isfinite(self.start) and math.isfinite(self.stop)) else
                 "0 ≤ begin ≤ end ≤ 1 is needed" if not 0 <= self.begin <= self.end <= 1 else "")
        if wrong:
            raise RewardenError("impossible schedule", where="Schedule", why=wrong, fix="change that value")

    def __call__(self, share: float) -> float:
        """The factor when this share of training is done."""
        if self.shape == "constant":
            return self.start
        if self.shape == "step" or self.begin == self.end:
            return self.start if share < self.begin else self.stop
        done = min(max((share - self.begin) / (self.end - self.begin), 0.0), 1.0)
        done = (1 - math.cos(math.pi * done)) / 2 if self.shape == "cosine" else done
        return self.start + (self.stop - self.start) * done


def share_done(state: Any) -> float:
    """Share of training done, of a trainer's state with `global_step` and `max_steps`; 0 where it has no length.

    Raises:
        RewardenError: no such state.
    """
    step, most = getattr(state, "global_step", None), getattr(state, "max_steps", None)
    if step is None or most is None:
        raise RewardenError("a schedule needs the trainer's state", where="trainer_state", why=f"got {type(state).__name__}",
                            fix="use the reward with a trainer that passes trainer_state, such as TRL's, or without a schedule")
    return min(max(step / most, 0.0), 1.0) if most > 0 else 0.0
