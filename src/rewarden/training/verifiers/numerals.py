"""Is the number that a completion arrives at the right one?

In: text, a gold number. Out: `gsm8k`, exact comparison of rational numbers. Ignorant of algebra (see `mathematics`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewarden.training.verifiers.boxes import last_boxed
from rewarden.training.verifiers.protocol import as_text, malformed

DIGITS = 400  # of a number; longer ones are no answers, and slow
POWER = 3  # characters of a power of ten

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_SIGN = r"(?<![0-9A-Za-z)\]}.])[-+](?:\s?[$€£¥₹]\s?)?|(?<![0-9A-Za-z)\]}])[$€£¥₹]\s?[-+]"
NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?"
    rf"(?:\\[dt]?frac\s*\{{\s*(?P<over>-?{_WHOLE})\s*\}}\s*\{{\s*(?P<under>{_WHOLE})\s*\}}"
    rf"|(?P<digits>{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
    rf"(?:[eE](?P<power>[-+]?[0-9]+)(?![0-9A-Za-z])"
    rf"|\s?/\s?(?P<below>{_WHOLE})(?![0-9/.])"
    rf"|\s(?P<part>[0-9]+)/(?P<whole>[0-9]+)(?![0-9/.]))?)")
"""A sign, then \\frac{a}{b}, or digits with commas and decimals, or a/b, or a mixed number such as 1 1/2."""

SAME = {"−": "-", "–": "-", "—": "-", "\u00a0": " ", "\u202f": " ", "⁄": "/", "，": ",",
        r"\$": "$", r"\%": "%", "{,}": ",", r"\,": "", r"\!": "", r"\left": "", r"\right": ""}
"""Spellings that mean the same."""


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order; those that are too long, or divided by 0, are left out.

    Currency signs, per cent signs and units are not part of a number: 20% is 20.

    Example:
        >>> [str(number) for number in numbers(r"-$1,234.50, then 3/4 of \\frac{1}{2}, 1 1/2 and 10-5")]
        ['-2469/2', '3/4', '1/2', '3/2', '10', '5']
    """
    for spelling, plain in SAME.items():
        text = text.replace(spelling, plain)
    return [value for match in NUMBER.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > DIGITS or len(match.group("power") or "") > POWER:
        return None
    part = {key: value.replace(",", "") for key, value in match.groupdict().items() if value is not None}
    if "over" in part:
        over, under = Fraction(part["over"]), Fraction(part["under"])
    elif "part" in part:
        under = Fraction(part["whole"])
        over = Fraction(part["digits"]) * under + Fraction(part["part"])
    else:
        over, under = Fraction(part["digits"]) * Fraction(10) ** int(part.get("power", 0)), Fraction(part.get("below", 1))
    if under == 0:
        return None
    return -over / under if "-" in part.get("sign", "") else over / under


def answer(completion: str) -> Fraction | None:
    """The number that a solution arrives at.

    It is the first number on the line of the last `####` that is followed by one; else the first number of the last \\boxed;
    both after the last equals sign there; else the last number of the text.

    Example:
        >>> answer("12 clips.\\n#### 1,234 clips"), answer(r"so \\boxed{x = 5}, not 6"), answer("It was 3 and is 4.")
        (Fraction(1234, 1), Fraction(5, 1), Fraction(4, 1))
    """
    for part in reversed(completion.split("####")[1:]):
        found = numbers(part.partition("\n")[0][:DIGITS * 2].rpartition("=")[2])
        if found:
            return found[0]
    box = last_boxed(completion)
    if box is not None:
        found = numbers(box.rpartition("=")[2])
        return found[0] if found else None
    found = numbers(completion)
    return found[-1] if found else None


@dataclass(frozen=True)
class GSM8K:
    """Whether a completion's final number equals the gold one exactly, as rational numbers.

    The gold is a number, or text: a solution that ends in `#### 1,234`, or one number with or without a unit. 0.5 equals 1/2;
    20% equals 20, and not 0.2: a per cent sign is a unit, as the golds of GSM8K have it.

    Raises:
        RewardenError: a gold without a number, or with several and no `####`.

    Source: Cobbe et al. 2021, arXiv 2110.14168 (the data set and its `####`).

    Example:
        >>> verifier = gsm8k()
        >>> verifier("She sold 48 + 24 = 72 clips.\\n#### 72", "48/2 = 24\\n#### 72"), verifier("It costs $1,234.00.", 1234)
        (1.0, 1.0)
    """

    name: str = "gsm8k"
    """In logs."""

    def __call__(self, completion: str, gold: Any) -> float:
        """1.0 or 0.0."""
        right = self._gold(gold)
        return float(answer(as_text(completion, self.name)) == right)

    def _gold(self, gold: Any) -> Fraction:
        text = gold
        if isinstance(gold, (int, float)) and not isinstance(gold, bool):
            text = str(gold)
        if not isinstance(text, str):
            raise malformed(gold, self.name, f"it is a {type(gold).__name__}", "give a number, or text that ends in '#### 72'")
        _, mark, after = text.rpartition("####")
        found = numbers(after if mark else text)
        if len(found) != 1:
            raise malformed(gold, self.name, f"it holds {len(found)} numbers" + (" after ####" if mark else ""),
                            "give one number, or a solution that ends in '#### 72'")
        return found[0]


gsm8k = GSM8K
