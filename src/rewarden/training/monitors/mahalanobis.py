"""How far do a rollout's states lie from those of base rollouts?

In: base rollouts. Out: a `MahalanobisMonitor`: the distance in units of the base's own spread, with a shrunken covariance.
It needs no labels, and sees what no probe was made for; what stays within the base's spread it does not see. Ignorant of
rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from rewarden.errors import RewardenError
from rewarden.hacking.off_distribution.reference import Reference
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.monitor import Monitor, aggregated
from rewarden.training.rollouts import Rollouts

Pool = Literal["mean", "last", "tokens"]


class MahalanobisMonitor(Monitor):
    """Distance from base rollouts.

    Args:
        layer: resid_post of it is read.
        pool: the state of a completion's "last" token, which has read all others; the "mean" of its tokens' states, in which a
            few strange ones are lost; or "tokens", the largest distance of any of them.
        source: see `Monitor`. On the policy the distance grows in every training, good or bad.
        name: in logs.
    """

    kind: ClassVar[str] = "mahalanobis"

    def __init__(self, layer: int, *, pool: Pool = "last", source: Source = "reference", name: str = "mahalanobis") -> None:
        super().__init__(name, source)
        if pool not in ("mean", "last", "tokens"):
            raise RewardenError(f"no pool is called {pool!r}", where="MahalanobisMonitor(pool=)",
                                fix="use 'last', 'mean' or 'tokens'")
        self.layers, self.pool = (int(layer),), pool
        self.reference: Reference | None = None

    def describe(self) -> str:
        """Layer and pool."""
        return f"distance of {self.pool} after layer {self.layers[0]}, {self.source}"

    def _rows(self, held: Activations) -> np.ndarray:
        """Rows [n or N, d] that have a distance each."""
        states = held.layer(self.layers[0]).double()
        if self.pool == "tokens":
            return states.cpu().numpy()
        mean = self.pool == "mean"
        return held.pooled(states, lambda rows: rows.mean(0) if mean else rows[-1]).cpu().numpy()

    def _fit(self, held: Activations | None, rollouts: Rollouts, labels: np.ndarray | None) -> dict[str, float]:
        assert held is not None
        if labels is not None:
            raise RewardenError("a distance from base rollouts takes no labels", where=f"{self.name}.fit(labels=)",
                                why="all of its rollouts count as usual", fix="pass base rollouts without labels")
        self.reference = Reference.fit(self._rows(held))
        return {}

    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        assert held is not None
        assert self.reference is not None  # Monitor.score
        rows = self._rows(held)
        finite = np.isfinite(rows).all(1)
        far = np.full(len(rows), np.inf)
        far[finite] = np.sqrt(self.reference.squares(rows[finite])[:, -1])
        return aggregated(held, torch.as_tensor(far), Aggregation("max")) if self.pool == "tokens" else far

    def _width(self) -> int | None:
        return None if self.reference is None else len(self.reference.mean)

    def settings(self) -> dict[str, Any]:
        """Of the constructor."""
        return {**super().settings(), "layer": self.layers[0], "pool": self.pool}

    def tensors(self) -> dict[str, Tensor]:
        """The base's mean and spread."""
        return {} if self.reference is None else reference_tensors(self.reference)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.reference = reference_of(tensors)


def reference_tensors(reference: Reference) -> dict[str, Tensor]:
    """All numbers of a reference, float64."""
    return {"mean": torch.as_tensor(reference.mean), "axes": torch.as_tensor(np.ascontiguousarray(reference.axes)),
            "variance": torch.as_tensor(np.ascontiguousarray(reference.variance)),
            "rest": torch.tensor(reference.rest, dtype=torch.float64), "leading": torch.tensor(reference.leading)}


def reference_of(tensors: Mapping[str, Tensor]) -> Reference:
    """The reference of `reference_tensors`."""
    return Reference(tensors["mean"].numpy(), tensors["axes"].numpy(), tensors["variance"].numpy(), float(tensors["rest"]),
                     int(tensors["leading"]))
