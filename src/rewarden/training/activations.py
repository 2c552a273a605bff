"""What did a model hold at the completion tokens of a batch, and of which model, layer and tokens is that?

In: tensors of one forward. Out: `Activations`, typed: rollouts, source and layers go with the numbers, and whoever asks for
others is refused. It holds no padding that could be taken for a token. Ignorant of models and of what is made of them.
Letters: n rollouts, N completion tokens of all of them, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rewarden.errors import RewardenError
from rewarden.training.rollouts import Rollouts

Source = Literal["policy", "reference"]


@dataclass(frozen=True, eq=False)
class Activations:
    """Residual streams and log-probabilities of completion tokens.

    Attributes:
        rollouts: whose tokens, in order.
        source: "policy" or "reference".
        layers: layer l -> resid_post[l] of all completion tokens, float [N, d], rollout after rollout.
        log_probs: float32 [N], log p of each completion token given all before it; None where not asked for.

    Raises:
        RewardenError: numbers of tokens that are not those of the rollouts.
    """

    rollouts: Rollouts
    source: Source
    layers: Mapping[int, Tensor] = field(repr=False)
    log_probs: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        wanted = int(self.rollouts.sizes.sum())
        held = {f"layer {layer}": len(value) for layer, value in self.layers.items()}
        held |= {} if self.log_probs is None else {"log_probs": len(self.log_probs)}
        wrong = [f"{name}: {count}" for name, count in held.items() if count != wanted]
        if wrong:
            raise RewardenError("activations of other tokens", where="Activations", why=f"{wanted} completion tokens, but "
                                f"{', '.join(wrong)}", fix="pass one row for each completion token")

    def layer(self, layer: int) -> Tensor:
        """resid_post[layer], [N, d].

        Raises:
            RewardenError: it was not captured.
        """
        if layer not in self.layers:
            raise RewardenError(f"no activations of layer {layer}", where=f"activations of the {self.source}",
                                why=f"captured: {sorted(self.layers)}", fix="provider.require(layers=[...]) before the batch")
        return self.layers[layer]

    def each(self, values: Tensor) -> list[Tensor]:
        """Rows [N, ...] of all tokens as one tensor [R, ...] a rollout."""
        if len(values) != int(self.rollouts.sizes.sum()):
            raise RewardenError(f"{len(values)} rows for {int(self.rollouts.sizes.sum())} tokens", where="Activations.each",
                                fix="pass one row for each completion token")
        return list(values.split(self.rollouts.sizes.tolist()))

    def check(self, rollouts: Rollouts, source: Source) -> Activations:
        """Themselves, once it is sure that they are of these rollouts and this model.

        Raises:
            RewardenError: they are of others.
        """
        if self.source != source or self.rollouts.key != rollouts.key:
            what = f"of the {self.source}" if self.source != source else "of another batch"
            raise RewardenError(f"activations {what}", where="Activations.check", why=f"those of the {source} on "
                                f"{len(rollouts)} rollouts are needed", fix="ask the provider for this batch")
        return self

    def pooled(self, values: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """`pool` of each rollout's rows [R, ...], stacked [n, ...]; NaN for a rollout without a token."""
        empty = values.new_full(pool(values[:1] if len(values) else values.new_zeros(1, *values.shape[1:])).shape, torch.nan)
        return torch.stack([pool(rows) if len(rows) else empty for rows in self.each(values)])
