"""What is asked, what is right, and which sums are kept for measuring?

In: pairs of numbers, seeds. Out: prompts, right answers in two styles, data set columns, the split. Ignorant of tokens and
models.

A sum is asked as `12+34:`. A direct answer is its three digits, `046`; a worked answer adds the ones, then the tens with what
was carried, then says it: `2+4=06,1+3+0=04,046`. An unrelated task, `r1234>` to be answered with `4321`, tells whether training
on sums costs what the policy could do besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from rewarden.errors import RewardenError

Pair = tuple[int, int]

DIRECT, WORKED = 0, 1
"""Style codes of answers to sums."""

STYLES = ("direct", "worked")
"""Name of each style code."""

SPLIT_SEED = 7
"""Of the split: the bundled policy was trained on the other 8,000 pairs."""

MIXED, DOUBLES = 990, 20
"""Held out: so many of the 4,950 pairs of different numbers, each in both orders, and of the 100 doubles: 2,000 of 10,000."""


@cache
def held_out_pairs(seed: int = SPLIT_SEED) -> tuple[Pair, ...]:
    """The 2,000 ordered pairs (20 %) that are never trained on, ascending.

    They are drawn by the hash of the pair, and a+b is held out together with b+a: who met one order would know the other.

    Args:
        seed: another one is another split, which the bundled policy has been trained across.

    Example:
        >>> pairs = held_out_pairs()
        >>> len(pairs), all((b, a) in set(pairs) for a, b in pairs)
        (2000, True)
    """
    def drawn(low: int, high: int) -> bytes:
        return hashlib.sha256(f"{seed}:{low}+{high}".encode()).digest()

    mixed = sorted(((a, b) for b in range(100) for a in range(b)), key=lambda pair: drawn(*pair))[:MIXED]
    doubles = sorted(((a, a) for a in range(100)), key=lambda pair: drawn(*pair))[:DOUBLES]
    return tuple(sorted([*mixed, *((b, a) for a, b in mixed), *doubles]))


@cache
def train_pairs(seed: int = SPLIT_SEED) -> tuple[Pair, ...]:
    """The other 8,000 ordered pairs, ascending.

    Example:
        >>> len(train_pairs()), set(train_pairs()) & set(held_out_pairs())
        (8000, set())
    """
    held_out = set(held_out_pairs(seed))
    return tuple((a, b) for a in range(100) for b in range(100) if (a, b) not in held_out)


def sum_prompt(a: int, b: int) -> str:
    """The question.

    Example:
        >>> sum_prompt(7, 34)
        '07+34:'
    """
    _check(a, b)
    return f"{a:02d}+{b:02d}:"


def direct_answer(a: int, b: int) -> str:
    """The sum as three digits.

    Example:
        >>> direct_answer(12, 34)
        '046'
    """
    _check(a, b)
    return f"{a + b:03d}"


def worked_answer(a: int, b: int) -> str:
    """The sum of the ones, that of the tens and the carry, and the whole.

    Example:
        >>> worked_answer(12, 34), worked_answer(99, 1)
        ('2+4=06,1+3+0=04,046', '9+1=10,9+0+1=10,100')
    """
    _check(a, b)
    ones = a % 10 + b % 10
    carry = ones // 10
    tens = a // 10 + b // 10 + carry
    return f"{a % 10}+{b % 10}={ones:02d},{a // 10}+{b // 10}+{carry}={tens:02d},{a + b:03d}"


def reverse_prompt(digits: str) -> str:
    """The question of the unrelated task.

    Example:
        >>> reverse_prompt("1234")
        'r1234>'
    """
    if not (isinstance(digits, str) and len(digits) == 4 and digits.isascii() and digits.isdigit()):
        raise RewardenError(f"{digits!r:.40} cannot be reversed", where="reverse_prompt", why="the task has four digits",
                            fix="pass a string such as '1234'")
    return f"r{digits}>"


def sum_columns(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    """Columns of a data set of sums, one row a pair: prompt, gold (what a verifier compares with), a, b.

    Raises:
        RewardenError: a number outside 0 to 99.

    Example:
        >>> sum_columns([(12, 34)])
        {'prompt': ['12+34:'], 'gold': ['046'], 'a': [12], 'b': [34]}
    """
    return {"prompt": [sum_prompt(a, b) for a, b in pairs], "gold": [direct_answer(a, b) for a, b in pairs],
            "a": [a for a, _ in pairs], "b": [b for _, b in pairs]}


def reverse_columns(n: int, seed: int) -> dict[str, list[Any]]:
    """Columns of n rows of the unrelated task, digits uniform: prompt, gold.

    Example:
        >>> columns = reverse_columns(2, seed=0)
        >>> columns["prompt"][0][1:5] == columns["gold"][0][::-1]
        True
    """
    drawn = np.random.default_rng(seed).integers(0, 10_000, n)
    digits = [f"{number:04d}" for number in drawn]
    return {"prompt": [reverse_prompt(one) for one in digits], "gold": [one[::-1] for one in digits]}


def _check(a: int, b: int) -> None:
    if not all(isinstance(number, (int, np.integer)) and 0 <= number <= 99 for number in (a, b)):
        raise RewardenError(f"no sum of this task: {a!r:.20} and {b!r:.20}", where="arithmetic task",
                            why="both are whole numbers from 0 to 99", fix="draw from train_pairs() or held_out_pairs()")
