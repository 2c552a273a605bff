"""Is the text of a completion the right one?

In: text, a gold text. Out: `exact_match`, `regex_match`. Ignorant of what the text means.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from rewarden.errors import RewardenError
from rewarden.training.verifiers.protocol import as_text, malformed


def normalise(text: str, *, case: bool, whitespace: bool, punctuation: bool) -> str:
    """Text without differences that do not count: each flag says that they do.

    Example:
        >>> normalise(" The  Answer: 4. ", case=False, whitespace=False, punctuation=False)
        'the answer 4'
    """
    text = unicodedata.normalize("NFC", text)
    if not case:
        text = text.casefold()
    if not punctuation:
        text = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return text if whitespace else " ".join(text.split())


def _gold_text(gold: Any, name: str) -> str:
    if isinstance(gold, bool) or not isinstance(gold, (str, int)):
        raise malformed(gold, name, f"it is a {type(gold).__name__}", "give text or a whole number")
    return str(gold)


@dataclass(frozen=True)
class ExactMatch:
    """Whether a completion is the gold text, or one of several. By default space at the ends and its amount do not count.

    Raises:
        RewardenError: a gold that is neither text, a whole number nor a list of them, or of which nothing is left to compare.

    Example:
        >>> exact_match()(" 4\\n", "4"), exact_match()("Paris.", "paris")
        (1.0, 0.0)
        >>> exact_match(case=False, punctuation=False)("Paris.", ["paris", "lutetia"])
        1.0
    """

    case: bool = True
    """Whether upper and lower case differ."""
    whitespace: bool = False
    """Whether the amount and kind of white space counts."""
    punctuation: bool = True
    """Whether punctuation counts (Unicode's categories P*)."""
    name: str = "exact_match"
    """In logs."""

    def __call__(self, completion: str, gold: Any) -> float:
        """1.0 or 0.0."""
        golds = list(gold) if isinstance(gold, (list, tuple)) else [gold]
        wanted = [self._plain(_gold_text(one, self.name)) for one in golds]
        if not wanted or not all(wanted):
            raise malformed(gold, self.name, "nothing is left to compare with", "drop the row, or compare more strictly")
        return float(self._plain(as_text(completion, self.name)) in wanted)

    def _plain(self, text: str) -> str:
        return normalise(text, case=self.case, whitespace=self.whitespace, punctuation=self.punctuation)


@dataclass(frozen=True)
class RegexMatch:
    """Whether what a pattern extracts from a completion is the gold text; space at the ends does not count.

    Patterns are those of the package regex, which holds nearly all of Python's re. A search that takes longer than `seconds`
    (a pattern that backtracks without end) is given up, and the completion counts as wrong.

    Raises:
        RewardenError: a pattern that is none or lacks the group; a gold that is neither text nor a whole number.

    Example:
        >>> verifier = regex_match(r"Answer: (\\w+)")
        >>> verifier("Answer: A. No: Answer: B", "B"), verifier("B", "B")
        (1.0, 0.0)
    """

    pattern: str
    """What is searched for; `(?i)` in front ignores case."""
    group: int | str = 1
    """Which group is compared; 0 is the whole match."""
    which: str = "last"
    """"last" or "first" match."""
    case: bool = True
    """Whether upper and lower case of extracted text and gold differ."""
    seconds: float = 1.0
    """Longest search."""
    name: str = "regex_match"
    """In logs."""

    def __post_init__(self) -> None:
        import regex

        where, fix = "regex_match(pattern=)", "check it with regex.compile"
        try:
            made = regex.compile(self.pattern)
        except (regex.error, TypeError, RecursionError) as error:
            raise RewardenError(f"{self.pattern!r} is no pattern", where=where, why=str(error), fix=fix) from error
        groups = {0, *range(1, made.groups + 1), *made.groupindex}
        if self.group not in groups:
            raise RewardenError(f"{self.pattern!r} has no group {self.group!r}", where="regex_match(group=)",
                                why=f"it has {', '.join(map(str, sorted(groups, key=str)))}", fix="name one of them")
        if self.which not in ("last", "first") or not self.seconds > 0:
            raise RewardenError(f"which={self.which!r}, seconds={self.seconds}", where="regex_match",
                                fix="which is 'last' or 'first', seconds is above 0")

    def __call__(self, completion: str, gold: Any) -> float:
        """1.0 or 0.0."""
        wanted = _gold_text(gold, self.name).strip()
        found = self._extract(as_text(completion, self.name))
        if found is None:
            return 0.0
        return float(found == wanted if self.case else found.casefold() == wanted.casefold())

    def _extract(self, text: str) -> str | None:
        import time

        import regex

        found, place, until = None, 0, time.monotonic() + self.seconds
        made = regex.compile(self.pattern)  # the package keeps compiled patterns
        while place <= len(text):
            left = until - time.monotonic()
            try:
                match = made.search(text, pos=place, timeout=left) if left > 0 else None
            except (TimeoutError, MemoryError, RecursionError):
                return None
            if match is None:
                return found if left > 0 else None
            found = (match.group(self.group) or "").strip()
            if self.which == "first":
                return found
            place = match.end() + (match.end() == match.start())
        return found


exact_match = ExactMatch
regex_match = RegexMatch
