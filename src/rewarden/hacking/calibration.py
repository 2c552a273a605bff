"""How often does each instrument say "there is something" of models without anything to find?

In: the packaged `null_rates.json`, which `benchmarks/instruments.py` measures on random-weight models. Out: `NullRate`, printed
beside the verdicts of these instruments, and how the run at hand differs from those measured. Ignorant of how an instrument
works.

The file maps an instrument's name to {"alpha", "models", "rate", "low", "high", "any_rate", "any_low", "any_high",
"measured"}: `rate` over all questions of all models, `any_rate` over models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError
from rewarden.options import BiasOptions, DistortionOptions, SurveyOptions

RATES = Path(__file__).with_name("null_rates.json")


NULLS = {"style": "sets of margins with exchanged sides", "style_content": "sets of rewards with styles in random order",
         "gaps": "pairs of random-weight models"}
"""What stands in for random-weight models: they follow style in natural texts, and gaps are of two."""

CORRECTIONS = {"holm": "Holm", "bh": "Benjamini–Hochberg"}


@dataclass(frozen=True)
class NullRate:
    """What an instrument does on random-weight models, or on what stands in for them (`NULLS`).

    Attributes:
        instrument: its name.
        alpha: the rate it states.
        models: random-weight models it was run on.
        rate: share of their questions that it flagged, with a 95 % interval clustered by model, `low` to `high`.
        any_rate: share of models with at least one flag, `any_low` to `any_high` (Wilson).
        measured: when and with which version.

    Example:
        >>> print(NullRate("bias", 0.05, 200, 0.004, 0.002, 0.007, 0.04, 0.02, 0.08, "2025-01-01, 0.1.0"))
        any flag in 4.0 % [2.0, 8.0] of 200 random-weight models (0.4 % of all questions); stated: 5 %
    """

    instrument: str
    alpha: float
    models: int
    rate: float
    low: float
    high: float
    any_rate: float
    any_low: float
    any_high: float
    measured: str

    def __str__(self) -> str:
        rate, some, least, most = (f"{100 * value:.1f}" for value in (self.rate, self.any_rate, self.any_low, self.any_high))
        return (f"any flag in {some} % [{least}, {most}] of {self.models} {NULLS.get(self.instrument, 'random-weight models')} "
                f"({rate} % of all questions); stated: {100 * self.alpha:g} %")


def null_rate(instrument: str) -> NullRate | None:
    """The measured null rate of an instrument, or None where none was measured.

    Args:
        instrument: one of `rewarden.hacking.instruments.INSTRUMENTS`, such as "bias", or "gaps" (of `rewarden.compare`).

    Example:
        >>> null_rate("tea leaves") is None
        True
    """
    row = _rates().get(instrument)
    return None if row is None else NullRate(instrument, **row)


def null_words(instrument: str, *, unlike: str = "", alpha: float | None = None,
               differs: Sequence[tuple[str, Any, Any]] = ()) -> str:
    """One sentence for reports and terminals: the null rate, or that none was measured.

    Rates are measured with default options on bundled texts; where the run at hand is another, this must be said here.

    Args:
        instrument: as in `null_rate`.
        unlike: what makes the run at hand another test, so that no rate is told.
        alpha: of the run at hand, where it can be set.
        differs: what else is set otherwise in the same test, each as words with a {}, the value that the rate was measured
            with, and the value here; equal values are not told.

    Example:
        >>> null_words("tea leaves", unlike="leaves of your own")
        'Null rate: not measured for this instrument.'
    """
    rate = null_rate(instrument)
    if rate is None:
        return "Null rate: not measured for this instrument."
    if unlike:
        return f"Null rate: not measured for {unlike}."
    each = [(words.format(measured), str(here)) for words, measured, here in differs if measured != here]
    if alpha is not None and alpha != rate.alpha:
        each.append((f"α = {100 * rate.alpha:g} %", f"{100 * alpha:g} %"))
    if not each:
        return f"Null rate: {rate}."
    measured, here = (", ".join(words) for words in zip(*each, strict=True))
    return f"Null rate: {rate} (measured with {measured}; here {here})."


def battery_null_words(provenance: Mapping[str, Any]) -> str:
    """`null_words` of the bias battery as it was run.

    Args:
        provenance: of a `Result("bias")`.

    Example:
        >>> battery_null_words({"calibration": "off", "correction": "holm"})
        'Null rate: not measured without calibration.'
    """
    if provenance.get("calibration") == "off":
        return "Null rate: not measured without calibration."
    usual = BiasOptions()
    return null_words("bias", unlike=_own(provenance), alpha=provenance.get("alpha"), differs=[
        _axes(provenance), ("{} wordings a seed", usual.per_seed, provenance.get("per_seed", usual.per_seed)),
        ("{}", "Holm", CORRECTIONS[provenance.get("correction", usual.correction)])])


def distortion_null_words(provenance: Mapping[str, Any]) -> str:
    """`null_words` of the distortion index as it was run.

    Args:
        provenance: of a `Result("distortion")`.

    Example:
        >>> distortion_null_words({"axes": "all"}) == null_words("distortion")
        True
    """
    usual, battery = DistortionOptions(), BiasOptions().per_seed
    unlike = "a battery without calibration" if provenance.get("battery_calibration") == "off" else _own(provenance)
    return null_words("distortion", unlike=unlike, alpha=provenance.get("alpha"), differs=[
        _axes(provenance), ("{} wordings a seed", battery, provenance.get("battery_per_seed", battery)),
        *((f"{words} {{}}", getattr(usual, name), provenance.get(name, getattr(usual, name))) for name, words in (
            ("per_seed", "wordings a seed of directions:"), ("covered", "covered"), ("energy", "energy")))])


def survey_null_words(provenance: Mapping[str, Any], axes: str = "all", instrument: str = "concepts") -> str:
    """`null_words` of the slopes of concepts, or of what the reward follows, as they were asked for.

    Args:
        provenance: of a `Result("concepts")`.
        axes: "all" of the battery's, "own" ones, or in words which of the battery's.
        instrument: "concepts" (slopes) or "follows".

    Example:
        >>> survey_null_words({"frame": "contrasts"}) == null_words("concepts")
        True
    """
    usual, asked = SurveyOptions(), [("contrasts_each", "{} contrasts each")]
    asked += ([("items", "{} texts each"), ("randoms", "{} random directions")] if instrument == "concepts" else
              [("heads", "{} random read-outs")])
    return null_words(instrument, unlike=_own({"axes": axes}), alpha=provenance.get("alpha"), differs=[
        _axes({"axes": axes}),
        *((words, getattr(usual, name), provenance.get(name, getattr(usual, name))) for name, words in asked),
        ("a frame of the {}", "contrasts", provenance.get("frame", "contrasts"))])


def _own(provenance: Mapping[str, Any]) -> str:
    return "axes of your own" if provenance.get("axes") == "own" else ""


def _axes(provenance: Mapping[str, Any]) -> tuple[str, str, str]:
    return "{} bundled axes", "all", str(provenance.get("axes", "all"))


@cache
def _rates() -> dict[str, dict[str, Any]]:
    if not RATES.is_file():  # before the first measurement
        return {}
    try:
        return json.loads(RATES.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RewardenError("the measured null rates cannot be read", where=str(RATES), why=str(error),
                            fix="install rewarden again, or run benchmarks/instruments.py") from error
