"""Finished pairs on disk, so that a killed sweep goes on where it stopped.

In: a folder, what a pair's effects depend on, `PairSweep`s. Out: the same from disk, bit for bit. Each question (model and
options) has a run of its own below the folder, so no answer is ever taken for another's. Ignorant of how effects are computed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Pair
from rewarden.options import PatchOptions
from rewarden.patching.pair import PairSweep
from rewarden.score_runs import identity_of, pair_keys, sample_of_weights
from rewarden.store import Run, row_key

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

NUMBERS = ("reward_base", "reward_source", "margin", "noise_floor", "forwards", "edits", "lost", "apart")
SUMMARY_ONLY = ("alpha", "level", "resamples")
"""Options that a pair's effects do not depend on."""


class Kept:
    """The finished pairs of one question.

    Args:
        folder: where runs lie; None keeps nothing.
        rm: the reward model.
        pairs: all pairs of the call.
        options: of the call.
        donors: the pair that each pair's activations are taken from, where that is another one.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, rm: RewardModel, pairs: Sequence[Pair], options: PatchOptions,
                 donors: Sequence[Pair] | None = None) -> None:
        self.run: Run | None = None
        if folder is None:
            return
        identity = question(rm, pairs, options)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.run = Run.open_or_create(Path(folder) / f"patch-{digest}", asdict(options), rm.provenance(), identity=identity)
        self.keys = pair_keys(pairs)
        if donors is not None:
            self.keys = [row_key(*both) for both in zip(self.keys, pair_keys(donors), strict=True)]
        rows = self.run.rows()
        self.rows: dict[str, Any] = {row["key"]: row for row in rows.to_dict("records")}

    def load(self, index: int) -> PairSweep | None:
        """The sweep of a pair, where it is finished."""
        row = None if self.run is None else self.rows.get(self.keys[index])
        if row is None:
            return None
        suffixes = [name.removeprefix("shape") for name in row if name.startswith("shape")]
        effects = {suffix: np.asarray(row[f"effect{suffix}"], dtype=np.float64).reshape(row[f"shape{suffix}"])
                   for suffix in suffixes}
        return PairSweep(effects, **{name: row[name] for name in NUMBERS})

    def save(self, index: int, sweep: PairSweep) -> None:
        """Commit a finished pair; once this returns, a kill does not lose it."""
        if self.run is None:
            return
        row: dict[str, Any] = {name: getattr(sweep, name) for name in NUMBERS}
        for suffix, effect in sweep.effects.items():
            row |= {f"effect{suffix}": effect.ravel(), f"shape{suffix}": list(effect.shape)}
        self.run.append([row], [self.keys[index]])


def question(rm: RewardModel, pairs: Sequence[Pair], options: PatchOptions) -> dict[str, object]:
    """What a pair's effects depend on besides the pair: the model, the options, and all pairs where means are put in."""
    identity = {"verb": "patch", **identity_of(rm, pairs), "weights_sample": sample_of_weights(rm.model)}
    if options.mode != "mean":
        del identity["pairs"]
    asked = {name: value for name, value in asdict(options).items() if name not in (*SUMMARY_ONLY, "seed")}
    return {**identity, **asked, "sites": list(options.sites)}
