"""2,000 damaged packs: each is a pack that comes back as it is, or one RewardenError; nothing else, and at once."""

from __future__ import annotations

import copy
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.packs.makers import valid

from rewarden.errors import RewardenError
from rewarden.training.packs import Pack, validate

COUNT, SLOWEST = 2000, 0.1
"""Packs, and seconds that one may take (CPU time of this process, so that a busy machine is no failure)."""

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 10**30, 10**400, -0.0, 1e-320, 1e308, 1.5, float("nan"), float("inf"), -float("inf"),
    "", "0", "x" * 300, "a\u0000b", "\ud800", "\u202e\U0001f600", "é" * 40, "1.0.0", "f" * 64, "../..", "NaN", [], {}, [[]],
    [None] * 600, {"": 0}, {"$ref": "#"}, {"id": 1}]


@cache
def source() -> str:
    return json.dumps(valid().json())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, item in inner for one in places(item, (*path, key)))]


def mutated(rng: np.random.Generator) -> bytes:
    """The valid pack with one or two changes to its value, and at times one to its bytes."""
    made = json.loads(source())
    for _ in range(rng.integers(1, 3)):
        paths = places(made)[1:]
        *path, last = paths[rng.integers(len(paths))]
        place: Any = made
        for key in path:
            place = place[key]
        kind = rng.integers(8)
        if kind == 0:
            del place[last]
        elif kind == 1 and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        elif kind == 1:
            place[f"{last}{chr(int(rng.integers(32, 0x3000)))}"] = place[last]
        elif kind == 2 and isinstance(place[last], (int, float)):
            place[last] = float(place[last]) * float(rng.choice([-1, 0, 1 + 1e-9, 1e3, 1e300]))
        elif kind == 3:
            return nested(made, place, last, int(rng.choice([1, 5, 900, 20_000])))
        elif kind == 4 and isinstance(place[last], str):
            place[last] = place[last][:int(rng.integers(len(place[last]) + 1))] + chr(int(rng.integers(1, 0xD7FF)))
        elif kind == 5 and isinstance(place[last], str):
            place[last] = place[last].replace("a", "b")  # often a pack still
        else:
            place[last] = copy.deepcopy(STRANGE[int(rng.integers(len(STRANGE)))])
        if not isinstance(made, dict) or len(places(made)) < 2:
            break
    content = json.dumps(made, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")
    return damaged(content, rng)


def nested(made: Any, place: Any, last: Any, layers: int) -> bytes:
    """The pack with one value inside so many lists, written by hand: json.dumps cannot."""
    inner, place[last] = json.dumps(place[last]), "here"
    return json.dumps(made).replace('"here"', "[" * layers + inner + "]" * layers).encode()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.integers(12)
    at = int(rng.integers(len(content)))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([int(rng.integers(256))]) + content[at + 1:]
    if kind == 2:
        return content.replace(b'"name"', b'"name": "twice", "name"', 1)
    if kind == 3:
        return content + b" " * 2**20
    if kind == 4:
        return content.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")
    return content


def loaded_or_error(file: Path) -> Pack | RewardenError:
    try:
        return Pack.load(file)
    except RewardenError as error:
        return error


def test_a_mutated_pack_is_a_pack_or_one_clear_error(tmp_path) -> None:
    Pack.load(valid().save(tmp_path / "first.json"))  # reads the schema, once a process
    rng = np.random.default_rng(7)
    file, again = tmp_path / "pack.json", tmp_path / "again.json"
    loaded, errors, slow = 0, 0, []
    for number in range(COUNT):
        content = mutated(rng)
        file.write_bytes(content)
        start = time.process_time()
        pack = loaded_or_error(file)
        taken = time.process_time() - start
        if isinstance(pack, RewardenError):
            assert type(pack) is RewardenError, number
            assert pack.what, number
            assert pack.where, number
            assert pack.fix, number
            assert len(str(pack)) < 4000, number
            assert validate(file)[0].severity == "error", number
            errors += 1
        else:
            pack.save(again)
            assert Pack.load(again) == pack, number
            assert all(one.severity == "warning" for one in validate(file)), number
            loaded += 1
        if taken > SLOWEST:
            slow.append((number, taken))
    assert slow == []
    assert loaded > 40  # the mutations reach both outcomes, so that neither assertion above is empty
    assert errors > 1000


@pytest.mark.parametrize("depth", [900, 5_000, 400_000])
def test_depth_is_no_crash(tmp_path, depth: int) -> None:
    file = tmp_path / "pack.json"
    file.write_text('{"name": ' + '{"a": ' * (depth // 3) + "[" * depth)
    with pytest.raises(RewardenError):
        Pack.load(file)
