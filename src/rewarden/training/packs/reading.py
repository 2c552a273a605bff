"""What does a file of JSON say, when anyone may have written it?

In: a path. Out: its value, or one error: of a file that is too large, no UTF-8, no JSON, nested too deep, or that says a thing
twice. Ignorant of packs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError
from rewarden.store.files import disk_errors

LARGEST = 2**20
"""Bytes of a file, at most."""


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        RewardenError: there is no such file, it is larger than 1 MiB, or it is not strict JSON in UTF-8 with every key once.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"a": 1, "a": 2}')
        >>> read_json(file)
        Traceback (most recent call last):
        rewarden.errors.RewardenError: the key "a" is there twice
          ...
    """
    path = Path(path)
    with disk_errors(f"read {path.name}", path):
        if not path.is_file():
            raise RewardenError(f"there is no file {path.name!r}", where=str(path), fix="check the path")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    return parse(content, str(path))


def parse(content: bytes, where: str) -> Any:
    """The value of JSON in bytes.

    Args:
        content: UTF-8, without a byte order mark.
        where: the file, for errors.
    """
    if len(content) > LARGEST:
        raise RewardenError("this file is too large for a feature pack", where=where, why=f"more than {LARGEST:,} bytes",
                            fix="leave out what is not part of the pack")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except _Refused as error:
        raise RewardenError(str(error), where=where, why="readers differ on what it then means",
                            fix="write it once, as a finite number or as null") from None
    except RecursionError:
        raise RewardenError("this file is nested too deep", where=where, fix="write lists and objects side by side") from None
    except ValueError as error:  # no UTF-8, no JSON, a whole number of thousands of digits
        raise RewardenError("this file is not JSON in UTF-8", where=where, why=f"{error}"[:200],
                            fix="check that it was copied whole") from None


class _Refused(Exception):
    """Valid for Python's reader, not for ours."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"the key {json.dumps(again[:60])} is there twice")
    return made


def _no_number(word: str) -> Any:
    raise _Refused(f"{word} is no number of JSON")
