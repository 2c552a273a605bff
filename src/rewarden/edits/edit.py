"""What is changed, where, and to what: a site, and an edit of it.

In: names, positions, tensors. Out: `Edit`s for `rm.edit`. Ignorant of models: a site that a model does not have is found
out when the edits are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rewarden.errors import RewardenError

Mode = Literal["replace", "add", "scale"]
MODES = ("replace", "add", "scale")

KINDS = ("embed", "resid_pre", "resid_post", "attn_in", "mlp_in", "attn_out", "mlp_out", "z", "neurons", "q", "k", "v")
"""Every kind of site. `attn_in` and `mlp_in` are what the sublayer reads, before its norm; the residual stream beside it
is not touched. `q`, `k`, `v` are what attention uses: after position encoding."""

PER_HEAD = ("z", "neurons", "q", "k", "v")
"""Kinds that `head` selects from (the neuron for `neurons`, the key head for `k` and `v`)."""


@dataclass(frozen=True)
class Site:
    """A place in the model.

    Attributes:
        kind: one of `KINDS`.
        layer: 0-based (ignored for `embed`).
        position: a token position, several, or None for all; negative ones count from the end.
        head: head, or None for the whole vector.

    Example:
        >>> Site("z", 3, position=-1, head=5)
        Site(z.3.5 @ -1)
    """

    kind: str
    layer: int = 0
    position: int | tuple[int, ...] | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RewardenError(f"unknown site {self.kind!r}", where="Site", fix=f"use one of {list(KINDS)}")
        if not isinstance(self.layer, (int, np.integer)):
            raise RewardenError(f"layer {self.layer!r} is no whole number", where="Site(layer=)", fix="layers count from 0")
        if self.head is not None and self.kind not in PER_HEAD:
            raise RewardenError(f"site {self.kind!r} has no heads", where="Site(head=)",
                                fix=f"heads belong to {list(PER_HEAD)}")
        if self.position is not None and not isinstance(self.position, (int, np.integer)):
            several = self.position if isinstance(self.position, (Sequence, np.ndarray)) else ()
            if not len(several) or not all(isinstance(p, (int, np.integer)) for p in several):
                raise RewardenError(f"position {self.position!r} is no position", where="Site(position=)",
                                    why="positions are whole numbers, one or several", fix="name one, several, or None for all")
            object.__setattr__(self, "position", tuple(int(p) for p in several))

    def __repr__(self) -> str:
        where = "" if self.position is None else f" @ {self.position}"
        return f"Site({self.kind}.{self.layer}{'' if self.head is None else f'.{self.head}'}{where})"


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of a run.

    Args:
        site: where.
        value: [width], one vector for every position, or [P, width] in the order of the site's positions ([T, width] for
            all positions). Width is that of the site: d_model, or of the head. With mode "scale", also one number.
        mode: "replace" the activation, "add" to it, or "scale" it.

    One counterfactual may need several edits: pass `rm.edit` a list of them in place of one. Edits of the same site act in
    the order replace, scale, add.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> talk = rw.Pair("Hi", "Hello!", "Go away.").conversations[0]
        >>> zero = Edit(Site("mlp_out", 2, position=-1), torch.zeros(rm.architecture.d_model))
        >>> rm.edit(talk, [zero]).shape
        (1, 1)
    """

    site: Site
    value: Tensor | float
    mode: Mode = "replace"

    def __post_init__(self) -> None:
        _check_mode(self.mode)
        value = torch.as_tensor(self.value)
        if value.ndim > 2 or (value.ndim == 0 and self.mode != "scale"):
            raise RewardenError(f"the value of an edit has shape {tuple(value.shape)}", where=repr(self.site),
                                why="it is [width] or [P, width]; one number only scales", fix="give one vector per position")
        object.__setattr__(self, "value", value)


@dataclass(frozen=True, eq=False)
class EditBatch:
    """Many counterfactuals at one kind and layer that differ in value, and maybe in position and head.

    The same as a list of `Edit`s, without a Python object for each: vocabularies, dictionaries, sweeps.

    Args:
        site: where; its position is used when `positions` is not given.
        values: [n, width] for one position each, or [n, P, width].
        mode: as in `Edit`.
        positions: int64 [n], one position for each, or None.
        heads: int64 [n], one head for each, or None for the site's.
    """

    site: Site
    values: Tensor
    mode: Mode = "replace"
    positions: Sequence[int] | np.ndarray | None = None
    heads: Sequence[int] | np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_mode(self.mode)
        object.__setattr__(self, "values", torch.as_tensor(self.values))
        uneven = [x for x in (self.positions, self.heads) if x is not None and len(x) != len(self.values)]
        if self.values.ndim not in (2, 3) or uneven or not len(self.values):
            raise RewardenError(f"an edit batch with values {tuple(self.values.shape)}", where=repr(self.site),
                                why="values are [n, width] or [n, P, width]; positions and heads [n]; n at least 1",
                                fix="reshape the values")
        if self.heads is not None and self.site.kind not in PER_HEAD:
            raise RewardenError(f"site {self.site.kind!r} has no heads", where="EditBatch(heads=)",
                                fix=f"heads belong to {list(PER_HEAD)}")

    def __len__(self) -> int:
        return len(self.values)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise RewardenError(f"unknown mode {mode!r}", where="Edit(mode=)", fix=f"use one of {list(MODES)}")


Edits = Sequence["Edit | Sequence[Edit] | EditBatch"] | EditBatch
"""What `rm.edit` takes: an edit, or several that act together, for each counterfactual; or batches of them."""
