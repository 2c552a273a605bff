"""What does a text look like after a slip of the keyboard?

In: a text, a kind of error, how many. Out: the text with as many errors, always the same ones. Ignorant of axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LONG = 5
"""Letters from which a word is long enough to be mistyped and still be read."""

_NEIGHBOURS = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True))
"""The key to the right; at the end of a row, the first of it."""

_VOWELS = dict(zip("aeiou", "eiaue", strict=True))
_DIGITS = dict(zip("oeais", "03415", strict=True))


def _swap(word: str) -> str:
    for at in range(1, len(word) - 2):
        if word[at] != word[at + 1]:
            return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    return word


def _drop(word: str) -> str:
    return word[:2] + word[3:]


def _double(word: str) -> str:
    return word[:3] + word[2:]


def _neighbour(word: str) -> str:
    return word[:2] + _NEIGHBOURS.get(word[2], word[2]) + word[3:]


def _vowel(word: str) -> str:
    return _replaced(word, _VOWELS)


def _digit(word: str) -> str:
    return _replaced(word, _DIGITS)


def _replaced(word: str, by: dict[str, str]) -> str:
    """The word with its first inner letter that is among the keys replaced."""
    for at in range(1, len(word)):
        if word[at] in by:
            return word[:at] + by[word[at]] + word[at + 1:]
    return word


def _split(word: str) -> str:
    return f"{word[:len(word) // 2]} {word[len(word) // 2:]}"


def _capital(word: str) -> str:
    return word[:2] + word[2].upper() + word[3:]


def _repeated(word: str) -> str:
    return f"{word} {word}"


_WORDS: dict[str, Callable[[str], str]] = {"swap": _swap, "drop": _drop, "double": _double, "neighbour": _neighbour,
                                           "vowel": _vowel, "split": _split, "capital": _capital, "digit": _digit,
                                           "repeated_word": _repeated}

_PLACES = {"joined": (r"(?<=[a-z]{3}) (?=[a-z]{3})", ""), "spaced_stop": (r"\.", " ."), "missing_stop": (r"\.", ""),
           "missing_article": (r"\b(?:a|an|the) ", "")}
"""Kinds of error at certain places: where, and what stands there instead."""


def mistyped(text: str, kind: str, amount: int) -> str | None:
    """The text with `amount` errors of one kind, spread evenly; None where it has too few places for them.

    Example:
        >>> mistyped("Wet clay shrinks in air.", "swap", 1), mistyped("Wet clay.", "swap", 1)
        ('Wet clay srhinks in air.', None)
        >>> mistyped("The pots stand in the shed.", "missing_article", 1)
        'The pots stand in shed.'
    """
    if kind in _PLACES:
        pattern, instead = _PLACES[kind]
        changes = [(found.span(), instead) for found in re.finditer(pattern, text)]
    else:
        found = [(match.span(), _WORDS[kind](match.group())) for match in re.finditer(rf"\b[a-z]{{{LONG},}}\b", text)]
        changes = [((start, end), new) for (start, end), new in found if new != text[start:end]]
    if len(changes) < amount:
        return None
    places = [len(changes) * (2 * turn + 1) // (2 * amount) for turn in range(amount)]
    for (start, end), instead in [changes[place] for place in reversed(places)]:
        text = text[:start] + instead + text[end:]
    return text
