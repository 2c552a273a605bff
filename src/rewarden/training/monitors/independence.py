"""Is a monitor a second opinion on a reward, or the same one again?

In: a monitor, a reward. Out: what they share, in words. Ignorant of how well either works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rewarden.training.composition import CompositeReward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Latents, Linear
from rewarden.training.monitors.monitor import Monitor

ALIKE = 0.5
"""Absolute cosine from which two directions count as shared."""


@dataclass(frozen=True)
class Independence:
    """What a monitor shares with a reward.

    Attributes:
        layer: whether both read the same layer.
        data: whether both were made from the same rollouts and labels; None where the reward does not say.
        features: whether one direction of the reward is nearly the monitor's, or all directions are read.
        words: the same as sentences.
    """

    layer: bool
    data: bool | None
    features: bool
    words: str

    def __str__(self) -> str:
        return self.words


def independence(monitor: Monitor, reward: Any) -> Independence:
    """What a monitor shares with a reward: its layer, its data, its features.

    A reward tells the data it was made from as an attribute `data_sha256`.
    """
    own = list(_feature_rewards(reward))
    if not own:
        return Independence(False, None if monitor.made is None else False, False,
                            f"{monitor.name!r} and the reward share no layer: the reward reads no activations.")
    layers = sorted({one.readout.layer for one in own})
    layer = bool(set(layers) & set(monitor.layers))
    told = {str(value) for one in (reward, *own) if (value := getattr(one, "data_sha256", None))}
    data = None if monitor.made is None or not told else monitor.made.data in told
    near, features = _nearest(monitor, own)
    lines = [f"Layer: the reward reads {_listed(layers)}, {monitor.name!r} "
             + (f"{_listed(monitor.layers)}: {'shared' if layer else 'another one'}." if monitor.layers else
                "no layer: not shared."),
             "Data: " + ("the monitor was fitted on none." if monitor.made is None else
                         "the reward does not say what it was made from; a probe made from the same labels is no second "
                         "opinion." if data is None else "the same rollouts and labels: no second opinion." if data else
                         "other rollouts or labels."),
             f"Features: {near}"]
    return Independence(layer, data, features, " ".join(lines))


def _feature_rewards(reward: Any) -> Iterator[FeatureReward]:
    if isinstance(reward, FeatureReward):
        yield reward
    elif isinstance(reward, CompositeReward):
        for one in (reward.outcome, *reward.features):
            yield from _feature_rewards(one)
    elif hasattr(reward, "reward"):
        yield from _feature_rewards(reward.reward)


def _nearest(monitor: Monitor, rewards: list[FeatureReward]) -> tuple[str, bool]:
    """How near the monitor's direction is to the reward's, at a shared layer."""
    shared = [one for one in rewards if one.readout.layer in monitor.layers]
    if not shared:
        return "not compared, as no layer is shared.", False
    vector = getattr(monitor, "vector", None)
    if not isinstance(vector, torch.Tensor) or not len(vector):
        return "it reads all directions of the layer, the reward's among them.", True
    best = 0.0
    for one in shared:
        features = one.readout.features
        rows = (features.weight if isinstance(features, Linear) else features.dictionary.W_enc[list(features.ids)]
                if isinstance(features, Latents) else None)
        if rows is not None:
            best = max(best, float(torch.nn.functional.cosine_similarity(rows.float().cpu(), vector[None].cpu()).abs().max()))
    return f"the nearest of the reward's directions has cosine {best:.2f} with the monitor's.", best >= ALIKE


def _listed(layers: Any) -> str:
    return "layer " + ", ".join(map(str, layers))
