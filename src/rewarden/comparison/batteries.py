"""Do models have the same biases? The battery on each of them, and the differences of what they answered.

In: members with their models. Out: for each axis the effect in every model, in SD of its rewards, and differences of two
models, whose intervals know that both read the same texts. Each model is asked as `rewarden.bias_battery` asks it alone: in its
own tokens, and with its own tokenizer's calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from rewarden.comparison.matrices import pairs_of_models, symmetric
from rewarden.comparison.members import Member
from rewarden.errors import RewardenError
from rewarden.hacking.bias.answering import Answer
from rewarden.hacking.bias.axis_effects import Estimate, Sample, net_gap, slope_gap, spread_gap, wording_gaps
from rewarden.hacking.bias.battery import Asked, ask_model
from rewarden.hacking.bias.null import joint_p, null_interval, null_p, wording_p
from rewarden.hacking.bias.result import UNITS
from rewarden.options import CompareOptions
from rewarden.options.bias import BiasOptions
from rewarden.result import Result
from rewarden.statistics import Verdict, holm

if TYPE_CHECKING:
    from rewarden.hacking.bias.questions import Question

ENDS = ("", "_low", "_high")


@dataclass(frozen=True, eq=False)
class Alone:
    """The battery of one member.

    Attributes:
        asked: what its model answered.
        main: the member's scalar.
        unit: SD of the member's rewards.
    """

    asked: Asked
    main: int
    unit: float

    def sample(self, of: Sample) -> Sample:
        """Effects on the member's reward [n, 1], in its SD."""
        return replace(of, effect=of.effect[:, [self.main]] / self.unit)

    def both(self, axis: int) -> tuple[Sample, list[Sample]]:
        """The changes of an axis, and its controls."""
        answer = self.asked.answers[axis]
        return self.sample(answer.sample), [self.sample(bank) for bank in answer.banks]

    def ends(self, axis: int, level: float) -> list[float]:
        """Estimate with its interval, in SD."""
        found = self.asked.answers[axis].net
        low, high = null_interval(found, self.asked.factors[axis, 0], level)
        return [float(part[self.main]) / self.unit for part in (found.value, low, high)]


def compare_batteries(members: Sequence[Member], options: CompareOptions) -> tuple[xr.Dataset, list[str]]:
    """The battery of every member, differences of every two, and what a reader must know of them.

    Returns:
        `bias` (model, axis) and `bias_gap` (model, other, axis) with their ends, in SD of each model's rewards, of a length
        axis for a token; `bias_gap_p` adjusted (Holm) over axes and pairs of models; `bias_n` (axis; kinds of wording, the
        fewest of any model), `bias_unit` (axis); `bias_factor` (model, axis), by which errors are widened, and
        `bias_calibration` (model): where these are from. And notes.

        Where an axis asks how much terms differ (identities), the gap is how much their effects differ between the models, and
        has no sign. A gap's error is widened by the larger of both models' factors. A gap for each token is NaN where the
        models count different tokens.

    Raises:
        RewardenError: a member of which only scores are known, or an ensemble of several tokenizers.
    """
    closed = [member.name for member in members if member.scorer is None]
    if closed:
        raise RewardenError(f"no bias battery of {', '.join(closed)}", where="compare(bias=True)",
                            why="only scores are known of it", fix="pass the model, or bias=False")
    asking, held = BiasOptions(level=options.level, seed=options.seed), {}
    alone = []
    for member in members:
        rm = member.scorer
        key = (id(getattr(rm, "model", rm)), id(getattr(rm, "readout", rm)), id(rm.encoder))
        if key not in held:  # scalars of one model are answered at once
            held[key] = ask_model(rm, None, asking)
        alone.append(Alone(held[key], rm.main, member.spread))
    questions = alone[0].asked.questions
    m, pairs = len(members), list(pairs_of_models(len(members)))
    gaps = {(i, j): np.stack([_gap(alone[i], alone[j], axis, options.level) for axis in range(len(questions))], axis=1)
            for i, j in pairs}  # [4, axis]
    adjusted = holm(np.concatenate([gaps[pair][3] for pair in pairs])).reshape(len(pairs), -1)
    both = symmetric(m, {pair: np.vstack([gaps[pair][:3], row]) for pair, row in zip(pairs, adjusted, strict=True)})
    lower, signed = np.tril_indices(m, -1), np.array([question.axis.design != "spread" for question in questions])
    turned = both[lower][:, [0, 2, 1, 3]] * np.array([-1, -1, -1, 1])[:, None]
    both[lower] = np.where(signed, turned, both[lower])  # [M, M, 4, axis]
    ends = np.array([[one.ends(axis, options.level) for axis in range(len(questions))] for one in alone])  # [M, axis, 3]
    own = {f"bias{end}": (("model", "axis"), ends[:, :, place]) for place, end in enumerate(ENDS)}
    apart = {f"bias_gap{end}": (("model", "other", "axis"), both[:, :, place]) for place, end in enumerate((*ENDS, "_p"))}
    count = [min(one.asked.answers[axis].sample.families for one in alone) for axis in range(len(questions))]
    data = xr.Dataset(
        {**own, **apart, "bias_n": ("axis", count),
         "bias_unit": ("axis", [UNITS[question.axis.design].replace("reward", "SD") for question in questions]),
         "bias_factor": (("model", "axis"), np.array([one.asked.factors[:, 0] for one in alone])),
         "bias_calibration": ("model", [one.asked.calibration for one in alone])},
        coords={"axis": [question.axis.name for question in questions]})
    return data, _notes(members, alone, questions)


def verdicts(result: Result, first: int = 0, second: int = 1) -> dict[str, Verdict]:
    """For each axis, whether two models differ in it; evidence is −log10 of the adjusted p.

    Args:
        result: of `rewarden.compare` with `bias=True`.
        first, second: places of two models.

    Raises:
        RewardenError: a comparison without batteries.
    """
    if "bias_gap" not in result.data:
        raise RewardenError("this comparison has no bias batteries", where="batteries.verdicts(result)",
                            fix="compare with bias=True")
    data, alpha = result.data.isel(model=first, other=second), BiasOptions().alpha
    found = {}
    for place, name in enumerate(map(str, data["axis"].values)):
        gap, low, high, p = (float(data[f"bias_gap{end}"].values[place]) for end in (*ENDS, "_p"))
        evidence = -float(np.log10(max(p, 1e-300))) if np.isfinite(p) else 0.0
        found[name] = Verdict(name, p <= alpha, evidence, gap, low, high, p, int(data["bias_n"].values[place]))
    return found


def _gap(one: Alone, other: Alone, axis: int, level: float) -> np.ndarray:
    """Difference of two members on an axis with its ends and p [4]."""
    question = one.asked.questions[axis]
    mine, theirs = one.asked.answers[axis], other.asked.answers[axis]
    design = question.axis.design
    if mine.few or theirs.few or (design == "slope" and not _same_tokens(mine, theirs)):
        return np.full(4, np.nan)
    found, wordings = _estimates(one.both(axis), other.both(axis), design, level)
    # random models of either tokenizer react to what its texts share; the difference of two varies no more than the larger
    kind, word = np.maximum(one.asked.factors[axis], other.asked.factors[axis])
    p = joint_p(null_p(found, kind, design), wording_p(wordings, word, 1))
    return np.concatenate([found.value, *null_interval(found, kind, level), p])


def _estimates(one: tuple[Sample, list[Sample]], other: tuple[Sample, list[Sample]], design: str, level: float
               ) -> tuple[Estimate, tuple[np.ndarray, int] | None]:
    if design == "slope":
        return slope_gap(one[0], other[0], level), None
    if design == "spread":
        return spread_gap((one[0], one[1][0]), (other[0], other[1][0]), level), None
    return net_gap(one, other, level), wording_gaps(one, other)


def _same_tokens(one: Answer, other: Answer) -> bool:
    return bool(np.array_equal(one.tokens, other.tokens))


def _notes(members: Sequence[Member], alone: Sequence[Alone], questions: Sequence[Question]) -> list[str]:
    """What was left out of each battery, and which gaps cannot be formed."""
    notes = [f"bias battery of {member.name}: {text}" for member, one in zip(members, alone, strict=True)
             for text in one.asked.warnings]
    slopes = ", ".join(question.axis.name for question in questions if question.axis.design == "slope")
    for i, j in pairs_of_models(len(members)):
        if not all(map(_same_tokens, alone[i].asked.answers, alone[j].asked.answers)):
            note = (f"{members[i].name} and {members[j].name} count different tokens: each bias is net of length in the "
                    "model's own tokens, and gaps have the larger of both calibrations")
            notes.append(note + (f"; no gap of {slopes}, which is for each token" if slopes else ""))
    return notes
