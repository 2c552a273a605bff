"""What does the policy (and the model it started from) hold at the tokens it wrote? One forward a batch, for everybody.

In: the model in training, exact ids. Out: `Activations` of the layers that rewards and monitors asked for, from one run of the
trunk that ends at the deepest of them. Works while the model trains: modes, gradients and adapters are left as they were.
Ignorant of rewards and trainers. Letters: n rollouts, N completion tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.architecture import Architecture
from rewarden.batching import plan_batches, run_groups
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel
from rewarden.tokens.next_token import NextTokenHead, next_token
from rewarden.trace.capture import Capture
from rewarden.training.activations import Activations, Source
from rewarden.training.rollouts import Ids, Rollouts

Reference = Literal["frozen", "adapters"] | nn.Module | None


class ActivationProvider:
    """One forward a batch, shared by all rewards and monitors.

    Args:
        policy: the model in training: a transformers causal model, maybe with PEFT adapters.
        tokenizer: its tokenizer; only ids of special tokens are read.
        reference: what "reference" stands for: "frozen" (a copy of the policy as it is now), "adapters" (the policy with its
            adapters disabled), another model of the same tokenizer, or None.
        ends: ids that end a completion or fill it up; by default the tokenizer's and the model's end and padding ids.
        batch_size: rollouts a forward, or "auto".

    Attributes:
        forwards: runs of the trunk so far, by source; one batch may take several where it does not fit at once.
        batches: batches so far, by source.

    Raises:
        RewardenError: an unknown architecture, or adapters that are not there.

    Example:
        >>> import rewarden as rw
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> path = rw.demo.model_path("language_model")
        >>> provider = ActivationProvider(AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path))
        >>> provider.require(layers=[1])
        >>> found = provider(Rollouts.of([[5, 6, 7]], [[8, 9]]))
        >>> found.layer(1).shape[0], found.source
        (2, 'policy')
    """

    def __init__(self, policy: nn.Module, tokenizer: Any, *, reference: Reference = None, ends: Collection[int] | None = None,
                 batch_size: int | Literal["auto"] = "auto") -> None:
        if isinstance(policy, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            policy = policy.module
        self.policy, self.tokenizer, self.batch_size = policy, tokenizer, batch_size
        self.ends = frozenset(_ends(policy, tokenizer) if ends is None else (int(i) for i in ends))
        self._trunks: dict[str, RewardModel] = {"policy": _trunk(policy, tokenizer)}
        self._adapters = reference == "adapters"
        if self._adapters and not hasattr(policy, "disable_adapter"):
            raise RewardenError("the policy has no adapters", where="ActivationProvider(reference='adapters')",
                                why=f"{type(policy).__name__} is no PEFT model", fix="pass reference='frozen' or a model")
        if isinstance(reference, nn.Module) or reference == "frozen":
            other = copy.deepcopy(policy) if reference == "frozen" else reference
            assert isinstance(other, nn.Module)
            self._trunks["reference"] = _trunk(other.eval().requires_grad_(False), tokenizer)
        elif self._adapters:
            self._trunks["reference"] = self._trunks["policy"]
        self._layers: dict[str, set[int]] = {source: set() for source in self._trunks}
        self._log_probs: dict[str, bool] = dict.fromkeys(self._trunks, False)
        self._held: dict[str, tuple[tuple, Activations]] = {}
        self.forwards, self.batches = dict.fromkeys(self._trunks, 0), dict.fromkeys(self._trunks, 0)

    @property
    def sources(self) -> tuple[str, ...]:
        """Models there are: "policy", maybe "reference"."""
        return tuple(self._trunks)

    def architecture(self, source: Source = "policy") -> Architecture:
        """The parts of one of the models."""
        return self._trunk_of(source).architecture

    def rollouts(self, prompt_ids: Ids, completion_ids: Ids) -> Rollouts:
        """Checked rollouts, without the ends of completions."""
        return Rollouts.of(prompt_ids, completion_ids, self.ends)

    def require(self, layers: Iterable[int] = (), *, log_probs: bool = False, source: Source = "policy") -> None:
        """Say what will be asked of every batch, so that one forward serves all.

        Args:
            layers: residual streams after them.
            log_probs: of the completion tokens; takes the whole depth and the model's head.
            source: of which model.

        Raises:
            RewardenError: no such model or layer.
        """
        depth = self._trunk_of(source).architecture.n_layers
        wrong = [layer for layer in layers if not isinstance(layer, (int, np.integer)) or not 0 <= layer < depth]
        if wrong:
            raise RewardenError(f"no layer {wrong[0]!r}", where="ActivationProvider.require(layers=)",
                                why=f"this model has layers 0 to {depth - 1}; resid_post[l] is hidden_states[l + 1]",
                                fix="count from 0")
        self._layers[source] |= {int(layer) for layer in layers}
        self._log_probs[source] |= log_probs

    def __call__(self, rollouts: Rollouts, source: Source = "policy") -> Activations:
        """What was asked for of a batch; the last batch of each model is kept until the batch or the weights change.

        Raises:
            RewardenError: no such model, or nothing was asked for.
        """
        trunk = self._trunk_of(source)
        layers, log_probs = tuple(sorted(self._layers[source])), self._log_probs[source]
        if not layers and not log_probs:
            raise RewardenError("nothing was asked for", where="ActivationProvider", fix="call require(layers=...) first")
        state = (rollouts.key, layers, log_probs, _version(trunk.model))
        held = self._held.get(source)
        if held is None or held[0] != state:
            with self._as(source):
                self._held[source] = held = (state, self._run(trunk, rollouts, layers, log_probs, source))
            self.batches[source] += 1
        return held[1]

    def forget(self) -> None:
        """Drop what is kept of the last batch."""
        self._held.clear()

    def _trunk_of(self, source: str) -> RewardModel:
        if source not in self._trunks:
            raise RewardenError(f"there is no {source!r} model", where="ActivationProvider",
                                why=f"it has {', '.join(self._trunks)}", fix="pass reference='frozen', 'adapters' or a model")
        return self._trunks[source]

    def _as(self, source: str) -> AbstractContextManager[Any]:
        """Adapters are disabled while the reference runs, where it is the policy without them."""
        return self.policy.disable_adapter() if self._adapters and source == "reference" else nullcontext()  # type: ignore

    def _run(self, trunk: RewardModel, rollouts: Rollouts, layers: Sequence[int], log_probs: bool, source: Source
             ) -> Activations:
        rows, sizes = rollouts.sequences(), rollouts.sizes
        limit = trunk.encoder.max_length
        if limit is not None and max(row.length for row in rows) > limit:
            raise RewardenError(f"a rollout of {max(row.length for row in rows)} tokens", where="ActivationProvider",
                                why=f"the model reads {limit}", fix="shorten prompts or completions")
        kept: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(rows) for layer in layers}
        told: list[Tensor] = [torch.empty(0)] * len(rows)

        def run(group: np.ndarray) -> None:
            some = [rows[i] for i in group]
            mine = _mask(some, sizes[group], 0).to(trunk.device)
            store = Capture(trunk.architecture, ["resid_post"], lambda hidden: hidden[mine], layers) if layers else None
            before = _mask(some, sizes[group], 1).to(trunk.device)
            final = Capture(trunk.architecture, ["final"], lambda hidden: hidden[before]) if log_probs else None
            taps = [*(store.taps() if store else ()), *(final.taps() if final else ())]
            trunk.forward(some, taps, last=None if log_probs else max(layers))
            self.forwards[source] += 1
            split = sizes[group].tolist()
            for number, layer in enumerate(layers):
                assert store is not None
                for i, part in zip(group, store.kept["resid_post"][number].split(split), strict=True):
                    kept[layer][i] = part
            if final:
                ids = torch.as_tensor(np.concatenate([np.asarray(rollouts.completion_ids[i], np.int64) for i in group]))
                found = _told(trunk, final.kept["final"][0], ids.to(trunk.device))
                for i, part in zip(group, found.split(split), strict=True):
                    told[i] = part

        run_groups(plan_batches([row.length for row in rows], self.batch_size if trunk.pad_safe else 1, trunk.device), run)
        # born in inference mode: a copy, so that whoever has them may differentiate what is made of them
        states = {layer: torch.cat(parts).clone() for layer, parts in kept.items()}
        return Activations(rollouts, source, states, torch.cat(told).clone() if log_probs else None)


def _trunk(model: nn.Module, tokenizer: Any) -> RewardModel:
    """The model as something that is encoded for and traced; its read-out is that of a language model."""
    return RewardModel(model, tokenizer, readout=next_token, check=False)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    found = [getattr(holder, name, None) for holder in (tokenizer, getattr(model, "generation_config", None), getattr(
        model, "config", None)) for name in ("eos_token_id", "pad_token_id")]
    return {int(i) for one in found if one is not None for i in (one if isinstance(one, (list, tuple)) else [one])}


def _version(model: nn.Module) -> int:
    """Rises whenever a parameter is written to."""
    return sum(parameter._version for parameter in model.parameters())


def _mask(rows: Sequence[Encoded], sizes: np.ndarray, back: int) -> Tensor:
    """bool [batch, T]: completion tokens, or the tokens one before them."""
    width = max(row.length for row in rows)
    place, end = np.arange(width)[None], np.asarray([row.length for row in rows])[:, None] - back
    return torch.as_tensor((place >= end - sizes[:, None]) & (place < end))


def _told(trunk: RewardModel, residual: Tensor, ids: Tensor) -> Tensor:
    """log p [N] of ids [N] from the residuals [N, d] before them."""
    head = trunk.readout
    assert isinstance(head, NextTokenHead)
    with torch.no_grad():
        logits = head.logits(head.norm(residual.float()))
        return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)
