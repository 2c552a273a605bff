"""Which responses were evaluated already, and what came out?

In: the response at hand and exchanges of one token. Out: their scores where known. Ignorant of models.
A response is known by a 64-bit hash that one exchange updates (Zobrist 1970): a clash among ten million responses has odds of
3e-6. Hashes are kept in sorted runs that are merged as they grow.
"""

from __future__ import annotations

import numpy as np


class History:
    """Scores of evaluated responses.

    Args:
        length: tokens of a response.
        size: token ids lie below it.

    Example:
        >>> known = History(2, 10)
        >>> known.add(known.exchanged([3, 4], np.array([1]), np.array([7])), np.array([0.5]))
        >>> known.look_up(known.exchanged([3, 9], np.array([1, 0]), np.array([7, 1]))).tolist()
        [0.5, nan]
    """

    def __init__(self, length: int, size: int) -> None:
        self.codes = np.random.default_rng(0).integers(0, 2**64 - 1, (length, size), dtype=np.uint64, endpoint=True)
        self.runs: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self.runs)

    def key(self, ids: np.ndarray | list[int]) -> np.uint64:
        """Hash of a response [length]."""
        return np.bitwise_xor.reduce(self.codes[np.arange(len(ids)), np.asarray(ids)])

    def exchanged(self, ids: np.ndarray | list[int], positions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Hashes uint64 [n] of the response with token `others[i]` at `positions[i]`."""
        ids = np.asarray(ids)
        return self.key(ids) ^ self.codes[positions, ids[positions]] ^ self.codes[positions, others]

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """Scores float32 [n], NaN where the response is not known."""
        found = np.full(len(keys), np.nan, np.float32)
        for known, scores in self.runs:
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            same = known[place] == keys
            found[same] = scores[place[same]]
        return found

    def add(self, keys: np.ndarray, scores: np.ndarray) -> None:
        """Remember scores [n] of responses that were not known."""
        if not len(keys):
            return
        keys, scores = np.asarray(keys, np.uint64), np.asarray(scores, np.float32)
        # a run is merged into one of its own size: each hash is moved a few times, not once a step
        while self.runs and len(self.runs[-1][0]) <= len(keys):
            earlier = self.runs.pop()
            keys, scores = np.concatenate([earlier[0], keys]), np.concatenate([earlier[1], scores])
        order = np.argsort(keys, kind="stable")
        self.runs.append((keys[order], scores[order]))
