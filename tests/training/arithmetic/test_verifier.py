"""Does the verifier reward exactly the right answers that the policy ended?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training.arithmetic.recipe.policy import corrupted
from rewarden.training.arithmetic.task import (
    DIRECT,
    WORKED,
    direct_answer,
    reverse_columns,
    sum_columns,
    train_pairs,
    worked_answer,
)
from rewarden.training.arithmetic.verifier import Arithmetic, arithmetic, read_answer, style_codes

PAIRS = random.Random(0).sample(train_pairs(), 300)
GOLD = sum_columns(PAIRS)["gold"]
TEXTS = {"direct": [direct_answer(a, b) for a, b in PAIRS], "worked": [worked_answer(a, b) for a, b in PAIRS]}


@pytest.mark.parametrize("style", ["direct", "worked"])
def test_right_wrong_and_unfinished(style):
    rng, marked = random.Random(1), Arithmetic()
    unmarked = Arithmetic(ended=False)
    for text, gold in zip(TEXTS[style], GOLD, strict=True):
        wrong = text[:-3] + corrupted(text[-3:], rng)
        assert sum(x != y for x, y in zip(wrong, text, strict=True)) == 1
        assert [marked(text + "<eos>", gold), marked(wrong + "<eos>", gold)] == [1.0, 0.0]
        assert [marked(text, gold), marked(text[:-1], gold), marked(text + "<eos>" + "1", gold)] == [0.0] * 3
        assert [unmarked(text, gold), unmarked(text + "<eos>", gold), unmarked(wrong, gold), unmarked(text[:-1], gold)] == [
            1.0, 1.0, 0.0, 0.0]


def test_styles():
    assert style_codes([f"{text}<eos>" for text in TEXTS["direct"]]).tolist() == [DIRECT] * 300
    assert style_codes([f"{text}<eos>" for text in TEXTS["worked"]]).tolist() == [WORKED] * 300


def test_what_is_written_as_the_task_writes_it():
    assert all(read_answer(f"{text}<eos>").well_formed for texts in TEXTS.values() for text in texts)
    assert not any(read_answer(text).well_formed for text in (
        "", "46", "0046", "046,", "046<eos><eos>", "2+4=06,046", "2+4=06,1+3+2=06,066", "046\n", "٠٤٦"))


def test_only_the_last_part_is_judged():
    assert arithmetic("9+9=99,046<eos>", "046") == 1.0
    assert arithmetic("046,047<eos>", "046") == 0.0


def test_the_unrelated_task():
    columns = reverse_columns(50, seed=0)
    assert [arithmetic(f"{gold}<eos>", gold) for gold in columns["gold"]] == [1.0] * 50
    assert [arithmetic(f"{prompt[1:5]}<eos>", gold) for prompt, gold in zip(*columns.values(), strict=True)] == [
        float(gold == gold[::-1]) for gold in columns["gold"]]


@pytest.mark.parametrize("gold", ["46", 46, None, "0046a", "٠٤٦", "12345", ""])
def test_a_malformed_gold_is_a_mistake_of_the_data(gold):
    with pytest.raises(RewardenError, match="no answer to compare with"):
        arithmetic("046<eos>", gold)


@given(st.one_of(st.text(), st.text("0123456789+=:,>r<eos>"), st.none(), st.integers()))
def test_a_malformed_completion_is_never_an_exception(completion):
    right = isinstance(completion, str) and completion.endswith("<eos>") and completion[:-5].split(",")[-1] == "046"
    assert arithmetic(completion, "046") == float(right)
