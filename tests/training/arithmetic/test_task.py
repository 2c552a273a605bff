"""Is every sum right, and is what is held out drawn at random and kept apart?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import chisquare

from rewarden.errors import RewardenError
from rewarden.training.arithmetic.task import (
    direct_answer,
    held_out_pairs,
    reverse_columns,
    reverse_prompt,
    sum_columns,
    sum_prompt,
    train_pairs,
    worked_answer,
)

EVERY = [(a, b) for a in range(100) for b in range(100)]


def test_every_sum_of_the_task_is_right_in_both_styles():
    """Read back from the text alone: each equation holds, and the steps are those of the two numbers asked for."""
    for a, b in EVERY:
        asked = re.fullmatch(r"(\d)(\d)\+(\d)(\d):", sum_prompt(a, b))
        assert asked is not None
        tens_a, ones_a, tens_b, ones_b = map(int, asked.groups())
        assert int(direct_answer(a, b)) == 10 * (tens_a + tens_b) + ones_a + ones_b == a + b
        ones, tens, answer = worked_answer(a, b).split(",")
        assert answer == direct_answer(a, b)
        assert [int(n) for n in re.split(r"[+=]", ones)] == [ones_a, ones_b, ones_a + ones_b]
        carry = int(ones[-2])
        assert [int(n) for n in re.split(r"[+=]", tens)] == [tens_a, tens_b, carry, tens_a + tens_b + carry]
        assert tens[-2:] + ones[-1] == answer


def test_the_split_is_disjoint_complete_and_a_fifth():
    held_out, trained = set(held_out_pairs()), set(train_pairs())
    assert (len(held_out), len(trained), held_out & trained, held_out | trained) == (2000, 8000, set(), set(EVERY))


def test_both_orders_of_a_sum_are_on_the_same_side():
    held_out = set(held_out_pairs())
    assert {(b, a) for a, b in held_out} == held_out


def test_the_split_is_a_function_of_its_seed():
    first = held_out_pairs(3)
    held_out_pairs.cache_clear()
    assert held_out_pairs(3) == first
    # two independent fifths share a fifth of a fifth: 400 pairs, standard deviation about 16 (25 as orders go together)
    assert abs(len(set(first) & set(held_out_pairs(4))) - 400) < 100


def structure(pairs: list[tuple[int, int]]) -> float:
    """Smallest p of chi-square tests: tens and ones of the first number, last digit of the sum, carry, over unordered pairs."""
    # a number's digits over ordered pairs: each unordered pair gives both of its numbers once
    digits = [np.bincount([f(a) for a, _ in pairs], minlength=10) for f in (lambda n: n // 10, lambda n: n % 10)]
    once = [(a, b) for a, b in pairs if a <= b]
    every = [(a, b) for a, b in EVERY if a <= b]
    tests = [chisquare(counts).pvalue for counts in digits]
    for f in (lambda a, b: (a + b) % 10, lambda a, b: int(a % 10 + b % 10 > 9), lambda a, b: (a + b) // 20):
        seen, all_ = (np.bincount([f(a, b) for a, b in some], minlength=10) for some in (once, every))
        tests.append(chisquare(seen[all_ > 0], all_[all_ > 0] / len(every) * len(once)).pvalue)
    return min(tests)


def test_the_split_has_no_structure():
    assert structure(list(held_out_pairs())) > 0.01


def test_the_test_of_structure_sees_a_split_that_has_one():
    """The mistake of an early experiment: all held-out numbers ended in 0 or 5."""
    assert structure([(a, b) for a, b in EVERY if a % 5 == 0][:2000]) < 1e-6
    assert structure(EVERY[:2000]) < 1e-6


def test_structure_of_random_splits_is_rare():
    """The smallest of five p values is below .01 in about a twentieth of random splits: of 40, not in ten."""
    assert sum(structure(list(held_out_pairs(seed))) < 0.01 for seed in range(100, 140)) < 10


def test_columns():
    columns = sum_columns([(5, 7), (99, 99)])
    assert columns == {"prompt": ["05+07:", "99+99:"], "gold": ["012", "198"], "a": [5, 99], "b": [7, 99]}
    others = reverse_columns(300, seed=4)
    assert others == reverse_columns(300, seed=4) != reverse_columns(300, seed=5)
    assert [f"r{gold[::-1]}>" for gold in others["gold"]] == others["prompt"]
    assert chisquare(np.bincount([int(c) for gold in others["gold"] for c in gold], minlength=10)).pvalue > 0.01


@pytest.mark.parametrize("a", [-1, 100, 1.0, "12"])
def test_numbers_outside_the_task_are_refused(a):
    for make in (sum_prompt, direct_answer, worked_answer):
        with pytest.raises(RewardenError, match="no sum of this task"):
            make(a, 1)


@pytest.mark.parametrize("digits", ["123", "12345", "12a4", "١٢٣٤", 1234])
def test_strings_outside_the_task_are_refused(digits):
    with pytest.raises(RewardenError, match="cannot be reversed"):
        reverse_prompt(digits)
