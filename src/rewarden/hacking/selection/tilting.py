"""What would a policy earn that leans towards the reward a little: π(y) ∝ π₀(y)·exp(λ·reward)?

In: rewards of one prompt's samples of π₀ and strengths λ. Out: self-normalised weights of the samples, and how many samples
still count. Ignorant of prompts and of gold.
"""

from __future__ import annotations

import numpy as np


def tilt_weights(proxy: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Weights of samples under an exponential tilt, exp(λr)/Σ exp(λr).

    Args:
        proxy: float64 [m].
        strength: λ, float64 [T], in 1 / reward unit.

    Returns:
        float64 [T, m]; rows sum to 1. Means under them estimate those of the tilted policy with a bias of order 1/ESS.

    Example:
        >>> tilt_weights(np.array([0.0, np.log(3.0)]), np.array([0.0, 1.0])).round(2).tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    exponents = np.asarray(strength, dtype=np.float64)[:, None] * proxy
    grown = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def effective_samples(weights: np.ndarray) -> np.ndarray:
    """How many equally weighted samples would tell as much: 1/Σw², [...] of weights [..., m] that sum to 1.

    Source: Kong 1992, technical report 348, University of Chicago.

    Example:
        >>> effective_samples(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
        [2.0, 1.0]
    """
    return 1 / (weights**2).sum(axis=-1)
