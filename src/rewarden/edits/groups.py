"""Which rows have to be run, and which of them together?

In: units. Out: rows by the position they start at, in groups that share a suffix. Ignorant of how rows are run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from rewarden.edits.units import Unit, Wanted


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that will be run, flat: which unit, which of its rows, first position, first layer."""

    unit: np.ndarray
    index: np.ndarray
    start: np.ndarray
    layer: np.ndarray

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, which: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.unit[which], self.index[which], self.start[which], self.layer[which])

    def after(self, others: Rows) -> Rows:
        """Others, then these."""
        return Rows(*(np.concatenate([getattr(others, f.name), getattr(self, f.name)]) for f in fields(self)))


def live_rows(units: list[Unit], wanted: Wanted, length: int) -> Rows:
    """Rows that may change a wanted value; the others are the base run's."""
    alive = [np.flatnonzero(unit.live()) for unit in units]
    starts = [unit.starts(length)[rows] if wanted.causal else np.zeros(len(rows), np.int64)
              for unit, rows in zip(units, alive, strict=True)]
    counts = [len(rows) for rows in alive]
    return Rows(np.repeat(np.arange(len(units)), counts), np.concatenate(alive), np.concatenate(starts).astype(np.int64),
                np.repeat([unit.layer for unit in units], counts))


WASTE = 0.03
"""Share of a group's tokens that lie before their row's first edited position."""


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that are computed from the same position on."""

    start: int
    rows: Rows


def grouped(rows: Rows, end: int, budget: int, last_start: int, layers: int = 0, call: float = math.inf) -> list[Group]:
    """Rows by start: starts share a group while little is recomputed for it, or while all fits one call and a call of their
    own would cost more.

    Args:
        rows: the rows.
        end: one past the last position computed.
        budget: tokens per call.
        last_start: no group starts after this position (the first one wanted at the last layer's end).
        layers: one past the last layer that is run, for `call`.
        call: tokens that one more call costs as much as.
    """
    start = np.minimum(rows.start, last_start)
    groups: list[Group] = []
    values, inverse, counts = np.unique(start, return_inverse=True, return_counts=True)
    runs = np.maximum(layers - rows.layer, 0)
    work, depth = np.bincount(inverse, runs), int(runs.max(initial=1))
    first = 0
    while first < len(values):
        origin, total, waste, lost, stop = values[first], int(counts[first]), 0, 0.0, first + 1
        while stop < len(values):
            shift = int(values[stop] - origin)
            more, less = waste + int(counts[stop]) * shift, lost + work[stop] * shift  # tokens, and tokens × layers
            tokens = (total + int(counts[stop])) * int(end - origin)
            if more > WASTE * tokens and (tokens > budget or less > call * depth):
                break
            total, waste, lost, stop = total + int(counts[stop]), more, less, stop + 1
        chosen = np.isin(start, values[first:stop])
        groups.append(Group(int(origin), rows.take(np.flatnonzero(chosen))))
        first = stop
    return groups
