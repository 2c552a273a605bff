"""Above which score is a rollout suspicious, so that base rollouts seldom are?

In: scores of base rollouts, the prompt of each, a false positive rate. Out: a threshold that holds for any distribution of
scores, and what it rests on. Ignorant of what scores measure. Letters: n rollouts, K prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.statistics import Interval


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it rests on.

    Attributes:
        threshold: scores above it are flagged.
        fpr: the rate that was asked for: over calibrations, a rollout of a new base prompt is flagged with this chance at most.
        n: base rollouts scored.
        prompts: their distinct prompts, which are the independent units.
        empty: rollouts without a token, left out.
        held_out: share flagged among further base rollouts, with its interval over prompts; None where none were given.
        data: hash of the rollouts.
    """

    threshold: float
    fpr: float
    n: int
    prompts: int
    empty: int
    held_out: Interval | None = None
    data: str = ""


def conformal_threshold(scores: Any, clusters: Any, fpr: float) -> float:
    """The smallest threshold that a score of a new base prompt exceeds with a chance of at most `fpr`.

    With one rollout a prompt it is the ⌈(K + 1)(1 − fpr)⌉-th smallest score; with more of them, each counts 1 / (K + 1) divided
    by its prompt's number of rollouts. One calibration may turn out above the rate: with K = 99 and a rate of 1 %, the true
    rate has a mean of 1 % and a standard deviation as large.

    Args:
        scores: [n], finite.
        clusters: prompt of each [n]; prompts are exchangeable, rollouts of one prompt need not be.
        fpr: above 0 and below 1.

    Raises:
        RewardenError: too few prompts for this rate, at least 1 / fpr − 1 of them; or scores that are not finite.

    Source: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World; for groups: Lee, Barber & Willett,
    arXiv 2306.06342 (hierarchical conformal prediction).

    Example:
        >>> conformal_threshold(np.arange(99.0), np.arange(99), 0.01), conformal_threshold(np.arange(99.0), np.arange(99), 0.05)
        (98.0, 94.0)
    """
    scores = np.asarray(scores, np.float64)
    if not 0 < fpr < 1:
        raise RewardenError(f"a false positive rate of {fpr!r}", where="calibrate(fpr=)", why="it lies between 0 and 1",
                            fix="give a share such as 0.01")
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    if scores.ndim != 1 or codes.shape != scores.shape or not np.isfinite(scores).all():
        raise RewardenError("scores that cannot be ranked", where="conformal_threshold",
                            why=f"scores {scores.shape}, prompts {codes.shape}; {int((~np.isfinite(scores)).sum())} not finite",
                            fix="give one finite score and one prompt a rollout")
    sizes = np.bincount(codes)
    least = int(np.ceil(1 / fpr - 1 - 1e-9))
    if len(sizes) < least:
        raise RewardenError(f"{len(sizes)} prompts for a false positive rate of {fpr:g}", where="calibrate",
                            why=f"the largest of K scores is exceeded with chance 1 / (K + 1): {least} prompts are needed",
                            fix=f"sample base rollouts of {least - len(sizes)} more prompts, or allow a rate of "
                                f"{1 / (len(sizes) + 1):.2g}")
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(1.0 / sizes[codes[order]]) / (len(sizes) + 1)  # mass of scores up to each
    place = int(np.searchsorted(below, 1 - fpr - 1e-12))
    return float(scores[order[min(place, len(scores) - 1)]])
