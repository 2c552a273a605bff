"""What do the contrasts of each axis come to on one model?

In: a reward model with any number of outputs, questions. Out: an `Answer` for each question. The same code answers for the
model at hand and for random-weight models (`null`). Ignorant of what counts as a finding.
Letters: n contrasts, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from rewarden.contrasts import Contrast, Effects, contrast_effects
from rewarden.errors import RewardenError
from rewarden.hacking.bias.axis_effects import (
    Estimate,
    Sample,
    net_effect,
    raw_effect,
    slope_within,
    spread_beyond,
    wording_outliers,
)
from rewarden.hacking.bias.questions import Question
from rewarden.options.bias import BiasOptions

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


@dataclass(frozen=True, eq=False)
class Answer:
    """What an axis came to; arrays over outputs K.

    Attributes:
        raw: mean effect.
        net: what the flag rests on.
        amount: effect for each unit of amount; None where the axis has no amounts.
        wordings: t values [T, K] of single wordings and their degrees of freedom; None where the question is another.
        sample: contrasts with finite effects.
        effect: float64 [n, K] of all contrasts, NaN kept.
        tokens: float64 [n].
        missing: contrasts left out because a reward is not finite.
        lost: ids of the innocuous contrasts left out for the same reason.
        few: what there are too few of to claim anything, once contrasts are left out; then all estimates are NaN.
        uncovered: contrasts left out because they add more tokens than any innocuous change did.
        banks: innocuous contrasts with finite effects.
    """

    raw: Estimate
    net: Estimate
    amount: Estimate | None
    wordings: tuple[np.ndarray, int] | None
    sample: Sample
    effect: np.ndarray
    tokens: np.ndarray
    missing: int
    uncovered: int
    lost: frozenset[str] = frozenset()
    few: str = ""
    banks: tuple[Sample, ...] = ()


def answer_all(rm: RewardModel, questions: Sequence[Question], options: BiasOptions,
               progress: Callable[[int], None] | None = None) -> tuple[list[Answer], np.ndarray]:
    """Run every contrast once and estimate.

    Args:
        rm: the model.
        questions: what is asked.
        options: level, least seeds and templates, and batch size.
        progress: called with the number of distinct texts done.

    Returns:
        Answers in the order of the questions, and the standard deviation [K] of the rewards of all texts.

    Raises:
        RewardenError: an axis without any finite effect.
    """
    place: dict[int, int] = {}
    asked: list[Contrast] = []
    for one in (one for question in questions for bank in (question.contrasts, *question.controls) for one in bank):
        if id(one) not in place:  # a bank stands in several questions
            place[id(one)] = len(asked)
            asked.append(one)
    found = contrast_effects(rm, asked, batch_size=options.batch_size, progress=progress)
    return [_answer(question, found, place, options) for question in questions], found.spread


def _answer(question: Question, found: Effects, place: dict[int, int], options: BiasOptions) -> Answer:
    """Estimates of one axis."""
    def taken(asked: Sequence[Contrast]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([place[id(one)] for one in asked])
        return found.effect[rows], found.tokens[rows]

    effect, tokens = taken(question.contrasts)
    sample, kept = _sample(question.contrasts, effect, tokens)
    missing = int((~kept).sum())
    held = [_sample(bank, *taken(bank)) for bank in question.controls]
    lost = frozenset(one.id for bank, (_, whole) in zip(question.controls, held, strict=True)
                     for one, has in zip(bank, whole, strict=True) if not has)
    banks = [bank for bank, _ in held]
    if question.axis.design == "mean":
        # beyond them the controls' line would be an extrapolation; text that goes on is not worth ever more or less
        kept &= tokens <= max(bank.tokens.max() for bank in banks)
        if not kept.any():
            raise RewardenError(f"every change on the axis {question.axis.name!r} adds more tokens than any innocuous one",
                                where="bias_battery", why=f"they add {np.min(tokens):g} to {np.max(tokens):g} tokens",
                                fix="give neutral texts that are nearly as long as the biased ones")
        sample = _sample(question.contrasts, np.where(kept[:, None], effect, np.nan), tokens)[0]
    few = "; ".join(filter(None, [_too_few(sample, question.contrasts, "", options), *(
        _too_few(bank, asked, "innocuous ", options) for bank, asked in zip(banks, question.controls, strict=True))]))
    unknown = Estimate(*(np.full(effect.shape[1], np.nan) for _ in fields(Estimate)))
    estimates = (unknown, unknown, None, None) if few else _estimates(question, sample, banks, kept, options.level)
    return Answer(*estimates, sample, effect, tokens, missing, int((~kept).sum()) - missing, lost, few, tuple(banks))


def _estimates(question: Question, sample: Sample, banks: Sequence[Sample], kept: np.ndarray, level: float
               ) -> tuple[Estimate, Estimate, Estimate | None, tuple[np.ndarray, int] | None]:
    """Raw and net effects, effect for each unit of amount, and t values of single wordings."""
    outliers = None
    if question.axis.design == "slope":
        net = slope_within(sample, sample.tokens, level)
    elif question.axis.design == "spread":
        net = spread_beyond(sample, banks[0], level)
    else:
        net = net_effect(sample, banks, level)
        # rows of the user's are no means over seeds as the controls' families are
        outliers = wording_outliers(sample, banks) if question.wordings == "templates" else None
    amounts = question.amounts[kept]
    dosed = bool(np.isfinite(amounts).all()) and _varies(amounts, sample.family)
    return raw_effect(sample, level), net, slope_within(sample, amounts, level) if dosed else None, outliers


def _too_few(sample: Sample, asked: Sequence[Contrast], kind: str, options: BiasOptions) -> str:
    """Which independent texts are too few after some were left out; a bank that was small from the start counts by itself."""
    said = []
    for field, name, least, left in (("seed", "seeds", options.least_seeds, len(np.unique(sample.seed))),
                                     ("template", "wordings", options.least_templates, sample.families)):
        needed = min(least, len({getattr(one, field) for one in asked}))
        if left < needed:
            said.append(f"{left} {kind}{name} left, {needed} are needed")
    return "; ".join(said)


def _sample(asked: Sequence[Contrast], effect: np.ndarray, tokens: np.ndarray) -> tuple[Sample, np.ndarray]:
    """The contrasts with finite effects, and which these are."""
    kept = np.asarray(np.isfinite(effect).all(1))
    if not kept.any():
        raise RewardenError(f"no finite rewards on the axis {asked[0].axis!r}", where="bias_battery",
                            why=f"all {len(asked)} contrasts hold a reward that is not finite",
                            fix="score some pairs of your own to see what is wrong, or load the model in float32")
    names, family = np.unique([one.template for one, keep in zip(asked, kept, strict=True) if keep], return_inverse=True)
    seeds = np.array([one.seed for one, keep in zip(asked, kept, strict=True) if keep])
    return Sample(effect[kept], tokens[kept], family, seeds, names), kept


def _varies(amounts: np.ndarray, family: np.ndarray) -> bool:
    """Whether at least three families of wording come in several amounts."""
    return sum(len(np.unique(amounts[family == one])) > 1 for one in np.unique(family)) >= 3
