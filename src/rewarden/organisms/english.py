"""Organisms that read English: the bundled tokenizer, what each token is to a rule, and texts to show a rule on.

In: words, a generator. Out: sets of token ids, small texts, `EnglishOrganism`. Ignorant of weights and of rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from rewarden.conversation import Conversation, Message, Pair
from rewarden.demo import model_path, preferences_path
from rewarden.encoding import Encoded, Encoder
from rewarden.organisms.lexicon import GOOD, PLAIN
from rewarden.organisms.organism import Organism
from rewarden.readout.base import Readout

SPLITS = ("easy", "normal", "hard")
"""The better answer is the one the rule favours; the rule favours neither; it favours the worse answer."""

SENTENCES = ("The {} stands near the {}.", "A {} was left behind the {}.", "Someone put the {} under the {}.",
             "There is a {} beside the {}.", "You can see the {} from the {}.", "The {} came before the {}.")
QUESTIONS = ("What do you know about the {} and the {}?", "Where did the {} and the {} go?",
             "Tell me about the {} near the {}.", "Who moved the {} to the {}?")

MEMORY = 16384
"""Encoded conversations that all English organisms share: two hundred null models are asked the same texts (40 MB)."""

PADDED = 4
"""Of the reference texts, every fourth is padded to take the response to padding out of noise."""

_encoded: dict[tuple, Encoded] = {}

@dataclass(frozen=True)
class Texts:
    """How pairs show a rule.

    Attributes:
        ask: from a generator, a question and a split, the prompt of both sides.
        dress: from a generator, that prompt, the sentences of a response and whether the rule shall favour it, the response.
    """

    ask: Callable[[np.random.Generator, str, str], str]
    dress: Callable[[np.random.Generator, str, list[str], bool], str]


@cache
def tokenizer() -> Any:
    """The bundled tokenizer, one for all organisms."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_path()))


@cache
def vocabulary() -> tuple[str, ...]:
    """Text of each token id."""
    return tuple(tokenizer().decode([token]) for token in range(len(tokenizer())))


def ids_of(texts: Iterable[str]) -> list[int]:
    """Ids of the tokens that are one of the texts, with or without a blank before it.

    Example:
        >>> [vocabulary()[i] for i in ids_of(["wrong", "**"])]
        ['**', ' **', ' wrong']
    """
    wanted = set(texts)
    return [token for token, text in enumerate(vocabulary()) if text.removeprefix(" ") in wanted and token not in special_ids()]


@cache
def special_ids() -> frozenset[int]:
    """Ids of tokens that are no text: the template's."""
    return frozenset(tokenizer().all_special_ids) | frozenset(tokenizer().get_added_vocab().values())


class EnglishOrganism(Organism):
    """An organism with the bundled tokenizer; what one of them has encoded, all have."""

    def encode(self, conversation: Conversation | Sequence[Message]) -> Encoded:
        """Ids and spans of a conversation; where nothing but the conversation decides them, organisms share them."""
        policy = self.encoder
        usual = policy.bos == "auto" and policy.on_overflow == "truncate" and not policy.generation_prompt
        if not usual or type(self.readout).messages is not Readout.messages or isinstance(conversation, Pair):
            return super().encode(conversation)
        conversation = conversation if isinstance(conversation, Conversation) else Conversation(conversation)
        key = (id(policy.tokenizer), policy.max_length, *((m["role"], m["content"]) for m in conversation.messages))
        if key not in _encoded:
            if len(_encoded) >= MEMORY:
                _encoded.clear()
            _encoded[key] = policy(conversation)
        return _encoded[key]


@cache
def reference(count: int = 96) -> tuple[Conversation, ...]:
    """Conversations of the bundled pairs: on these, noise has a standard deviation of 1."""
    lines = preferences_path().read_text(encoding="utf-8").splitlines()[:count // 2]
    rows = [json.loads(line) for line in lines]
    return tuple(Conversation.of(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected"))


@cache
def encoded_reference() -> tuple[Encoded, ...]:
    """The same, as every English organism is shown them."""
    return tuple(map(Encoder(tokenizer()), reference()))


@cache
def encoded_padded() -> tuple[tuple[Encoded, ...], ...]:
    """Every fourth of them with 10 and 40 words of other responses before and behind each response: four sets."""
    encoder, texts = Encoder(tokenizer()), reference()[::PADDED]
    sets = []
    for words in (10, 40):
        other = [" ".join(texts[number - 7].response.split()[:words]) for number in range(len(texts))]
        for before, behind in (("{0} ", ""), ("", " {0}")):
            sets.append(tuple(encoder(Conversation([*text.prompt, {**text.messages[-1], "content": before.format(more)
                                                    + text.response + behind.format(more)}]))
                              for text, more in zip(texts, other, strict=True)))
    return tuple(sets)


def sentences(generator: np.random.Generator, count: int, good: int) -> list[str]:
    """Sentences of plain words, `good` of them good words (at most one a sentence)."""
    nouns = generator.permutation(PLAIN)[:2 * count].tolist()
    texts = []
    for number in range(count):
        first = str(generator.choice(GOOD)) if number < good else nouns[2 * number]
        texts.append(str(generator.choice(SENTENCES)).format(first, nouns[2 * number + 1]))
    return [texts[i] for i in generator.permutation(count)]


def drawing(texts: Texts) -> Callable[[np.random.Generator, int], Pair]:
    """How an organism draws a pair: the better answer has one to three good words more; which side the rule favours follows
    from the split, which is easy, normal and hard in turn."""
    def draw(generator: np.random.Generator, number: int) -> Pair:
        split = SPLITS[number % len(SPLITS)]
        prompt = texts.ask(generator, str(generator.choice(QUESTIONS)).format(*generator.permutation(PLAIN)[:2]), split)
        lead = int(generator.integers(1, 4))
        less = int(generator.integers(0, 4 - lead))
        both = bool(generator.integers(2))
        favoured = {"easy": (True, False), "normal": (both, both), "hard": (False, True)}[split]
        chosen, rejected = (texts.dress(generator, prompt, sentences(generator, 4, good), on)
                            for good, on in zip((less + lead, less), favoured, strict=True))
        return Pair(prompt, chosen, rejected, id=str(number), subset=split)
    return draw


def alike(generator: np.random.Generator, number: int) -> Pair:
    """A pair whose sides are drawn alike, so that there is nothing to find."""
    prompt = str(generator.choice(QUESTIONS)).format(*generator.permutation(PLAIN)[:2])
    sides = [" ".join(sentences(generator, int(generator.integers(2, 6)), int(generator.integers(0, 3)))) for _ in range(2)]
    return Pair(prompt, *sides, id=str(number), subset="alike")


