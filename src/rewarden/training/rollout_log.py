"""What did a policy write during training, what was it paid, and who was suspicious?

In: batches of rollouts with their rewards and flags. Out: an append-only run folder that survives kill -9; what happened step
by step. Ignorant of trainers and of what rewards mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval
from rewarden.store import Run, row_key
from rewarden.training.rollouts import Rollouts

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("step", "start", "prompt", "completion", "prompt_ids", "completion_ids")
"""Columns beside rewards and flags."""


class RolloutLog:
    """Rollouts of one training, in a run folder.

    Args:
        folder: of the run; one that holds the same training is continued.
        about: what the training is: model, data, rewards; another one is refused.
        process: number of this process, where several write.

    A training that is started again from a checkpoint goes through some steps twice: rows of each start are kept, and `frame()`
    shows of every step those of the last start that reached it.

    Example:
        >>> import tempfile
        >>> log = RolloutLog(tempfile.mkdtemp() + "/run", {"model": "policy"})
        >>> batch = Rollouts.of([[5, 6]] * 2, [[7], [8]])
        >>> log.add(0, batch, ["1+1:"] * 2, ["2", "3"], {"right": np.array([1.0, 0.0])})
        2
        >>> log.frame()[["step", "completion", "right"]].values.tolist()
        [[0, '2', 1.0], [0, '3', 0.0]]
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any], *, process: int = 0) -> None:
        self.run = Run.open_or_create(folder, {"verb": "train", **about}, dict(about), identity=dict(about))
        held = self.run.rows()
        self.start = int(held["start"].max()) + 1 if len(held) else 0
        self.process = int(process)
        self._added: dict[int, int] = {}

    def add(self, step: int, rollouts: Rollouts, prompts: Sequence[str], completions: Sequence[str],
            values: Mapping[str, np.ndarray]) -> int:
        """Keep one batch; once this returns it survives.

        Args:
            step: of the trainer.
            rollouts: ids [n].
            prompts, completions: texts [n].
            values: name -> numbers [n]: rewards, flags (0 or 1), what was verified; the same names every time.

        Returns:
            Rows kept.

        Raises:
            RewardenError: lists of other lengths, or names that columns of this log bear already.
        """
        n = len(rollouts)
        wrong = {name: len(column) for name, column in {"prompts": prompts, "completions": completions, **values}.items()
                 if len(column) != n}
        taken = [name for name in values if name in (*TEXTS, "key")]
        if wrong or taken:
            raise RewardenError("this batch cannot be kept", where="RolloutLog.add", why=f"{n} rollouts, but {wrong}" if wrong
                                else f"{taken[0]!r} is a column of its own", fix="give one entry a rollout, under other names")
        first = self._added.get(step, 0)
        self._added[step] = first + n
        rows = [{"step": int(step), "start": self.start, "prompt": prompts[i], "completion": completions[i],
                 "prompt_ids": json.dumps(list(rollouts.prompt_ids[i])),
                 "completion_ids": json.dumps(list(rollouts.completion_ids[i])),
                 **{name: float(column[i]) for name, column in values.items()}} for i in range(n)]
        keys = [row_key(str(self.start), str(self.process), str(step), str(first + i)) for i in range(n)]
        return self.run.append(rows, keys)

    def frame(self) -> pd.DataFrame:
        """All rollouts, by step; of a step that was trained twice, those of the last start."""
        held = self.run.rows()
        if not len(held):
            raise RewardenError("nothing was logged yet", where=str(self.run.path), fix="train, or name another folder")
        last = held.groupby("step")["start"].transform("max")
        return held[held["start"] == last].sort_values("step", kind="stable").reset_index(drop=True)

    def steps(self, *, level: float = 0.95, resamples: int = 1000) -> Result:
        """Means of every number by step.

        Returns:
            Result "training" over `step`: of each number its mean with `_low`, `_high` (bootstrap over prompts), and `n`.
        """
        frame = self.frame()
        names = [name for name in frame.columns if name not in (*TEXTS, "key")]
        steps = np.unique(frame["step"])
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        count = []
        for step in steps:
            rows = frame[frame["step"] == step]
            told = bootstrap_interval(rows[names].to_numpy(float), clusters=rows["prompt_ids"].to_numpy(), level=level,
                                      n_resamples=resamples)
            for place, name in enumerate(names):
                found[name].append(np.array([np.ravel(part)[place] for part in (told.estimate, told.low, told.high)]))
            count.append(len(rows))
        data = {f"{name}{end}": ("step", np.stack(values)[:, place]) for name, values in found.items()
                for place, end in enumerate(("", "_low", "_high"))}
        return Result("training", xr.Dataset({**data, "n": ("step", count)}, coords={"step": steps}),
                      {**{key: str(value) for key, value in self.run.identity.items()}, "level": level})
