"""Training against a model's inside, guarded: feature rewards, outcome rewards, packs, monitors, and adapters for trainers.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "ActivationProvider": "provider",
    "Activations": "activations",
    "Rollouts": "rollouts",
    "Aggregation": "aggregation",
    "Latents": "features",
    "Linear": "features",
    "FeatureReadout": "readout",
    "FeatureReward": "feature_reward",
    "OutcomeReward": "composition",
    "CompositeReward": "composition",
    "Schedule": "schedules",
    "gate_features": "gate",
    "ModelReward": "model_reward",
    "Pack": "packs.pack",
    "Monitor": "monitors.monitor",
    "Guard": "guards",
    "OutcomeAudit": "outcome_audit",
    "AdversarialSuite": "adversarial",
    "fresh_probe": "evasion",
    "RolloutLog": "rollout_log",
    "roll_out": "sampling",
    "Rolled": "sampling",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
