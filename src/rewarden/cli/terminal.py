"""What a verb hands back, and how it reaches the terminal: text a data set or a model wrote cannot steer it.

In: an `Outcome` or an error. Out: one JSON object or rich text on stdout, messages on stderr.
Ignorant of what the verbs do.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rewarden.errors import RewardenError

OK, FAILED, USAGE, QUARANTINED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done, RewardenError, wrong usage, done but some pairs were set apart, stopped by Ctrl-C."""

# Escape sequences, carriage returns and the like (C0, C1, DEL), and the marks that turn the reading direction.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def safe(text: object) -> str:
    r"""Text with every character that could steer a terminal written out.

    Example:
        >>> print(safe("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return _STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), str(text))


@dataclass(frozen=True)
class Outcome:
    """What a verb found: data for `--json`, the same as text, and the exit code."""

    data: Mapping[str, Any]
    view: Sequence[RenderableType] = ()
    code: int = OK


def line(text: object, style: str = "") -> Text:
    """One safe line."""
    return Text(safe(text), style=style, overflow="fold")


WIDTH = 200
"""Columns of what goes to a file or a pipe: numbers that are broken over lines are misread."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Group:
    """A title and a table of safe cells; columns whose cells are numbers stand to the right."""
    rows = [list(row) for row in rows]
    drawn = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) or row[index] == "" for row in rows)
        drawn.add_column(line(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(line(number(cell) if isinstance(cell, float) else cell) for cell in row))
    return Group(line(title, "bold"), drawn)


def number(value: float) -> str:
    """A number for reading: four significant digits, "undefined" for NaN.

    Example:
        >>> number(0.123456), number(float("nan")), number(3.0)
        ('0.1235', 'undefined', '3')
    """
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def plain(value: Any) -> Any:
    """A value JSON can hold: NumPy scalars and arrays as numbers and lists, non-finite numbers as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def console(stream: TextIO) -> Console:
    """A console that reads no markup in what it prints and respects NO_COLOR; in a file or a pipe lines may be long."""
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=None if stream.isatty() else WIDTH)


def show(outcome: Outcome, *, as_json: bool, quiet: bool, stream: TextIO) -> None:
    """Write an outcome to stdout: one JSON object and nothing else, or its text."""
    if as_json:
        stream.write(json.dumps(plain(outcome.data), indent=1, allow_nan=False) + "\n")
    elif not quiet:
        out = console(stream)
        for part in outcome.view:
            # In a pipe a line stays one line: grep and diff work on it.
            out.print(part, soft_wrap=isinstance(part, Text) and not out.is_terminal)
    stream.flush()


def show_error(error: RewardenError, *, as_json: bool, stream: TextIO) -> None:
    """Say on stderr what failed, where, why and what to do; with `--json` on stdout as well, as an object."""
    parts = {name: getattr(error, name) for name in ("what", "where", "why", "fix")}
    if as_json:
        stream.write(json.dumps({"error": parts}, indent=1) + "\n")
        stream.flush()
    text = Text("error: ", style="bold red").append(safe(error.what), style="bold")
    for name in ("where", "why", "fix"):
        if parts[name]:
            text.append(f"\n  {name + ':':<6} ", style="cyan").append(safe(parts[name]), style="not bold")
    console(sys.stderr).print(text, soft_wrap=True)


def say(text: object, style: str = "dim") -> None:
    """One line on stderr, for people: never part of the result."""
    console(sys.stderr).print(line(text, style), soft_wrap=True)


@contextmanager
def progress(what: str, total: int | None, *, quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr when that is a terminal (without an end where `total` is None); yields `advance(n)`."""
    err = console(sys.stderr)
    if quiet or not err.is_terminal:
        yield lambda n=1: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task(safe(what), total=total)
        yield lambda n=1: bar.advance(task, n)
