"""Does the reward follow how something is said: its length, its hedges, its markdown, whom it flatters?

In: a reward model and axes (the bundled ones, a JSONL of the user's, or contrasts). Out: `Result("bias")`: for each axis the
effect of the change, the effect net of what an innocuous change of the same length does, intervals that generalise over seeds
*and* wordings, p adjusted over axes, and a flag. Ignorant of the texts and of plots.
Letters: n contrasts, A axes, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.contrasts import Contrast
from rewarden.errors import RewardenError
from rewarden.hacking.bias.answering import Answer, answer_all
from rewarden.hacking.bias.null import null_factors, written_by
from rewarden.hacking.bias.questions import Axes, Question, ask
from rewarden.hacking.bias.result import bias_dataset, verdicts, wordings
from rewarden.hacking.texts import load_axes
from rewarden.options.bias import BiasOptions
from rewarden.options.checks import resolve
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.ensemble import Ensemble
    from rewarden.reward_model import RewardModel

__all__ = ["bias_battery", "contrasts", "verdicts", "wordings"]


def contrasts(axes: Axes = None, *, options: BiasOptions | None = None, **overrides: Any) -> list[Contrast]:
    """The contrasts that the battery asks with, without its controls.

    Args:
        axes: as for `bias_battery`.
        options: see `BiasOptions`; keyword arguments override single fields.

    Returns:
        Contrasts in the order of the axes; `template` is the family of wording.

    Example:
        >>> found = contrasts(["hedging"])
        >>> {one.axis for one in found}, len({one.seed for one in found}) >= 30, len({one.template for one in found}) >= 6
        ({'hedging'}, True, True)
    """
    options = resolve(BiasOptions, options, overrides)
    return [one for question in ask(axes, options) for one in question.contrasts]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a model answered to the battery.

    Attributes:
        questions: what was asked.
        answers: in the order of the questions.
        spread: standard deviation [K] of the rewards of all texts.
        factors: [question, 2], by which errors are widened (see `null_factors`).
        calibration: where the factors are from.
    """

    questions: list[Question]
    answers: list[Answer]
    spread: np.ndarray
    factors: np.ndarray
    calibration: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, and what is not known for it."""
        both = list(zip(self.questions, self.answers, strict=True))
        warned = [f"{q.axis.name}: rows without templates; each row counts as a wording of its own" for q in self.questions
                  if q.wordings == "rows"]
        lost = sum(answer.missing for answer in self.answers)
        controls = len(frozenset().union(*(answer.lost for answer in self.answers)))  # a bank serves several axes
        beyond = {q.axis.name: answer.uncovered for q, answer in both if answer.uncovered}
        if beyond:
            warned.append("left out, because they add more tokens than any innocuous change: "
                          + ", ".join(f"{count} of {name}" for name, count in beyond.items()))
        if lost or controls:
            warned.append(f"{lost} contrasts and {controls} innocuous ones have rewards that are not finite and were left out")
        return (*warned, *(f"{q.axis.name}: no estimate and no flag, {answer.few}" for q, answer in both if answer.few))


def ask_model(rm: RewardModel | Ensemble, axes: Axes, options: BiasOptions, progress: Callable[[int], None] | None = None
              ) -> Asked:
    """The answers behind `bias_battery`, which raises the same errors."""
    reader = _reader(rm)
    questions = ask(axes, options)
    answers, spread = answer_all(rm, questions, options, progress)  # type: ignore[arg-type]  # an ensemble scores as well
    return Asked(questions, answers, spread, *null_factors(reader, questions, options))


def _reader(rm: RewardModel | Ensemble) -> RewardModel:
    """The model whose tokenizer errors are calibrated with: itself, or a member of an ensemble that all read alike."""
    members = getattr(rm, "models", None)
    if members is None:
        return rm  # type: ignore[return-value]  # only ensembles have members
    if len({written_by(member) for member in members}) > 1:
        raise RewardenError("the members of this ensemble write texts with different tokenizers or chat templates",
                            where=f"bias battery of {rm.name!r}", why="effects are net of length in tokens, and errors are "
                            "calibrated for one tokenizer", fix="[rw.bias_battery(model) for model in ensemble.models]")
    return members[0]


def bias_battery(rm: RewardModel | Ensemble, axes: Axes = None, *, options: BiasOptions | None = None,
                 progress: Callable[[int], None] | None = None, **overrides: Any) -> Result:
    """Which kinds of change move the reward of the same content?

    Args:
        rm: the reward model; with several outputs, every one of them is asked. An ensemble whose members share tokenizer
            and template does as well: its outputs are its score and each member.
        axes: None for all bundled axes, names of some, a JSONL file with rows {prompt, neutral, biased, axis?, seed?,
            template?}, or `Contrast`s. Without a seed they count by prompts, without a template by responses; none may repeat.
        options: see `BiasOptions`; keyword arguments override single fields.
        progress: called with the number of texts scored.

    Returns:
        Result("bias"). By axis and output: `effect` (raw, with `effect_low`, `effect_high`); `estimate` with `low`, `high`,
        `error`, `df`, in `estimate_unit`: of "mean" axes the effect net of an innocuous change that adds as many tokens, of
        "slope" axes reward per token within a wording, of "spread" axes how much more terms differ than innocuous ones.
        `p_kind`, `low` and `high` of the estimate are those of `error` times `null_factor` (see `null`: how far t values
        of this axis exceed Student's on random-weight models); `p_wording` of the wording that lies farthest from innocuous
        ones ("mean" axes: a reward may follow some wordings only); `p`, twice the smaller of these; `p_adjusted` over axes;
        `flag`.
        `size`, `size_low`, `size_high`: the estimate in standard deviations of the reward over these texts (of a slope, for
        20 tokens). By axis: `tokens` added, `n`, `n_seeds`, `n_templates`, `missing`, `uncovered` (contrasts left out that
        add more tokens than any control), `outlying` (wordings that stand out by themselves); `amount_slope` per `unit` where
        an axis has amounts. By contrast: all effects. An axis that falls below `least_seeds` or `least_templates` once
        contrasts are left out has NaN estimates, no flag, and a warning. Provenance: `calibration` says whether factors are
        packaged (bundled texts, tokenizer and template), measured or off; `axes` whether all, some or own were asked.

    Raises:
        RewardenError: an unknown axis, unreadable rows, too few seeds or templates, no finite rewards, or an ensemble of
            several tokenizers.

    Source: two-way clustered variances (Cameron, Gelbach & Miller 2011) with Satterthwaite's degrees of freedom; Holm 1979 or
        Benjamini & Hochberg 1995 over axes.

    Example:
        >>> import rewarden as rw
        >>> found = rw.bias_battery(rw.load(), ["hedging"], per_seed=1)
        >>> found.data.sizes["axis"], bool(found.low[0, 0] < found.estimate[0, 0] < found.high[0, 0])
        (1, True)
    """
    options = resolve(BiasOptions, options, overrides)
    found = ask_model(rm, axes, options, progress)
    data = bias_dataset(found.questions, found.answers, rm.names, rm.main, found.spread, found.factors, rm.noise_floor, options)
    about = {**rm.provenance(), "per_seed": options.per_seed, "alpha": options.alpha, "correction": options.correction,
             "axes": _which(axes, found.questions), "level": options.level, "calibration": found.calibration,
             "seed": options.seed}
    return Result("bias", data, about, True, rm.noise_floor, found.warnings)


def _which(axes: Axes, questions: Sequence[Question]) -> str:
    """"all" or "some" of the bundled axes, or the user's "own"."""
    if any(not question.axis.templates for question in questions):
        return "own"
    return "all" if axes is None or len(questions) == len(load_axes()) else "some"
