"""Bodies that no client may send, made by spoiling good ones: each is wrong for certain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

FIELDS = ("query", "prompts", "labels")
TYPES = (0, -1, 1.5, True, None, "text", "", {}, {"query": []})
NO_TEXT = (0, 3.25, False, None, "", [], ["1+2:"], {}, {"text": "1+2:"}, "1+2:\ud800")
WHOLE = (b"", b" ", b"null", b"[]", b"true", b'"query"', b"17", b"{}", b"[{}]", b"{]", b"\xef\xbb\xbf{}", b"<html></html>")


def bodies(count: int, good: dict[str, list[Any]], seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Kind and body; all kinds about equally often."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        yield kind, KINDS[kind](json.loads(json.dumps(good)), rng)


def _pick(rng: np.random.Generator, some: Any) -> Any:
    return some[int(rng.integers(len(some)))]


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _truncated(good: Any, rng: np.random.Generator) -> bytes:
    whole = _bytes(good)
    return whole[:int(rng.integers(len(whole)))]


def _doubled(good: Any, rng: np.random.Generator) -> bytes:
    return _bytes(good) + _pick(rng, (b"}", b"{}", b",", b"\x00", _bytes(good)))


def _no_utf8(good: Any, rng: np.random.Generator) -> bytes:
    whole = _bytes(good)
    at = int(rng.integers(len(whole) + 1))
    return whole[:at] + _pick(rng, (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80")) + whole[at:]


def _other_encoding(good: Any, rng: np.random.Generator) -> bytes:
    return json.dumps(good).encode(_pick(rng, ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))


def _missing(good: Any, rng: np.random.Generator) -> bytes:
    for name in rng.permutation(FIELDS)[:int(rng.integers(1, 4))]:
        del good[str(name)]
    return _bytes(good)


def _other_type(good: Any, rng: np.random.Generator) -> bytes:
    good[_pick(rng, FIELDS)] = _pick(rng, TYPES)
    return _bytes(good)


def _no_text(good: Any, rng: np.random.Generator) -> bytes:
    name = _pick(rng, FIELDS[:2])
    good[name][int(rng.integers(len(good[name])))] = _pick(rng, NO_TEXT)
    return _bytes(good)


def _lengths(good: Any, rng: np.random.Generator) -> bytes:
    name = _pick(rng, FIELDS)
    good[name] = _pick(rng, (good[name][:-1], [*good[name], "1+2:3"], []))
    return _bytes(good)


def _nothing(good: Any, rng: np.random.Generator) -> bytes:
    return _bytes({name: [] for name in FIELDS}) if rng.random() < 0.5 else _pick(rng, WHOLE)


def _extra(good: Any, rng: np.random.Generator) -> bytes:
    good[_pick(rng, ("", "Query", "queries", "rewards", "__proto__", "a" * 500, "\ud800", "labels "))] = _pick(rng, TYPES)
    return _bytes(good)


def _numbers(good: Any, rng: np.random.Generator) -> bytes:
    written = _pick(rng, (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e400", b"9" * 5000, b"[NaN]", b'{"a": 1e999}'))
    good["labels"][int(rng.integers(len(good["labels"])))] = "HERE"
    return _bytes(good).replace(b'"HERE"', written)


def _deep(good: Any, rng: np.random.Generator) -> bytes:
    depth = int(_pick(rng, (9, 30, 500, 3000, 100_000)))
    nested = b"[" * depth + b"]" * depth if rng.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
    if rng.random() < 0.3:
        return nested
    good["labels"][0] = "HERE"
    return _bytes(good).replace(b'"HERE"', nested)


def _surrogates(good: Any, rng: np.random.Generator) -> bytes:
    name = _pick(rng, FIELDS)
    at = int(rng.integers(len(good[name])))
    good[name][at] += _pick(rng, ("\ud800", "\udfff", "\udc00\ud800"))
    return _bytes(good)


def _twice(good: Any, rng: np.random.Generator) -> bytes:
    name = _pick(rng, FIELDS)
    return b"{" + json.dumps(name).encode() + b": [], " + _bytes(good)[1:]


def _of_another_prompt(good: Any, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(good["query"])))
    good["query"][at] = _pick(rng, ("q", "=", "é", "<eos>")) + good["query"][at]  # no prompt begins with any of these
    return _bytes(good)


def _no_completion(good: Any, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(good["query"])))
    good["query"][at] = good["prompts"][at] + "<eos>" * int(rng.integers(3))
    return _bytes(good)


def _too_much(good: Any, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.4:
        times = 70 // len(good["query"]) + 1
        return _bytes({name: good[name] * times for name in FIELDS})
    at = int(rng.integers(len(good["query"])))
    good["query"][at] += "1" * int(_pick(rng, (60, 1000, 200_000)))
    return _bytes(good)


KINDS: dict[str, Callable[[Any, np.random.Generator], bytes]] = {
    "truncated": _truncated, "followed by more": _doubled, "no UTF-8": _no_utf8, "another encoding": _other_encoding,
    "missing field": _missing, "field of another type": _other_type, "no text": _no_text, "lengths": _lengths,
    "nothing": _nothing, "extra field": _extra, "numbers": _numbers, "deep": _deep, "lone surrogates": _surrogates,
    "field twice": _twice, "query of another prompt": _of_another_prompt, "no completion": _no_completion,
    "too much": _too_much}
