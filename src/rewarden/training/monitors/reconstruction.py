"""How much of a rollout's states does a dictionary not explain?

In: a dictionary of the layer that a reward reads features of. Out: a `ReconstructionMonitor`. What hides in the dictionary's
error moves no feature: where it grows, features no longer tell what the layer holds. Ignorant of rewards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.errors import RewardenError
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.monitor import Monitor, aggregated, told
from rewarden.training.rollouts import Rollouts


class ReconstructionMonitor(Monitor):
    """‖h − ĥ‖² / ‖h − b‖² of the worst token, where b is what the dictionary decodes no latent to.

    Args:
        dictionary: of the residual stream; transcoders rebuild something else and are refused.
        layer: where it is read; by default that of the dictionary's own site.
        aggregation: how tokens become one number.
        source: see `Monitor`. On the policy the error grows in ordinary training as well: a dictionary ages.
        name: in logs.
    """

    kind: ClassVar[str] = "reconstruction"
    fitted_by_data: ClassVar[bool] = False

    def __init__(self, dictionary: Dictionary, layer: int | None = None, *, aggregation: Aggregation | None = None,
                 source: Source = "reference", name: str = "reconstruction") -> None:
        super().__init__(name, source)
        own = None if dictionary.site is None or dictionary.site.kind != "resid_post" else int(dictionary.site.layer)
        if dictionary.is_transcoder or (layer is None and own is None):
            raise RewardenError("a transcoder has no error of reconstruction" if dictionary.is_transcoder else
                                "the dictionary does not say which layer it is of", where="ReconstructionMonitor",
                                why="h is compared with what is rebuilt of it",
                                fix="use an autoencoder of the residual stream, and give layer=")
        self.dictionary, self.layers = dictionary, (int(own if layer is None else layer),)  # type: ignore[arg-type]  # one is given
        self.aggregation = aggregation or Aggregation("max")

    def describe(self) -> str:
        """Layer and aggregation."""
        return f"error of {self.dictionary} after layer {self.layers[0]}, {self.aggregation} of tokens, {self.source}"

    def errors(self, states: Tensor) -> Tensor:
        """Relative squared error [N] of states [N, d]; infinite where a state is not finite."""
        dictionary, finite = self.dictionary.to(states.device), states.isfinite().all(-1)
        out = torch.full((len(states),), torch.inf, device=states.device)
        with torch.no_grad():
            h = states[finite].float()
            some = h[:1] if dictionary.norm is not None and dictionary.norm.is_identity else h  # the same for all of them
            silent = torch.zeros(len(some), 1, dtype=torch.long, device=h.device)
            base = dictionary.decode(silent, torch.zeros(len(some), 1, device=h.device), some)
            out[finite] = (h - dictionary.reconstruct(h)).square().sum(-1) / (h - base).square().sum(-1).clamp_min(1e-12)
        return out

    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        assert held is not None
        states = held.layer(self.layers[0])
        return aggregated(held, self.errors(states), self.aggregation, states)

    def _width(self) -> int | None:
        return self.dictionary.d_in

    def settings(self) -> dict[str, Any]:
        """Of the constructor, but for the dictionary."""
        return {**super().settings(), "layer": self.layers[0], "aggregation": told(self.aggregation)}

    def tensors(self) -> dict[str, Tensor]:
        """The query of an attention."""
        return {} if self.aggregation.query is None else {"query": self.aggregation.query}
