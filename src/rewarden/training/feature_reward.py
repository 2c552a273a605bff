"""How much of some features does a policy show in what it writes, as a reward?

In: exact ids of prompts and completions, a provider of activations. Out: one number a rollout, the same for the same ids and
weights whoever asks; each feature's share; each token's. Ignorant of trainers (see `trl`) and of how features were chosen.
Letters: n rollouts, F features, R tokens of a completion.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from rewarden.architecture import Architecture
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.features import Latents
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout
from rewarden.training.rollouts import Ids, Rollouts

if TYPE_CHECKING:
    from rewarden.dictionaries.dictionary import Dictionary
    from rewarden.training.packs import Pack


@dataclass(frozen=True, eq=False)
class FeatureValues:
    """What a feature reward says of a batch.

    Attributes:
        reward: float64 [n].
        shares: float64 [n, F], of each feature; they sum to the reward before it is scaled; NaN without a token.
        tokens: of each rollout its tokens' shares float64 [R], which sum to the same.
        drift: float64 [n], reward on the policy less reward on the reference of the same text; None with one model only.
    """

    reward: np.ndarray
    shares: np.ndarray
    tokens: tuple[np.ndarray, ...]
    drift: np.ndarray | None = None


class FeatureReward:
    """Reward for showing features: SAE latents, probes, concept directions.

    Args:
        readout: which features, of which layer, weighted and summed up how.
        provider: of the activations; None until a trainer is bound.
        source: "policy" reads the model in training, "reference" the frozen one (it cannot be moved by changing activations,
            only by text), "both" rewards the policy's and tells the drift between them.
        centre, spread: the reward is (value − centre) / spread, such as mean and standard deviation of base rollouts.
        empty: reward of a completion without a token, low: where it has none, a trainer leaves it out, every completion that is
            paid less than the mean of its group makes it likelier, and the policy learns to write nothing. None for NaN.
        name: in logs.

    Example:
        >>> import rewarden as rw
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> from rewarden.training.features import Linear
        >>> path = rw.demo.model_path("language_model")
        >>> model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        >>> probe = Linear(torch.ones(model.config.hidden_size), names=("sum",))
        >>> reward = FeatureReward(FeatureReadout(probe, 1), ActivationProvider(model, tokenizer))
        >>> reward([[5, 6, 7]] * 2, [[8, 9], [8, 9]]).shape
        (2,)
    """

    def __init__(self, readout: FeatureReadout, provider: ActivationProvider | None = None, *,
                 source: Literal["policy", "reference", "both"] = "policy", centre: float = 0.0, spread: float = 1.0,
                 empty: float | None = -3.0, name: str = "feature") -> None:
        if source not in ("policy", "reference", "both"):
            raise RewardenError(f"no source is called {source!r}", where="FeatureReward(source=)",
                                fix="use 'policy', 'reference' or 'both'")
        if not (np.isfinite([centre, spread]).all() and spread > 0):
            raise RewardenError(f"centre {centre}, spread {spread}", where="FeatureReward", why="rewards are divided by spread",
                                fix="give finite numbers, spread above 0")
        self.readout, self.name = readout, name
        self.source: Literal["policy", "reference", "both"] = source
        self.centre, self.spread, self.empty = float(centre), float(spread), np.nan if empty is None else float(empty)
        self.provider: ActivationProvider | None = None
        if provider is not None:
            self.bind(provider)

    @classmethod
    def from_pack(cls, pack: Pack | str | os.PathLike[str], dictionary: Dictionary,
                  provider: ActivationProvider | None = None, *, source: Literal["policy", "reference", "both"] = "policy",
                  empty: float | None = -3.0, name: str = "") -> FeatureReward:
        """The reward that a feature pack describes.

        Args:
            pack: a `Pack`, its file, or the name of one that came with rewarden.
            dictionary: the one it was made with; another is refused.
            provider, source, empty: as of the class.
            name: in logs; the pack's by default.

        Raises:
            RewardenError: no such pack, another dictionary, or a site that is not the residual stream after a layer.
        """
        from rewarden.training.packs import Pack

        held = pack if isinstance(pack, Pack) else Pack.load(pack)
        held.check(dictionary)
        if held.site.kind != "resid_post":
            raise RewardenError(f"the pack {held.name!r} reads {held.site.kind}", where="FeatureReward.from_pack",
                                why="activations are provided after layers", fix="use a pack of resid_post")
        kind = held.aggregation
        sizes: dict[str, Any] = {key: value for key, value in (("k", kind.k), ("share", kind.share)) if value is not None}
        readout = FeatureReadout(
            Latents(dictionary, held.ids.tolist(), tuple(one.name for one in held.features)), held.site.layer,
            torch.as_tensor(held.weights, dtype=torch.float32), torch.as_tensor(held.thresholds, dtype=torch.float32),
            Aggregation(kind.kind, **sizes))
        base = held.normalisation
        return cls(readout, provider, source=source, centre=base.mean if base else 0.0, spread=base.sd if base else 1.0,
                   empty=empty, name=name or held.name)

    def __repr__(self) -> str:
        names = ", ".join(self.readout.features.names[:4])
        return (f"FeatureReward({self.name!r}: {names} after layer {self.readout.layer}, {self.readout.aggregation}, "
                f"of the {self.source})")

    def bind(self, provider: ActivationProvider) -> FeatureReward:
        """Take activations from this provider from now on.

        Raises:
            RewardenError: a layer that the model has not, features of another width, or no reference where one is needed.
        """
        for source in self._sources():
            provider.require([self.readout.layer], source=source)
            width = provider.architecture(source).d_model
            if width != self.readout.features.width:
                raise RewardenError(f"features of width {self.readout.features.width}", where=repr(self),
                                    why=f"the {source} has a residual stream of width {width}",
                                    fix="use features of this model")
        self.readout = replace(self.readout, ends=provider.ends)
        self.provider = provider
        return self

    def _sources(self) -> tuple[Source, ...]:
        return ("policy", "reference") if self.source == "both" else (self.source,)

    def __call__(self, prompt_ids: Ids, completion_ids: Ids) -> np.ndarray:
        """Rewards float64 [n]; `empty` for completions without a token.

        Args:
            prompt_ids: of each prompt, as the policy was shown it.
            completion_ids: of each completion, as the policy wrote it; whether its end is still there does not matter.

        Raises:
            RewardenError: no provider yet, or ids that are none.
        """
        return self.values(self._bound().rollouts(prompt_ids, completion_ids)).reward

    def values(self, rollouts: Rollouts) -> FeatureValues:
        """Reward, shares and tokens of a batch."""
        provider = self._bound()
        found = {source: self._of(provider(rollouts, source).check(rollouts, source)) for source in self._sources()}
        first = found[self._sources()[0]]
        if self.source != "both":
            return first
        return FeatureValues(first.reward, first.shares, first.tokens, first.reward - found["reference"].reward)

    def _of(self, held: Activations) -> FeatureValues:
        states, count = held.layer(self.readout.layer), len(self.readout.features.names)
        values = self.readout.values(states)
        scalars, tokens = [], []
        for own, state in zip(held.each(values), held.each(states), strict=True):
            if not len(own):
                scalars.append(values.new_full((1 + count,), torch.nan))
                tokens.append(np.empty(0))
                continue
            scalars.append(self.readout.summed(own, state))
            tokens.append(self.readout.token_rewards(own, state).double().cpu().numpy())
        told = torch.stack(scalars).double().cpu().numpy()
        reward = np.where(held.rollouts.sizes > 0, (told[:, 0] - self.centre) / self.spread, self.empty)
        return FeatureValues(reward, told[:, 1:], tuple(tokens))

    def _bound(self) -> ActivationProvider:
        if self.provider is None:
            raise RewardenError(f"{self.name!r} has no model to read yet", where="FeatureReward",
                                why="no provider was given", fix="pass provider=, or bind it to a trainer")
        return self.provider

    def reward_model(self, model: nn.Module, tokenizer: Any, **settings: Any) -> RewardModel:
        """The reward as a reward model of its own, for lens, patching, scans and search: what text maximises it?

        Args:
            model: the causal model whose residual stream is read.
            tokenizer: its tokenizer.
            settings: of `RewardModel`.

        Returns:
            A `RewardModel` of the same numbers, but for `centre` and `spread`. Every token of a response counts: ends that a
            template writes are none of it.
        """
        def build(model: nn.Module, tokenizer: Any, architecture: Architecture) -> FeatureReadout:
            return replace(self.readout, ends=frozenset())

        return RewardModel(model, tokenizer, readout=build, name=self.name, **settings)
