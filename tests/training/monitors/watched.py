"""Base rollouts of the tiny policy, and monitors of every kind fitted on them."""

from __future__ import annotations

import numpy as np
from tests.training.test_feature_reward import LAYER, dictionary
from tests.training.worlds import policy, tokenizer

from rewarden.training.monitors import MahalanobisMonitor, NllMonitor, ProbeMonitor, ReconstructionMonitor, TextMonitor
from rewarden.training.provider import ActivationProvider


def world(seed: int = 0, **settings):
    return ActivationProvider(policy(seed), tokenizer(), reference="frozen", **settings)


def base(provider, count: int, seed: int = 0, longest: int = 9):
    """Rollouts of distinct prompts; those of different seeds share none."""
    rng = np.random.default_rng(seed)
    digits = [[3 + (number // 13**place) % 13 for place in range(4)] for number in range(count)]
    prompts = [[3 + seed % 13, 3 + seed // 13, *one] for one in digits]
    return provider.rollouts(prompts, [[*rng.integers(3, 16, rng.integers(1, longest)).tolist(), 1] for _ in prompts])


def kinds():
    def labels(rollouts):
        return [5 in ids for ids in rollouts.completion_ids]

    return {"probe": (ProbeMonitor(2), labels), "mahalanobis": (MahalanobisMonitor(2), None),
            "mean": (MahalanobisMonitor(2, pool="mean", name="mean"), None),
            "tokens": (MahalanobisMonitor(2, pool="tokens", name="tokens"), None), "nll": (NllMonitor(), None),
            "reconstruction": (ReconstructionMonitor(dictionary(), LAYER), None), "text": (TextMonitor(), None),
            "decoded": (TextMonitor(tokenizer().decode, name="decoded"), None),
            "text probe": (TextMonitor(name="text probe"), labels)}


def fitted(kind: str, provider, seed: int = 1, count: int = 160):
    monitor, labels = kinds()[kind]
    rollouts = base(provider, count, seed)
    return monitor.fit(provider, rollouts, None if labels is None else labels(rollouts))
