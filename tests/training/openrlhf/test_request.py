"""Bodies: what is read, and the one error for what is not."""

from __future__ import annotations

import json

import pytest

from rewarden.errors import RewardenError
from rewarden.training.openrlhf.request import check, parse


def test_a_body_is_read_as_it_was_written():
    told = {"query": ["1+2:3é\U0001f600", "4"], "prompts": ["1+2:", "4"], "labels": [{"gold": [1, 2.5, None]}, "7"]}
    found = check(parse(json.dumps(told).encode()), most=2)
    assert (list(found.queries), list(found.prompts), list(found.labels)) == (told["query"], told["prompts"], told["labels"])
    assert check(parse(json.dumps(told, ensure_ascii=False).encode()), most=2) == found


@pytest.mark.parametrize(("body", "what", "where"), [
    (b'{"query": ["1"', "the body is no JSON", "line 1, column 15"),
    (b"\xff", "the body is no UTF-8", "byte 0"),
    (b'{"query": NaN}', "NaN is no JSON", "body"),
    (b'{"query": 1, "query": 2}', "an object has a field twice", "body"),
    (b"9" * 5000, "the body holds a number that cannot be read", "body"),
    (b"[" * 100_000, "the body is nested too deeply", "body"),
])
def test_what_is_no_json_is_said_where_it_stands(body, what, where):
    with pytest.raises(RewardenError) as error:
        parse(body)
    assert (error.value.what, error.value.where) == (what, where)
    assert error.value.fix.startswith("send {")


@pytest.mark.parametrize(("changes", "what", "where"), [
    ({"query": "1+2:3"}, "query is no list", "query"),
    ({"query": ["1+2:3", "1+2:4"]}, "lists of different lengths", "body"),
    ({"query": [], "prompts": [], "labels": []}, "no rollout", "body"),
    ({"query": [""]}, "query 0 is no text", "query[0]"),
    ({"prompts": [None]}, "prompts 0 is no text", "prompts[0]"),
    ({"prompts": ["\ud800"]}, "prompts 0 is no text", "prompts[0]"),
    ({"labels": [[[[[[[[[[1]]]]]]]]]]}, "label 0 is no plain value", "labels[0]"),
    ({"labels": [float("inf")]}, "label 0 is no plain value", "labels[0]"),
    ({"labels": [{"\udc00": 1}]}, "label 0 is no plain value", "labels[0]"),
    ({"more": 1}, "fields that are unknown: 'more'", "body"),
    ({"query": ["1"] * 3, "prompts": ["1"] * 3, "labels": [1] * 3}, "3 rollouts in one request", "query"),
])
def test_what_is_no_question_is_said_by_its_field(changes, what, where):
    with pytest.raises(RewardenError) as error:
        check({"query": ["1+2:3"], "prompts": ["1+2:"], "labels": ["3"], **changes}, most=2)
    assert (error.value.what, error.value.where) == (what, where)
