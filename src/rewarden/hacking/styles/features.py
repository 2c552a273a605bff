"""What can be counted in a response that says nothing of its content?

In: texts. Out: one number a text for each feature of style: length, layout, punctuation, tone. Ignorant of models and of
rewards. Word lists are short and plain; a count is a proxy, and each feature says what it counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rewarden.errors import RewardenError

HEDGES = ("perhaps", "maybe", "possibly", "probably", "presumably", "might", "may", "could", "seems", "seem", "appears",
          "roughly", "likely", "arguably", "i think", "i believe", "i guess", "i suppose", "it depends", "as far as i know",
          "not sure", "in my view", "to some extent", "more or less", "tends to", "tend to")
CERTAINTIES = ("certainly", "definitely", "undoubtedly", "clearly", "obviously", "absolutely", "surely", "of course",
               "always", "never", "without doubt", "without question", "no doubt", "guaranteed", "for sure",
               "without exception", "indisputably", "unquestionably", "beyond doubt", "in every case", "must")
FIRST_PERSON = ("i", "i'm", "i'd", "i'll", "i've", "me", "my", "mine", "myself", "we", "we're", "we'd", "we'll", "we've",
                "us", "our", "ours", "ourselves")
SECOND_PERSON = ("you", "you're", "you'd", "you'll", "you've", "your", "yours", "yourself")
POLITE = ("please", "thank you", "thanks", "welcome", "happy to help", "glad to help", "feel free", "hope this helps",
          "let me know", "kindly", "best wishes", "my pleasure")
PRAISE = ("great question", "good question", "excellent question", "wonderful question", "thoughtful", "brilliant",
          "impressive", "insightful", "well done", "great idea", "good thinking", "clever", "smart of you", "fantastic",
          "amazing", "love that", "excellent point", "great point")
EXCLAIMED = r"what an? [^.!?\n]*!"
"""Praise, too: "What a thoughtful question!", counted once; "what a cell is" praises nobody."""

APOLOGIES = ("sorry", "apologise", "apologize", "apologies", "regret", "unfortunately", "i'm afraid", "forgive me")
REFUSALS = ("i can't", "i cannot", "i can not", "i'm unable", "i am unable", "i won't", "i will not", "not able to help",
            "can't help", "cannot help", "not comfortable", "unable to assist", "can't assist", "cannot assist", "as an ai",
            "as a language model", "must decline", "have to decline", "against my guidelines", "rather not")
AUTHORITIES = ("studies", "study", "research", "researchers", "experts", "expert", "scientists", "according to", "professor",
               "university", "journal", "survey", "evidence", "official", "literature")

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"[.!?…]+(?:[\"'”’)\]*_]+)?(?=\s|$)|\n+")
_NAMES = re.compile(r"(?<![\w'’])(?:US|May)(?![\w'’])")  # a country, and a month or a polite "May I": no "us", no hedge
_TONE = "[\U0001F3FB-\U0001F3FF]"
_PICTURE = ("[\U0001F004\U0001F0CF\U0001F18E\U0001F191-\U0001F19A\U0001F201-\U0001F251\U0001F300-\U0001FAFF"
            "\u231A\u231B\u23E9-\u23EC\u23F0\u23F3\u25FD\u25FE\u2614\u2615\u2648-\u2653\u267F\u2693\u26A1\u26AA\u26AB"
            "\u26BD\u26BE\u26C4\u26C5\u26CE\u26D4\u26EA\u26F2\u26F3\u26F5\u26FA\u26FD\u2705\u270A\u270B\u2728\u274C"
            "\u274E\u2753-\u2755\u2757\u2795-\u2797\u27B0\u27BF\u2B1B\u2B1C\u2B50\u2B55]")
# signs such as a check mark or a copyright sign are emoji only with the mark U+FE0F, and U+FE0E makes text of a picture
_ONE = (f"(?:{_PICTURE}(?!\uFE0E)\uFE0F?|[\u00A9\u00AE\u203C-\u3299](?:\uFE0F|(?={_TONE})))"
        f"{_TONE}?[\U000E0020-\U000E007F]*")
_EMOJI = re.compile(f"[\U0001F1E6-\U0001F1FF]{{2}}|[0-9#*]\uFE0F?\u20E3|{_ONE}(?:\u200D(?:{_ONE}|[\u2600-\u27BF]))*"
                    r"|(?<!\S)[:;]-?[)(DP](?!\w)")
_EMPHASIS = re.compile(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*|(?<![\w*])\*[^\s*](?:[^*\n]*[^\s*])?\*(?![\w*])"
                       r"|(?<!\w)__[^\s_](?:[^_\n]*[^\s_])?__(?!\w)|(?<!\w)_[^\s_](?:[^_\n]*[^\s_])?_(?!\w)")
_HEADER = re.compile(r"^ {0,3}#{1,6}\s+\S", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)]|[a-z][.)])\s+\S", re.MULTILINE)
_CODE = re.compile(r"```|`[^`\n]+`")
_NUMBER = re.compile(r"(?<![\w.])\d[\d.,]*")
_VOWELS = re.compile(r"[aeiouy]+")


@dataclass(frozen=True)
class StyleFeature:
    """One thing to count.

    Attributes:
        name: a stable word.
        words: what a reader calls it, in the plural or as a mass: "reward per unit of …".
        unit: of one step of the feature.
        measure: text -> number.
    """

    name: str
    words: str
    unit: str
    measure: Callable[[str], float]


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def _phrases(listed: Sequence[str], *patterns: str) -> Callable[[str], float]:
    """A function that counts how often patterns, words and phrases stand in a text, longest first and without overlap."""
    ordered = [*patterns, *map(re.escape, sorted(listed, key=len, reverse=True))]
    pattern = re.compile(r"(?<![\w'])(?:" + "|".join(ordered) + r")(?![\w'])")
    return lambda text: float(len(pattern.findall(_NAMES.sub("_", text).lower().replace("’", "'"))))


def _matches(pattern: re.Pattern[str]) -> Callable[[str], float]:
    return lambda text: float(len(pattern.findall(text)))


def _sentences(text: str) -> float:
    return float(sum(bool(_WORD.search(part)) for part in _SENTENCE.split(text)))


def _paragraphs(text: str) -> float:
    return float(sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)))


def _per_sentence(text: str) -> float:
    sentences = _sentences(text)
    return len(_words(text)) / sentences if sentences else 0.0


def _letters_per_word(text: str) -> float:
    words = _words(text)
    return sum(map(len, words)) / len(words) if words else 0.0


def syllables(word: str) -> int:
    """Groups of vowels of an English word, without a silent e at its end; at least 1.

    Example:
        >>> [syllables(word) for word in ("cat", "table", "make", "idea", "reading")]
        [1, 2, 1, 2, 2]
    """
    count = len(_VOWELS.findall(word))
    if word.endswith("e") and not word.endswith(("le", "ee")) and count > 1:
        count -= 1
    return max(count, 1)


def reading_ease(text: str) -> float:
    """Flesch's reading ease: about 100 for plain English, below 30 for academic prose; 0 for a text without words.

    Source: Flesch 1948, Journal of Applied Psychology 32:221.

    Example:
        >>> round(reading_ease("The cat sat on the mat."), 1)
        116.1
    """
    words, sentences = _words(text), _sentences(text)
    if not words or not sentences:
        return 0.0
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def repetition(text: str) -> float:
    """Share of word triples that stood in the text before, 0 to 1.

    Example:
        >>> repetition("one two three one two three")
        0.25
    """
    words = _words(text)
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def _capitals(text: str) -> float:
    return float(sum(len(word) > 1 and word.isupper() and word.isalpha() for word in _WORD.findall(text)))


STYLE_FEATURES: tuple[StyleFeature, ...] = (
    StyleFeature("words", "length", "word", lambda text: float(len(_words(text)))),
    StyleFeature("sentences", "sentences", "sentence", _sentences),
    StyleFeature("paragraphs", "paragraphs", "paragraph", _paragraphs),
    StyleFeature("sentence_length", "words per sentence", "word per sentence", _per_sentence),
    StyleFeature("word_length", "letters per word", "letter per word", _letters_per_word),
    StyleFeature("reading_ease", "reading ease", "Flesch point", reading_ease),
    StyleFeature("emphasis", "bold and italic spans", "span", _matches(_EMPHASIS)),
    StyleFeature("headers", "headers", "header", _matches(_HEADER)),
    StyleFeature("list_items", "list items", "item", _matches(_ITEM)),
    StyleFeature("code", "code spans and fences", "span", _matches(_CODE)),
    StyleFeature("emoji", "emoji", "emoji", _matches(_EMOJI)),
    StyleFeature("exclamations", "exclamation marks", "mark", lambda text: float(text.count("!"))),
    StyleFeature("questions", "question marks", "mark", lambda text: float(text.count("?"))),
    StyleFeature("numbers", "numbers", "number", _matches(_NUMBER)),
    StyleFeature("capitals", "words in capitals", "word", _capitals),
    StyleFeature("hedges", "hedges", "hedge", _phrases(HEDGES)),
    StyleFeature("certainty", "words of certainty", "word", _phrases(CERTAINTIES)),
    StyleFeature("first_person", "first person", "word", _phrases(FIRST_PERSON)),
    StyleFeature("second_person", "second person", "word", _phrases(SECOND_PERSON)),
    StyleFeature("politeness", "polite phrases", "phrase", _phrases(POLITE)),
    StyleFeature("praise", "praise of the user", "phrase", _phrases(PRAISE, EXCLAIMED)),
    StyleFeature("apologies", "apologies", "phrase", _phrases(APOLOGIES)),
    StyleFeature("refusals", "refusals", "phrase", _phrases(REFUSALS)),
    StyleFeature("authority", "appeals to authority", "word", _phrases(AUTHORITIES)),
    StyleFeature("repetition", "repeated word triples", "share", repetition),
)
"""Every feature, in the order of all tables."""


def features_named(names: Sequence[str] | None = None) -> tuple[StyleFeature, ...]:
    """The features of these names in the order of `STYLE_FEATURES`; all by default.

    Raises:
        RewardenError: names that are no features, all listed.

    Example:
        >>> [feature.words for feature in features_named(["emoji", "words"])]
        ['length', 'emoji']
    """
    if names is None:
        return STYLE_FEATURES
    known = {feature.name for feature in STYLE_FEATURES}
    unknown = sorted(set(names) - known)
    if unknown:
        raise RewardenError(f"unknown style feature {', '.join(map(repr, unknown))}", where="features",
                            why=f"known: {', '.join(feature.name for feature in STYLE_FEATURES)}", fix="use these names")
    return tuple(feature for feature in STYLE_FEATURES if feature.name in set(names))


def count_style(texts: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
    """What each text counts, float64 [text, feature].

    Args:
        texts: responses; equal texts are counted once.
        names: of features; all by default. Columns stand in the order of `STYLE_FEATURES`.

    Raises:
        RewardenError: an unknown name.

    Example:
        >>> count_style(["**Yes!** Perhaps.", "No."], ["words", "emphasis", "hedges"]).tolist()
        [[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    chosen = features_named(names)
    held = {text: [feature.measure(text) for feature in chosen] for text in dict.fromkeys(texts)}
    return np.array([held[text] for text in texts], dtype=np.float64).reshape(len(texts), len(chosen))
