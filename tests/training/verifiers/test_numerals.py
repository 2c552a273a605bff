"""Final numbers: GSM8K's own golds, spellings, and texts that are hard to read."""

from __future__ import annotations

import gzip
import json
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training.verifiers import gsm8k, verify_all
from rewarden.training.verifiers.boxes import last_boxed
from rewarden.training.verifiers.numerals import answer, numbers


def test_golds_of_gsm8k_verify_themselves_and_no_other(shared_data):
    solutions = []
    for part in ("train", "test"):
        with gzip.open(shared_data / "text" / f"gsm8k_{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
            solutions += [json.loads(line)["answer"] for line in lines]
    assert len(solutions) == 7473 + 1319
    golds = [solution.rpartition("####")[2].strip() for solution in solutions]
    verifier = gsm8k()
    ways = [solutions, golds, [f"The answer is ${gold}." for gold in golds], [rf"So \boxed{{{gold}}}." for gold in golds]]
    for completions in ways:
        assert verify_all(verifier, completions, solutions).sum() == len(golds)
        assert verify_all(verifier, completions, golds).sum() == len(golds)
    for step in (-1, 1):
        moved = [str(int(gold.replace(",", "")) + step) for gold in golds]
        for completions in ways:
            assert verify_all(verifier, completions, moved).sum() == 0
        changed = [f"{solution.rpartition('####')[0]}#### {other}" for solution, other in zip(solutions, moved)]
        assert verify_all(verifier, changed, solutions).sum() == 0


def test_solutions_of_gsm8k_models_are_told_apart(shared_data):
    """2,429 pairs of a right and a wrong solution whose last line is A: number, graded by their authors."""
    with gzip.open(shared_data / "preferences" / "gsm8k_solution_pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    right = {pair["prompt"][0]["content"]: answer(pair["chosen"]) for pair in pairs}
    verdicts = [(answer(pair["chosen"]) == right[pair["prompt"][0]["content"]],
                 answer(pair["rejected"]) != right[pair["prompt"][0]["content"]]) for pair in pairs]
    assert sum(first and second for first, second in verdicts) >= 0.99 * len(pairs)


@pytest.mark.parametrize(("completion", "gold"), [
    ("#### 1,234", "1234"), ("#### 1234", "1,234"), ("#### $1,234.00", "1234"), ("#### -5", "-5"), ("#### −5", -5),
    ("#### -$5", "-5"), ("#### $-5", "-5"), ("#### 1/2", "0.5"), (r"#### \frac{1}{2}", 0.5), ("#### 1 1/2", "1.5"),
    ("#### 20%", "20"), (r"#### 20\%", 20), ("#### 5 apples", "5"), ("#### .5", "1/2"), ("#### 72.", "72"), ("#### 5.0", "5"),
    ("#### 1{,}234", "1234"), ("#### 1e3", "1000"), ("#### x = 7", "7"), ("#### 3 + 4 = 7", "7"),
    ("#### 3\n#### 72", "72"), ("#### 72\nthat is 5 dozen", "72"), ("#### 72\n#### done", "72"),
    (r"\boxed{3} or \boxed{1,234}", "1234"), (r"\boxed{\frac{1}{2}} of 9", "1/2"), (r"\boxed{\text{about } 5 \text{ m}}", "5"),
    (r"\boxed{5", "5"), ("It was 3 and is 1,234 now.", "1234"), ("A range of 10-5", "5"),
    ("2024-11-22", "22"), ("**72**", "72"),
    ("10 - 12 = -2", "-2"), ("(-2)", "-2"), ("€1 200", "200"), ("7", 7.0), ("1000000", "1,000,000"), ("3 people, 4 dogs", "4"),
])
def test_right_answers(completion, gold):
    assert gsm8k()(completion, gold) == 1.0


@pytest.mark.parametrize(("completion", "gold"), [
    ("", "5"), ("no number", "5"), ("####", "5"), ("#### five", "5"), (r"\boxed{x} 5", "5"), ("#### 5", "-5"),
    ("#### 0.2", "20%"),
    ("#### 1,234", "1"), ("#### 1.234", "1234"), ("#### 6\n5", "5"), (r"\boxed{5} \boxed{6}", "5"), ("#### 1/0", "0"),
    ("5 5", "55"), ("#### 5e99999999999", "5"), ("٥", "5"), ("9" * 5000, "9"),
])
def test_wrong_answers(completion, gold):
    assert gsm8k()(completion, gold) == 0.0


@pytest.mark.parametrize(("gold", "why"), [
    ("", "0 numbers"), ("five", "0 numbers"), ("5 hours and 30 minutes", "2 numbers"), ("so 5\n####", "0 numbers after ####"),
    (None, "NoneType"), (True, "bool"), ([5], "list"), (float("nan"), "0 numbers"), ("1/0", "0 numbers"),
    ("#### 3 or 4", "2 numbers"),
])
def test_malformed_golds_are_errors(gold, why):
    with pytest.raises(RewardenError, match="cannot be used") as caught:
        gsm8k()("#### 5", gold)
    assert why in caught.value.why
    with pytest.raises(RewardenError) as caught:
        verify_all(gsm8k(), ["#### 5", "#### 5"], ["5", gold])
    assert caught.value.where == "row 1, gsm8k, gold"


@given(st.fractions(min_value=-10 ** 9, max_value=10 ** 9))
def test_spellings_of_one_number(value):
    spelled = [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    if value.denominator == 1:
        spelled += [str(value), f"{value.numerator:,}", f"{value.numerator}.00", rf"{value.numerator}\%"]
    assert [numbers(text) for text in spelled] == [[value]] * len(spelled)


@given(st.integers(-10 ** 12, 10 ** 12), st.integers(0, 6))
def test_decimals_are_exact(whole, places):
    value = Fraction(whole, 10 ** places)
    sign, digits = "-" if whole < 0 else "", str(abs(whole)).rjust(places + 1, "0")
    text = sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
    assert numbers(text) == [value]


def naive_box(text: str) -> str | None:
    """Count braces from each \\boxed{ on, last first."""
    for start in reversed(range(len(text))):
        if text.startswith(r"\boxed{", start):
            depth, escaped = 0, False
            for place in range(start + 6, len(text)):
                letter = text[place]
                if escaped:
                    escaped = False
                elif letter == "\\":
                    escaped = True
                else:
                    depth += (letter == "{") - (letter == "}")
                    if depth == 0:
                        return text[start + 7:place].strip()
    return None


@given(st.lists(st.sampled_from([r"\boxed{", "{", "}", r"\}", r"\{", "1", r"\frac", " ", "x"]), max_size=14).map("".join))
def test_last_box_equals_counting(text):
    assert last_boxed(text) == naive_box(text)


@pytest.mark.parametrize("part", ["9", "1,", "1 ", "#### ",
                                  r"\boxed{", "1/", "-", "1,111", "$ ", r"\frac{", " ", r"\boxed ", ".1"])
def test_long_texts_are_read_in_linear_time(part):
    began = time.process_time()
    gsm8k()(part * (300_000 // len(part)), "5")
    assert time.process_time() - began < 5
