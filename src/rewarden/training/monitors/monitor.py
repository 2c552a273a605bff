"""How suspicious is a rollout, told by something that is never the reward?

In: a provider, rollouts. Out: a score a rollout, larger for more suspicious, and a flag at a threshold that was calibrated on
base rollouts. `Monitor` is the base class of all kinds. Ignorant of rewards and trainers. Letters: n rollouts.

A monitor whose flags change the reward (see `guards`) is trained against, and a policy learns to write what it does not see
(arXiv 2503.11926, 2602.15515). Keep one that only watches. By default monitors read the reference: RL alone moves a policy's
activations, so that a threshold of the base no longer fits them, while the reference reads the same text as before.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from rewarden.errors import RewardenError
from rewarden.statistics import Interval, share_interval
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.calibration import Calibration, conformal_threshold
from rewarden.training.provider import ActivationProvider
from rewarden.training.rollouts import Rollouts


@dataclass(frozen=True)
class Made:
    """What a monitor was fitted on.

    Attributes:
        n, prompts: rollouts, and their distinct prompts.
        positive: rollouts labelled as suspicious; None without labels.
        data: hash of the rollouts and labels.
        model: what was read, in words.
        seen: hash of each prompt, int64 [prompts], so that nobody calibrates on them.
        evidence: what the fit says of itself, by name.
    """

    n: int
    prompts: int
    positive: int | None
    data: str
    model: str
    seen: np.ndarray = field(repr=False)
    evidence: Mapping[str, float] = field(default_factory=dict)


class Monitor(ABC):
    """Scores of rollouts, and flags above a threshold. It is no reward, and cannot be called like one.

    Args:
        name: in logs and errors.
        source: which model it reads, "reference" or "policy".

    Attributes:
        kind: stable word of its class.
        layers: residual streams it reads.
        log_probs: whether it reads log-probabilities.
        calibration: its threshold; None before `calibrate`.
        made: what it was fitted on; None before `fit`.
    """

    kind: ClassVar[str]
    fitted_by_data: ClassVar[bool] = True
    reads_model: ClassVar[bool] = True

    def __init__(self, name: str, source: Source) -> None:
        if source not in ("policy", "reference") or not name:
            raise RewardenError(f"no source is called {source!r}" if name else "a monitor without a name",
                                where=type(self).__name__, fix="use 'policy' or 'reference', and give a name")
        self.name = name
        self.source: Source = source
        self.layers: tuple[int, ...] = ()
        self.log_probs = False
        self.calibration: Calibration | None = None
        self.made: Made | None = None

    def __repr__(self) -> str:
        state = ("not fitted" if self.made is None and self.fitted_by_data else
                 "not calibrated" if self.calibration is None else
                 f"above {self.calibration.threshold:.4g} at {self.calibration.fpr:g} false positives")
        return f"{type(self).__name__}({self.name!r}: {self.describe()}, {state})"

    @abstractmethod
    def describe(self) -> str:
        """What it reads and how, in words."""

    @abstractmethod
    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        """Scores [n]; those of rollouts without a token do not matter."""

    def _fit(self, held: Activations | None, rollouts: Rollouts, labels: np.ndarray | None) -> dict[str, float]:
        """Fit rollouts that all have a token; says what the fit says of itself."""
        return {}

    def _width(self) -> int | None:
        """d that it was made for."""
        return None

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor that JSON can hold."""
        return {"name": self.name, "source": self.source}

    def tensors(self) -> dict[str, Tensor]:
        """All numbers that were fitted."""
        return {}

    def take(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027  # kinds that are fitted on nothing have none
        """Put numbers back that `tensors` told."""

    def bind(self, provider: ActivationProvider, source: Source | None = None) -> Self:
        """Say what it needs of every batch, so that one forward serves everybody: bind all before the first batch.

        Raises:
            RewardenError: no such model or layer, or a residual stream of another width.
        """
        if self.reads_model:
            read: Source = source or self.source
            provider.require(self.layers, log_probs=self.log_probs, source=read)
            width = provider.architecture(read).d_model
            if self._width() not in (None, width):
                raise RewardenError(f"a monitor of width {self._width()}", where=repr(self),
                                    why=f"the {read} has a residual stream of width {width}", fix="fit it on this model")
        return self

    def _held(self, provider: ActivationProvider, rollouts: Rollouts, source: Source) -> Activations | None:
        if rollouts.ends != provider.ends:
            raise RewardenError("rollouts whose ends are not the provider's", where=self.name,
                                why=f"{sorted(rollouts.ends)} and {sorted(provider.ends)} are cut off",
                                fix="make them with provider.rollouts(prompt_ids, completion_ids)")
        self.bind(provider, source)
        return provider(rollouts, source).check(rollouts, source) if self.reads_model else None

    def fit(self, provider: ActivationProvider, rollouts: Rollouts, labels: Any = None) -> Self:
        """Learn what base rollouts look like, or what sets suspicious ones apart.

        Args:
            provider: of the activations.
            rollouts: made with `provider.rollouts`; empty ones are left out.
            labels: bool [n], True for suspicious; only where the kind takes them.

        Raises:
            RewardenError: labels of another number, or rollouts that the kind cannot be fitted on.
        """
        given = None if labels is None else np.asarray(labels)
        if given is not None and (given.shape != (len(rollouts),) or not np.isin(given, (0, 1)).all()):
            raise RewardenError(f"labels of shape {given.shape}", where=f"{self.name}.fit(labels=)",
                                why=f"{len(rollouts)} rollouts need one label each, True or False",
                                fix="pass a list of truth values, True for suspicious")
        kept = np.flatnonzero(rollouts.sizes > 0)
        some = rollouts if len(kept) == len(rollouts) else rollouts.rows(kept)
        if not len(kept):
            raise RewardenError("no rollout has a token", where=f"{self.name}.fit", fix="sample completions that are not empty")
        told = None if given is None else given.astype(bool)[kept]
        evidence = self._fit(self._held(provider, some, self.source), some, told)
        labelled = hashlib.sha256(some.key.encode() + (b"" if told is None else told.tobytes())).hexdigest()
        seen = np.unique(prompt_hashes(some))
        self.made = Made(len(some), len(seen), None if told is None else int(told.sum()), labelled,
                         _model(provider, self.source) if self.reads_model else "no model", seen, evidence)
        self.calibration = None
        return self

    def calibrate(self, provider: ActivationProvider, rollouts: Rollouts, fpr: float = 0.01, *,
                  held_out: Rollouts | None = None, level: float = 0.95) -> Self:
        """Set the threshold so that base rollouts of new prompts are flagged at most at a stated rate, see `Calibration`.

        Args:
            provider: of the activations.
            rollouts: of the base policy, on prompts that fitted nothing; several of a prompt count as one unit.
            fpr: the rate.
            held_out: further base rollouts, whose flagged share is kept with its interval.
            level: of that interval.

        Raises:
            RewardenError: too few prompts for the rate, prompts that the monitor was fitted on, held-out prompts among those of
                the threshold, or a rollout whose score is not finite.
        """
        prompts = prompt_hashes(rollouts)
        self._refuse_seen(prompts)
        scores = self.score(provider, rollouts)
        kept = ~np.isnan(scores)
        if np.isinf(scores).any():
            raise RewardenError(f"{int(np.isinf(scores).sum())} base rollouts have no finite score",
                                where=f"{self.name}.calibrate",
                                why="the model's activations overflow", fix="read it in float32")
        threshold = conformal_threshold(scores[kept], prompts[kept], fpr)
        self.calibration = Calibration(threshold, float(fpr), int(kept.sum()), len(np.unique(prompts[kept])),
                                       int((~kept).sum()), None, rollouts.key)
        if held_out is not None:
            others = prompt_hashes(held_out)
            self._refuse_seen(others)
            shared = np.intersect1d(prompts, others)
            if len(shared):
                raise RewardenError(f"{len(shared)} held-out prompts set the threshold",
                                    where=f"{self.name}.calibrate(held_out=)",
                                    why="the rate on them says nothing", fix="split by prompts")
            rate = self.rate(provider, held_out, level=level)
            self.calibration = Calibration(**{**vars(self.calibration), "held_out": rate})
        return self

    def _refuse_seen(self, prompts: np.ndarray) -> None:
        shared = np.intersect1d(prompts, self.made.seen) if self.made is not None and self.fitted_by_data else ()
        if len(shared):
            raise RewardenError(f"{len(shared)} prompts of the calibration fitted the monitor", where=f"{self.name}.calibrate",
                                why="scores of what was fitted on are no scores of new rollouts", fix="split by prompts")

    def score(self, provider: ActivationProvider, rollouts: Rollouts, source: Source | None = None) -> np.ndarray:
        """Scores float64 [n], larger for more suspicious; NaN without a token, +inf where activations are not finite.

        Args:
            provider: of the activations.
            rollouts: made with `provider.rollouts`.
            source: read another model than the monitor's own: the same text in two models tells what changed inside.
        """
        if self.made is None and self.fitted_by_data:
            raise RewardenError(f"the monitor {self.name!r} is not fitted", where="Monitor.score", fix="call fit first")
        found = np.asarray(self._score(self._held(provider, rollouts, source or self.source), rollouts), np.float64)
        return np.where(rollouts.sizes > 0, np.where(np.isfinite(found), found, np.inf), np.nan)

    def flags(self, provider: ActivationProvider, rollouts: Rollouts, source: Source | None = None) -> np.ndarray:
        """Whether each rollout is suspicious, bool [n]. One without a token is not: count these by `empty`.

        Raises:
            RewardenError: not calibrated.
        """
        if self.calibration is None:
            raise RewardenError(f"the monitor {self.name!r} is not calibrated", where="Monitor.flags",
                                why="a flag means something at a stated rate of false positives only",
                                fix="call calibrate with base rollouts, before training")
        return self.score(provider, rollouts, source) > self.calibration.threshold

    def rate(self, provider: ActivationProvider, rollouts: Rollouts, source: Source | None = None, *, level: float = 0.95
             ) -> Interval:
        """Share of rollouts flagged, over prompts (Wilson's where each has one); those without a token are left out."""
        flags = np.where(rollouts.sizes > 0, self.flags(provider, rollouts, source), np.nan)
        return share_interval(flags, prompt_hashes(rollouts), level=level)

    @staticmethod
    def empty(rollouts: Rollouts) -> int:
        """Rollouts without a token, which have no score."""
        return int((rollouts.sizes == 0).sum())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it into a folder, with its calibration; see `load_monitor`."""
        from rewarden.training.monitors.files import save_monitor

        return save_monitor(self, path)

    def independent_of(self, reward: Any) -> Any:
        """What it shares with a reward, see `Independence`."""
        from rewarden.training.monitors.independence import independence

        return independence(self, reward)


def prompt_hashes(rollouts: Rollouts) -> np.ndarray:
    """A number for each prompt's ids, int64 [n]: equal for equal prompts, on any machine."""
    known: dict[tuple[int, ...], int] = {}
    for prompt in rollouts.prompt_ids:
        if prompt not in known:
            digest = hashlib.blake2b(np.asarray(prompt, np.int64).tobytes(), digest_size=8).digest()
            known[prompt] = int.from_bytes(digest, "little", signed=True)
    return np.asarray([known[prompt] for prompt in rollouts.prompt_ids], np.int64)


def aggregated(held: Activations, values: Tensor, aggregation: Aggregation, states: Tensor | None = None) -> np.ndarray:
    """One number a rollout [n] of values [N] of tokens; NaN without a token."""
    looked = held.each(values if states is None else states)
    found = [float(aggregation(own[:, None], state)[0]) if len(own) else np.nan
             for own, state in zip(held.each(values), looked, strict=True)]
    return np.asarray(found, np.float64)


def told(aggregation: Aggregation) -> dict[str, Any]:
    """An aggregation without its query, for JSON."""
    return {name: value for name, value in asdict(aggregation).items() if name != "query"}


def _model(provider: ActivationProvider, source: Source) -> str:
    parts = provider.architecture(source)
    return f"{source}: {type(parts.trunk).__name__}, {parts.n_layers} layers, width {parts.d_model}"
