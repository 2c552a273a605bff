"""Which axes of a layer's arguments are tokens, and which are rows of the batch? Found by runs of different shape.

In: how the layers were called. Out: `Axes`, and the call as it would have been for one row alone. Ignorant of edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rewarden.trace.hooks import Call, Path


@dataclass(frozen=True)
class Extent:
    """What the axes of one argument count.

    Attributes:
        tokens: axes that follow the sequence length; of a mask [.., S, T] the first is the queries'.
        rows: axes that follow the batch.
    """

    tokens: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


Axes = dict[tuple[nn.Module, Path], Extent]
"""(layer, argument) → what its axes count."""

Calls = Mapping[nn.Module, Call]


def extents(calls: Calls, longer: Calls, more: Calls) -> Axes:
    """What the axes of all arguments count.

    Args:
        calls: of one row.
        longer: of one longer row.
        more: of two rows as long as the first.

    Raises:
        KeyError: the layers were called differently.
    """
    found: Axes = {}
    for module, call in calls.items():
        others = [run[module].tensors() for run in (longer, more)]
        for path, tensor in call.tensors().items():
            shapes = [other[path].shape for other in others]
            if any(len(shape) != tensor.ndim for shape in shapes):
                raise KeyError(path)
            tokens, rows = (tuple(axis for axis in range(tensor.ndim) if tensor.shape[axis] != shape[axis]) for shape in shapes)
            found[module, path] = Extent(tokens, rows)
    return found


def of_row(call: Call, axes: Axes, row: int, length: int) -> Call:
    """One row's call, as if it had been run alone, without padding."""
    def cut(path: Path, tensor: Tensor) -> Tensor:
        extent = axes.get((call.module, path), Extent())
        for axis in extent.rows:
            tensor = tensor.narrow(axis, row, 1)
        for axis in extent.tokens:
            tensor = tensor.narrow(axis, 0, length)
        return tensor

    return call.changed(None, cut)
