"""How do suspicious rollouts lose their reward, in a way that a trainer's normalisation does not undo?

In: calibrated monitors, a reward. Out: a reward of the same ids, less a penalty for flagged rollouts, or without a number for
them. Ignorant of trainers. Letters: n rollouts, G of one prompt.

Group normalisation divides out whatever is common: advantages (r − mean r) / std r of a prompt's rollouts are the same for
r and for c · r + b. A guard that multiplies a whole batch's rewards by .2 when monitors and reward disagree (mechreward's dual
verification) therefore changes nothing but the trainer's 1e-4 beside the standard deviation. What is to count must differ
between the rollouts of one prompt: so flags are given, and paid, one by one.

Penalty or screening: a penalty tells the policy what to avoid, and so teaches it to evade the monitor. Screening says nothing
about flagged rollouts: they have no advantage, and the others are compared with each other as if these had not been written.
A penalty on a reward lifts the unflagged rollouts of the same prompt, whose mean it lowers; `penalty_trainer` takes it off the
advantages instead. Either way the flags steer training: keep a monitor that is in no guard, and an outcome audit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from rewarden.errors import RewardenError
from rewarden.training.monitors.monitor import Monitor
from rewarden.training.provider import ActivationProvider
from rewarden.training.rollouts import Ids, Rollouts

Mode = Literal["penalty", "screening"]


class Guard:
    """Monitors in front of rewards.

    Args:
        monitors: one or several, calibrated, of different names.
        mode: "penalty" takes `size` off a flagged rollout's reward; "screening" makes it NaN, which TRL gets as None.
        size: of the penalty, in units of the reward; above the range of the reward no flagged rollout outranks another one.
        need: monitors that must flag a rollout; 1 flags what any of them flags.

    With several rewards in TRL, screen all of them with this guard: `guard.all(rewards)`. TRL leaves a rollout out only where
    every reward is None, and counts a single None as 0, which may be more than the reward was worth. Penalise one of them only,
    or the penalty counts several times.

    Example:
        >>> from rewarden.training.arithmetic import load_policy
        >>> from rewarden.training.monitors import NllMonitor
        >>> provider = ActivationProvider(*load_policy(), reference="frozen")
        >>> base = provider.rollouts([[4, 5, 13, 6, i, 15] for i in range(3, 13)], [[3, 7, 9]] * 10)
        >>> guard = Guard(NllMonitor().calibrate(provider, base, fpr=0.1), size=2.0)
        >>> guarded = guard(lambda prompt_ids, completion_ids: np.ones(len(prompt_ids))).bind(provider)
        >>> guarded([[4, 5, 13, 6, 7, 15]] * 2, [[3, 7, 9], [15, 15, 15]]).tolist()
        [1.0, -1.0]

    Raises:
        RewardenError: no monitor, one that is not calibrated, two of one name, or an impossible size.
    """

    def __init__(self, monitors: Monitor | Sequence[Monitor], mode: Mode = "penalty", size: float = 1.0, *, need: int = 1
                 ) -> None:
        self.monitors = (monitors,) if isinstance(monitors, Monitor) else tuple(monitors)
        names = [getattr(one, "name", repr(one)) for one in self.monitors]
        strange = [name for name, one in zip(names, self.monitors, strict=True) if not isinstance(one, Monitor)]
        raw = [name for name, one in zip(names, self.monitors, strict=True) if getattr(one, "calibration", None) is None]
        wrong = ("no monitor is given" if not names else f"{strange[0]!r} is no monitor" if strange else
                 f"{raw[0]!r} is not calibrated" if raw else "two monitors have one name" if len(set(names)) < len(names) else
                 f"no mode is called {mode!r}" if mode not in ("penalty", "screening") else
                 f"a penalty of {size!r}" if not 0 < size < np.inf else
                 f"need={need!r} of {len(names)} monitors" if not 1 <= need <= len(names) else "")
        if wrong:
            raise RewardenError(wrong, where="Guard", why=f"monitors: {', '.join(map(str, names)) or 'none'}",
                                fix="pass monitors after monitor.calibrate(provider, base_rollouts), mode 'penalty' or "
                                    "'screening', a size above 0, and need from 1 to the number of monitors")
        self.mode, self.size, self.need = mode, float(size), int(need)
        self.provider: ActivationProvider | None = None

    @property
    def fpr(self) -> float:
        """Chance that a base rollout is flagged, at most: the monitors' rates summed, over `need` (Markov's inequality)."""
        return min(1.0, sum(one.calibration.fpr for one in self.monitors if one.calibration is not None) / self.need)

    def __repr__(self) -> str:
        how = f"less {self.size:g}" if self.mode == "penalty" else "None"
        names = ", ".join(one.name for one in self.monitors)
        return f"Guard({names}: flagged rollouts get {how}, ≤ {self.fpr:.3g} of base rollouts)"

    def __call__(self, reward: Callable[..., Any]) -> GuardedReward:
        """The reward, guarded.

        Raises:
            RewardenError: a monitor, or another guard, where a reward is needed.
        """
        refuse_monitors([reward], "Guard.__call__")
        return GuardedReward(self, reward)

    def all(self, rewards: Sequence[Callable[..., Any]]) -> list[GuardedReward]:
        """Several rewards, each guarded: what screening needs where a trainer has several."""
        if self.mode == "penalty" and len(rewards) > 1:
            raise RewardenError(f"a penalty on {len(rewards)} rewards", where="Guard.all", why="it would count once for each",
                                fix="guard one of them, or use mode='screening'")
        return [self(reward) for reward in rewards]

    def bind(self, provider: ActivationProvider) -> Guard:
        """Say what all monitors need."""
        for one in self.monitors:
            one.bind(provider)
        self.provider = provider
        return self

    def flags(self, rollouts: Rollouts) -> dict[str, np.ndarray]:
        """Of each monitor by name its flags, bool [n]; rollouts without a token are never flagged."""
        if self.provider is None:
            raise RewardenError("the guard has no model to read yet", where=repr(self),
                                fix="guarded.bind(provider), or bind it to a trainer")
        return {one.name: one.flags(self.provider, rollouts) for one in self.monitors}

    def flagged(self, rollouts: Rollouts) -> np.ndarray:
        """Whether `need` monitors flag each rollout, bool [n]."""
        return np.sum(list(self.flags(rollouts).values()), axis=0) >= self.need

    def paid(self, rewards: np.ndarray, flagged: np.ndarray) -> np.ndarray:
        """Rewards float64 [n] after flags bool [n]; those of unflagged rollouts are the same to the bit."""
        return np.where(flagged, np.nan if self.mode == "screening" else rewards - self.size, rewards)


class GuardedReward:
    """A reward behind a guard; made by calling the guard.

    Attributes:
        guard, reward: what it is made of.
        name: the reward's.
        told: flags of the last batch by monitor, bool [n].
    """

    def __init__(self, guard: Guard, reward: Callable[..., Any]) -> None:
        self.guard, self.reward = guard, reward
        self.name = str(getattr(reward, "name", type(reward).__name__))
        self.told: dict[str, np.ndarray] = {}
        self._empty = 0
        self._columns = any(one.kind is one.VAR_KEYWORD for one in inspect.signature(reward).parameters.values())

    def __repr__(self) -> str:
        return f"{self.guard!r} before {self.reward!r}"

    def bind(self, provider: ActivationProvider) -> GuardedReward:
        """Hand a provider to the guard and to the reward, where it reads a model."""
        self.guard.bind(provider)
        if hasattr(self.reward, "bind"):
            self.reward.bind(provider)  # type: ignore[attr-defined]
        return self

    def __call__(self, prompt_ids: Ids, completion_ids: Ids, **columns: Sequence[Any]) -> np.ndarray:
        """Rewards float64 [n]; see `Guard`."""
        values = np.asarray(self.reward(prompt_ids, completion_ids, **(columns if self._columns else {})), np.float64)
        if self.guard.provider is None:
            self.guard.flags(Rollouts.of(prompt_ids, completion_ids))  # says that nothing is bound
        assert self.guard.provider is not None
        rollouts = self.guard.provider.rollouts(prompt_ids, completion_ids)
        self.told, self._empty = self.guard.flags(rollouts), Monitor.empty(rollouts)
        return self.guard.paid(values, np.sum(list(self.told.values()), axis=0) >= self.guard.need)

    def metrics(self) -> dict[str, float]:
        """Of the last batch: share flagged by each monitor and by the guard, and rollouts without a token; for logs."""
        if not self.told:
            return {}
        flagged = np.sum(list(self.told.values()), axis=0) >= self.guard.need
        return {**{f"{name}/flagged": float(flags.mean()) for name, flags in self.told.items()},
                "guard/flagged": float(flagged.mean()), "guard/empty": float(self._empty)}


def penalty_trainer(guard: Guard, base: Any = None) -> Any:
    """A `GRPOTrainer` class that takes the penalty off flagged rollouts' advantages, after they are normalised.

    A penalty on rewards also lifts the other rollouts of a flagged one's prompt, as it lowers their mean. Here the advantage of
    every other rollout stays as it is, to the bit; `size` is in units of advantages, standard deviations of a prompt's rewards.

    Args:
        guard: of mode "penalty"; guards no reward besides. Bind it before training: `guard.bind(bind(trainer, reference=...))`.
        base: the class to derive from; TRL's `GRPOTrainer` by default.

    Returns:
        A class with the base's constructor.

    Raises:
        RewardenError: a guard of another mode, or TRL is missing.
    """
    from rewarden.training.trl import _grpo_trainer

    if guard.mode != "penalty":
        raise RewardenError(f"mode {guard.mode!r} has no penalty", where="penalty_trainer", why="it leaves rollouts out",
                            fix="guard the rewards with it: guard.all(rewards)")
    parent = _grpo_trainer() if base is None else base

    class PenaltyTrainer(parent):  # type: ignore[misc, valid-type]
        """GRPO with advantages of flagged rollouts lowered."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            out = super()._generate_and_score_completions(inputs)
            prompt_ids, completion_ids = (
                [ids[mask.bool()].tolist() for ids, mask in zip(out[f"{part}_ids"], out[f"{part}_mask"], strict=True)]
                for part in ("prompt", "completion"))
            if guard.provider is None:
                guard.flags(Rollouts.of(prompt_ids, completion_ids))  # says that nothing is bound
            assert guard.provider is not None
            flags = guard.flagged(guard.provider.rollouts(prompt_ids, completion_ids))
            advantages = out["advantages"].clone()
            advantages[torch.as_tensor(flags, device=advantages.device)] -= guard.size
            out["advantages"] = advantages
            return out

    return PenaltyTrainer


def refuse_monitors(rewards: Iterable[Any], where: str) -> None:
    """Refuse monitors, and guards that wrap nothing, where rewards are wanted.

    Raises:
        RewardenError: one is among them.
    """
    for one in rewards:
        if isinstance(one, Monitor):
            raise RewardenError(f"the monitor {one.name!r} is no reward", where=where,
                                why="what is paid for evading it says nothing any more of what it watched",
                                fix="pass it to a Guard, or watch with it: monitor.flags(provider, rollouts)")
        if isinstance(one, Guard):
            raise RewardenError("a guard is no reward", where=where, why="it guards one", fix="pass guard(reward)")
