"""How often does each instrument say "there is something" of models without anything to find?

In: the packaged `null_rates.json`, which `benchmarks/instruments.py` measures on random-weight models. Out: `NullRate`, printed
beside every verdict. Ignorant of how an instrument works.

The file maps an instrument's name to {"alpha", "models", "rate", "low", "high", "any_rate", "any_low", "any_high",
"measured"}: `rate` over all questions of all models, `any_rate` over models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError

RATES = Path(__file__).with_name("null_rates.json")


NULLS = {"style": "sets of margins with exchanged sides"}
"""What stands in for random-weight models, which follow style in natural texts."""


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
        instrument: "bias", "style", "distortion", "divergence", "cascade", "conflict", "concepts", "susceptibility",
            "triggers" or "deciding".

    Example:
        >>> null_rate("tea leaves") is None
        True
    """
    row = _rates().get(instrument)
    return None if row is None else NullRate(instrument, **row)


def null_words(instrument: str) -> str:
    """One sentence for reports and terminals: the null rate, or that none was measured."""
    rate = null_rate(instrument)
    return f"Null rate: {rate}." if rate else "Null rate: not measured for this instrument."


def battery_null_words(provenance: Mapping[str, Any]) -> str:
    """`null_words` of the bias battery; it was measured with all bundled axes, Holm and calibrated errors, which is said, or
    left out where the run at hand is another instrument.

    Args:
        provenance: of a `Result("bias")`.

    Example:
        >>> battery_null_words({"calibration": "off", "correction": "holm"})
        'Null rate: not measured without calibration.'
    """
    if provenance.get("calibration") == "off":
        return "Null rate: not measured without calibration."
    axes = provenance.get("axes", "all")
    if axes == "own":
        return "Null rate: not measured for axes of your own."
    words, usual = null_words("bias"), axes == "all" and provenance.get("correction", "holm") == "holm"
    return words if usual or null_rate("bias") is None else words.removesuffix(".") + " (measured with all bundled axes, Holm)."


@cache
def _rates() -> dict[str, dict[str, Any]]:
    if not RATES.is_file():  # before the first measurement
        return {}
    try:
        return json.loads(RATES.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RewardenError("the measured null rates cannot be read", where=str(RATES), why=str(error),
                            fix="install rewarden again, or run benchmarks/instruments.py") from error
