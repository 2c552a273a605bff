"""Is a request's body what OpenRLHF's client sends: queries, prompts and labels, one of each a rollout?

In: bytes. Out: a `Request`, or an error that says what is wrong with it. Ignorant of tokens, models and HTTP.
Letters: n rollouts.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from rewarden.errors import RewardenError

FIELDS = ("query", "prompts", "labels")
DEPTH = 8
"""Levels of lists and objects in a label, at most."""
SHAPE = 'send {"query": [prompt + response, ...], "prompts": [...], "labels": [...]}, as many of each'


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        queries: prompt and response of each rollout [n], special tokens included.
        prompts: [n].
        labels: what the data set holds for the prompt [n]: text, numbers, or lists and objects of them.
    """

    queries: tuple[str, ...]
    prompts: tuple[str, ...]
    labels: tuple[Any, ...]


def parse(body: bytes) -> Any:
    """The JSON value of a body, strictly: no NaN, no field twice, no lone surrogates as bytes.

    Raises:
        RewardenError: bytes that are no such JSON.

    Example:
        >>> parse(b'{"query": ["2+2=4"]}')
        {'query': ['2+2=4']}
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise RewardenError("the body is no UTF-8", where=f"byte {error.start}", why=error.reason, fix=SHAPE) from error
    except json.JSONDecodeError as error:
        raise RewardenError("the body is no JSON", where=f"line {error.lineno}, column {error.colno}", why=error.msg,
                            fix=SHAPE) from error
    except RecursionError as error:
        raise RewardenError("the body is nested too deeply", where="body", why="lists in lists without end",
                            fix=SHAPE) from error
    except ValueError as error:  # digits beyond what Python turns into a number
        raise RewardenError("the body holds a number that cannot be read", where="body", why=str(error)[:200],
                            fix=SHAPE) from error


def check(value: Any, most: int) -> Request:
    """The request in a JSON value, of at most so many rollouts.

    Raises:
        RewardenError: fields that are missing or too many, of other types or lengths.

    Example:
        >>> check({"query": ["2+2=4"], "prompts": ["2+2="], "labels": ["4"]}, most=1).prompts
        ('2+2=',)
    """
    if not isinstance(value, dict):
        _refuse("the body is no object", "body", f"got {_kind(value)}")
    missing, strange = [name for name in FIELDS if name not in value], [name for name in value if name not in FIELDS]
    if missing or strange:
        _refuse("fields " + " and ".join([f"that are missing: {', '.join(missing)}"] * bool(missing)
                                         + [f"that are unknown: {', '.join(map(_shown, strange[:5]))}"] * bool(strange)),
                "body", f"the fields are {', '.join(FIELDS)}")
    for name in FIELDS:
        if not isinstance(value[name], list):
            _refuse(f"{name} is no list", name, f"got {_kind(value[name])}")
    lengths = {name: len(value[name]) for name in FIELDS}
    if len(set(lengths.values())) > 1 or not lengths["query"]:
        _refuse("lists of different lengths" if lengths["query"] else "no rollout", "body",
                ", ".join(f"{name}: {count}" for name, count in lengths.items()))
    if lengths["query"] > most:
        raise RewardenError(f"{lengths['query']} rollouts in one request", where="query", why=f"at most {most} are answered",
                            fix="send fewer at a time, or serve with a larger max_rollouts")
    for name in ("query", "prompts"):
        for place, text in enumerate(value[name]):
            if not isinstance(text, str) or not text or not _encodable(text):
                got = "a lone surrogate, which is no character" if isinstance(text, str) and text else _kind(text)
                _refuse(f"{name} {place} is no text", f"{name}[{place}]", f"got {got}")
    for place, label in enumerate(value["labels"]):
        if not _plain(label, DEPTH):
            _refuse(f"label {place} is no plain value", f"labels[{place}]",
                    f"it holds a number that is not finite, a lone surrogate, or more than {DEPTH} levels")
    return Request(tuple(value["query"]), tuple(value["prompts"]), tuple(value["labels"]))


def _refuse(what: str, where: str, why: str) -> NoReturn:
    raise RewardenError(what, where=where, why=why, fix=SHAPE)


def _no_constant(name: str) -> NoReturn:
    raise RewardenError(f"{name} is no JSON", where="body", why="a number must be finite", fix=SHAPE)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RewardenError("an object has a field twice", where="body", why="it is not said which of them counts", fix=SHAPE)
    return found


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, (list, dict)):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 0 and all(_plain(one, depth - 1) for one in inside)
    return not isinstance(value, float) or math.isfinite(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "an empty text" if value == "" else "text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def _shown(name: str) -> str:
    return ascii(name[:40])
