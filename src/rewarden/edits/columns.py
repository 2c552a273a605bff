"""Which tokens are the columns of a call, and what do a layer's arguments look like for them?

In: positions, and how the layers were called on whole sequences. Out: the same arguments for some columns. Ignorant of edits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.arguments import Axes, Extent
from rewarden.trace.hooks import Call


def again(call: Call, stream: Tensor, columns: Columns, axes: Axes) -> Tensor:
    """A layer called as it was, on some columns: its output [rows, S, d] of the residual stream [rows, S, d] there.

    Args:
        call: how the layer was called on the whole sequence.
        stream: what flows in.
        columns: which tokens its columns are.
        axes: see `rewarden.edits.arguments`.
    """
    out = call.again(stream, lambda path, tensor: columns.argument(tensor, axes.get((call.module, path), Extent())))
    return out.reshape(len(stream), -1, stream.shape[-1])


@dataclass(eq=False)
class Columns:
    """Which tokens the columns of a call are.

    Attributes:
        positions: int64 [S].
        length: tokens T of the sequence.
    """

    positions: np.ndarray
    length: int
    device: torch.device | str = "cpu"
    _cut: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _open: dict[tuple[int, int], bool] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.contiguous = len(self.positions) > 0 and bool((np.diff(self.positions) == 1).all())
        self.index = torch.as_tensor(self.positions, device=self.device)
        self.column_of = np.full(self.length, -1, dtype=np.int64)
        self.column_of[self.positions] = np.arange(len(self.positions))

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, tensor: Tensor, axis: int) -> Tensor:
        """The columns' part of a tensor along its sequence axis."""
        key = (id(tensor), axis)
        if key not in self._cut:
            self._cut[key] = (tensor.narrow(axis, int(self.positions[0]), len(self)) if self.contiguous
                              else tensor.index_select(axis, self.index))
        return self._cut[key]

    def argument(self, tensor: Tensor, extent: Extent) -> Tensor:
        """A layer's argument for these columns; of a mask [.., S, T] only the query axis is cut."""
        return self.select(tensor, extent.tokens[0]) if extent.tokens else tensor

    def all_open(self, mask: Tensor, stop: int) -> bool:
        """Whether every column may read all positions before `stop`."""
        key = (id(mask), stop)
        if key not in self._open:
            self._open[key] = bool(mask[..., :stop].all())
        return self._open[key]
