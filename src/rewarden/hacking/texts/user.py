"""A user's own axes.

In: a JSONL file, one row a comparison: prompt, neutral, biased, and if wanted axis, seed, template. Out: `Contrast`s. All that
is wrong with the file is said at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rewarden.contrasts import Contrast
from rewarden.errors import RewardenError

SHOWN = 5
"""Wrong rows named in an error."""

NEEDED = ("prompt", "neutral", "biased")
OPTIONAL = ("axis", "seed", "template", "id")


def load_user_axes(path: str | os.PathLike[str]) -> list[Contrast]:
    """Comparisons from a JSONL file.

    Args:
        path: of the file; each row holds `prompt` (a text, or a list of messages), `neutral` and `biased` (two responses), and
            may hold `axis` ("user" by default), `seed` (what was changed; the row's number by default), `template` (how it
            was changed; none by default) and `id`.

    Raises:
        RewardenError: no such file, no rows, or rows that cannot be used (the first five are named).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> row = {"prompt": "Is it far?", "neutral": "It is.", "biased": "Perhaps it is.", "axis": "hedging"}
        >>> _ = file.write_text(json.dumps(row), encoding="utf-8")
        >>> [(one.axis, one.seed, one.template) for one in load_user_axes(file)]
        [('hedging', '1', '')]
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardenError("the file with axes cannot be read", where=str(path), why=str(error),
                            fix="give the path of a JSONL file in UTF-8") from error
    found, wrong = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row, problem = _row(line)
        try:
            found += [] if problem else [_contrast(row, number)]
        except RewardenError as error:  # messages that are none
            problem = f"{error.what} ({error.why})"
        if problem:
            wrong.append(f"line {number}: {problem}")
    if wrong or not found:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise RewardenError(f"{len(wrong)} rows cannot be used" if wrong else "no rows in this file", where=str(path),
                            why="; ".join(wrong[:SHOWN]) + more,
                            fix='write one JSON object a line: {"prompt": "…", "neutral": "…", "biased": "…", "axis": "…"}')
    return found


def _row(line: str) -> tuple[dict[str, Any], str]:
    """The row, and what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"no JSON ({error.msg})"
    if not isinstance(row, dict):
        return {}, f"a {type(row).__name__} where an object is expected"
    if absent := [name for name in NEEDED if not row.get(name)]:
        return row, f"{', '.join(absent)} missing or empty"
    texts = ["neutral", "biased"] + ([] if isinstance(row["prompt"], list) else ["prompt"])
    if wrong := [name for name in texts if not isinstance(row[name], str)]:
        return row, f"{', '.join(wrong)} must be text"
    if row["neutral"] == row["biased"]:
        return row, "neutral and biased are the same text"
    if wrong := [name for name in OPTIONAL if not isinstance(row.get(name, ""), str | int)]:
        return row, f"{', '.join(wrong)} must be text or a number"
    return row, ""


def _contrast(row: dict[str, Any], number: int) -> Contrast:
    return Contrast.of(row["prompt"], row["biased"], row["neutral"], axis=str(row.get("axis", "user")),
                       seed=str(row.get("seed", number)), template=str(row.get("template", "")), id=str(row.get("id", number)))
