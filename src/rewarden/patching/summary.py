"""Effects of several pairs in a few numbers: mean, interval, test, and which cells are marked.

In: effects [pair, ...] by name. Out: variables over the remaining axes, for any Result of this package. Ignorant of what was
patched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rewarden.conversation import Pair
from rewarden.statistics import benjamini_hochberg, bootstrap_interval, content_clusters, sign_flip_test

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]
"""Name → (axes, values), as an xarray Dataset takes them."""


class Spread(Protocol):
    """The fields that the options of a patching verb share."""

    alpha: float
    level: float
    resamples: int
    seed: int


def prompt_clusters(pairs: Sequence[Pair]) -> np.ndarray:
    """Cluster int64 [pair]: pairs with the same prompt are not independent."""
    return content_clusters([repr(pair.conversations[0].prompt) for pair in pairs])


def fewest_clusters(alpha: float) -> int:
    """Independent pairs below which a sign-flip test cannot reach alpha: with K of them its p is at least 2 / 2^K.

    Example:
        >>> fewest_clusters(0.05)
        6
    """
    return math.ceil(math.log2(2 / alpha))


def summarise(effects: Mapping[str, tuple[tuple[str, ...], np.ndarray]], clusters: np.ndarray, options: Spread,
              noise_floor: float) -> Variables:
    """Means over pairs with intervals, tests, and marks that hold for all cells together.

    Args:
        effects: suffix → (axes, values); the first axis is "pair", NaN where there is no value. The suffix is appended
            to every name: "" for `effect`, "_heads" for `effect_heads`.
        clusters: [pair], see `prompt_clusters`.
        options: alpha, level, resamples and seed.
        noise_floor: effects up to this size are rounding.

    Returns:
        For each suffix: `below_noise` with the axes of the effects; and without the pairs `mean`, `low`, `high`
        (BCa bootstrap over prompts), `n` (pairs with a value), `p` (sign-flip test of prompts; NaN, not tested, where too few
        prompts have a value for p to reach alpha, and where the effect is exactly 0 in every pair), `p_adjusted`
        (Benjamini–Hochberg over the tested cells of all suffixes together; NaN where not tested), `marked` (p_adjusted <
        alpha and |mean| above the noise). `tests`, without axes: the cells with a p, which `p_adjusted` corrects for.

        An exact 0 in every pair is a cell that no edit reaches: both runs have read the same tokens so far, or nothing that
        follows reads this one. Its p could only be 1, and as one of the tests it would cost the others power. Leaving it out
        is no choice after the fact: zeros are zeros under every flip of signs, so the same cells are left out under the null.

    Example:
        >>> from rewarden.options import PatchOptions
        >>> values = np.array([[1.0, 0.1], [1.5, -0.2], [0.9, 0.1], [1.2, 0.3], [1.1, -0.3], [0.8, 0.0], [1.4, 0.1]])
        >>> found = summarise({"": (("pair", "layer"), values)}, np.arange(7), PatchOptions(), 0.0)
        >>> found["marked"][1].tolist(), int(found["tests"][1])
        ([True, False], 2)
    """
    found: Variables = {}
    spread: dict[str, Any] = {"n_resamples": options.resamples, "seed": options.seed, "clusters": clusters}
    p_values: dict[str, np.ndarray] = {}
    for suffix, (axes, values) in effects.items():
        mean = bootstrap_interval(values, level=options.level, **spread)
        test = sign_flip_test(values, clusters, seed=options.seed)
        enough = np.asarray(test.n_clusters) >= fewest_clusters(options.alpha)
        p_values[suffix] = np.where(enough & (np.nan_to_num(values) != 0).any(0), test.p, np.nan)
        for name, value in (("mean", mean.estimate), ("low", mean.low), ("high", mean.high), ("n", mean.n),
                            ("p", p_values[suffix])):
            found[f"{name}{suffix}"] = (axes[1:], np.asarray(value))
        with np.errstate(invalid="ignore"):
            found[f"below_noise{suffix}"] = (axes, np.abs(values) <= noise_floor)
    adjusted = benjamini_hochberg(np.concatenate([np.ravel(p) for p in p_values.values()]))
    found["tests"] = ((), np.asarray(np.isfinite(adjusted).sum()))
    start = 0
    for suffix, (axes, _) in effects.items():
        p = p_values[suffix]
        mine = adjusted[start:start + p.size].reshape(p.shape)
        start += p.size
        found[f"p_adjusted{suffix}"] = (axes[1:], mine)
        with np.errstate(invalid="ignore"):
            large = np.abs(found[f"mean{suffix}"][1]) > noise_floor
            found[f"marked{suffix}"] = (axes[1:], (mine < options.alpha) & large)
    return found
