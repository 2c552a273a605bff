"""Tests that run across two processes decide as they would in one."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training.verifiers import unit_tests
from rewarden.training.verifiers.code import last_code
from rewarden.training.verifiers.sandbox import run_tests
from rewarden.training.verifiers.sandbox.peers import Peer
from rewarden.training.verifiers.sandbox.steps import plan, wanted

CODE = '''
import asyncio, threading
from collections import namedtuple
from dataclasses import dataclass

class Empty(Exception):
    pass

class Stack:
    def __init__(self, items=()):
        self.items = list(items)
        self.limit = 9
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items:
            raise Empty("nothing there")
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __iter__(self):
        return iter(self.items)
    def __getitem__(self, place):
        return self.items[place]
    def __str__(self):
        return f"Stack of {len(self)}"

@dataclass
class Point:
    x: int
    y: int = 0
    def __add__(self, other):
        return Point(self.x + other.x, self.y + other.y)

Pair = namedtuple("Pair", "a b")
LIMIT = 7

def add(a, b=1):
    return a + b
def sort(items):
    items.sort()
def fill(table, *, key):
    table[key] = [key]
def countdown(n):
    while n:
        yield n
        n -= 1
def apply(function, *values):
    return [function(value) for value in values]
def compose(f, g):
    return lambda x: f(g(x))
def parse(text):
    if not text:
        raise ValueError("empty text")
    return int(text)
def pair():
    return Pair(1, 2)
def later():
    async def value():
        await asyncio.sleep(0.001)
        return 5
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(value())))
    thread.start()
    thread.join()
    return found[0]
'''

PASSING = [
    "assert add(1, 2) == 3 and add(a=1, b=2) == 3 and add(1) == 2",
    "assert add([1], [2.5, None]) == [1, 2.5, None]",
    "assert add(10 ** 30, 1) == 10 ** 30 + 1",
    "assert isinstance(add(1, 2), int) and add('a', 'b') == 'ab' and add((1,), (2,)) == (1, 2)",
    "items = [3, 1, 2]\nsort(items)\nassert items == [1, 2, 3]",
    "table = {}\nfill(table, key='k')\nassert table == {'k': ['k']}",
    "assert list(countdown(3)) == [3, 2, 1]",
    "assert sum(countdown(4)) == 10 and max(countdown(4)) == 4",
    "assert apply(lambda x: x * x, 1, 2, 3) == [1, 4, 9]",
    "assert apply(len, 'ab', [1]) == [2, 1]",
    "assert compose(lambda x: x + 1, lambda x: 2 * x)(5) == 11",
    "def twice(x):\n    return add(x, x)\nassert apply(twice, 4) == [8]",
    "stack = Stack([1])\nstack.push(2).push(3)\nassert len(stack) == 3 and stack.pop() == 3 and stack[0] == 1",
    "stack = Stack([1, 2])\nassert list(stack) == [1, 2] and stack.items == [1, 2] and str(stack) == 'Stack of 2'",
    "stack = Stack()\nstack.limit = 4\nassert stack.limit == 4 and not stack and isinstance(stack, Stack)",
    "try:\n    Stack().pop()\nexcept Empty as error:\n    assert 'nothing' in str(error)\nelse:\n    assert False",
    "try:\n    parse('')\nexcept ValueError as error:\n    assert str(error) == 'empty text'\nelse:\n    assert False",
    "try:\n    apply(lambda x: 1 / x, 0)\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False",
    "assert Point(1, 2) == Point(1, 2) and (Point(1) + Point(2, 3)).x == 3",
    "assert pair() == (1, 2)",
    "assert LIMIT == 7",
    "assert later() == 5",
    "import math\nassert math.isclose(add(0.1, 0.2), 0.3)",
    "from typing import Callable\ndef check(candidate: Callable):\n    assert candidate(2, 2) == 4\ncheck(add)",
]

FAILING = [
    "assert add(1, 2) == 4",
    "assert add(1, 2) is None",
    "parse('')",
    "assert Point(1, 2) == (1, 2)",
    "assert Point(1, 2) == Point(2, 1)",
    "assert missing(1) == 1",
    "assert list(countdown(3)) == [3, 2]",
    "with unittest.TestCase().assertRaises(ValueError):\n    parse('1')",
    "try:\n    Stack().pop()\nexcept ValueError:\n    pass",
    "raise AssertionError(add(1, 2))",
]


def test_every_kind_of_test():
    verdict = run_tests(CODE, PASSING, whole=True, partial=True)
    assert (verdict.passed, verdict.total, verdict.detail) == (len(PASSING), len(PASSING), "")
    verdict = run_tests(CODE, FAILING, whole=True, partial=True)
    assert (verdict.passed, verdict.total) == (0, len(FAILING))


@pytest.mark.parametrize(("tests", "passed", "total"), [
    ("x = add(1, 2)\nassert x == 3\nassert x == 4\nassert add(2, 2) == 4", 2, 3),
    ("x = add()\nassert add(1, 2) == 3", 1, 2),  # the failed preparation counts
    ("def test_a():\n    assert add(1, 2) == 3\ndef test_b():\n    assert add(1, 2) == 4\ndef helper():\n    1 / 0", 1, 2),
    ("import unittest\nclass A(unittest.TestCase):\n    def setUp(self):\n        self.x = add(1, 2)\n"
     "    def test_a(self):\n        self.assertEqual(self.x, 3)\n    def test_b(self):\n        self.assertEqual(self.x, 4)\n"
     "    @unittest.skip('x')\n    def test_c(self):\n        pass\n"
     "    def test_d(self):\n        with self.assertRaises(TypeError):\n            add()\n"
     "if __name__ == '__main__':\n    unittest.main()\n", 2, 4),
    ("import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n"
     "unittest.main()\n", 1, 1),
    ("for a in range(3):\n    assert add(a, a) == 2 * a", 1, 1),
    (["assert add(1, 2) == 3", "assert add(1, 2) == 0", "y = add(1, 1)\nassert y == 2"], 2, 3),
])
def test_share_of_tests(tests, passed, total):
    verdict = unit_tests(partial=True).run("def add(a, b):\n    return a + b\n", tests)
    assert (verdict.passed, verdict.total) == (passed, total)
    assert unit_tests(partial=True)("def add(a, b):\n    return a + b\n", tests) == passed / total
    assert unit_tests()("def add(a, b):\n    return a + b\n", tests) == float(passed == total)


@pytest.mark.parametrize(("gold", "why"), [
    ("assert add(1, 2 == 3", "they are no Python"),
    ("def check(f):\n    assert f(1) == 1", "they test nothing"),
    ("import math", "they test nothing"),
    ("assert 1 + 1 == 2", "they use no name but their own"),
    ("assert sum([1]) == 1", "they use no name but their own"),
    ("import numpy\nassert add(1, 2) == numpy.add(1, 2)", "numpy"),
    ("from solution import add\nassert add(1, 2) == add(3)\nother()", "solution"),
    ("class A:\n    pass\nassert add(A(), 1)", "a test passes a A"),
    ("try:\n    add(iter([]), 1)\nexcept BaseException:\n    pass", "a test passes a list_iterator"),
    (["assert add(1, 2) == 3", 5], "no text"),
    (None, "no text"),
    ([], "they test nothing"),
])
def test_malformed_golds_are_errors(gold, why):
    with pytest.raises(RewardenError, match="cannot be used") as caught:
        unit_tests()("def add(a, b):\n    return 0\n", gold)
    assert why in caught.value.why
    assert caught.value.where == "unit_tests, gold"
    assert caught.value.fix


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.fractions()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.binary().map(bytearray)
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9)),
    lambda below: st.lists(below, max_size=4) | st.lists(below, max_size=4).map(tuple)
    | st.lists(below, max_size=4).map(deque) | st.dictionaries(st.text() | st.integers(), below, max_size=4)
    | st.sets(st.integers() | st.text()) | st.frozensets(st.integers()), max_leaves=12)


def kinds(value: object) -> object:
    """The types of a value, all the way down."""
    if isinstance(value, dict):
        return dict, [(kinds(key), kinds(below)) for key, below in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return type(value), [kinds(below) for below in value]
    return type(value)


@settings(max_examples=300, deadline=None)
@given(DATA)
def test_plain_data_arrive_as_they_left(value):
    import json

    sender, receiver = (Peer(None, opaque=opaque) for opaque in (False, True))
    arrived = receiver.decode(json.loads(json.dumps(sender.encode(value))))
    assert arrived == value
    assert kinds(arrived) == kinds(value)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
                    | st.sampled_from(["list", "dict", "int", "float", "yours", "mine", "Fraction", "Decimal", "range"]),
                    lambda below: st.lists(below, max_size=4), max_leaves=10)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_malformed_data_have_one_error(data):
    from rewarden.training.verifiers.sandbox.wire import Gone

    with suppress(Gone):
        Peer(None, opaque=False).decode(data)


def test_fractions_and_decimals_are_not_computed():
    receiver = Peer(None, opaque=True)
    assert receiver.decode(["Fraction", "3/4"]) == Fraction(3, 4)
    assert receiver.decode(["Decimal", "1E+999999"]) == Decimal("1E+999999")


def test_nothing_is_run_outside():
    from rewarden.training.verifiers.sandbox.execution import execute

    with pytest.raises(RuntimeError, match="in the sandbox only"):
        execute("x = 1", "<test>", {})


def test_which_block_is_the_code():
    fenced = "A:\n```python\nx = 1\n```\nB:\n~~~~py\nx = '''\n```\n'''\n~~~~\nOutput:\n```\n2\n```\n"
    assert last_code(fenced) == "x = '''\n```\n'''\n"
    assert last_code("```\nx = 1\n```\n```bash\nls\n```") == "x = 1\n"
    assert last_code("```bash\nls\n```") == ""
    assert last_code("```python\nx = 1") == "x = 1"
    assert last_code("x = 1") == "x = 1"


def test_names_that_tests_need():
    source = ("import os\nfrom math import sqrt\nclass T:\n    def m(self):\n        global made\n        made = build(self)\n"
              "def check(f, *, deep=inner):\n    local = f(other)\n    return [local for _ in made]\n"
              "assert all(check(add)) and os and sqrt(len([]))\n")
    assert wanted([source]) == ["add", "build", "inner", "other"]
    assert [step.text for step in plan([source], False) if step.is_test] == ["assert all(check(add)) and os and sqrt(len([]))"]
