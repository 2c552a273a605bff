"""Which position of one response corresponds to which position of another.

In: two `Encoded` conversations. Out: `Alignment`, an explicit, storable map with the rule that made it.
Ignorant of models. The read-out is always aligned to the read-out, never to a position that happens to share its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np

from rewarden.errors import RewardenError

Rule = Literal["diff", "suffix", "prefix", "equal_only", "read_out"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A partial one-to-one map between the positions of two token sequences.

    Attributes:
        rule: "diff" (shared prefix, longest matching blocks, shared suffix), "suffix" (the shared prefix with itself, what
            follows counted from the end), "prefix" (counted from the start; the read-out still goes to the read-out),
            "equal_only" (equal lengths, index by index), "read_out" (the last position only).
        source_length: tokens of the first sequence.
        target_length: tokens of the second.
        prefix: length of the shared token prefix.
        suffix: length of the shared token suffix (not overlapping the prefix).
        pairs: int64 [n, 2] of (source, target) positions, increasing.

    Example:
        >>> Alignment.of([1, 2, 3, 9], [1, 2, 4, 5, 9]).target_of(3)
        4
    """

    rule: Rule
    source_length: int
    target_length: int
    prefix: int
    suffix: int
    pairs: np.ndarray

    @classmethod
    def of(cls, source: Sequence[int] | np.ndarray, target: Sequence[int] | np.ndarray, rule: Rule = "diff"
           ) -> Alignment:
        """Align two id sequences.

        Raises:
            RewardenError: rule "equal_only" with unequal lengths, an empty sequence, or an unknown rule.
        """
        a, b = np.asarray(source), np.asarray(target)
        if not len(a) or not len(b):
            raise RewardenError("cannot align an empty sequence", where="alignment", fix="drop the empty response")
        shorter = min(len(a), len(b))
        same = a[:shorter] == b[:shorter]
        prefix = int(np.argmin(same)) if not same.all() else shorter
        tail = a[::-1][: shorter - prefix] == b[::-1][: shorter - prefix]
        suffix = int(np.argmin(tail)) if not tail.all() else len(tail)
        make = {"diff": _diff, "suffix": _from_end, "prefix": _from_start, "equal_only": _index, "read_out": _last}
        if rule not in make:
            raise RewardenError(f"unknown alignment {rule!r}", where="alignment=", fix=f"use one of {sorted(make)}")
        pairs = make[rule](a, b, prefix, suffix)
        return cls(rule, len(a), len(b), prefix, suffix, np.asarray(pairs, dtype=np.int64).reshape(-1, 2))

    def target_of(self, position: int) -> int | None:
        """The target position of a source position, or None where it has no counterpart."""
        found = np.flatnonzero(self.pairs[:, 0] == position)
        return int(self.pairs[found[0], 1]) if len(found) else None

    def inverse(self) -> Alignment:
        """The same map read from target to source."""
        return Alignment(self.rule, self.target_length, self.source_length, self.prefix, self.suffix, self.pairs[:, ::-1])


def _range(start_a: int, start_b: int, n: int) -> list[tuple[int, int]]:
    return [(start_a + i, start_b + i) for i in range(n)]


def _diff(a: np.ndarray, b: np.ndarray, prefix: int, suffix: int) -> list[tuple[int, int]]:
    middle_a, middle_b = a[prefix:len(a) - suffix].tolist(), b[prefix:len(b) - suffix].tolist()
    blocks = SequenceMatcher(None, middle_a, middle_b, autojunk=False).get_matching_blocks()
    pairs = _range(0, 0, prefix)
    for block in blocks:
        pairs += _range(prefix + block.a, prefix + block.b, block.size)
    pairs += _range(len(a) - suffix, len(b) - suffix, suffix)
    return _with_read_out(pairs, len(a), len(b))


def _from_end(a: np.ndarray, b: np.ndarray, prefix: int, suffix: int) -> list[tuple[int, int]]:
    # what both sides share is the same token: counting it from the end would match BOS and prompt with shifted ones
    n = min(len(a), len(b)) - prefix
    return _with_read_out(_range(0, 0, prefix) + _range(len(a) - n, len(b) - n, n), len(a), len(b))


def _from_start(a: np.ndarray, b: np.ndarray, prefix: int, suffix: int) -> list[tuple[int, int]]:
    return _with_read_out(_range(0, 0, min(len(a), len(b))), len(a), len(b))


def _index(a: np.ndarray, b: np.ndarray, prefix: int, suffix: int) -> list[tuple[int, int]]:
    if len(a) != len(b):
        raise RewardenError(f"alignment 'equal_only' of {len(a)} and {len(b)} tokens", where="alignment=",
                            why="index by index means nothing for unequal lengths",
                            fix="use 'diff' or 'suffix', or drop pairs of unequal length")
    return _range(0, 0, len(a))


def _last(a: np.ndarray, b: np.ndarray, prefix: int, suffix: int) -> list[tuple[int, int]]:
    return [(len(a) - 1, len(b) - 1)]


def _with_read_out(pairs: list[tuple[int, int]], n_a: int, n_b: int) -> list[tuple[int, int]]:
    """The last position of one goes to the last position of the other, whatever else the rule found for them."""
    kept = [(i, j) for i, j in pairs if i != n_a - 1 and j != n_b - 1]
    return [*kept, (n_a - 1, n_b - 1)]
