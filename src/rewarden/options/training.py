"""Options of training against a model's inside: gating and discovering features, monitors, audits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rewarden.options.checks import check, choices, interval, whole


@dataclass(frozen=True)
class GateOptions:
    """When a feature counts as reading the outcome rather than style or length."""

    length_bins: int = 4
    """Parts of each style's rollouts by length, about equally many in each."""
    least_each: int = 10
    """Rollouts of either outcome that a stratum needs; strata with fewer are set apart and counted."""
    matched: int = 8
    """Rollouts of one style and nearest length that the second comparison is kept to, as strata still differ in length."""
    least_clusters: int = 10
    """Independent prompts needed."""
    least_auc: float = 0.55
    """AUC within strata that a feature must reach, beyond being told from chance."""
    alpha: float = 0.05
    """Chance of any feature passing that reads nothing (Holm over features)."""
    level: float = 0.95
    """Coverage of the intervals."""
    folds: int = 5
    """Parts of the prompts in the text baselines, each scored by what the other parts say."""
    seed: int = 0
    """Seed of these parts."""

    def __post_init__(self) -> None:
        wrong = interval(self) | whole(self, length_bins=1, least_each=2, matched=2, least_clusters=4, folds=2)
        if not 0.5 <= self.least_auc < 1:
            wrong["least_auc"] = "from 0.5 to below 1"
        check(self, **wrong)


@dataclass(frozen=True)
class DiscoveryOptions:
    """How features are ranked on one part of the prompts and judged on the other."""

    top: int = 10
    """Features taken from the head of the ranking; evidence is given of these."""
    held_out: float = 0.5
    """Share of the prompts that rank nothing and give the evidence."""
    length_bins: int = 4
    """Parts of each style's rollouts by length, where comparisons stay within strata."""
    folds: int = 5
    """Parts of the ranking prompts that the probe is cross-fitted over."""
    ridge: float = 1.0
    """Weight of the squared norm of the probe, for features of standard deviation 1."""
    entropy: float = 0.7
    """Exponent of the entropy in ReasonScore; 0 leaves the entropy out."""
    least_clusters: int = 10
    """Independent prompts needed in either part."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the split and of the folds."""

    def __post_init__(self) -> None:
        wrong: dict[str, Any] = interval(self) | whole(self, top=1, length_bins=1, folds=2, least_clusters=4)
        if not 0 < self.held_out < 1:
            wrong["held_out"] = "between 0 and 1"
        if not 0 < self.ridge < float("inf"):
            wrong["ridge"] = "larger than 0"
        if not 0 <= self.entropy < float("inf"):
            wrong["entropy"] = "0 or larger"
        check(self, **wrong)


@dataclass(frozen=True)
class ProbeOptions:
    """How the probe of a monitor is fitted, and how it is judged on prompts that did not fit it."""

    method: Literal["logistic", "lda", "mean_difference"] = "logistic"
    """Estimator: ridge logistic regression, linear discriminant with a shrunken covariance, or difference of means."""
    ridge: float = 1.0
    """Weight of the squared norm in logistic regression, for features of standard deviation 1."""
    folds: int = 5
    """Parts of the prompts, each scored by the probe that the other parts give."""
    least_each: int = 10
    """Rollouts of either label needed."""
    level: float = 0.95
    """Coverage of the interval of the AUC."""
    seed: int = 0
    """Seed of the folds."""

    def __post_init__(self) -> None:
        wrong: dict[str, Any] = choices(self) | interval(self) | whole(self, folds=2, least_each=2)
        if not 0 < self.ridge < float("inf"):
            wrong["ridge"] = "larger than 0"
        check(self, **wrong)


@dataclass(frozen=True)
class OutcomeAuditOptions:
    """When the policy is audited on held-out prompts, on how many, and what stops training."""

    every: int = 20
    """Steps of training between two looks."""
    n: int | None = None
    """Prompts of each look, drawn once from those given, the same in every look; all by default."""
    samples: int = 1
    """Completions of each prompt in a look."""
    stop: Literal["either", "below", "falling", "never"] = "either"
    """What stops training: accuracy below the base's, accuracy that falls while the reward rises, either, or nothing."""
    margin: float = 0.05
    """How far below the base's the accuracy may lie."""
    alpha: float = 0.05
    """Chance that any look of a run stops it wrongly."""
    looks: int | None = None
    """Looks of a whole run, if known: each gets alpha / looks; without it, look k gets alpha / (k · (k + 1))."""
    least_prompts: int = 30
    """Prompts needed."""
    level: float = 0.95
    """Coverage of the intervals, each by itself."""
    seed: int = 0
    """Seed of the drawn prompts and of the completions."""

    def __post_init__(self) -> None:
        wrong: dict[str, Any] = choices(self) | interval(self) | whole(self, every=1, n=1, samples=1, looks=1, least_prompts=2)
        if not 0 <= self.margin < 1:
            wrong["margin"] = "from 0 to below 1"
        check(self, **wrong)


@dataclass(frozen=True)
class EvasionOptions:
    """How the fate of a monitor after training is named."""

    rare: float = 0.05
    """Share of bad rollouts that an honest policy stays below, by the upper end of its interval."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of bootstraps over prompts."""

    def __post_init__(self) -> None:
        wrong: dict[str, Any] = interval(self)
        if not 0 < self.rare < 1:
            wrong["rare"] = "between 0 and 1"
        check(self, **wrong)
