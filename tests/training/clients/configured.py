"""The reward of the tiny policy as arguments in a configuration, and as it is offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.clients.environments import HERE
from tests.training.test_feature_reward import LAYER, probes
from tests.training.worlds import saved, tokenizer

from rewarden.training.factory import make
from rewarden.training.feature_reward import FeatureReward

MAKE = f"{HERE / 'reward_of_policy.py'}:make"


def arguments(folder: Path) -> dict[str, Any]:
    """Of `reward_of_policy.make`, with a policy saved into the folder."""
    features = probes()
    assert features.bias is not None
    return {"policy": str(saved(folder / "policy")), "layer": LAYER, "weight": features.weight.tolist(),
            "bias": features.bias.tolist(), "names": list(features.names), "weights": [1.0, -0.5], "centre": 0.3, "spread": 2.0}


def offline(given: dict[str, Any]) -> FeatureReward:
    """The same reward here."""
    return make(MAKE, tokenizer(), given)


