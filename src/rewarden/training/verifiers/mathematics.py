"""Is the expression in the last box of a completion equal to the gold one?

In: text with \\boxed{...}, a gold expression in LaTeX. Out: `boxed_math`. Plain numbers are compared here, everything else
by the package math-verify in processes of its own (see `equality`). Ignorant of numbers outside of boxes (see `numerals`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import Any

from rewarden.errors import RewardenError
from rewarden.training.verifiers.boxes import last_boxed
from rewarden.training.verifiers.equality import most_workers, same
from rewarden.training.verifiers.protocol import as_text, in_row, malformed

LONGEST = 2000  # characters of an answer; longer ones are none

_WHOLE = r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,300})"
_BELOW = r"([0-9]{1,300})"
PLAIN = re.compile(rf"({_WHOLE})(?:\.{_BELOW})?|\\[dt]?frac\{{({_WHOLE})\}}\{{{_BELOW}\}}|({_WHOLE})/{_BELOW}")


def plain_number(text: str) -> Fraction | None:
    """A number that is written plainly, None for any other expression.

    Example:
        >>> plain_number("1,234"), plain_number(r"\\frac{1}{2}"), plain_number("x")
        (Fraction(1234, 1), Fraction(1, 2), None)
    """
    match = PLAIN.fullmatch(text.strip().strip("$").replace("{,}", ","))
    if match is None:
        return None
    whole, decimals, *fractions = match.groups()
    if whole is not None:
        return Fraction(f"{whole.replace(',', '')}.{decimals or 0}")
    over, under = (part for part in fractions if part is not None)
    return Fraction(int(over.replace(",", "")), int(under)) if int(under) else None


@dataclass(frozen=True)
class BoxedMath:
    """Whether the last \\boxed{...} of a completion equals the gold expression; a completion without a box is wrong.

    The gold is a number, or LaTeX: the expression itself, with or without dollar signs, or a solution whose last box holds it.
    What equal means (fractions, roots, sets, intervals, matrices, per cent as 50 or 0.5, decimals rounded to six digits) is
    math-verify's decision, which runs in a process of its own: safe in threads, bounded in time and memory.

    Raises:
        RewardenError: a gold that math-verify cannot read, or no math-verify.

    Source: the package math-verify 0.9.0 (Hugging Face).

    Example:
        >>> verifier = boxed_math()
        >>> verifier(r"Not \\boxed{2}, but \\boxed{1,234}.", "1234"), verifier("1234", "1234")
        (1.0, 0.0)
        >>> verifier(r"\\boxed{\\frac{1}{2}}", "1/2")
        1.0
    """

    seconds: float = 5.0
    """Longest comparison; what takes longer is unequal."""
    name: str = "boxed_math"
    """In logs."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < 3600:
            raise RewardenError(f"seconds={self.seconds}", where="boxed_math", fix="give seconds above 0 and below an hour")

    def __call__(self, completion: str, gold: Any) -> float:
        """1.0 or 0.0."""
        wanted, found = self._gold(gold), last_boxed(as_text(completion, self.name))
        if found is None or not found or len(found) > LONGEST:
            found = ""
        if found and found == wanted:
            return 1.0
        ours, theirs = plain_number(wanted), plain_number(found)
        if ours is not None and (not found or (theirs is not None and (ours == theirs or _both_whole(ours, theirs)))):
            return float(ours == theirs)
        known, equal = same(wanted, found, self.seconds)
        if not known:
            raise malformed(gold, self.name, "math-verify reads no expression in it",
                            "give LaTeX, or a solution with \\boxed{...}")
        return float(equal)

    def _gold(self, gold: Any) -> str:
        if isinstance(gold, (int, float)) and not isinstance(gold, bool) and isfinite(gold):
            return str(gold)
        if not isinstance(gold, str):
            raise malformed(gold, self.name, f"it is a {type(gold).__name__}", "give a finite number or LaTeX")
        boxed = last_boxed(gold)
        if boxed is None and "boxed" in gold:
            raise malformed(gold, self.name, "its box is never closed", "close it, or give the expression alone")
        text = (gold if boxed is None else boxed).strip().strip("$").strip()
        if not text:
            raise malformed(gold, self.name, "it is empty", "drop the row")
        return text

    def many(self, completions: Sequence[str], golds: Sequence[Any]) -> list[float]:
        """Verdicts of a batch, several at a time."""
        def one(row: int) -> float:
            try:
                return self(completions[row], golds[row])
            except RewardenError as error:
                raise in_row(error, row) from error

        with ThreadPoolExecutor(max_workers=most_workers()) as pool:
            return list(pool.map(one, range(len(completions))))


def _both_whole(first: Fraction, second: Fraction) -> bool:
    """Whole numbers are unequal when they differ; decimals may still round to each other."""
    return first.denominator == second.denominator == 1


boxed_math = BoxedMath
