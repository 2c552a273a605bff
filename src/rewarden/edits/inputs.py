"""What enters layer 0 for a token at a position? What a vocabulary is put in place of a token with.

In: a base run, ids, positions. Out: vectors [n, d], as the model's own embedding path makes them: scaled, normed, positions
added. The model is run up to its first layer and no further. Ignorant of what is done with them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.batching import CPU_TOKENS, GPU_TOKENS
from rewarden.edits.base import BaseRun
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.trace.hooks import Tap

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def check_ids(rm: RewardModel, ids: np.ndarray) -> None:
    """Refuse ids that the model has no embedding for."""
    size = int(rm.architecture.embedding.num_embeddings)  # type: ignore[arg-type]
    outside = ids[(ids < 0) | (ids >= size)]
    if len(outside):
        raise RewardenError(f"token id {outside[0]}", where="ids=", why=f"the model has embeddings for 0 to {size - 1}",
                            fix="leave it out")


class _Entered(Exception):
    """Ends a forward once layer 0 is about to run."""


@dataclass(eq=False)
class LayerInputs:
    """Vectors that enter layer 0.

    Attributes:
        base: the run whose conversation the tokens are put into.
    """

    base: BaseRun

    def __call__(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """Vectors [n, d] of ids [n] at token positions [n].

        Raises:
            RewardenError: ids that the model has no embedding for.

        Example:
            >>> import rewarden as rw
            >>> base = rw.load().base(rw.Pair("Hi", "Hello!", "Go away.").conversations[0])
            >>> there = LayerInputs(base)(base.encoded.ids[3:5], np.array([3, 4]))
            >>> bool(torch.equal(there, base.activation("resid_pre", 0)[3:5]))
            True
        """
        ids, positions = np.asarray(ids, np.int64), np.asarray(positions, np.int64)
        check_ids(self.base.rm, ids)
        return self._packed(ids) if self.anywhere else self._in_place(ids, positions)

    @cached_property
    def anywhere(self) -> bool:
        """Whether a token enters layer 0 as the same vector wherever it stands: then rows need not be whole conversations."""
        there = self.base.resid_pre[0]
        turned = self._run(self.base.encoded.ids[None, ::-1].copy())[0].flip(0)
        return bool(torch.equal(turned, there)) and self.base.encoded.type_ids is None

    def _packed(self, ids: np.ndarray) -> Tensor:
        width = self.base.length
        filled = np.concatenate([ids, np.repeat(ids[:1], -len(ids) % width)]).reshape(-1, width)
        return torch.cat([part.flatten(0, 1) for part in self._batches(filled)])[:len(ids)]

    def _in_place(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        rows = np.repeat(self.base.encoded.ids[None], len(ids), 0)
        rows[np.arange(len(ids)), positions] = ids
        done, found = 0, []
        for part in self._batches(rows):
            at = torch.as_tensor(positions[done:done + len(part)], device=part.device)
            found.append(part[torch.arange(len(part), device=part.device), at])
            done += len(part)
        return torch.cat(found)

    def _batches(self, rows: np.ndarray) -> list[Tensor]:
        budget = CPU_TOKENS if self.base.rm.device.type == "cpu" else GPU_TOKENS
        size = max(1, budget // rows.shape[1])
        return [self._run(rows[start:start + size]) for start in range(0, len(rows), size)]

    def _run(self, rows: np.ndarray) -> Tensor:
        """What enters layer 0, [n, T, d]."""
        rm, like = self.base.rm, self.base.encoded
        seen: list[Tensor] = []

        def stop(hidden: Tensor) -> None:
            seen.append(hidden.detach().reshape(-1, rows.shape[1], hidden.shape[-1]).expand(len(rows), -1, -1))
            raise _Entered

        encoded = [Encoded(row, like.spans, like.offsets, "", type_ids=like.type_ids) for row in rows]
        with suppress(_Entered):
            rm.forward(encoded, [Tap(rm.architecture.blocks[0].layer, "input", stop)])
        return seen[0]
