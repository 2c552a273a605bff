"""Was the completion right? Verifiers: callable objects `(completion, gold) -> 1.0 or 0.0`, with a `name`.

A malformed gold is an error of the data set, and raised; a malformed completion is wrong, and 0.0. Ignorant of models and
trainers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewarden.lazy import lazy

if TYPE_CHECKING:
    from rewarden.training.verifiers.code import unit_tests
    from rewarden.training.verifiers.mathematics import boxed_math
    from rewarden.training.verifiers.numerals import gsm8k
    from rewarden.training.verifiers.protocol import verify_all
    from rewarden.training.verifiers.schemas import json_schema
    from rewarden.training.verifiers.texts import exact_match, regex_match

_HOME = {
    "gsm8k": "numerals",
    "boxed_math": "mathematics",
    "exact_match": "texts",
    "regex_match": "texts",
    "json_schema": "schemas",
    "unit_tests": "code",
    "verify_all": "protocol",
}
__all__ = ["gsm8k", "boxed_math", "exact_match", "regex_match", "json_schema", "unit_tests", "verify_all"]

__getattr__, __dir__ = lazy(__name__, _HOME)
