"""How do our rewards reach verl, with the token ids that its policy wrote?

In: verl's configuration, a `DataProto` a rollout. Out: a reward manager: rewards with their parts, at the last token or token
by token. Ignorant of what rewards compute. Written for verl 0.9.1 (`verl/experimental/reward_loop`); importing this module
does not import verl. Letters: n rollouts, P prompt positions, R response positions.

In verl's configuration:

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=pkg://rewarden.training.verl
    +reward.reward_kwargs.reward=folder/my_rewards.py:make
    +reward.reward_kwargs.arguments.layer=12

The named function is called as `make(tokenizer, **arguments)` once in each of verl's reward workers, of which there are
`reward.num_workers`, and returns a reward of ids, bound to a model that it loads. verl gives these workers no GPU and no
weights of the policy in training: the model is a fixed scorer, on the CPU unless `make` puts it elsewhere.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from rewarden.errors import RewardenError
from rewarden.training import factory
from rewarden.training.readout import feature_names
from rewarden.training.scorer import Scored, Scorer


@dataclass(frozen=True)
class Settings:
    """What stands under `reward.reward_kwargs`.

    Attributes:
        reward: the function that makes the reward, `package.module:function` or `folder/file.py:function`.
        arguments: keywords for it.
        per_token: pay each token its share. verl 0.9.1 keeps the shares where a batch is scored at once
            (`RewardLoopManager.compute_rm_score`); where its agent loop streams rollouts to the reward workers, it takes one
            number a rollout and refuses a list.
        missing: reward of a rollout that has no number (no token in it); None stops the run there.
    """

    reward: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per_token: bool = False
    missing: float | None = None

    @classmethod
    def of(cls, config: Any) -> Settings:
        """Those of a verl configuration.

        Raises:
            RewardenError: settings that are unknown or of another type.
        """
        found: Any = config.reward.get("reward_kwargs") or {}
        if not isinstance(found, dict):
            from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]  # verl brings it

            found = OmegaConf.to_container(found, resolve=True)
        known = [one.name for one in fields(cls)]
        strange = [str(name) for name in found if name not in known]
        own = cls(**{name: value for name, value in found.items() if name in known})
        wrong = [*(f"{name}: unknown" for name in strange),
                 *(["arguments: not names and values"] if not isinstance(own.arguments, Mapping) else []),
                 *(["per_token: neither true nor false"] if not isinstance(own.per_token, bool) else []),
                 *(["missing: no number"] if own.missing is not None and (
                     isinstance(own.missing, bool) or not isinstance(own.missing, (int, float))) else [])]
        if wrong:
            raise RewardenError(f"settings that cannot be used: {'; '.join(wrong)}", where="reward.reward_kwargs",
                                why=f"there are {', '.join(known)}", fix="see rewarden.training.verl.Settings")
        return own


def reward_manager(make: Callable[..., Any] | None = None) -> Any:
    """A class for `reward.reward_manager`, to be named in a module of one's own.

    Args:
        make: makes the reward, called as `make(tokenizer, **arguments)`; by default the function that
            `reward.reward_kwargs.reward` names, as in this module's `RewardManager`.

    Returns:
        A subclass of verl's `RewardManagerBase`.

    Raises:
        RewardenError: verl is missing, or is another version.
    """
    base = _base()

    class RewardManager(base):  # type: ignore[misc, valid-type]
        """A reward of ids in verl's form; see `rewarden.training.verl`."""

        def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, reward_router_address: Any = None,
                     reward_model_tokenizer: Any = None) -> None:
            super().__init__(config, tokenizer, compute_score)
            self.settings = Settings.of(config)
            given = dict(self.settings.arguments)
            self.scorer = Scorer(factory.make(self.settings.reward, tokenizer, given) if make is None
                                 else make(tokenizer, **given))
            if self.settings.per_token and not self.scorer.pays_tokens:
                raise RewardenError(f"the reward {self.scorer.name!r} knows no single tokens",
                                    where="reward.reward_kwargs.per_token", why="only a FeatureReward says what each is paid",
                                    fix="set per_token=false")

        async def run_single(self, data: Any) -> dict[str, Any]:
            """verl's question: `reward_score` (a number, or one a token) and `reward_extra_info` of one rollout."""
            item = data[-1:][0]  # of several sequences of one rollout the last one, as verl's own managers do
            prompt, completion = rollout_ids(item.batch, item.non_tensor_batch)
            columns = _columns(item.non_tensor_batch)
            found = await asyncio.get_running_loop().run_in_executor(
                None, lambda: self.scorer([prompt], [completion], **columns))
            return self._told(found, len(completion))

        def _told(self, found: Scored, size: int) -> dict[str, Any]:
            name, reward, instead = self.scorer.name, float(found.rewards[0]), self.settings.missing
            lacking = not math.isfinite(reward)
            if lacking and instead is None:
                raise RewardenError("a rollout has no reward", where=f"reward {name!r}, a response of {size} tokens",
                                    why="it has no token that counts, or the reward is not finite",
                                    fix="set reward.reward_kwargs.missing=-3.0, or another low number for such rollouts")
            parts = {part: float(values[0]) for part, values in zip(feature_names(list(found.parts)), found.parts.values(),
                                                                    strict=True)}
            told = {f"{name}/{part}": value if math.isfinite(value) else 0.0 for part, value in parts.items()}
            told[f"{name}/missing"] = float(lacking)  # tells such a 0 from a share that is 0
            one = reward if instead is None or not lacking else float(instead)
            if not self.settings.per_token:
                return {"reward_score": one, "reward_extra_info": told}
            assert found.tokens is not None  # see __init__
            tokens = found.tokens[0].tolist()
            paid = [*tokens, *[0.0] * (size - len(tokens))]  # ends that a completion keeps
            if paid and (lacking or not tokens):
                paid = [*[0.0] * (size - 1), one]
            return {"reward_score": paid, "reward_extra_info": told}

        @classmethod
        def assemble_rm_scores(cls, data: Any, scores: Sequence[Any]) -> torch.Tensor:
            """float32 [n, R]: each token's pay where rewards are lists, verl's own placement where they are numbers."""
            if not any(isinstance(score, list) for score in scores):
                return super().assemble_rm_scores(data, scores)
            return place_tokens(data.batch, scores)

    RewardManager.__module__, RewardManager.__qualname__ = __name__, "RewardManager"
    return RewardManager


def rollout_ids(batch: Any, columns: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt and completion of one item of a `DataProto`, without padding.

    Args:
        batch: `prompts` [P], `responses` [R], `attention_mask` [P + R].
        columns: of the item that are no tensors.

    Raises:
        RewardenError: a mask that does not fit or has holes, or a conversation with tools or several turns, whose responses
            hold tokens that the policy did not write.
    """
    prompts, responses, mask = batch["prompts"], batch["responses"], batch["attention_mask"].bool()
    if mask.shape[-1] != prompts.shape[-1] + responses.shape[-1]:
        raise RewardenError(f"a mask of {mask.shape[-1]} positions", where="attention_mask",
                            why=f"there are {prompts.shape[-1]} of the prompt and {responses.shape[-1]} of the response",
                            fix="pass the batch as verl's agent loop makes it")
    before, after = mask[:prompts.shape[-1]], mask[prompts.shape[-1]:]
    if bool((before[:-1] & ~before[1:]).any()) or bool((after[1:] & ~after[:-1]).any()):
        raise RewardenError("a mask with holes", where="attention_mask", why="prompts are padded on the left, responses on the "
                            "right", fix="pass the batch as verl's agent loop makes it")
    written = batch["response_mask"].bool() if "response_mask" in batch.keys() else after  # noqa: SIM118  # a TensorDict
    if int(columns.get("__num_turns__") or 2) > 2 or not bool((written == after).all()):
        raise RewardenError("a conversation of several turns", where="responses",
                            why="results of tools stand among a completion's tokens and are not the policy's own",
                            fix="reward single-turn rollouts")
    return prompts[before].tolist(), responses[after].tolist()


def place_tokens(batch: Any, scores: Sequence[Sequence[float]]) -> torch.Tensor:
    """Pay of tokens as float32 [n, R].

    Raises:
        RewardenError: numbers of tokens that are not those of the responses.
    """
    out = torch.zeros_like(batch["responses"], dtype=torch.float32)
    sizes = batch["attention_mask"][:, batch["prompts"].shape[1]:].sum(1).tolist()
    if [len(score) for score in scores] != sizes:
        raise RewardenError("rewards of other tokens", where="assemble_rm_scores",
                            why=f"responses have {sizes[:8]} tokens, rewards {[len(score) for score in scores][:8]}",
                            fix="score the batch that is assembled")
    for place, score in enumerate(scores):
        out[place, :len(score)] = torch.tensor(score)
    return out


def _columns(held: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What a reward may ask for: `gold` (the ground truth), `data_source`, `extra_info`; each where verl sent it."""
    found = {name: [held[name]] for name in ("data_source", "extra_info") if name in held}
    stated = held.get("reward_model")
    return {**found, "gold": [stated["ground_truth"]]} if isinstance(stated, Mapping) and "ground_truth" in stated else found


def _base() -> Any:
    try:
        from verl.experimental.reward_loop.reward_manager.base import (  # pyright: ignore[reportMissingImports]
            RewardManagerBase,  # verl lives in an environment of its own
        )
    except ImportError as error:
        raise RewardenError("verl's reward managers cannot be imported", where="rewarden.training.verl", why=str(error),
                            fix="pip install verl==0.9.1 into the environment that trains") from error
    return RewardManagerBase


def __getattr__(name: str) -> Any:
    if name != "RewardManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["RewardManager"] = made = reward_manager()
    return made
