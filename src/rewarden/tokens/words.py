"""Which word is each token, what feeling does the word carry, and how often is it used?

In: tokens' texts, lexicons, frequency tables. Out: words, and a value for each, joined without regard to case and white space:
the published join left the space on, so that tokens with a leading space never matched. Ignorant of models and rewards.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.cells import FilePath
from rewarden.tokens.loaders import load_word_values

EXTRA = "pip install 'rewarden[words]'"
"""What installs vaderSentiment and wordfreq."""

MILLION_TO_ZIPF = 3.0
"""The Zipf scale is log10 per billion words: 3 is once in a million, 6 once in a thousand."""


def normal_text(text: str) -> str:
    """A text as it is joined: compatible Unicode form, straight apostrophes, one blank between words, case folded.

    Example:
        >>> normal_text(" LOVE  Don’t ")
        "love don't"
    """
    folded = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    return " ".join(folded.split())


def word_of(text: str) -> str:
    """The word a token's text is, "" when it is none: letters, with apostrophes and hyphens inside only.

    Example:
        >>> [word_of(text) for text in (" Love", "don't", "self-made", "'s", "-ing", "b2b", "two words")]
        ['love', "don't", 'self-made', '', '', '', '']
    """
    word = normal_text(text)
    return word if all(_letters(part) for part in re.split("['-]", word)) else ""


def _letters(part: str) -> bool:
    # Marks (vowel signs of Indic scripts) are no letters to Python, but no word there goes without them.
    return part[:1].isalpha() and (part.isalpha() or all(c.isalpha() or unicodedata.category(c)[0] == "M" for c in part))


def words_of(scores: Result) -> np.ndarray:
    """The word of each token of a scan.

    A fragment without a leading space counts as the word it spells: here it is the whole response.

    Args:
        scores: a `TokenScores`.

    Returns:
        Words object [token], "" where there is none (control tokens, tokens that are no text, numbers, signs).

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> words_of(token_scores([[0, 0, 0]], token_id=[1, 2, 3], text=[" Love", "love", "!"], prompts=["Hi"])).tolist()
        ['love', 'love', '']
    """
    data = scores.data
    known = zip(data["text"].values, data["special"].values | data["byte"].values, strict=True)
    return objects("" if hidden else word_of(text) for text, hidden in known)


@dataclass(frozen=True, eq=False)
class Lexicon:
    """What feeling a word carries, by a list of values."""

    name: str
    """For provenance: list and version."""
    valence: Mapping[str, float]
    """Normalised word -> value; negative is bad."""
    scale: tuple[float, float]
    """Lowest and highest value."""

    def of(self, words: Sequence[str] | np.ndarray) -> np.ndarray:
        """Values float64 [word], NaN where the lexicon has none.

        Example:
            >>> Lexicon("mine", {"love": 3.0}, (-5, 5)).of(["love", "table"]).tolist()
            [3.0, nan]
        """
        return np.array([self.valence.get(word, math.nan) for word in words], np.float64)


LexiconLike = Lexicon | Mapping[str, float] | Callable[[str], float | None] | FilePath | None


def vader() -> Lexicon:
    """The words of VADER's lexicon (−4 to 4, mean of ten raters), read from the package vaderSentiment.

    Raises:
        RewardenError: the package is not installed.

    Source: Hutto & Gilbert 2014, ICWSM; MIT licence.

    Example:
        >>> vader().of(["love", "hate", "table"]).tolist()
        [3.2, -2.7, nan]
    """
    path = _package_file("vaderSentiment", "vader_lexicon.txt")
    if path is None:
        raise RewardenError("VADER's lexicon is not here", why="the package vaderSentiment is not installed",
                            fix=f"{EXTRA}, or pass lexicon= a file with word and value in each row")
    # Four words are there twice ("lol", "ok"): as in the package itself, the last one counts. Emoticons are no words.
    rows = {word_of(row.word): row.value for row in load_word_values(path)}
    rows.pop("", None)
    return Lexicon(f"VADER (vaderSentiment {version('vaderSentiment')})", rows, (-4.0, 4.0))


def afinn(path: FilePath | None = None) -> Lexicon:
    """AFINN-111 (−5 to 5), from a file, else from the package afinn where a user has installed it.

    The package's release is under the GPL, so that nothing here installs it; its list alone is read, no code of it is run.

    Args:
        path: AFINN-111.txt, which github.com/fnielsen/afinn has under Apache-2.0.

    Raises:
        RewardenError: no path and no package, or a file that cannot be read.

    Source: Nielsen 2011, arXiv 1103.2903.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "AFINN-111.txt"
        >>> _ = file.write_text("abandon\\t-2\\nlove\\t3\\n")
        >>> afinn(file).of(["love", "abandon", "table"]).tolist()
        [3.0, -2.0, nan]
    """
    found = Path(path) if path is not None else _package_file("afinn", "data", "AFINN-111.txt")
    if found is None:
        raise RewardenError("AFINN is not here", why="no path was given and the package afinn is not installed",
                            fix="pass afinn('AFINN-111.txt'), the file of github.com/fnielsen/afinn; or use vader()")
    return Lexicon("AFINN-111", lexicon_file(found).valence, (-5.0, 5.0))


def lexicon_file(path: FilePath) -> Lexicon:
    """A lexicon of one's own: word and value in each row, separated by a tab or a comma.

    Raises:
        RewardenError: a row that cannot be read, or a word with two different values.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = file.write_text("word,value\\nLove,3\\nhate,-2.5\\n")
        >>> lexicon_file(file).of(["love", "hate"]).tolist()
        [3.0, -2.5]
    """
    name = Path(path).name
    found = _valences([(f"{name}, row {row.row}", row.word, row.value) for row in load_word_values(path)])
    mark = sha256(Path(path).read_bytes()).hexdigest()[:12]
    return Lexicon(f"{name} (sha256 {mark})", found, (min(found.values()), max(found.values())))


def as_lexicon(source: LexiconLike, words: Sequence[str] | np.ndarray) -> Lexicon:
    """The lexicon a caller means.

    Args:
        source: None or "vader", "afinn", a `Lexicon`, a dict word -> value, a function of the word that gives a value or None,
            or a file.
        words: normalised words that a function is asked about.

    Raises:
        RewardenError: none of these, or no word with a value.

    Example:
        >>> as_lexicon(lambda word: 1.0 if word == "love" else None, ["love", "table"]).valence
        {'love': 1.0}
    """
    if source is None or source == "vader":
        return vader()
    if isinstance(source, str) and source == "afinn":
        return afinn()
    if isinstance(source, Lexicon):
        return source
    if isinstance(source, str | Path):
        return lexicon_file(source)
    if isinstance(source, Mapping):
        found = _valences([("lexicon=", word, value) for word, value in source.items()])
        name = f"a table of {len(found)} words"
    elif callable(source):
        asked = [(str(word), source(str(word))) for word in dict.fromkeys(words)]
        found = {word: float(value) for word, value in asked if value is not None and math.isfinite(value)}
        name = f"function {getattr(source, '__name__', type(source).__name__)}"
    else:
        raise RewardenError(f"a {type(source).__name__} is no lexicon", where="lexicon=",
                            fix="pass vader(), afinn(path), a file, a dict word -> value or a function of the word")
    if not found:
        raise RewardenError("the lexicon has no value for any word", where="lexicon=", fix="pass vader() or another one")
    return Lexicon(name, found, (min(found.values()), max(found.values())))


def _valences(rows: Iterable[tuple[str, str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for where, word, value in rows:
        key = normal_text(word)
        if not key or not math.isfinite(value) or found.get(key, value) != value:
            why = f"{found[key]:g} and {value:g}" if key in found else f"value {value!r}"
            raise RewardenError(f"{word!r} has no single value", where=where, why=why, fix="give each word one number")
        found[key] = float(value)
    return found


def _package_file(package: str, *parts: str) -> Path | None:
    """A file of an installed package, without running the package."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder, *parts) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


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


def objects(values: Iterable[str]) -> np.ndarray:
    """Texts as an object array: fixed-width text would drop NUL at the end."""
    listed = list(values)
    out = np.empty(len(listed), dtype=object)
    out[:] = listed
    return out
