"""What holds for every verifier: any text is judged, batches equal single calls, copies are equal."""

from __future__ import annotations

import dataclasses
import pickle
import random
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training import verifiers
from rewarden.training.verifiers import boxed_math, exact_match, gsm8k, json_schema, regex_match, unit_tests, verify_all
from rewarden.training.verifiers.sandbox import Limits

CASES = [
    (gsm8k(), "5", "#### 5", "#### 6"),
    (boxed_math(seconds=2), "x^2", r"\boxed{x \cdot x}", r"\boxed{x}"),
    (exact_match(), "a", "a", "b"),
    (regex_match(r"<a>(.*?)</a>"), "a", "<a>a</a>", "<a>b</a>"),
    (json_schema(), {"type": "integer"}, "5", '"5"'),
    (unit_tests(limits=Limits(seconds=3)), "assert f(1) == 2", "f = lambda x: x + 1", "f = lambda x: x"),
]
IDS = [verifier.name for verifier, *_ in CASES]

PIECES = [r"\boxed{", "}", "{", "#### ", "1,234", "-", "$", r"\frac{1}{2}", "```python\n", "```\n", "```json\n", "<a>",
          "</a>", "[", "]", '"', "\\", "def f(x): return 2\n", "import os\n",
          "\0", "\ud800", "∞", "1e9", "/0", "x^2", r"\sqrt", "\n", " ", "%", "&", "^", "_"]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize(("verifier", "gold"), [case[:2] for case in CASES if case[0].name not in ("boxed_math", "unit_tests")])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(completion=TEXTS)
def test_any_text_has_a_verdict(verifier, gold, completion):
    assert verifier(completion, gold) in (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(inside=TEXTS)
def test_any_boxed_text_has_a_verdict(inside):
    pytest.importorskip("math_verify")
    for completion in (inside, rf"\boxed{{{inside}}}"):
        assert boxed_math(seconds=2)(completion, "x^2") in (0.0, 1.0)


@pytest.mark.slow
def test_any_code_has_a_verdict():
    """200 texts, from noise to nearly right code."""
    drawn = random.Random(0)
    right = "def f(x):\n    return x + 1\n"
    texts = ["".join(drawn.choices(PIECES + list(string.printable), k=drawn.randint(0, 30))) for _ in range(100)]
    for _ in range(100):
        place = drawn.randrange(len(right))
        texts.append(right[:place] + drawn.choice(PIECES) + right[place + drawn.randint(0, 3):])
    verdicts = verify_all(unit_tests(limits=Limits(seconds=3), workers=4), texts, ["assert f(1) == 2"] * 200)
    assert set(verdicts) <= {0.0, 1.0}
    assert verdicts[:100].sum() == 0  # noise passes nothing


@pytest.mark.parametrize(("verifier", "gold", "right", "wrong"), CASES, ids=IDS)
def test_batches_copies_and_names(verifier, gold, right, wrong):
    if verifier.name == "boxed_math":
        pytest.importorskip("math_verify")
    copy = pickle.loads(pickle.dumps(verifier))  # noqa: S301 (our own bytes)
    assert copy == verifier
    for one in (verifier, copy):
        found = verify_all(one, [right, wrong, right], [gold] * 3)
        assert found.dtype == np.float64
        assert found.tolist() == [1.0, 0.0, 1.0] == [one(text, gold) for text in (right, wrong, right)]
    assert verify_all(verifier, [], []).shape == (0,)
    assert verifier.name in verifiers.__all__
    with pytest.raises(dataclasses.FrozenInstanceError):
        verifier.name = "other"
    assert dataclasses.replace(verifier, name="other").name == "other"
    with pytest.raises(RewardenError, match="a completion of type list"):
        verifier([{"content": right}], gold)
    with pytest.raises(RewardenError, match="2 golds for 1 completions"):
        verify_all(verifier, [right], [gold] * 2)


@pytest.mark.parametrize("verifier", [gsm8k(), boxed_math(), exact_match(), json_schema(), unit_tests()], ids=lambda v: v.name)
def test_the_row_of_a_malformed_gold_is_said(verifier):
    good = next(case for case in CASES if case[0].name == verifier.name)
    with pytest.raises(RewardenError, match="cannot be used") as caught:
        verify_all(verifier, [good[2]] * 3, [good[1], good[1], None])
    assert caught.value.where == f"row 2, {verifier.name}, gold"


@pytest.mark.parametrize("verdict", [2.0, -0.1, float("nan"), [0.5, 0.5]])
def test_verdicts_are_shares(verdict):
    with pytest.raises(RewardenError, match="no 1 numbers from 0 to 1"):
        verify_all(lambda completion, gold: verdict, ["a"], ["a"])
