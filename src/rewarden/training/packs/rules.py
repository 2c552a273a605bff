"""What makes a JSON value no feature pack?

In: a value. Out: faults, of its form first (`pack_schema.json`), then of what its numbers say of one another. Ignorant of
files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import islice
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from rewarden.training.packs.evidence import Evidence, inconsistencies, shortfalls
from rewarden.training.packs.schema import Fault, faults, pack_schema
from rewarden.training.strata import weights_sha256

MOST_FAULTS = 20
"""Faults that are told of one file."""

hints_of = cache(get_type_hints)
"""Types of a class's fields, worked out once."""


def pack_faults(value: Any) -> Iterator[Fault]:
    """All that makes a JSON value no pack: its form first, then what its numbers say; nothing of the second after the first."""
    formal = list(islice(faults(value, pack_schema()), MOST_FAULTS))
    yield from formal
    if formal:
        return
    features, size, seen = value["features"], value["dictionary"]["n_features"], set()
    for place, one in enumerate(features):
        where = f"$.features[{place}]"
        if one["id"] >= size:
            yield Fault(f"{where}.id", f"{one['id']}: the dictionary has features 0 to {size - 1}")
        if one["id"] in seen:
            yield Fault(f"{where}.id", f"{one['id']} is there twice")
        seen.add(one["id"])
        if "direction" in one and one["weight"] != 0 and (one["direction"] == "more") != (one["weight"] > 0):
            yield Fault(f"{where}.direction", f"{one['direction']!r} with a weight of {one['weight']:g}")
    if not any(one["weight"] for one in features):
        yield Fault("$.features", "every weight is 0: there is no reward")
    kind = value["aggregation"]["kind"]
    for name, owner in (("k", "last"), ("share", "top")):
        if name in value["aggregation"] and kind != owner:
            yield Fault(f"$.aggregation.{name}", f"only {owner!r} has it, not {kind!r}")
    if value["evidence"] is not None:
        evidence: Evidence = built(Evidence, value["evidence"])
        found = list(inconsistencies(evidence))
        yield from found
        if value["validated"] and not found:
            yield from shortfalls(evidence)
            if evidence.weights_sha256 != weights_sha256(np.array([float(one["weight"]) for one in features])):
                yield Fault("$.evidence.weights_sha256", "the evidence is of other weights than the features have")
    elif value["validated"]:
        yield Fault("$.validated", "true without evidence")


def built(kind: Any, value: Any) -> Any:
    """A checked JSON value as the dataclass, tuple or number that a field's annotation names."""
    if get_origin(kind) is tuple:
        return tuple(built(get_args(kind)[0], one) for one in value)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = hints_of(kind)
        return kind(**{name: built(hints[name], one) for name, one in value.items()})  # type: ignore[operator]
    options = get_args(kind)
    if value is not None and type(None) in options:
        return built(next(one for one in options if one is not type(None)), value)
    return float(value) if kind is float else value
