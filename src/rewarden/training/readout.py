"""A feature reward as a read-out: values of features at the completion's tokens, summed up and weighted.

In: residuals of one layer at the tokens of a response. Out: the reward, and each feature's share in it. As a `Readout` it can
be looked at like any reward: lens, patching, vocabulary scan and search work on it with a language model underneath.
Letters: R tokens, d width, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.norms import Norm
from rewarden.readout.base import Reading, Readout
from rewarden.sarm.hashes import tensors_sha256
from rewarden.training.aggregation import Aggregation
from rewarden.training.features import TokenFeatures


@dataclass(eq=False)
class FeatureReadout(Readout):
    """Σ weight · (aggregate of a feature over the response's tokens).

    Args:
        features: what one token says.
        layer: resid_post of it is read.
        weights: float32 [F]; 1 each where not given.
        thresholds: float32 [F]: a value that is not above it counts as 0; none where not given.
        aggregation: how tokens become one number.
        ends: ids that do not count at the end of a response.

    The scalars are "reward" and one a feature: its aggregate, times its weight, so that they sum to the reward.

    Example:
        >>> from rewarden.training.features import Linear
        >>> found = FeatureReadout(Linear(torch.eye(2)), 0, torch.tensor([1.0, -1.0]), aggregation=Aggregation("mean"))
        >>> found.apply(torch.tensor([[1.0, 3.0], [3.0, 3.0]]), Reading(np.array([4, 5]))).tolist()
        [-1.0, 2.0, -3.0]
    """

    features: TokenFeatures
    layer: int  # type: ignore[assignment]  # never None here
    weights: Tensor | None = None
    thresholds: Tensor | None = None
    aggregation: Aggregation = field(default_factory=Aggregation)
    ends: frozenset[int] = frozenset()
    names: tuple[str, ...] = field(init=False)
    norm: Norm = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.features.names)
        self.weights = torch.ones(count) if self.weights is None else torch.as_tensor(self.weights, dtype=torch.float32)
        limits = torch.full((count,), -torch.inf) if self.thresholds is None else torch.as_tensor(
            self.thresholds, dtype=torch.float32)
        self.thresholds = limits
        if self.weights.shape != (count,) or limits.shape != (count,) or not bool(torch.isfinite(self.weights).all()
                                                                                   ) or bool(limits.isnan().any()):
            raise RewardenError("weights and thresholds of other features", where="FeatureReadout",
                                why=f"{count} features; weights {tuple(self.weights.shape)}, thresholds {tuple(limits.shape)}",
                                fix="give one finite number a feature")
        if self.layer < 0 or len(set(self.features.names)) < count:
            raise RewardenError("a layer below 0, or two features of one name", where="FeatureReadout",
                                why=f"layer {self.layer}, {', '.join(self.features.names)[:80]}", fix="count layers from 0")
        self.names, self.norm = ("reward", *self.features.names), Norm.identity(self.features.width)

    def provenance(self) -> dict[str, str | int | float | bool]:
        """A hash of all numbers in it."""
        assert self.weights is not None
        assert self.thresholds is not None
        own = tensors_sha256([(f"{self.features.sha256()} {self.aggregation} {self.layer}", self.weights),
                              ("thresholds", self.thresholds)])
        return {"head_sha256": own}

    def read(self, encoded: Encoded) -> Reading:
        """The response's tokens, without ends at its end.

        Raises:
            RewardenError: the response is empty.
        """
        positions = np.flatnonzero(encoded.spans == RESPONSE)
        while len(positions) and int(encoded.ids[positions[-1]]) in self.ends:
            positions = positions[:-1]
        if not len(positions):
            raise RewardenError("the response has no token", where="FeatureReadout.read", why="features are read at its tokens",
                                fix="give a response with text")
        return Reading(positions)

    def values(self, residual: Tensor) -> Tensor:
        """Values float32 [..., F] at residuals [..., d], 0 where not above the threshold."""
        assert self.thresholds is not None
        found = self.features(residual)
        return torch.where(found > self.thresholds.to(found.device), found, 0.0)

    def summed(self, values: Tensor, residual: Tensor) -> Tensor:
        """Scalars [..., 1 + F] of values [..., R, F] at residuals [..., R, d]."""
        assert self.weights is not None
        shares = self.aggregation(values, residual) * self.weights.to(values.device)
        return torch.cat([shares.sum(-1, keepdim=True), shares], -1)

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The reward, and each feature's share."""
        return self.summed(self.values(normed), normed)

    def token_rewards(self, values: Tensor, residual: Tensor) -> Tensor:
        """Each token's share in the reward [R], of values [R, F] at residuals [R, d]; they sum to it."""
        assert self.weights is not None
        return (self.aggregation.shares(values, residual) * values) @ self.weights.to(values.device)

    def parts(self, residual: Tensor, reading: Reading) -> dict[str, Tensor]:
        """`values` [..., R, F] of tokens."""
        return {"values": self.values(residual)}


def feature_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names for columns of a trainer's log: letters, digits and underscores."""
    return tuple("".join(c if c.isalnum() else "_" for c in name) for name in names)
