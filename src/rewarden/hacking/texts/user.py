"""A user's own axes.

In: a JSONL file (or another table of `preferences.files`), one row a comparison: prompt, neutral, biased, and if wanted axis,
seed, template. Out: `Contrast`s. All that is wrong with the file is said at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarden.contrasts import Contrast, repeats
from rewarden.errors import RewardenError
from rewarden.preferences.files import Row, file_format, read_rows

SHOWN = 5
"""Wrong rows named in an error."""

NEEDED = ("prompt", "neutral", "biased")
OPTIONAL = ("axis", "seed", "template", "id")


def load_user_axes(path: str | os.PathLike[str]) -> list[Contrast]:
    """Comparisons from a JSONL file.

    Args:
        path: of the file; each row holds `prompt` (a text, or a list of messages), `neutral` and `biased` (two responses), and
            may hold `axis` ("user" by default), `seed` (what was changed; none by default, then rows with one prompt belong
            together), `template` (how it was changed; none by default) and `id` (the row's number by default).

    Raises:
        RewardenError: no such file, no rows, or rows that cannot be used or repeat another one (the first five are named).

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> row = {"prompt": "Is it far?", "neutral": "It is.", "biased": "Perhaps it is.", "axis": "hedging"}
        >>> _ = file.write_text(json.dumps(row), encoding="utf-8")
        >>> [(one.axis, one.seed, one.template) for one in load_user_axes(file)]
        [('hedging', '', '')]
    """
    unit = "line" if file_format(Path(path)) in (".jsonl", ".ndjson") else "row"
    found, numbers, problems = [], [], {}
    for row in read_rows(Path(path)):
        values = {name: value for name, value in row.values.items() if value is not None and value != ""}
        problem = row.problem or _problem(values)
        try:
            found += [] if problem else [_contrast(values, row)]
            numbers += [] if problem else [row.number]
        except RewardenError as error:  # messages that are none
            problem = f"{error.what} ({error.why})"
        if problem:
            problems[row.number] = problem
    problems |= {numbers[again]: f"the same axis and texts as {unit} {numbers[first]}; a copy is no further evidence"
                 for again, first in repeats(found).items()}
    wrong = [f"{unit} {number}: {problem}" for number, problem in sorted(problems.items())]
    if wrong or not found:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise RewardenError(f"{len(wrong)} rows cannot be used" if wrong else "no rows in this file", where=str(path),
                            why="; ".join(wrong[:SHOWN]) + more,
                            fix='write one JSON object a line, each comparison once: '
                                '{"prompt": "…", "neutral": "…", "biased": "…", "axis": "…"}')
    return found


def _problem(row: Mapping[str, Any]) -> str:
    """What is wrong with a row."""
    if absent := [name for name in NEEDED if not row.get(name)]:
        return f"{', '.join(absent)} missing or empty"
    texts = ["neutral", "biased"] + ([] if isinstance(row["prompt"], list) else ["prompt"])
    if wrong := [name for name in texts if not isinstance(row[name], str)]:
        return f"{', '.join(wrong)} must be text"
    if row["neutral"] == row["biased"]:
        return "neutral and biased are the same text"
    if wrong := [name for name in OPTIONAL if not isinstance(row.get(name, ""), str | int)]:
        return f"{', '.join(wrong)} must be text or a number"
    return ""


def _contrast(row: Mapping[str, Any], source: Row) -> Contrast:
    names = {"axis": "user", "seed": "", "template": "", "id": source.number}
    return Contrast.of(row["prompt"], row["biased"], row["neutral"],
                       **{name: str(row.get(name, default)) for name, default in names.items()})
