"""What are the scalars if one token of the response were another one?

In: a reward model, a slot, a response, and (position, id) substitutions. Out: scalars of every substitution, exact, by the
edit engine: what stands before the position is shared. Also the check of the engine against whole forwards that every scan
carries. Ignorant of which substitutions are worth trying.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rewarden.edits import EditBatch, Site
from rewarden.edits.base import BaseRun
from rewarden.edits.inputs import LayerInputs, check_ids
from rewarden.edits.plan import make_plan
from rewarden.encoding import Encoded
from rewarden.errors import RewardenWarning
from rewarden.reward_model import RewardModel
from rewarden.tokens.slot import Slot

CHUNK = 4096
"""Substitutions planned at once."""

CHECKED = 4
"""Substitutions that are also run as whole forwards."""

TOLERANCE = 1e-3
"""Largest difference to whole forwards in units of the reward's spread, in float32, before whole forwards take over."""


@dataclass(eq=False)
class Candidates:
    """Responses that differ in one token from the one at hand.

    Attributes:
        rm: the reward model.
        slot: where the response stands.
        floor: largest difference met between unedited rows and the base run, or between the engine and whole forwards.
        whole: every substitution is a whole forward (the engine does not fit this model).
        checked: whether the engine was compared with whole forwards.
    """

    rm: RewardModel
    slot: Slot
    floor: float = 0.0
    whole: bool = False
    checked: bool = False

    def base(self, ids: Sequence[int] | np.ndarray) -> BaseRun:
        """The run of a response, which substitutions start from."""
        check_ids(self.rm, np.asarray(ids, np.int64))
        return self.rm.base(self.slot.filled(ids))

    def substitute(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray,
                   progress: Callable[[int], object] | None = None) -> np.ndarray:
        """Scalars with one response token exchanged.

        Args:
            base: `self.base(response)`.
            positions: int64 [n], which token of the response, from 0.
            ids: int64 [n], what stands there instead.
            progress: called with the number of substitutions finished.

        Returns:
            float32 [n, k].
        """
        positions, ids = np.asarray(positions, np.int64), np.asarray(ids, np.int64)
        out = np.empty((len(ids), len(self.rm.names)), np.float32)
        if not self.checked and len(ids):
            self._check(base, positions, ids)
        for start in range(0, len(ids), CHUNK):
            part = slice(start, start + CHUNK)
            out[part] = (self._as_whole if self.whole else self._by_edits)(base, positions[part], ids[part])
            if progress:
                progress(len(ids[part]))
        return out

    def _check(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray) -> None:
        """Some substitutions both ways: the floor, and whether the engine fits."""
        self.checked = True
        some = np.unique(np.linspace(0, len(ids) - 1, min(CHECKED, len(ids))).astype(np.int64))
        ours = self._by_edits(base, positions[some], ids[some])
        plain = self._as_whole(base, positions[some], ids[some])
        finite = np.isfinite(ours) & np.isfinite(plain)
        apart = float(np.abs(ours - plain)[finite].max(initial=0.0))
        scale = float(np.abs(plain[finite]).max(initial=1.0))
        half = self.rm.dtype not in (torch.float32, torch.float64)
        if not finite.any() or (not half and apart > TOLERANCE * max(scale, 1.0)):
            self.whole = True
            warnings.warn(f"the edit engine and whole forwards differ by {apart:.1e} on {self.rm.name}: every candidate is "
                          "run whole, which is slow but right", RewardenWarning, stacklevel=2)
            return
        self.floor = max(self.floor, apart)

    def _rows(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray) -> list[Encoded]:
        response = base.encoded.ids[self.slot.start:self.slot.start + self.length(base)]
        rows = np.repeat(response[None], len(ids), 0)
        rows[np.arange(len(ids)), positions] = ids
        return [self.slot.filled(row) for row in rows]

    def length(self, base: BaseRun) -> int:
        """Tokens of the response of a base run."""
        return base.length - self.slot.start - self.slot.after.length

    def _as_whole(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return self.rm.reward_encoded(self._rows(base, positions, ids))

    def _by_edits(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray) -> np.ndarray:
        where = self.slot.start + positions
        values = LayerInputs(base)(ids, where)
        batch = EditBatch(Site("resid_pre", 0), values, positions=where)
        readings = None
        if self.rm.readout.reads_ids:
            readings = [self.rm.readout.read(row) for row in self._rows(base, positions, ids)]
        edited = make_plan(self.rm, base, batch, readings=readings).run()
        self.floor = max(self.floor, edited.noise_floor)
        return edited.values.cpu().numpy()
