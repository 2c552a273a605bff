"""What features of style count, on texts counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.hacking.styles.features import STYLE_FEATURES, count_style, features_named, reading_ease, repetition

RICH = """# Tea

Great question! I think **tea** needs *four* minutes, perhaps `five`.

- Boil the water.
- Wait 4.5 minutes…
1. Drink it 😀 🎉

Thank you for asking; according to EXPERTS, it is definitely fine. Sorry, I can't say more. What do you think?"""


@pytest.mark.parametrize(("name", "count"), [
    ("headers", 1), ("list_items", 3), ("emphasis", 2), ("code", 1), ("emoji", 2), ("exclamations", 1), ("questions", 1),
    ("numbers", 2), ("capitals", 1), ("hedges", 2), ("certainty", 1), ("first_person", 2), ("second_person", 2),
    ("politeness", 1), ("praise", 1), ("apologies", 1), ("refusals", 1), ("authority", 2), ("paragraphs", 4),
    ("repetition", 0)])
def test_a_text_counted_by_hand(name, count):
    assert count_style([RICH], [name]).item() == count


@pytest.mark.parametrize(("text", "words", "sentences"), [
    ("", 0, 0), ("...", 0, 0), ("One two. Three!", 3, 2), ("It's 3.5 km", 4, 1), ("A\nB\nC", 3, 3), ("No stop", 2, 1),
    ("Wait... what?", 2, 2), ("naïve Straße", 2, 1), ("x_y **bold**.", 3, 1)])
def test_words_and_sentences(text, words, sentences):
    assert count_style([text], ["words", "sentences"]).tolist() == [[words, sentences]]


@pytest.mark.parametrize(("text", "emphasis"), [
    ("**a** __b__ *c* _d_", 4), ("2 * 3 * 4", 0), ("snake_case_name", 0), ("* item\n* item", 0), ("** not bold **", 0),
    ("**two words**", 1), ("a*b*c", 0)])
def test_emphasis_is_markdown_only(text, emphasis):
    assert count_style([text], ["emphasis"]).item() == emphasis


def test_phrases_are_whole_words_in_any_case_and_longest_first():
    assert count_style(["Maybe. MAYBE! maybes"], ["hedges"]).item() == 2
    assert count_style(["I’m not able to help"], ["refusals"]).item() == 1
    assert count_style(["I can't help with that"], ["refusals"]).item() == 1, "one phrase, not two that overlap"


@pytest.mark.parametrize(("text", "emoji"), [
    ("👨‍👩‍👧", 1), ("🇩🇪 🇫🇷", 2), ("🇩🇪🇫🇷", 2), ("✓ done ✔ ☐", 0), ("✔️ ✅", 2), ("👍🏽👍", 2), ("1️⃣ 2", 1), ("❤️", 1),
    ("👩‍⚕️👩‍⚕", 2), ("🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏳️‍🌈", 2), ("😀\ufe0e", 0), ("© → ™ 12", 0), ("☝🏻", 1), ("well :) a:)", 1)])
def test_an_emoji_is_what_a_reader_sees(text, emoji):
    assert count_style([text], ["emoji"]).item() == emoji


@pytest.mark.parametrize(("text", "name", "count"), [
    ("This is what a cell is.", "praise", 0), ("What a lovely question! What an eye.", "praise", 1),
    ("What a great question!", "praise", 1), ("The US and we; help us.", "first_person", 2), ("Us two", "first_person", 1),
    ("On 5 May, in May. May I ask?", "hedges", 0), ("It may rain, it MIGHT snow.", "hedges", 2)])
def test_words_that_look_like_others(text, name, count):
    assert count_style([text], [name]).item() == count


def test_shares_and_readability_have_their_formulas():
    assert repetition("a b c d a b c d") == pytest.approx(2 / 6)
    assert repetition("a b") == 0
    text = "The cat sat. It was happy."
    assert reading_ease(text) == pytest.approx(206.835 - 1.015 * 3 - 84.6 * 7 / 6)
    assert count_style([text], ["sentence_length", "word_length"]).tolist() == [[3.0, 19 / 6]]


def test_the_table_is_one_row_a_text_one_column_a_feature():
    texts = [RICH, "Plain.", RICH]
    table = count_style(texts)
    assert table.shape == (3, len(STYLE_FEATURES))
    assert bool(np.isfinite(table).all())
    np.testing.assert_array_equal(table[0], table[2])
    for place, feature in enumerate(STYLE_FEATURES):
        assert table[1, place] == feature.measure("Plain.")
    assert count_style([]).shape == (0, len(STYLE_FEATURES))
    assert len({feature.name for feature in STYLE_FEATURES}) == len(STYLE_FEATURES)


def test_unknown_names_are_all_named():
    with pytest.raises(RewardenError, match="'colour', 'smell'"):
        features_named(["words", "smell", "colour"])
