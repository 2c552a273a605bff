"""Do models have the same biases? The battery on all of them at once, and on the differences of their rewards.

In: members with their models. Out: for each axis the effect in every model, in SD of its rewards, and differences of two
models, whose intervals know that both read the same texts. The work is that of `rewarden.bias_battery`, to which the members
are the scalars of one model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from rewarden.comparison.matrices import pairs_of_models, symmetric
from rewarden.comparison.members import Member
from rewarden.conversation import Conversation
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.hacking.bias.battery import bias_battery
from rewarden.options import CompareOptions
from rewarden.statistics import holm

ENDS = ("", "_low", "_high")


@dataclass(frozen=True, eq=False)
class Shared(Encoded):
    """A text as the first model reads it, with what each model reads.

    Attributes:
        rows: one a model, in their order.
    """

    rows: tuple[Encoded, ...] = ()

    def key(self) -> str:
        """Hash of the ids of all models: texts that one tokenizer writes alike may be two texts to another."""
        return hashlib.sha256("".join(row.key() for row in self.rows).encode()).hexdigest()[:32]


class Panel:
    """Several models as one with several scalars: each model's reward in its SD, then the difference of every two.

    It can be asked for rewards, and nothing else; tokens are counted by the first model.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.models = [member.rm for member in members if member.rm is not None]
        self.units = np.asarray([member.spread for member in members])
        self.differences = list(pairs_of_models(len(members)))
        names = [member.name for member in members]
        self.names = (*names, *(f"{names[i]} − {names[j]}" for i, j in self.differences))
        self.main = 0
        self.noise_floor = float(sum(member.floor / member.spread for member in members))
        self.tokenizer, self.encoder = self.models[0].tokenizer, self.models[0].encoder

    def encode(self, conversation: Conversation) -> Shared:
        """Tokens of the first model, with those of the others."""
        rows = tuple(rm.encode(conversation) for rm in self.models)
        return Shared(**{part.name: getattr(rows[0], part.name) for part in fields(Encoded)}, rows=rows)

    def reward_encoded(self, rows: Sequence[Shared], **options: Any) -> np.ndarray:
        """Scalars float32 [n, M + differences]."""
        held = [rm.reward_encoded([row.rows[place] for row in rows], **options)[:, rm.main].astype(np.float64)
                for place, rm in enumerate(self.models)]
        own = np.stack(held, axis=1) / self.units
        apart = [own[:, i] - own[:, j] for i, j in self.differences]
        return np.column_stack([own, *apart]).astype(np.float32)

    def provenance(self) -> dict[str, str | int | float | bool]:
        """Names of the models."""
        return {"model": ", ".join(self.names[:len(self.models)])}


def compare_batteries(members: Sequence[Member], options: CompareOptions) -> xr.Dataset:
    """`bias` (model, axis) and `bias_gap` (model, other, axis) with their ends, in SD of each model's rewards, of a length axis
    for a token; `bias_gap_p` adjusted (Holm) over axes and pairs of models; `bias_n` (kinds of wording) and `bias_unit` (axis).

    Where an axis asks how much terms differ (identities), the gap is how much their effects differ between the models, and has
    no sign.

    Raises:
        RewardenError: a member of which only scores are known.
    """
    closed = [member.name for member in members if member.rm is None]
    if closed:
        raise RewardenError(f"no bias battery of {', '.join(closed)}", where="compare(bias=True)",
                            why="only scores are known of it", fix="pass the model, or bias=False")
    panel = Panel(members)
    found = bias_battery(panel, level=options.level, seed=options.seed).data  # type: ignore[arg-type]
    m, gaps = len(members), {}
    raw = found["p"].values[:, m:]
    adjusted = holm(raw.ravel()).reshape(raw.shape)
    for place, (i, j) in enumerate(panel.differences):
        ends = np.stack([found[name].values[:, m + place] for name in ("estimate", "low", "high")])
        gaps[i, j] = np.vstack([ends, adjusted[:, place]])
    both = symmetric(m, gaps)  # [M, M, 4, axis]
    lower, signed = np.tril_indices(m, -1), found["design"].values != "spread"
    turned = both[lower][:, [0, 2, 1, 3]] * np.array([-1, -1, -1, 1])[:, None]
    both[lower] = np.where(signed, turned, both[lower])
    own = {f"bias{end}": (("model", "axis"), found[name].values[:, :m].T)
           for end, name in zip(ENDS, ("estimate", "low", "high"), strict=True)}
    apart = {f"bias_gap{end}": (("model", "other", "axis"), both[:, :, place]) for place, end in enumerate((*ENDS, "_p"))}
    units = np.char.replace(found["estimate_unit"].values.astype(str), "reward", "SD")  # the panel reads rewards in SD
    return xr.Dataset({**own, **apart, "bias_n": ("axis", found["n_templates"].values), "bias_unit": ("axis", units)},
                      coords={"axis": found["axis"].values})
