"""A valid pack to change: made once from a gate on planted data."""

from __future__ import annotations

from functools import cache

import numpy as np

from rewarden.training.gate import gate_features
from rewarden.training.packs import (
    Normalisation,
    Pack,
    PackAggregation,
    PackDictionary,
    PackFeature,
    PackModel,
    PackSite,
    evidence_of,
)


def rollouts(seed: int = 0, n: int = 600) -> dict[str, np.ndarray]:
    """Worked and direct answers; worked ones are longer and oftener right."""
    rng = np.random.default_rng(seed)
    worked = rng.random(n) < 0.5
    return {"labels": rng.random(n) < np.where(worked, 0.8, 0.35), "styles": np.where(worked, "worked", "direct"),
            "lengths": rng.integers(5, 25, n) + 15 * worked, "clusters": np.arange(n) // 4}


@cache
def valid() -> Pack:
    """Two features that read correctness, with evidence."""
    data = rollouts()
    rng = np.random.default_rng(1)
    values = np.column_stack([data["labels"] + rng.normal(size=600), rng.normal(size=600) - data["labels"]])
    found = gate_features(values, data.pop("labels"), weights=[1.0, -0.5], **data)
    return Pack("sums", "1.2.3", PackModel("demo:policy", "a" * 64), PackSite("resid_post", 2),
                PackDictionary("demo:policy_dictionary", "b" * 64, 256),
                (PackFeature(17, "carries", 1.0, "Fires at a carry.", 0.25, "more"), PackFeature(3, "copies ½", -0.5)),
                PackAggregation("top", share=0.25), Normalisation(0.1, 1.5, 600), evidence_of(found), True, "Two-digit sums.")
