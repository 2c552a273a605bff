"""What did an edit change downstream?

In: hidden states as edited rows pass the layers. Out: their activations at the traced positions. Ignorant of how rows are run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rewarden.architecture import Architecture
from rewarden.edits.columns import Columns
from rewarden.trace.capture import Capture
from rewarden.trace.hooks import Tap


class Watch(Protocol):
    """Sees what edits changed downstream."""

    def taps(self, layer: int, ids: np.ndarray, columns: Columns) -> list[Tap]:
        """Further taps for a layer's call; ids are the rows of the batch by result row, −1 for an unedited one."""
        ...

    def stream(self, layer: int, ids: np.ndarray, columns: Columns, stream: Tensor) -> None:
        """The residual stream [rows, S, d] after a layer and its edits."""
        ...


@dataclass(eq=False)
class Traces(Watch):
    """Fills activations of edited runs.

    Attributes:
        architecture: the model's parts.
        positions: the traced positions.
        last: last layer that is read.
        filled: site → [n, layer, position, width] (`z`: [n, layer, position, head, d_head]).
    """

    architecture: Architecture
    positions: np.ndarray
    last: int
    filled: dict[str, Tensor]

    def taps(self, layer: int, ids: np.ndarray, columns: Columns) -> list[Tap]:
        """Taps that keep what the edited rows leave at the traced positions of one layer."""
        arch = self.architecture
        found: list[Tap] = []
        for site in self.filled:
            if site == "resid_post":
                continue
            scale = arch.blocks[layer].scale if site in ("attn_out", "mlp_out") else 1.0

            def keep(hidden: Tensor, site: str = site, scale: float = scale) -> Tensor:
                self._fill(site, layer, ids, columns, scale * hidden.reshape(len(ids), -1, hidden.shape[-1]))
                return hidden

            found += Capture(arch, [site], keep, [layer]).taps()
        return found

    def stream(self, layer: int, ids: np.ndarray, columns: Columns, stream: Tensor) -> None:
        """The residual stream after a layer."""
        if "resid_post" in self.filled:
            self._fill("resid_post", layer, ids, columns, stream)

    def _fill(self, site: str, layer: int, ids: np.ndarray, columns: Columns, hidden: Tensor) -> None:
        places = columns.column_of[self.positions]
        there, mine = np.flatnonzero(places >= 0), np.flatnonzero(ids >= 0)
        if len(there) and len(mine) and layer <= self.last:
            def index(which: np.ndarray) -> Tensor:
                return torch.as_tensor(which, device=hidden.device)

            values = hidden[index(mine)[:, None], index(places[there])]
            if site == "z":
                values = values.unflatten(-1, (self.architecture.n_heads, -1))
            self.filled[site][index(ids[mine])[:, None], layer, index(there)] = values
