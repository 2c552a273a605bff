"""Is a completion JSON that fits a schema?

In: text, a JSON schema. Out: `json_schema`. Ignorant of what the data mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rewarden.errors import RewardenError
from rewarden.training.verifiers.code import FENCE
from rewarden.training.verifiers.protocol import as_text, malformed

PATTERN_SECONDS = 1.0
"""Longest search of one `pattern`; what takes longer does not fit."""


def last_json(completion: str) -> str:
    """The last block that is fenced as JSON or without a language; the text as it is where nothing is fenced.

    Example:
        >>> last_json("Here it is:\\n```json\\n[1]\\n```"), last_json("[2]")
        ('[1]\\n', '[2]')
    """
    found, lines, mark = completion, [], None
    for line in completion.splitlines(keepends=True):
        match = FENCE.match(line)
        if mark is None and match and match.group(2).lower() in ("json", ""):
            mark, lines = match.group(1), []
        elif mark is not None and match and match.group(1).startswith(mark) and not match.group(2):
            mark, found = None, "".join(lines)
        elif mark is not None:
            lines.append(line)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True)
class JsonSchema:
    """Whether a completion is JSON that fits a schema: the one given here, or else each row's gold.

    The completion is JSON as a whole, or its last fenced block is. NaN, Infinity and repeated keys are no JSON. References are
    resolved inside the schema and to the published drafts only, never over the network; `format` is not checked.

    Raises:
        RewardenError: a schema that is none, refers to what is not there, or is not JSON; the package jsonschema is missing.

    Example:
        >>> verifier = json_schema({"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}})
        >>> verifier('{"age": 3}'), verifier('{"age": "3"}'), verifier("age: 3")
        (1.0, 0.0, 0.0)
    """

    schema: Mapping[str, Any] | str | None = None
    """As a mapping or as JSON text; then the gold is not read."""
    name: str = "json_schema"
    """In logs."""

    def __post_init__(self) -> None:
        if self.schema is not None:
            _validator(self._text(self.schema), self.name)

    def __call__(self, completion: str, gold: Any = None) -> float:
        """1.0 or 0.0."""
        schema = self.schema if self.schema is not None else gold
        validator = _validator(self._text(schema), self.name)
        try:
            value = json.loads(last_json(as_text(completion, self.name)), parse_constant=_refuse, object_pairs_hook=_unique)
        except (ValueError, RecursionError, MemoryError):
            return 0.0
        from referencing.exceptions import Unresolvable

        try:
            return float(validator.is_valid(value))
        except Unresolvable as error:
            raise malformed(schema, self.name, f"a reference leads nowhere: {error}", "define its target in $defs") from error
        except (RecursionError, OverflowError, MemoryError):
            return 0.0

    def _text(self, schema: Any) -> str:
        if isinstance(schema, str):
            return schema
        if not isinstance(schema, (Mapping, bool)):
            raise malformed(schema, self.name, f"it is a {type(schema).__name__}", "give a JSON schema, or json_schema(schema)")
        try:
            return json.dumps(dict(schema) if isinstance(schema, Mapping) else schema, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise malformed(schema, self.name, f"it is no JSON: {error}", "use JSON's types only") from error


@lru_cache(maxsize=512)
def _validator(text: str, name: str) -> Any:
    """The validator of a schema's text."""
    try:
        from jsonschema import SchemaError, validators
        from jsonschema.exceptions import ValidationError
        from jsonschema_specifications import REGISTRY
    except ImportError as error:
        raise RewardenError("json_schema needs the package jsonschema", where=name, why=str(error),
                            fix='pip install "rewarden[verifiers]"') from error
    import regex

    try:
        schema = json.loads(text)
        if not isinstance(schema, (dict, bool)):
            raise ValueError(f"a schema is an object, and this is a {type(schema).__name__}")
        kind = validators.validator_for(schema, default=validators.validator_for({}))
        kind.check_schema(schema)
    except (ValueError, RecursionError, SchemaError) as error:
        why = error.message if isinstance(error, SchemaError) else str(error)
        raise malformed(text, name, why, "repair the schema") from error

    def search(pattern: str, value: str) -> bool:
        try:
            return regex.search(pattern, value, timeout=PATTERN_SECONDS) is not None
        except (TimeoutError, MemoryError):
            return False
        except regex.error as error:
            raise malformed(pattern, name, f"it is no pattern: {error}", "repair the schema") from error

    def fits(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not search(pattern, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    def properties(validator: Any, patterns: Mapping[str, Any], value: Any, _: Any) -> Iterator[ValidationError]:
        for pattern, below in patterns.items():
            for key, part in value.items() if isinstance(value, dict) else ():
                if search(pattern, key):
                    yield from validator.descend(part, below, path=key, schema_path=pattern)

    return validators.extend(kind, {"pattern": fits, "patternProperties": properties})(schema, registry=REGISTRY)


json_schema = JsonSchema
