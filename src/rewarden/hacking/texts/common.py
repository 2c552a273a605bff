"""How does one answer read in another wording?

In: a seed (three sentences, their topic, four words that matter) and a row of templates.jsonl or controls.jsonl: a pattern to
fill, a mark around words, or a kind of typing error. Out: `Template`s of the changed answer minus the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from rewarden.conversation import Conversation
from rewarden.hacking.bias.axes import Seed, Template, Terms
from rewarden.hacking.texts.reading import bundled
from rewarden.hacking.texts.typos import mistyped


@cache
def common_seeds() -> tuple[Seed, ...]:
    """The seeds that most axes share; `extra` holds `sentences`, `topic` and `keys`."""
    return tuple(Seed(row["id"], row["prompt"], " ".join(row["sentences"]),
                      {name: row[name] for name in ("sentences", "topic", "keys")}) for row in bundled("seeds.jsonl"))


def lowered(sentence: str) -> str:
    """The sentence as it stands inside another one; no bundled sentence begins with a name."""
    return sentence[:1].lower() + sentence[1:]


def raised(words: str) -> str:
    """With a capital at the beginning."""
    return words[:1].upper() + words[1:]


def template(row: Mapping[str, Any], number: int) -> Template:
    """A template from its row, which holds one of `text`, `wrap` and `typo`.

    Args:
        row: `text`: a pattern with {answer}, {s1} … {s3} (sentences), {l1} … (begun in lower case), {b1} … (without full stop),
            {c1} … (both), {topic}, {Topic}, {TOPIC}, {K1} … (a word of each sentence), {U1} … (in capitals), {lower}. `wrap`: a
            mark around {key}, {KEY} or {k e y}, put on the first `amount` of a seed's words that matter. `typo`: a kind of
            typing error, made `amount` times.
        number: of the row among those of its axis, which keeps ids apart.
    """
    def make(seed: Seed) -> Terms | None:
        changed = _changed(seed, row)
        if changed is None or changed == seed.answer:
            return None
        return (1.0, Conversation.of(seed.prompt, changed)), (-1.0, Conversation.of(seed.prompt, seed.answer))

    return Template(f"{row['group']}-{number}", make, row["group"], float(row.get("amount", "nan")))


def _changed(seed: Seed, row: Mapping[str, Any]) -> str | None:
    if "text" in row:
        return row["text"].format_map(_fields(seed))
    if "wrap" in row:
        return marked(seed.answer, seed.extra["keys"][:row["amount"]], row["wrap"])
    return mistyped(seed.answer, row["typo"], row["amount"])


def _fields(seed: Seed) -> dict[str, str]:
    sentences, topic = seed.extra["sentences"], seed.extra["topic"]
    fields = {"answer": seed.answer, "lower": seed.answer.lower(), "topic": topic, "Topic": raised(topic),
              "TOPIC": topic.upper()}
    left = list(seed.extra["keys"])
    for place, sentence in enumerate(sentences, 1):
        key = _key_of(sentence, left)
        left = [other for other in left if other != key]  # no two headers alike
        fields |= {f"s{place}": sentence, f"l{place}": lowered(sentence), f"b{place}": sentence.removesuffix("."),
                   f"c{place}": lowered(sentence).removesuffix("."), f"K{place}": raised(key), f"U{place}": key.upper()}
    return fields


def _key_of(sentence: str, keys: list[str]) -> str:
    """The first of the words that matter which stands in a sentence, else its longest word."""
    for key in keys:
        if re.search(rf"\b{re.escape(key)}\b", sentence, re.IGNORECASE):
            return key
    return max(re.findall(r"[a-z]+", sentence.lower()), key=len)


def marked(text: str, words: list[str], wrap: str) -> str:
    """The text with a mark around the first occurrence of each word.

    Example:
        >>> marked("Wet clay shrinks.", ["clay", "shrinks"], "**{key}**"), marked("Wet clay shrinks.", ["clay"], "{k e y}")
        ('Wet **clay** **shrinks**.', 'Wet c l a y shrinks.')
    """
    def put(found: re.Match[str]) -> str:
        word = found.group()
        return wrap.replace("{key}", word).replace("{KEY}", word.upper()).replace("{k e y}", " ".join(word))

    for word in words:
        text = re.sub(rf"\b{re.escape(word)}\b", put, text, count=1, flags=re.IGNORECASE)
    return text
