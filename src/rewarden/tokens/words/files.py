"""Text files as rows of cells or JSON, with errors that name the row and the column.

In: a path. Out: cells, numbers, or a `RewardenError`. Ignorant of what the cells mean.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError

FilePath = str | os.PathLike[str]


def read_text(path: FilePath) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        RewardenError: no such file, or another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failed:
        raise RewardenError(f"cannot read {Path(path).name}", where=str(path), why=str(failed),
                            fix="pass the path of a UTF-8 text file") from failed


def cells_of(path: FilePath, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 1) and cells of each row that is not empty.

    Args:
        path: the file.
        delimiter: "," (cells may be quoted) or a tab (quotes are part of the text, as lexicons have it).

    Raises:
        RewardenError: a quote that is not closed; says in which row.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as failed:
            raise bad_row(path, row, None, str(failed), "close every quote") from failed
        if any(cell.strip() for cell in cells):
            yield row, cells


def json_object(path: FilePath) -> Mapping[str, Any]:
    """A JSON file that holds one dict.

    Raises:
        RewardenError: no JSON (row and column), no dict, an empty one, or a key that is there twice.
    """
    try:
        held = json.loads(read_text(path), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except json.JSONDecodeError as failed:
        raise bad_row(path, failed.lineno, str(failed.colno), failed.msg, "mend the JSON") from failed
    if not isinstance(held, dict) or not held:
        raise bad_shape(path, "the whole file", "a dict", held)
    return held


def _unique(path: FilePath, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json.loads would keep the last of two equal keys and say nothing."""
    keys = [key for key, _ in pairs]
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise bad_shape(path, f"key {twice[0]!r}", "each key once", keys)
    return dict(pairs)


def is_number(text: str) -> bool:
    """Whether a cell is a finite number.

    Example:
        >>> is_number("-3.5"), is_number("nan"), is_number("1_000")
        (True, False, False)
    """
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def number_in(path: FilePath, row: int, column: str, text: str) -> float:
    """The number in a cell.

    Raises:
        RewardenError: it holds none, or no finite one; names row and column.
    """
    if not is_number(text):
        raise bad_row(path, row, column, f"{text!r} is no finite number", "write a number")
    return float(text)


def bad_row(path: FilePath, row: int, column: str | None, why: str, fix: str) -> RewardenError:
    """The error of a row (and column) of a file."""
    return RewardenError(f"cannot read {Path(path).name}", where=f"row {row}" + (f", column {column}" if column else ""),
                         why=why, fix=fix)


def bad_shape(path: FilePath, place: str, wanted: str, held: object) -> RewardenError:
    """The error of a JSON value of another shape than wanted."""
    return RewardenError(f"cannot read {Path(path).name}", where=place, why=f"expected {wanted}, found {held!r:.60}",
                         fix="give it that shape")
