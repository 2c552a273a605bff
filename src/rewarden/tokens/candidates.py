"""What are the scalars if one token of the response were another one?

In: a reward model, a slot, a response, and (position, id) substitutions. Out: scalars of every substitution, exact, by the
edit engine: what stands before the position is shared. Also the check of the engine against whole forwards that every scan
carries. Ignorant of which substitutions are worth trying.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rewarden.edits import EditBatch, Site
from rewarden.edits.base import BaseRun
from rewarden.edits.following import can_follow, following
from rewarden.edits.inputs import LayerInputs, check_ids
from rewarden.edits.plan import make_plan
from rewarden.encoding import Encoded
from rewarden.errors import RewardenWarning
from rewarden.reward_model import RewardModel
from rewarden.tokens.rounding import judged, sample_of
from rewarden.tokens.slot import Slot

CHUNK = 4096
"""Substitutions planned at once."""

TRIED = 16
"""Responses of one token that are tried as the run to start from, until the reward of one is finite."""


@dataclass(eq=False)
class Candidates:
    """Responses that differ in one token from the one at hand.

    Attributes:
        rm: the reward model.
        slot: where the response stands.
        floor: twice the largest difference met between unedited rows and the base run, or the engine and rows run alone.
        whole: every substitution is a whole forward (the engine does not fit this model).
        checked: whether the engine was compared with whole forwards; True from the start leaves that out.
        repeated: many responses of one length will be started from: the prompt is run once for all of them.
    """

    rm: RewardModel
    slot: Slot
    floor: float = 0.0
    whole: bool = False
    checked: bool = False
    repeated: bool = False
    _roots: dict[int, BaseRun] = field(default_factory=dict, repr=False)

    def base(self, ids: Sequence[int] | np.ndarray) -> BaseRun:
        """The run of a response, which substitutions start from."""
        ids = np.asarray(ids, np.int64)
        check_ids(self.rm, ids)
        row = self.slot.filled(ids)
        if not self.repeated or self._padding(ids).any():
            return self.rm.base(row)
        # always from the same run, whatever was asked before: a search that goes on after a kill finds the same numbers
        if len(ids) not in self._roots:
            self._roots[len(ids)] = self.rm.base(self.slot.filled(self._any(len(ids))))
        root = self._roots[len(ids)]
        return following(root, row) if can_follow(root) else self.rm.base(row)

    def _any(self, length: int) -> np.ndarray:
        """Some response of that length, always the same."""
        return np.full(length, self.first(np.arange(int(self.rm.architecture.embedding.num_embeddings))))  # type: ignore

    def first(self, ids: np.ndarray) -> int:
        """The id to start from: one that is no padding, where there is one."""
        plain = ids[~self._padding(ids)]
        return int(plain[0] if len(plain) else ids[0])

    def usable(self, base: BaseRun, ids: np.ndarray) -> BaseRun:
        """This base run, or that of the first id whose reward is finite; without one, every candidate is run whole."""
        for number in [None, *ids[~self._padding(ids)][:TRIED].tolist()]:
            run = base if number is None else self.base([number])
            if bool(torch.isfinite(run.values).all()):
                return run
        self.whole = True
        return base

    def _padding(self, ids: np.ndarray) -> np.ndarray:
        """bool [n]: ids of padding, which some models tell positions by: no edit of one token can say what they change."""
        return np.isin(ids, padding_ids(self.rm))

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
        held = base.encoded.ids[self.slot.start + positions]
        if not self.checked and len(ids):
            self._check(base, positions, ids, held)
        for start in range(0, len(ids), CHUNK):
            part = slice(start, start + CHUNK)
            if self.whole:
                out[part] = self._as_whole(base, positions[part], ids[part])
            else:
                out[part] = self._mixed(base, positions[part], ids[part], held[part])
            if progress:
                progress(len(ids[part]))
        return out

    def _mixed(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray, held: np.ndarray) -> np.ndarray:
        """By edits, but for ids that an edit cannot stand for: padding, and embeddings that are not finite."""
        values = LayerInputs(base)(ids, self.slot.start + positions)
        odd = self._padding(ids) | self._padding(held) | ~torch.isfinite(values).all(-1).cpu().numpy()
        out = np.empty((len(ids), len(self.rm.names)), np.float32)
        if (~odd).any():
            kept = torch.as_tensor(np.flatnonzero(~odd), device=values.device)
            out[~odd] = self._by_edits(base, positions[~odd], ids[~odd], values if not odd.any() else values[kept])
        if odd.any():
            out[odd] = self._as_whole(base, positions[odd], ids[odd])
        return out

    def _check(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray, held: np.ndarray) -> None:
        """Some substitutions both ways: the floor of the way that is taken, and whether the engine fits."""
        self.checked = True
        plain = np.flatnonzero(~self._padding(ids) & ~self._padding(held))
        some = plain[sample_of(len(plain), self.rm.dtype)]
        if not len(some):
            return
        alone = self.rm.reward_encoded(self._rows(base, positions[some], ids[some]), batch_size=1)
        if not self.whole:
            found = judged(alone, self._mixed(base, positions[some], ids[some], held[some]), self.rm.dtype)
            if found.fits:
                self.floor = max(self.floor, found.floor)
                return
            self.whole = True
            warnings.warn(f"the edit engine and whole forwards differ by {found.apart:.1e} on {self.rm.name}: every candidate "
                          "is run whole, which is slow but right", RewardenWarning, stacklevel=2)
        self.floor = judged(alone, self._as_whole(base, positions[some], ids[some]), self.rm.dtype).floor

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

    def _by_edits(self, base: BaseRun, positions: np.ndarray, ids: np.ndarray, values: Tensor) -> np.ndarray:
        """With what enters layer 0 for the ids, float [n, d]."""
        batch = EditBatch(Site("resid_pre", 0), values, positions=self.slot.start + positions)
        readings = None
        if self.rm.readout.reads_ids:
            readings = [self.rm.readout.read(row) for row in self._rows(base, positions, ids)]
        edited = make_plan(self.rm, base, batch, readings=readings).run()
        self.floor = max(self.floor, edited.noise_floor)
        return edited.values.cpu().numpy()


def padding_ids(rm: RewardModel) -> list[int]:
    """Ids that stand for padding, to the tokenizer or to the model."""
    config = rm.model.config.get_text_config() if hasattr(rm.model.config, "get_text_config") else rm.model.config  # type: ignore
    found = (getattr(rm.tokenizer, "pad_token_id", None), getattr(config, "pad_token_id", None),
             getattr(rm.architecture.embedding, "padding_idx", None))
    return sorted({int(number) for number in found if number is not None and number >= 0})
