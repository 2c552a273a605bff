"""What does attention return when some queries or keys are other ones? Exactly; and to first order, what does that do then?

In: how attention was called, edits of q or k, gradients of what attention returned. Out: estimates in which the softmax is
computed, not linearised. A saturated softmax has no slope, so a gradient through it misses what a new query or key does.
Source: the QK fix of AtP*, Kramár et al. 2024 (arXiv 2403.00745), §3.1.1. Ignorant of sources and sweeps.

Letters: C cells (one position of one row), G gradients, S query positions, T key positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.units import Part
from rewarden.trace.attention import Attention, capped

SHARED = 1e-6
"""Share of a query's attention that other keys must have for the formula of one key's change to keep ten digits."""

HUGE = 700.0
"""Its exponential is finite, and any share that large is all there is."""


@dataclass(frozen=True, eq=False)
class Head:
    """One query head of a recorded call of attention, in float64.

    Attributes:
        call: the call (batch of one).
        head: query head.
    """

    call: Attention
    head: int

    @property
    def query(self) -> Tensor:
        """[S, d_head]."""
        return self.call.query[0, self.head].double()

    @property
    def key(self) -> Tensor:
        """[T, d_head]."""
        return self.call.key[0, self.head // self.call.groups].double()

    @property
    def value(self) -> Tensor:
        """[T, d_value]."""
        return self.call.value[0, self.head // self.call.groups].double()

    def open(self, queries: Tensor | slice, keys: Tensor | slice) -> Tensor:
        """bool [S, T]: which of these queries may read which of these keys."""
        length = self.call.key.shape[2]
        if self.call.mask is None:
            whole = torch.ones(length, length, dtype=torch.bool, device=self.call.key.device)
        else:
            whole = self.call.mask[0, 0, :, :length]
        return whole[queries][:, keys]

    def scores(self, query: Tensor, key: Tensor, allowed: Tensor) -> Tensor:
        """What the softmax is taken of, [S, T]."""
        return capped(query @ key.T * self.call.scale, self.call.softcap).masked_fill(~allowed, float("-inf"))

    def log_total(self, scores: Tensor) -> Tensor:
        """Logarithm of the softmax's denominator [S], with the head's sink where it has one."""
        total = scores.logsumexp(-1)
        return total if self.call.sinks is None else torch.logaddexp(total, self.call.sinks[self.head].double())

    def mixed(self, query: Tensor, key: Tensor, allowed: Tensor) -> Tensor:
        """What attention returns, [S, d_value]."""
        scores = self.scores(query, key, allowed)
        return (scores - self.log_total(scores)[:, None]).exp() @ self.value

    @cached_property
    def base(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the call as it was: scores [S, T], logarithm of the denominator [S], what it returned [S, d_value]."""
        scores = self.scores(self.query, self.key, self.open(slice(None), slice(None)))
        total = self.log_total(scores)
        return scores, total, (scores - total[:, None]).exp() @ self.value

    def new_queries(self, positions: Tensor, query: Tensor, gradients: Tensor) -> Tensor:
        """Effect of each of some queries by itself, [G, C].

        Args:
            positions: int64 [C].
            query: [C, d_head].
            gradients: of what attention returned, [G, S, d_value].
        """
        change = self.mixed(query, self.key, self.open(positions, slice(None))) - self.base[2][positions]
        return (gradients[:, positions] * change).sum(-1)

    def new_keys(self, positions: Tensor, key: Tensor, gradients: Tensor) -> Tensor:
        """Effect of each of some keys by itself, [G, C]; arguments as for `new_queries`.

        A key's share p of a query's attention becomes p' of the old denominator, so that attention returns
        (p'−p)·(v−z) ÷ (1+p'−p) more, with v the key's value and z what it returned: only the key's own column is computed.
        """
        scores, total, mixed = self.base
        share = (scores[:, positions] - total[:, None]).exp()  # [S, C]
        changed = self.scores(self.query, key, self.open(slice(None), positions))  # [S, C]
        more = (changed - total[:, None]).clamp_max(HUGE).exp() - share
        full = share > 1 - SHARED
        weight = (more / (1 + more)).masked_fill(full, 0.0)
        toward = gradients @ self.value[positions].T - (gradients * mixed).sum(-1, keepdim=True)  # [G, S, C]
        found = (toward * weight).sum(1)
        query, column = full.nonzero(as_tuple=True)  # one key has it all: the others' shares are lost to rounding
        row = scores[query].clone()
        row[torch.arange(len(row), device=row.device), positions[column]] = changed[query, column]
        change = (row - self.log_total(row)[:, None]).exp() @ self.value - mixed[query]
        return found.index_add(1, column, (gradients[:, query] * change).sum(-1))

    def new_keys_together(self, positions: Tensor, key: Tensor, gradients: Tensor) -> Tensor:
        """Effect of some keys that change together, [G]; arguments as for `new_queries`."""
        changed = self.key.clone()
        changed[positions] = key
        change = self.mixed(self.query, changed, self.open(slice(None), slice(None))) - self.base[2]
        return (gradients * change).sum((1, 2))


def effects(call: Attention, part: Part, gradients: Tensor) -> Tensor:
    """What each row of a part that replaces queries or keys does to the reward, float64 [G, n].

    Args:
        call: how attention was called in the part's layer.
        part: of kind q or k.
        gradients: of what attention returned, float64 [G, T, head, d_value].
    """
    n = len(part.positions)
    device = call.query.device
    found = torch.zeros(len(gradients), n, dtype=torch.float64, device=device)
    per_head = 1 if part.kind == "q" else call.groups
    values = part.values_of(np.arange(n)).to(device).double()  # [n, P, width]
    positions = torch.as_tensor(np.ascontiguousarray(part.positions), device=device)
    for head in range(call.query.shape[1]):
        own = head // per_head  # the head of the edited tensor that this query head reads with
        if part.heads is None:
            rows, held = torch.arange(n, device=device), values.unflatten(-1, (call.query.shape[1] // per_head, -1))[:, :, own]
        else:
            rows = torch.as_tensor(np.flatnonzero(part.heads == own), device=device)
            held = values[rows]
        if len(rows):
            found[:, rows] += _of_head(Head(call, head), part.kind, positions[rows], held, gradients[:, :, head])
    return found


def _of_head(head: Head, kind: str, positions: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
    """Effects [G, m] of rows [m, P] of one head with values [m, P, d_head]."""
    m, P = positions.shape
    if kind == "q" or P == 1:
        each = head.new_queries if kind == "q" else head.new_keys
        return each(positions.reshape(-1), values.reshape(m * P, -1), gradients).unflatten(-1, (m, P)).sum(-1)
    rows: Sequence[Tensor] = [head.new_keys_together(*row, gradients) for row in zip(positions, values, strict=True)]
    return torch.stack(list(rows), -1)
