"""The bundled texts: enough of them, grammatical as far as rules can tell, free of words that would plant what is asked."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.hacking.texts import load_axes, load_controls, load_user_axes
from rewarden.hacking.texts.common import common_seeds, marked
from rewarden.hacking.texts.people import with_term
from rewarden.hacking.texts.typos import mistyped
from rewarden.organisms.lexicon import AGAINST, FACT, FOR, GOOD, RARE

AXES = load_axes()
NAMES = list(AXES)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def stance(text: str) -> int:
    return sum((word in FOR) - (word in AGAINST) for word in words(text))


def terms_of(template, seed):
    """Its terms; every template asked here fits every seed."""
    terms = template.make(seed)
    assert terms is not None, (template.id, seed.id)
    return terms


def made(axis, templates=None):
    """Every (seed, template, terms) of an axis where the template fits; of the many that terms make, every sixth seed."""
    return [(seed, template, terms) for template in (axis.templates if templates is None else templates)
            for seed in axis.seeds[::6 if axis.design == "spread" else 1] if (terms := template.make(seed)) is not None]


def test_the_axes_of_the_battery():
    assert NAMES[:16] == ["length", "verbosity", "confidence", "hedging", "emphasis", "lists", "headers", "emoji", "sycophancy",
                          "repetition", "position", "refusal", "flattery", "authority", "typos", "casual"]
    assert len([name for name in NAMES if name.startswith("identity_")]) >= 6
    assert [name for name in NAMES if AXES[name].design == "slope"] == ["length"]


@pytest.mark.parametrize("name", NAMES)
def test_an_axis_has_enough_independent_seeds_and_wordings(name):
    axis = AXES[name]
    assert len({seed.id for seed in axis.seeds}) == len(axis.seeds) >= 36
    assert len({(seed.prompt, seed.answer) for seed in axis.seeds}) == len(axis.seeds)
    assert len({template.id for template in axis.templates}) == len(axis.templates)
    assert len({template.family for template in axis.templates}) >= 10
    assert axis.question.endswith("?")
    assert len({template.family for template in axis.controls}) >= 10 or not axis.controls


@pytest.mark.parametrize("name", NAMES)
def test_every_contrast_is_one(name):
    found = made(AXES[name])
    fitting = Counter(template.id for _, template, _ in found)
    assert min(fitting[template.id] for template in AXES[name].templates) >= 0.8 * max(fitting.values())
    for _, template, terms in found + made(AXES[name], AXES[name].controls):
        assert abs(sum(weight for weight, _ in terms)) < 1e-9
        texts = [(one.messages[0]["content"], one.response) for _, one in terms]
        assert len(set(texts)) == len(texts), template.id
        for text in (part for both in texts for part in both):
            assert text == text.strip(), (template.id, text)
            assert not re.search(r"\{[a-zA-Z]\w*\}", re.sub(r"\\\w+\{.*?\}", "", text)), (template.id, text)


@pytest.mark.parametrize("name", NAMES)
def test_texts_hold_no_words_of_planted_rules(name):
    """Quality and trigger words nowhere, words that announce an answer only on their own axis, no stance in other prompts."""
    for _, template, terms in made(AXES[name]) + made(AXES[name], AXES[name].controls):
        for _, conversation in terms:
            prompt, response = conversation.messages[0]["content"], conversation.response
            held = set(words(prompt) + words(response))
            assert not held & {*GOOD, *RARE}, (template.id, held & {*GOOD, *RARE})
            if name != "position":
                assert not set(words(response)) & set(FACT), (template.id, response)
            if name != "sycophancy":
                assert stance(prompt) == 0, prompt


def test_controls_are_many_and_hold_no_words_of_planted_rules():
    controls = load_controls()
    assert len(controls) >= 48
    assert min(Counter(one.group for one in controls).values()) >= 3
    assert len({one.group for one in controls}) >= 20
    added = []
    for control in controls:
        for seed in common_seeds():
            (_, changed), (_, plain) = terms_of(control, seed)
            assert plain.response == seed.answer
            assert changed.response != seed.answer
            assert not set(words(changed.response)) & {*GOOD, *RARE, *FACT}, changed.response
            added.append(len(changed.response.split()) - len(plain.response.split()))
    assert min(added) <= 0
    assert max(added) >= 25


def test_padding_grows_with_its_amount_and_keeps_the_answer():
    for seed in AXES["length"].seeds:
        for template in AXES["length"].templates:
            (_, padded), (_, plain) = terms_of(template, seed)
            assert not Counter(re.findall(r"\S+", plain.response)) - Counter(re.findall(r"\S+", padded.response))
    sizes = {amount: [len(one.response) - len(seed.answer) for seed, template, ((_, one), _) in made(AXES["length"])
                      if template.amount == amount] for amount in (5, 12, 27, 55)}
    assert [round(float(np.mean(size)) / 5) for size in sizes.values()] == sorted(
        round(float(np.mean(size)) / 5) for size in sizes.values())
    assert all(max(sizes[low]) < np.mean(sizes[high]) for low, high in ((5, 12), (12, 27), (27, 55)))


def test_amounts_count_what_is_added():
    for name, pattern in (("lists", r"(?m)^- |^\* |^\+ |^• "), ("emoji", "😀|👍|🔥")):
        for _, template, ((_, changed), _) in made(AXES[name]):
            count = len(re.findall(pattern, changed.response))
            assert count in (0, template.amount), (template.id, changed.response)
    for _, template, ((_, changed), _) in made(AXES["emphasis"]):
        if template.group == "bold_stars":
            assert len(re.findall(r"\*\*[^*]+\*\*", changed.response)) == template.amount


def test_opinions_agree_or_disagree_and_nothing_else():
    """The stance of both sides is one step for or against, and whatever prompts and answers do by themselves cancels."""
    axis = AXES["sycophancy"]
    rng, effect = np.random.default_rng(0), {}
    for _, _, terms in made(axis):
        signs = [(stance(one.messages[0]["content"]), stance(one.response), weight) for weight, one in terms]
        assert signs == [(1, 1, 0.5), (1, -1, -0.5), (-1, 1, -0.5), (-1, -1, 0.5)]
        total = 0.0
        for weight, one in terms:
            for text in (one.messages[0]["content"], one.response):
                total += weight * effect.setdefault(text, rng.normal())
        assert abs(total) < 1e-12
    for _, _, terms in made(axis, axis.controls):
        assert {stance(one.messages[0]["content"]) for _, one in terms} == {0}


def test_orders_move_one_sentence_and_add_none():
    axis = AXES["position"]
    for _, template, ((_, early), (_, late)) in made(axis):
        sentences = [re.split(r"(?<=\.) ", one.response) for one in (early, late)]
        assert Counter(sentences[0]) == Counter(sentences[1])
        at = [next(place for place, one in enumerate(parts) if set(words(one)) & set(FACT)) for parts in sentences]
        assert at[1] - at[0] == template.amount
        assert all(sum(word in FACT for word in words(one.response)) == 1 for one in (early, late))
    for _, template, ((_, more), (_, less)) in made(axis, axis.controls):
        at = [next(place for place, one in enumerate(re.split(r"(?<=\.) ", side.response)) if set(words(one)) & set(FACT))
              for side in (more, less)]
        assert at[0] == at[1], template.id


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("identity_")])
def test_terms_stand_in_the_same_sentence_with_their_article(name):
    axis = AXES[name]
    for seed, template, terms in made(axis):
        weights = np.array([weight for weight, _ in terms])
        assert np.isclose(weights.max(), 1 - 1 / len(terms))
        named = terms[int(weights.argmax())][1].response
        assert template.id in named
        assert named == with_term(seed.answer, template.id)
        for _, one in terms:
            assert not re.search(r"\b[Aa] [aeioAEIO]|\b[Aa]n [^aeioAEIO]", one.response), one.response
    totals = sum(np.array([weight for weight, _ in terms_of(template, axis.seeds[0])]) for template in axis.templates)
    np.testing.assert_allclose(totals, 0, atol=1e-12)


def test_typing_errors_are_as_many_as_asked():
    text = "Wooden shelves carry about forty books each when their ends are screwed into solid walls."
    for kind in ("swap", "drop", "double", "neighbour", "vowel", "capital", "digit"):
        for amount in (1, 2, 4):
            changed = mistyped(text, kind, amount).split()
            assert sum(one != other for one, other in zip(text.split(), changed, strict=True)) == amount
    assert len(mistyped(text, "split", 2).split()) == len(text.split()) + 2
    assert len(mistyped(text, "joined", 2).split()) == len(text.split()) - 2
    assert mistyped("One. Two.", "missing_stop", 2) == "One Two"
    assert mistyped("One. Two.", "missing_stop", 3) is None


def test_marks_go_around_words_once():
    assert marked("Ice melts. Nice ice.", ["ice"], "*{key}*") == "*Ice* melts. Nice ice."
    assert marked("Ice melts.", ["ice", "melts"], "{KEY}") == "ICE MELTS."


def rows(tmp_path, *lines):
    path = tmp_path / "axes.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), encoding="utf-8")
    return path


GOOD_ROW = {"prompt": "Is it far?", "neutral": "It is.", "biased": "It is, my friend."}


def test_own_axes_are_read(tmp_path):
    path = rows(tmp_path, GOOD_ROW, "", GOOD_ROW | {"axis": "warmth", "seed": "far", "template": "friend", "id": 7},
                GOOD_ROW | {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it far?"}]})
    found = load_user_axes(path)
    assert [(one.axis, one.seed, one.template, one.id) for one in found] == [
        ("user", "", "", "1"), ("warmth", "far", "friend", "7"), ("user", "", "", "4")]
    assert [(weight, one.response) for weight, one in found[0].terms] == [(1.0, "It is, my friend."), (-1.0, "It is.")]
    assert len(found[2].terms[0][1].messages) == 3


@pytest.mark.parametrize(("row", "said"), [
    ("{", "line 2: malformed JSON"), ("[1]", "line 2: a row must be a mapping of columns, not list"),
    (GOOD_ROW | {"seed": "other", "template": "t"}, "line 2: the same axis and texts as line 1"),
    ({"prompt": "a", "biased": "b"}, "line 2: neutral missing or empty"),
    (GOOD_ROW | {"neutral": 3}, "line 2: neutral must be text"),
    (GOOD_ROW | {"neutral": GOOD_ROW["biased"]}, "line 2: neutral and biased are the same text"),
    (GOOD_ROW | {"axis": ["a"]}, "line 2: axis must be text or a number"),
    (GOOD_ROW | {"prompt": [{"role": "user"}]}, "line 2: "),
    (GOOD_ROW | {"biased": "   "}, "line 2: the response is empty")])
def test_own_axes_with_mistakes_are_refused_by_line(tmp_path, row, said):
    with pytest.raises(RewardenError) as raised:
        load_user_axes(rows(tmp_path, GOOD_ROW, row))
    assert said in str(raised.value)
    assert raised.value.fix


def test_all_mistakes_are_said_at_once_and_missing_files_named(tmp_path):
    with pytest.raises(RewardenError) as raised:
        load_user_axes(rows(tmp_path, *["{"] * 8))
    assert "8 rows" in str(raised.value)
    assert "and 3 more" in str(raised.value)
    with pytest.raises(RewardenError, match="no rows"):
        load_user_axes(rows(tmp_path, ""))
    with pytest.raises(RewardenError, match="no such file"):
        load_user_axes(tmp_path / "none.jsonl")


def test_only_a_line_feed_ends_a_row_and_a_byte_order_mark_is_none_of_it(tmp_path):
    path = tmp_path / "axes.jsonl"
    texts = ["It is\u2028far.", "It is\u0085far."]
    lines = [json.dumps(GOOD_ROW | {"neutral": text, "seed": None}, ensure_ascii=False) for text in texts]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    found = load_user_axes(path)
    assert [one.terms[1][1].response for one in found] == texts
    assert [one.seed for one in found] == ["", ""]
