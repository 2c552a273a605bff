"""What feeling does a word carry?

In: lexicons of packages, files, dicts or functions. Out: a value for each word, joined without regard to case and white space:
the published join left the space on, so that tokens with a leading space never matched. Ignorant of models and rewards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.tokens.words.files import FilePath
from rewarden.tokens.words.loaders import load_word_values
from rewarden.tokens.words.matching import normal_text, word_of

EXTRA = "pip install 'rewarden[words]'"
"""What installs vaderSentiment and wordfreq."""


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
