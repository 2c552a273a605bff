"""Options of concepts: finding a direction, moving along it, erasing it, taking it out of the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rewarden.options.checks import check, choices, interval, whole


def _batch(options: Any) -> dict[str, str]:
    """What is wrong with the field batch_size."""
    size = options.batch_size
    right = size == "auto" or (isinstance(size, int) and size >= 1)
    return {} if right else {"batch_size": "auto or a whole number from 1"}


@dataclass(frozen=True)
class ConceptOptions:
    """How the direction of a concept is found, and how it is tested on texts that did not find it."""

    method: Literal["mean_difference", "logistic", "lda"] = "mean_difference"
    """Estimator: difference of means, ridge logistic regression, or linear discriminant with a shrunken covariance."""
    positions: Literal["read", "response"] = "read"
    """Tokens looked at: where the reward is read, or the mean over the response."""
    folds: int = 5
    """Parts of the clusters (prompts, seeds), each scored by the direction that the other parts give."""
    controls: int = 20
    """Control tasks: the same probe on labels shuffled between clusters."""
    ridge: float = 1.0
    """Weight of the squared norm in logistic regression, for features of standard deviation 1."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of folds, shuffles and random directions."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass."""

    def __post_init__(self) -> None:
        wrong = choices(self) | interval(self) | _batch(self) | whole(self, folds=2, controls=0)
        if not self.ridge > 0:
            wrong["ridge"] = "larger than 0"
        check(self, **wrong)


@dataclass(frozen=True)
class DoseOptions:
    """How far texts are moved along a direction, and with what that is compared."""

    doses: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    """Lengths of the moves, in units of the mean distance between texts with and without the concept; commas between."""
    where: Literal["same", "read", "response"] = "same"
    """Tokens moved: those the direction was found at, where the reward is read, or each token of the response."""
    randoms: int = 40
    """Random directions of the same length to compare with, moved by the smallest dose each way."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the random directions."""

    def __post_init__(self) -> None:
        doses = (self.doses,) if isinstance(self.doses, (int, float)) else tuple(self.doses)
        object.__setattr__(self, "doses", tuple(float(dose) for dose in doses))
        wrong = choices(self) | interval(self) | whole(self, randoms=3)
        finite = all(abs(dose) < float("inf") for dose in self.doses)
        if not finite or 0.0 in self.doses or len(set(self.doses)) < len(self.doses) or len(self.doses) < 2:
            wrong["doses"] = "two or more different numbers, none of them 0"
        check(self, **wrong)


@dataclass(frozen=True)
class EraseOptions:
    """How a concept is erased, and how it is checked that it is gone."""

    positions: Literal["read", "response"] = "read"
    """Tokens looked at: where the reward is read, or the mean over the response."""
    folds: int = 5
    """Parts of the clusters (prompts, seeds); each is judged by an eraser and a probe that have not seen it."""
    shrink: bool = True
    """Estimate the covariance with Ledoit and Wolf's shrinkage; without it, more texts than dimensions are needed."""
    ridge: float = 1.0
    """Weight of the squared norm of the probes, for features of standard deviation 1."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the folds."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass."""

    def __post_init__(self) -> None:
        wrong = choices(self) | interval(self) | _batch(self) | whole(self, folds=3)
        if not self.ridge > 0:
            wrong["ridge"] = "larger than 0"
        check(self, **wrong)


@dataclass(frozen=True)
class SurveyOptions:
    """Which concepts are asked about, where texts are moved along them, and when the reward is said to follow one."""

    method: Literal["mean_difference", "logistic", "lda"] = "lda"
    """Estimator of the directions that read concepts; texts are moved along differences of means."""
    layer: int | None = None
    """Texts are moved along the concept in the residual stream after this layer; the middle one by default."""
    contrasts_each: int = 48
    """Contrasts of each axis, at most; seeds take turns."""
    items: int = 16
    """Texts of each axis that are moved along its direction."""
    randoms: int = 40
    """Random directions that moves are compared with."""
    length_axes: tuple[str, ...] = ("length", "verbosity")
    """Axes that are about length; of all others, what varies with length is taken out; commas between."""
    heads: int = 1999
    """Random read-outs that the alignment with the reward is compared with; the smallest p is 1 / (heads + 1)."""
    folds: int = 5
    """Parts of the seeds, each scored by the direction that the other parts give."""
    alpha: float = 0.05
    """Chance of any false flag among all concepts (Holm)."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of every draw."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass."""

    def __post_init__(self) -> None:
        names = (self.length_axes,) if isinstance(self.length_axes, str) else tuple(self.length_axes)
        object.__setattr__(self, "length_axes", names)
        wrong = choices(self) | interval(self) | _batch(self) | whole(
            self, layer=0, contrasts_each=20, items=2, randoms=3, heads=99, folds=2)
        check(self, **wrong)


@dataclass(frozen=True)
class EditOptions:
    """How a concept is taken out of the reward, and how the model before and after is compared."""

    method: Literal["project", "leace", "steer"] = "project"
    """Turn the head off the direction; off it at the least change of other rewards; or shift a layer, which is no repair."""
    alpha: float = 1.0
    """How much of it is taken out: 0 leaves the model as it is, 1 takes all; in units of the concept's size for steering."""
    held_out: float = 0.5
    """Share of the seeds whose contrasts only verify; and, with leace, of the prompts whose pairs only verify."""
    layer: int | None = None
    """Steering shifts the residual stream after this layer; the middle one by default."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the split."""
    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass."""

    def __post_init__(self) -> None:
        wrong = choices(self) | interval(self) | _batch(self) | whole(self, layer=0)
        wrong.pop("alpha", None)  # elsewhere an error rate, here an amount
        if not abs(self.alpha) < float("inf"):
            wrong["alpha"] = "a finite number"
        if not 0 < self.held_out < 1:
            wrong["held_out"] = "between 0 and 1"
        check(self, **wrong)
