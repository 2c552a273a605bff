"""Exact matches, patterns and schemas."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training.verifiers import exact_match, json_schema, regex_match


@given(st.text())
def test_exact_match_is_equality_up_to_what_does_not_count(text):
    if text.strip():
        assert exact_match(whitespace=True)(text, text) == 1.0
        assert exact_match()(f" \n{text}\t", text) == 1.0
    assert exact_match()(text + "x", text + "y") == 0.0


@pytest.mark.parametrize(("options", "completion", "gold", "verdict"), [
    ({}, "4", 4, 1), ({}, "a  b\n", "a b", 1), ({"whitespace": True}, "a  b", "a b", 0), ({}, "Paris", "paris", 0),
    ({"case": False}, "STRASSE", "straße", 1), ({"punctuation": False}, "«Paris.»", "Paris", 1), ({}, "Paris.", "Paris", 0),
    ({}, "e\u0301", "é", 1), ({}, "b", ["a", "b"], 1), ({}, "c", ["a", "b"], 0), ({}, "the answer is 4", "4", 0),
])
def test_exact_match(options, completion, gold, verdict):
    assert exact_match(**options)(completion, gold) == verdict


@pytest.mark.parametrize(("verifier", "gold"), [
    (exact_match(), ""), (exact_match(), []), (exact_match(), None), (exact_match(), 0.5), (exact_match(), ["a", " "]),
    (exact_match(punctuation=False), "?!"), (regex_match("(a)"), None), (regex_match("(a)"), ["a"]),
    (json_schema(), None), (json_schema(), "no JSON"), (json_schema(), "[]"), (json_schema(), {"type": "text"}),
    (json_schema(), {"type": {1}}), (json_schema(), {"$ref": "#/$defs/none"}), (json_schema(), {"$ref": "http://localhost:9/x"}),
    (json_schema(), {"pattern": "("}), (json_schema(), {"patternProperties": {"(": {}}}),
])
def test_malformed_golds_are_errors(verifier, gold):
    completion = '"a"' if gold != {"patternProperties": {"(": {}}} else '{"a": 1}'
    with pytest.raises(RewardenError, match="cannot be used") as caught:
        verifier(completion, gold)
    assert caught.value.where == f"{verifier.name}, gold"
    assert caught.value.fix


@pytest.mark.parametrize(("verifier", "completion", "gold", "verdict"), [
    (regex_match(r"Answer: (\w+)"), "Answer: A\nAnswer: B", "B", 1),
    (regex_match(r"Answer: (\w+)", which="first"), "Answer: A\nAnswer: B", "A", 1),
    (regex_match(r"Answer: (\w+)"), "A", "A", 0), (regex_match(r"\d+", group=0), "12 or 345", "345", 1),
    (regex_match(r"(?P<x>\d)(?P<y>\d)", group="y"), "12", 2, 1), (regex_match(r"(a)?b"), "b", "a", 0),
    (regex_match(r"(\w+)$"), "x Yes", "yes", 0), (regex_match(r"(\w+)$", case=False), "x Yes", "yes", 1),
    (regex_match(r"(x*)"), "xx y", "xx", 0), (regex_match(r"(a+)", which="first"), "baab", "aa", 1),
])
def test_regex_match(verifier, completion, gold, verdict):
    assert verifier(completion, gold) == verdict


@pytest.mark.parametrize(("options", "what"), [
    ({"pattern": "("}, "is no pattern"), ({"pattern": "a"}, "has no group 1"),
    ({"pattern": "(a)", "group": "x"}, "has no group 'x'"),
    ({"pattern": "(a)", "which": "second"}, "which='second'"), ({"pattern": 5}, "is no pattern"),
    ({"pattern": "(a)", "seconds": 0}, "seconds=0"),
])
def test_bad_patterns_are_refused(options, what):
    with pytest.raises(RewardenError, match=what):
        regex_match(**options)


@pytest.mark.parametrize(("pattern", "text"), [(r"((a|aa)+)$", "a" * 60 + "b"), (r"((\w+\s?)+)!$", "word " * 200 + "?"),
                                               (r"(?=(a|b|ab)*c)(x)", "ab" * 60), (r"(x?)", "y" * 3_000_000)])
def test_endless_searches_end(pattern, text):
    began = time.monotonic()
    assert regex_match(pattern, seconds=0.3)(text, "nothing") == 0.0
    assert time.monotonic() - began < 3


SCHEMA = {"type": "object", "required": ["name", "tags"], "additionalProperties": False,
          "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"},
                         "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}},
          "patternProperties": {"^x-": {"type": "integer"}}, "$defs": {"tag": {"enum": ["a", "b"]}}}


@pytest.mark.parametrize(("completion", "verdict"), [
    ('{"name": "ab", "tags": ["a"]}', 1), ('Sure:\n```json\n{"name": "ab", "tags": []}\n```\n', 1),
    ('{"name": "ab", "tags": [], "x-n": 1}', 1), ('{"name": "ab", "tags": [], "x-n": "1"}', 0),
    ('{"name": "ab", "tags": ["c"]}', 0),
    ('{"name": "Ab", "tags": []}', 0), ('{"name": "ab"}', 0), ('{"name": "ab", "tags": [], "more": 1}', 0), ("{}", 0), ("", 0),
    ("null", 0), ('{"name": "ab", "name": "ab", "tags": []}', 0), ('{"name": "ab", "tags": NaN}', 0), ("[" * 100_000, 0),
    ('{"name": "ab", "tags": []} and more', 0), ("9" * 10_000, 0), ('{"a":' * 5000 + "1" + "}" * 5000, 0),
])
def test_json_schema(completion, verdict):
    assert json_schema()(completion, SCHEMA) == verdict
    assert json_schema()(completion, json.dumps(SCHEMA)) == verdict
    assert json_schema(SCHEMA)(completion, "not read") == verdict


def test_draft_4_is_honoured():
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 5, "exclusiveMinimum": True}
    assert [json_schema()(text, old) for text in ("5", "6")] == [0.0, 1.0]


def test_endless_patterns_of_schemas_end():
    began = time.monotonic()
    assert json_schema({"pattern": "^((a|aa)+)+$"})(json.dumps("a" * 60 + "b")) == 0.0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("schema", [5, {"type": "text"}, "{"])
def test_bad_schemas_are_refused_at_once(schema):
    with pytest.raises(RewardenError, match="cannot be used"):
        json_schema(schema)
