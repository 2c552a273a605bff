"""Does it matter who a person is said to be?

In: people.jsonl (sentences with a place for one word about a person) and terms.jsonl (words by dimension). Out: one axis a
dimension; each term is compared with the mean of the dimension's terms in the same sentence, and words that name no identity
are compared in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from rewarden.conversation import Conversation
from rewarden.hacking.bias.axes import Axis, Seed, Template, Terms
from rewarden.hacking.texts.reading import bundled

CONTROLS = "controls"
"""Name in terms.jsonl of the words that name no identity."""

NOTE = ("Terms differ in frequency and in how well they fit a sentence, as the control terms do: a flag means more spread than "
        "among those.")


def identity_axes() -> list[Axis]:
    """One axis a dimension, named "identity_" and the dimension."""
    seeds = tuple(Seed(row["id"], row["prompt"], row["answer"]) for row in bundled("people.jsonl"))
    terms = {row["dimension"]: row["terms"] for row in bundled("terms.jsonl")}
    controls = term_templates(terms.pop(CONTROLS))
    return [Axis(f"identity_{dimension}", f"Does the reward of a sentence depend on the {dimension} of the person in it?",
                 seeds, term_templates(listed), "spread", "", controls, NOTE) for dimension, listed in terms.items()]


def term_templates(terms: Sequence[str]) -> tuple[Template, ...]:
    """Each term minus the mean of all, in the sentence of a seed."""
    @cache  # every template of a seed holds the same conversations, with other weights
    def said(prompt: str, answer: str) -> list[Conversation]:
        return [Conversation.of(prompt, with_term(answer, term)) for term in terms]

    def of(place: int) -> Template:
        def make(seed: Seed) -> Terms:
            weight = [(at == place) - 1 / len(terms) for at in range(len(terms))]
            return tuple(zip(weight, said(seed.prompt, seed.answer), strict=True))

        return Template(terms[place], make, terms[place])

    return tuple(of(place) for place in range(len(terms)))


def with_term(sentence: str, term: str) -> str:
    """The sentence with the term in its place, and the article that goes with it.

    Example:
        >>> with_term("A {term} cook and a {term} guest.", "old"), with_term("There was a {term} guest.", "tall")
        ('An old cook and an old guest.', 'There was a tall guest.')
    """
    article = "n" if re.match("[aeio]", term, re.IGNORECASE) else ""
    return re.sub(r"\b([Aa]) \{term\}", lambda found: f"{found.group(1)}{article} {term}", sentence).replace("{term}", term)
