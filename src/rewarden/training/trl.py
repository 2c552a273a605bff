"""How do our rewards reach an unmodified TRL trainer, with the activations of the model that it trains?

In: rewards of ids; a `GRPOTrainer` (or another trainer with `reward_funcs`). Out: callables in TRL's form, bound after the
trainer is made; a thin subclass that pays rewards token by token. Ignorant of what rewards compute. Written for TRL 1.16.
Letters: B rollouts, T completion tokens of the longest.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewarden.errors import RewardenError
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.guards import GuardedReward, refuse_monitors
from rewarden.training.provider import ActivationProvider, Reference
from rewarden.training.rollouts import Ids
from rewarden.training.schedules import Schedule, share_done

SHARES = 8
"""Features whose shares are logged, at most: those that come first."""


class TRLReward:
    """One of our rewards in TRL's form.

    Args:
        reward: called as `reward(prompt_ids, completion_ids)`, with the data set's columns as keywords where it takes such.
        schedule: how much it counts in the course of training.

    What a trainer receives is schedule · reward, and None where the reward is not a finite number, so that the rollout has no
    part in it. The reward's own mean, its factor and its features' shares are logged.
    """

    def __init__(self, reward: Any, schedule: Schedule | None = None) -> None:
        self.reward, self.schedule = reward, schedule
        self.__name__ = str(getattr(reward, "name", type(reward).__name__))
        self._tokenize: Any = None
        self._columns = any(one.kind is one.VAR_KEYWORD for one in inspect.signature(reward).parameters.values())

    def bind(self, trainer: Any, provider: ActivationProvider) -> None:
        """Use the trainer's own tokenization of prompts, and its model's activations."""
        self._tokenize = trainer._tokenize_prompts
        if hasattr(self.reward, "bind"):
            self.reward.bind(provider)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Ids, *, trainer_state: Any = None,
                 log_metric: Any = None, log_extra: Any = None, environments: Any = None, **columns: Any) -> list[float | None]:
        """What TRL asks for: a number, or None, for each completion."""
        if self._tokenize is None:
            raise RewardenError(f"the reward {self.__name__!r} is bound to no trainer", where="TRLReward",
                                why="it reads the model that the trainer trains",
                                fix="call rewarden.training.trl.bind(trainer) before trainer.train()")
        prompt_ids = self._tokenize(list(prompts))[0]
        values = np.asarray(self.reward(prompt_ids, completion_ids, **(columns if self._columns else {})), np.float64)
        if values.shape != (len(completion_ids),):
            raise RewardenError(f"{values.shape} rewards for {len(completion_ids)} completions", where=self.__name__,
                                why="one is needed for each", fix="mend the reward")
        factor = 1.0 if self.schedule is None else self.schedule(share_done(trainer_state))
        if log_metric is not None:
            self._log(log_metric, values, factor, prompt_ids, completion_ids)
        return [float(value) if np.isfinite(value) else None for value in factor * values]

    def _log(self, log_metric: Any, values: np.ndarray, factor: float, prompt_ids: Ids, completion_ids: Ids) -> None:
        name, known = self.__name__, values[np.isfinite(values)]
        if len(known):
            log_metric(f"{name}/value", float(known.mean()))
        log_metric(f"{name}/missing", float(len(values) - len(known)))
        if self.schedule is not None:
            log_metric(f"{name}/factor", factor)
        if hasattr(self.reward, "metrics"):
            for metric, value in self.reward.metrics().items():
                log_metric(f"{name}/{metric}", value)
        inner = self.reward.reward if isinstance(self.reward, GuardedReward) else self.reward
        if isinstance(inner, FeatureReward) and inner.provider is not None and len(known):
            told = inner.values(inner.provider.rollouts(prompt_ids, completion_ids))  # held: no further forward
            for place, feature in enumerate(inner.readout.features.names[:SHARES]):
                log_metric(f"{name}/{feature}", float(np.nanmean(told.shares[:, place])))
            if told.drift is not None:
                log_metric(f"{name}/drift", float(np.nanmean(told.drift)))


def reward_funcs(rewards: Sequence[Any], schedules: Mapping[str, Schedule] | None = None) -> list[TRLReward]:
    """Rewards in TRL's form, to be passed as `reward_funcs` of a trainer.

    Passed one by one, each is logged and weighted (`reward_weights`) by itself; `multi_objective_aggregation=
    "normalize_then_sum"` puts them on one scale first.

    Args:
        rewards: of different names.
        schedules: name of a reward -> its schedule.

    Raises:
        RewardenError: two rewards of one name, a schedule of none, a monitor, or some screened and some not: TRL leaves a
            rollout out only where every reward is None, and counts a single None as 0, which may be more than it was worth.
    """
    refuse_monitors(rewards, "reward_funcs")
    screened = [isinstance(reward, GuardedReward) and reward.guard.mode == "screening" for reward in rewards]
    if any(screened) and not all(screened):
        raise RewardenError("some rewards are screened and others are not", where="reward_funcs",
                            why="TRL leaves a rollout out only where all of its rewards are None", fix="guard.all(rewards)")
    made = [TRLReward(reward) for reward in rewards]
    names = [one.__name__ for one in made]
    strange = set(schedules or ()) - set(names)
    if len(set(names)) < len(names) or strange or not made:
        raise RewardenError("rewards that cannot be told apart" if not strange else f"no reward is called {min(strange)!r}",
                            where="reward_funcs", why=f"their names are {', '.join(names) or 'none'}",
                            fix="give each a name of its own: name=")
    for one in made:
        one.schedule = (schedules or {}).get(one.__name__)
    return made


def bind(trainer: Any, rewards: Sequence[TRLReward] | None = None, *, reference: Reference = None,
         provider: ActivationProvider | None = None) -> ActivationProvider:
    """Give the trainer's rewards the activations of the model that it trains.

    Args:
        trainer: a TRL trainer with `reward_funcs`, made with those of `reward_funcs(...)`.
        rewards: those to bind; by default all of the trainer's that are ours.
        reference: what "reference" activations are of, see `ActivationProvider`; with PEFT "adapters" needs no second model.
        provider: one that exists already, such as of hidden states that an engine extracts.

    Returns:
        The provider that they share: one forward a batch, whatever many there are.

    Raises:
        RewardenError: a trainer of another kind, sharded parameters, packed sequences, tools or images.
    """
    _refuse(trainer)
    chosen = [one for one in (trainer.reward_funcs if rewards is None else rewards) if isinstance(one, TRLReward)]
    if not chosen:
        raise RewardenError("no reward to bind", where="bind(trainer)", why="none of the trainer's reward_funcs is ours",
                            fix="make the trainer with reward_funcs=rewarden.training.trl.reward_funcs([...])")
    if provider is None:
        provider = _provider_of(trainer, reference)
    for one in chosen:
        one.bind(trainer, provider)
    return provider


def _provider_of(trainer: Any, reference: Reference) -> ActivationProvider:
    tokenizer = trainer.processing_class
    ends = {*getattr(trainer, "eos_token_ids", ()), tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return ActivationProvider(trainer.accelerator.unwrap_model(trainer.model), tokenizer, reference=reference, ends=ends)


def _refuse(trainer: Any) -> None:
    """One error for what would give wrong numbers silently."""
    missing = [name for name in ("reward_funcs", "_tokenize_prompts", "accelerator", "processing_class")
               if not hasattr(trainer, name)]
    reasons = [(bool(missing), f"it has no {', '.join(missing)}", "use TRL's GRPOTrainer (1.16 or later), or one like it"),
               (bool(getattr(trainer, "is_deepspeed_enabled", False) or getattr(trainer, "is_fsdp_enabled", False)),
                "its parameters are sharded, and a forward of ours would not gather them",
                "train with DDP or on one device, or serve the reward (rewarden serve)"),
               (bool(getattr(getattr(trainer, "args", None), "packing", False)),
                "packed sequences stand in one row, and completions cannot be told apart", "set packing=False"),
               (bool(getattr(trainer, "tools", None)), "results of tools stand among a completion's tokens and are not its own",
                "train without tools"),
               (getattr(trainer, "rollout_func", None) is not None, "a rollout function may show the model other ids than the "
                "trainer's own tokenization", "use the trainer's own generation"),
               (bool(getattr(trainer, "_is_vlm", False)), "prompts may hold images, which ids do not show", "use a text model")]
    for wrong, why, fix in reasons:
        if wrong:
            raise RewardenError(f"{type(trainer).__name__} cannot be bound", where="bind(trainer)", why=why, fix=fix)


def token_trainer(reward: FeatureReward, weight: float = 0.1, base: Any = None) -> Any:
    """A `GRPOTrainer` class that adds token by token what a feature reward says of each token.

    The advantages become [B, T]: those of the base, and weight · (token's share − mean of its prompt's tokens) / standard
    deviation of all tokens of the batch. With weight 0 the loss is the base's, bit for bit.

    Args:
        reward: whose tokens are paid; it is bound like any other, and needs no place among `reward_funcs`.
        weight: of the token terms.
        base: the class to derive from; TRL's `GRPOTrainer` by default.

    Returns:
        A class with the base's constructor.

    Raises:
        RewardenError: a weight that is not finite, or TRL is missing.
    """
    refuse_monitors([reward], "token_trainer")
    if not np.isfinite(weight):
        raise RewardenError(f"weight {weight}", where="token_trainer(weight=)", why="advantages must be finite",
                            fix="give a finite number")
    parent = _grpo_trainer() if base is None else base

    class TokenRewardTrainer(parent):  # type: ignore[misc, valid-type]
        """GRPO with rewards of single tokens."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            out = super()._generate_and_score_completions(inputs)
            if reward.provider is None:
                _refuse(self)
                reward.bind(_provider_of(self, None))
            prompt_ids, completion_ids = (
                [ids[mask.bool()].tolist() for ids, mask in zip(out[f"{part}_ids"], out[f"{part}_mask"], strict=True)]
                for part in ("prompt", "completion"))
            terms = token_terms(reward, prompt_ids, completion_ids, out["completion_ids"].shape[1])
            advantages = out["advantages"]
            out["advantages"] = (advantages[:, None] if advantages.ndim == 1 else advantages) + weight * terms.to(advantages)
            return out

    return TokenRewardTrainer


def token_terms(reward: FeatureReward, prompt_ids: Ids, completion_ids: Ids, width: int) -> Tensor:
    """What each token adds to its advantage, float32 [B, width]: its share less the mean of its prompt's tokens, in standard
    deviations of all tokens; 0 where there is no token."""
    assert reward.provider is not None
    tokens = reward.values(reward.provider.rollouts(prompt_ids, completion_ids)).tokens
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, ids in enumerate(prompt_ids):
        groups.setdefault(tuple(ids), []).append(place)
    spread = float(np.std(np.concatenate(tokens))) if any(len(own) for own in tokens) else 0.0
    out = torch.zeros(len(tokens), width)
    for rows in groups.values():
        own = np.concatenate([tokens[row] for row in rows])
        for row in rows:
            if len(tokens[row]) and spread > 0:
                out[row, :len(tokens[row])] = torch.as_tensor((tokens[row] - own.mean()) / spread)
    return out


def _grpo_trainer() -> Any:
    try:
        from trl import GRPOTrainer
    except ImportError as error:
        raise RewardenError("TRL is not installed", where="rewarden.training.trl", why=str(error),
                            fix="pip install 'rewarden[train]'") from error
    return GRPOTrainer
