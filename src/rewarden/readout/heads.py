"""Heads that read one position: linear sequence and value heads, encoder classification heads, and ensembles of heads.

In: normed hidden states at the read position. Out: scalars. Ignorant of checkpoints (see `find`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.norms import Norm
from rewarden.readout.base import Reading, Readout, last_position


@dataclass(eq=False)
class SequenceHead(Readout):
    """A linear head at the last token: sequence classifiers and value heads.

    Args:
        weight: float32 [k, d].
        bias: float32 [k].
        norm: the final norm.
        names: one name per row of `weight`.
    """

    weight: Tensor
    bias: Tensor
    norm: Norm
    names: tuple[str, ...] = ("score",)

    def read(self, encoded: Encoded) -> Reading:
        """The last token."""
        return Reading(last_position(encoded))

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """weight·h + bias."""
        return normed[..., -1, :] @ self.weight.T + self.bias

    def weights_normed(self, normed: Tensor, reading: Reading, output: int) -> tuple[Tensor, Tensor]:
        """The head's own row: it is the same everywhere."""
        return self.weight[output][None], self.bias[output]

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The classifier's logits [k]."""
        return model(**inputs).logits[0].float()


@dataclass(eq=False)
class EncoderHead(Readout):
    """A classification head of an encoder (pooler, dense, activation): any function of the first token's state.

    Args:
        head: maps float32 hidden states [n, 1, d] to logits [n, k].
        norm: identity, or the encoder's final norm.
        names: one name per label.
    """

    head: Callable[[Tensor], Tensor]
    norm: Norm
    names: tuple[str, ...] = ("score",)

    def read(self, encoded: Encoded) -> Reading:
        """The first token (CLS)."""
        return Reading(np.asarray([0]))

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The head's logits."""
        flat = normed.reshape(-1, 1, normed.shape[-1])
        return self.head(flat).reshape(*normed.shape[:-2], -1)

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The classifier's logits [k]."""
        return model(**inputs).logits[0].float()


@dataclass(eq=False)
class HeadEnsemble(Readout):
    """Several heads on one trunk reduced to one score, members kept as further scalars.

    Args:
        members: read-outs with the same read position.
        reduce: "mean", "min" (pessimistic) or "quantile".
        q: the quantile, 0 to 1.

    Example:
        >>> head = SequenceHead(torch.tensor([[1.0], [3.0]]), torch.zeros(2), Norm.identity(1), ("a", "b"))
        >>> HeadEnsemble([head], "min").apply(torch.ones(1, 1), Reading(np.array([0]))).tolist()
        [1.0, 1.0, 3.0]
    """

    members: Sequence[Readout]
    reduce: Literal["mean", "min", "quantile"] = "mean"
    q: float = 0.25
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.members or self.reduce not in ("mean", "min", "quantile") or not 0 <= self.q <= 1:
            raise RewardenError(f"cannot reduce {len(self.members)} heads by {self.reduce!r} (q={self.q})",
                                where="HeadEnsemble", fix="give at least one head; reduce by 'mean', 'min' or 'quantile' "
                                "with 0 <= q <= 1")
        self.norm = self.members[0].norm
        self.reads_ids = any(member.reads_ids for member in self.members)
        self.names = ("score", *(f"member_{i}.{n}" for i, member in enumerate(self.members) for n in member.names))

    def read(self, encoded: Encoded) -> Reading:
        """Where the first member reads."""
        return self.members[0].read(encoded)

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The reduced score, then each member's scalars."""
        values = torch.cat([member.apply_normed(normed, reading) for member in self.members], -1)
        return torch.cat([reduce_scores(values, self.reduce, self.q)[..., None], values], -1)


def reduce_scores(values: Tensor, how: str, q: float) -> Tensor:
    """Mean, minimum or quantile over the last axis."""
    if how == "mean":
        return values.mean(-1)
    return values.amin(-1) if how == "min" else values.quantile(q, dim=-1)
