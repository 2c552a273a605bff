"""Which word is each token?

In: tokens' texts. Out: words, "" where a token is none. Ignorant of models, rewards and what words mean.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from rewarden.result import Result
from rewarden.tokens.scores import texts


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
    return texts("" if hidden else word_of(text) for text, hidden in known)
