"""How often is a word used?

In: words and a table, or the package wordfreq. Out: Zipf values joined without regard to case and white space, with the
share of words that have one. Ignorant of models and rewards.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.tokens.words.lexicons import EXTRA
from rewarden.tokens.words.loaders import load_word_values
from rewarden.tokens.words.matching import normal_text

MILLION_TO_ZIPF = 3.0
"""The Zipf scale is log10 per billion words: 3 is once in a million, 6 once in a thousand."""


@dataclass(frozen=True, eq=False)
class Frequencies:
    """How often words are used."""

    zipf: np.ndarray
    """float64 [word], log10 occurrences per billion words; NaN where the source has none."""
    source: str
    """For provenance."""
    coverage: float
    """Share of the distinct words that have a frequency."""

FrequencySource = str | Path | Mapping[str, float] | Frequencies


def frequencies(words: Sequence[str] | np.ndarray, source: FrequencySource = "wordfreq", language: str = "en") -> Frequencies:
    """How often words are used, on the Zipf scale.

    Args:
        words: normalised [word]; "" has no frequency and counts as no word.
        source: "wordfreq" (the package; some 320,000 English words), a dict word -> occurrences per million words, or a file of
            the same (see `load_word_values`). Rows of one word (parts of speech) are added up: the published join kept them
            apart and counted such words twice.
        language: of wordfreq.

    Raises:
        RewardenError: the package or the language is missing, a negative frequency, a file that cannot be read.

    Source: wordfreq 3 (code Apache-2.0, data CC BY-SA); Zipf scale: van Heuven et al. 2014.

    Example:
        >>> found = frequencies(["love", "zyzzqx"], {"Love": 100.0})
        >>> found.zipf.tolist(), found.coverage
        ([5.0, nan], 0.5)
    """
    if isinstance(source, Frequencies):
        if len(source.zipf) != len(words):
            raise RewardenError(f"{len(source.zipf)} frequencies for {len(words)} words", where="frequencies=",
                                fix="pass the table itself, so that it is joined by word")
        return source
    if isinstance(source, str) and source == "wordfreq":
        name, look_up = _wordfreq(language)
    else:
        is_table = isinstance(source, Mapping)
        rows = list(source.items()) if is_table else [(r.word, r.value) for r in load_word_values(source)]
        name = f"a table of {len(rows)} words" if is_table else Path(source).name
        look_up = _summed(rows).get
    found = {str(word): look_up(str(word)) for word in dict.fromkeys(words) if word}
    zipf = np.array([math.nan if found.get(word) is None else found[word] for word in words], np.float64)
    covered = sum(value is not None for value in found.values())
    return Frequencies(zipf, name, covered / len(found) if found else math.nan)


def _summed(rows: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Zipf value of each word; a word that never occurs has none."""
    total: dict[str, float] = {}
    for word, value in rows:
        if not (math.isfinite(value) and value >= 0):
            raise RewardenError(f"{word!r} occurs {value!r} times in a million words", where="frequencies=",
                                fix="give occurrences per million words, not their logarithm")
        total[normal_text(word)] = total.get(normal_text(word), 0.0) + value
    return {word: math.log10(value) + MILLION_TO_ZIPF for word, value in total.items() if value > 0}


def _wordfreq(language: str) -> tuple[str, Callable[[str], float | None]]:
    try:
        package = importlib.import_module("wordfreq")
        listed = package.get_frequency_dict(language, "best")
    except (ModuleNotFoundError, LookupError) as failed:
        missing = isinstance(failed, ModuleNotFoundError)
        raise RewardenError("no word frequencies" + ("" if missing else f" for language {language!r}"), why=str(failed),
                            fix=EXTRA if missing else "pass frequencies= a table word -> occurrences per million") from failed

    def look_up(word: str) -> float | None:
        # The list itself first: the package's own look-up splits every word into parts, which is slow for a vocabulary. Words
        # that are not listed (with hyphens) get the frequency it puts together from their parts.
        share = listed.get(word)
        zipf = math.log10(share) + 9.0 if share else package.zipf_frequency(word, language)
        return zipf if zipf > 0 else None

    return f"wordfreq {version('wordfreq')}, {language}", look_up
