"""How surprising is what a policy wrote to the model that it started from?

In: log-probabilities of completion tokens. Out: an `NllMonitor`. The end of a completion is not among its tokens.
Ignorant of rewards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rewarden.errors import RewardenError
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.monitor import Monitor, aggregated, told
from rewarden.training.rollouts import Rollouts


class NllMonitor(Monitor):
    """Negative log-probability of the completion's tokens, in nats: by default of the most surprising one.

    It is fitted on nothing. A policy that is held to the reference by a KL penalty stays unsurprising while it games a reward.

    Args:
        aggregation: "max" (the most surprising token), "mean", or another one but "attention".
        source: the reference, as a policy is never surprised by itself.
        name: in logs.
    """

    kind: ClassVar[str] = "nll"
    fitted_by_data: ClassVar[bool] = False

    def __init__(self, *, aggregation: Aggregation | None = None, source: Source = "reference", name: str = "nll") -> None:
        super().__init__(name, source)
        self.aggregation, self.log_probs = aggregation or Aggregation("max"), True
        if self.aggregation.kind == "attention":
            raise RewardenError("attention looks at states, and there are none", where="NllMonitor(aggregation=)",
                                fix="use max, mean, top, last or sum")

    def describe(self) -> str:
        """Aggregation."""
        return f"negative log-probability, {self.aggregation} of tokens, {self.source}"

    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        assert held is not None
        assert held.log_probs is not None  # Monitor.bind asked for them
        return aggregated(held, -held.log_probs, self.aggregation)

    def settings(self) -> dict[str, Any]:
        """Of the constructor."""
        return {**super().settings(), "aggregation": told(self.aggregation)}
