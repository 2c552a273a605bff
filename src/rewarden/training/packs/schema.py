"""Does a JSON value have the form that a schema asks for?

In: a value, and a schema in the part of JSON Schema 2020-12 that `pack_schema.json` uses. Out: faults, each with the JSON path
where it is. Ignorant of packs. Our own reader, as these keywords are few: no dependency, and a schema with another keyword is
refused, so that nothing in it is passed over in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rewarden.errors import RewardenError

SCHEMA = Path(__file__).with_name("pack_schema.json")

TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
                         "number": (int, float)}

KNOWN = {"$schema", "$id", "$defs", "title", "description", "type", "properties", "required", "additionalProperties", "items",
         "minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
         "exclusiveMaximum", "enum", "const", "$ref", "anyOf"}

SHOWN = 60
"""Characters of a value that a message repeats."""


class Fault(NamedTuple):
    """One thing that is wrong."""

    where: str
    """JSON path, such as $.features[3].weight."""
    what: str
    """What was found there, and what was expected."""


@cache
def pack_schema() -> dict[str, Any]:
    """The schema of feature packs, as shipped.

    Example:
        >>> pack_schema()["properties"]["schema"]["const"]
        1
    """
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, where: str = "$") -> Iterator[Fault]:
    """What is wrong with a value, outermost first; nothing below a wrong type or a list that is too long.

    Args:
        value: of `json.loads`.
        schema: what it is held against.
        root: the schema that $ref points into; `schema` by default.
        where: path of the value.

    Raises:
        RewardenError: the schema has a keyword that is not known here.

    Example:
        >>> [fault] = faults({"n": -1}, {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}})
        >>> fault.where, fault.what
        ('$.n', '-1 is below 0')
    """
    root = schema if root is None else root
    unknown = set(schema) - KNOWN
    if unknown:
        raise RewardenError(f"schema keyword {', '.join(sorted(unknown))} is not known", where=where, fix="use other keywords")
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema:
        yield from _any_of(value, schema["anyOf"], root, where)
    if "const" in schema and not _same(value, schema["const"]):
        yield Fault(where, f"{_short(value)} where only {_short(schema['const'])} can stand")
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield Fault(where, f"{_short(value)} is none of {', '.join(map(str, schema['enum']))}")
    if "type" in schema and not _is(value, schema["type"]):
        yield Fault(where, f"{_kind(value)} {_short(value)} where {_article(schema['type'])} is expected")
        return
    if isinstance(value, dict):
        yield from _object(value, schema, root, where)
    elif isinstance(value, list):
        yield from _array(value, schema, root, where)
    elif isinstance(value, str):
        yield from _string(value, schema, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(value, schema, where)


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[Fault]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Fault(f"{where}.{name}", "this key is missing")
    for name, item in value.items():
        if name in properties:
            yield from faults(item, properties[name], root, f"{where}.{name}")
        elif schema.get("additionalProperties") is False:
            yield Fault(f"{where}.{_short(name)[1:-1]}", f"unknown key; known are {', '.join(properties)}")


def _array(value: list[Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[Fault]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        yield Fault(where, f"{len(value)} entries where {least} to {most} can stand")
        return
    if "items" in schema:
        for place, item in enumerate(value):
            yield from faults(item, schema["items"], root, f"{where}[{place}]")


def _string(value: str, schema: Mapping[str, Any], where: str) -> Iterator[Fault]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if not least <= len(value) <= most:
        yield Fault(where, f"a text of {len(value)} characters where {least} to {most} can stand")
    elif "pattern" in schema and not re.search(schema["pattern"].removesuffix("$") + r"\Z", value):
        yield Fault(where, f"{_short(value)} is not of the form {schema['pattern']}")


def _number(value: float, schema: Mapping[str, Any], where: str) -> Iterator[Fault]:
    if isinstance(value, float) and not math.isfinite(value):
        yield Fault(where, f"{value} is no finite number")
    elif value < schema.get("minimum", -math.inf):
        yield Fault(where, f"{_short(value)} is below {schema['minimum']}")
    elif value > schema.get("maximum", math.inf):
        yield Fault(where, f"{_short(value)} is above {schema['maximum']}")
    elif value <= schema.get("exclusiveMinimum", -math.inf):
        yield Fault(where, f"{_short(value)} is not above {schema['exclusiveMinimum']}")
    elif value >= schema.get("exclusiveMaximum", math.inf):
        yield Fault(where, f"{_short(value)} is not below {schema['exclusiveMaximum']}")


def _any_of(value: Any, schemas: list[dict[str, Any]], root: Mapping[str, Any], where: str) -> Iterator[Fault]:
    """The faults of the form that comes closest: that which has none, else the first one of the value's type."""
    tried = [list(faults(value, schema, root, where)) for schema in schemas]
    if all(tried):
        yield from min(tried, key=lambda found: (found[0].where == where and "is expected" in found[0].what, len(found)))


def _same(value: Any, other: Any) -> bool:
    """JSON's equality: true is not 1."""
    return type(value) is type(other) and value == other


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])


def _kind(value: Any) -> str:
    return next(kind for kind in TYPES if _is(value, kind))


def _article(kind: str) -> str:
    return kind if kind == "null" else f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _short(value: Any) -> str:
    """The value in a message: cut, and only with characters that print everywhere."""
    if isinstance(value, (dict, list)):
        return f"of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"of {value.bit_length()} bits"
    text = json.dumps(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…{text[0] if text[0] == chr(34) else ''}"
