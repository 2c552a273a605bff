"""How does a repair become a plain transformers checkpoint?

In: a model, changed weights. Out: a folder that `AutoModelForSequenceClassification` loads and that scores the same; and, for
steering, the changed model itself. Ignorant of what was repaired and why.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.checkpoint import quiet_bars
from rewarden.errors import RewardenError
from rewarden.readout.heads import SequenceHead
from rewarden.reward_model import RewardModel
from rewarden.store.files import write_bytes

if TYPE_CHECKING:
    from rewarden.concepts.repairing import Repaired

RECORD = "repair.json"
"""Beside the weights: what was done."""

HEADS = ("score", "classifier")
"""Names of the linear head of transformers' sequence classifiers."""

BIASES = (("down_projection", "mlp_norm", "mlp_bias"), ("out_projection", "post_norm", "attention_bias"))
"""Where a layer can hold a constant: its last linear map, the norm behind it (which must be none), and the switch of the config
that gives it a bias."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What is different in the checkpoint.

    Attributes:
        weight: the head's weight [k, d], or None where it is as it was.
        bias: the head's constants [k], or None.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None


def saved(repaired: Repaired, path: Any) -> Path:
    """Write the checkpoint; see `Repaired.save`."""
    rm, changes = repaired.rm, repaired.changes
    model, folder = rm.model, Path(path)
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).exists():
        raise RewardenError("the folder holds something else than a repair", where=str(folder),
                            why="a checkpoint would be mixed with what is there, or written over it", fix="name another folder")
    state: dict[str, Tensor] = dict(model.state_dict())
    facts: dict[str, Any] = {"concepts": [one.name for one in repaired.directions],
                             **{key: str(value) for key, value in repaired.before.provenance().items()}}
    if repaired.report is not None:
        facts |= {f"repair_{key}": str(value) for key, value in repaired.report.provenance.items()}
    if changes.weight is not None:
        name = _head_name(rm)
        state[f"{name}.weight"] = changes.weight.to(state[f"{name}.weight"])
        if f"{name}.bias" in state and changes.bias is not None:
            state[f"{name}.bias"] = changes.bias.to(state[f"{name}.bias"])
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_bars():
        model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # every model here is transformers'
    rm.tokenizer.save_pretrained(folder)
    write_bytes(folder / RECORD, json.dumps(facts, indent=1).encode())
    return folder


def holds_constant(rm: RewardModel) -> bool:
    """Whether a checkpoint of this model holds the head's constant; where it does not, it is the same for every text."""
    head = next((getattr(rm.model, name) for name in HEADS if isinstance(getattr(rm.model, name, None), nn.Linear)), None)
    return head is None or head.bias is not None


def _head_name(rm: RewardModel) -> str:
    """The module that holds the head, in a model that transformers' AutoModelForSequenceClassification loads."""
    model = rm.model
    for name in HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Linear) and head.weight.shape[1] == rm.architecture.d_model and "SequenceClassification" in type(
                model).__name__:
            return name
    raise RewardenError(f"{type(model).__name__} is no sequence classifier of transformers", where="Repaired.save",
                        why=f"no linear module called {' or '.join(HEADS)} in a ...ForSequenceClassification",
                        fix="use repaired.rm in memory, or save the model's own head in its own format")


def steered_model(rm: RewardModel, layer: int, move: np.ndarray) -> tuple[RewardModel, Changes]:
    """A model whose residual stream after a layer is shifted by a constant [d] at every token, as a bias of that layer.

    The read-out stays the one of `rm`, and goes into the checkpoint where it is not what the model inside holds.

    Raises:
        RewardenError: no linear map of the layer ends in the residual stream with a bias, or can get one by its config.
    """
    block = rm.architecture.blocks[layer]
    names = {module: name for name, module in rm.model.named_modules()}
    for part, norm, switch in BIASES:
        module = getattr(block, part)
        if module is None or getattr(block, norm) is not None:
            continue
        name, config = names[module], copy.deepcopy(rm.model.config)
        if getattr(module, "bias", None) is None and getattr(config, switch, None) is not False:
            continue
        model = copy.deepcopy(rm.model) if getattr(module, "bias", None) is not None else _with_biases(rm.model, config, switch)
        bias = model.get_submodule(name).bias
        if bias is None:
            continue
        assert isinstance(bias, Tensor)  # a parameter of a linear map
        with torch.no_grad():
            bias += torch.as_tensor(move / block.scale, dtype=bias.dtype, device=bias.device)
        encoder = rm.encoder
        other = RewardModel(model.eval().requires_grad_(False), rm.tokenizer, name=f"{rm.name}, steered", bos=encoder.bos,
                            max_length=encoder.max_length, on_overflow=encoder.on_overflow, output=rm.names[rm.main],
                            layers=rm.layers)
        return _read_alike(other, rm)
    raise RewardenError(f"layer {layer} of {type(rm.model).__name__} holds no constant", where="repair(method='steer')",
                        why="its linear maps have no bias, or a norm comes behind them",
                        fix="use method='project', which turns the head")


def _read_alike(other: RewardModel, rm: RewardModel) -> tuple[RewardModel, Changes]:
    """A model with the read-out of another one, maybe edited before; and what of it the checkpoint must hold."""
    own, head = other.readout, rm.readout
    assert isinstance(head, SequenceHead)  # others are not repaired
    same = isinstance(own, SequenceHead) and all(
        one.shape == two.shape and bool((one == two).all()) for one, two in ((own.weight, head.weight), (own.bias, head.bias)))
    if same:
        return other, Changes()
    read = other.reading(head)
    read.main, read.health = rm.main, other.health
    return read, Changes(head.weight, head.bias)


def _with_biases(model: Any, config: Any, switch: str) -> Any:
    """The same model built with biases that are all 0."""
    setattr(config, switch, True)
    parameter = next(model.parameters())
    other = type(model)(config).to(parameter.device, parameter.dtype)
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected, unexpected
    with torch.no_grad():
        for name in missing:
            other.get_parameter(name).zero_()
    return other
