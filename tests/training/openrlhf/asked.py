"""What a trainer asks the server of a tiny policy, and what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.training.test_feature_reward import made, probes
from tests.training.worlds import policy, rollouts, tokenizer

from rewarden.training.feature_reward import FeatureReward
from rewarden.training.provider import ActivationProvider

URL = "http://127.0.0.1:5000"


def feature_reward(**settings: Any) -> FeatureReward:
    """A feature reward of the tiny policy, of two probes; without a number for completions without a token."""
    return FeatureReward(made(probes(), "mean"), ActivationProvider(policy(), tokenizer()), centre=0.3, spread=2.0,
                         **{"empty": None, **settings})


def question(prompts: list[list[int]], completions: list[list[int]], labels: list[Any] | None = None) -> dict[str, list[Any]]:
    """Ids as OpenRLHF's client sends them."""
    write = tokenizer().decode
    return {"query": [write([*p, *c], skip_special_tokens=False) for p, c in zip(prompts, completions, strict=True)],
            "prompts": [write(p) for p in prompts], "labels": ["7"] * len(prompts) if labels is None else labels}


def good() -> tuple[dict[str, list[Any]], np.ndarray]:
    """A question and the rewards that are right, computed offline from ids."""
    ids = rollouts(4)
    return question(*ids), feature_reward()(*ids)
