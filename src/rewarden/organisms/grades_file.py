"""Which models has an instrument been tried on before, and were they made as now?

In: a file of JSON lines, its first one about the whole. Out: rows of models done before; new ones are added. A file made by
another version, or rows of models made otherwise, are refused. Ignorant of what is in a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError

Key = tuple[str, float, int]
"""Organism, multiple of its stated dose, seed."""

Row = dict[str, Any]

AFRESH = "choose another path, or remove the file to grade afresh"


class Store:
    """Rows of models done before, and a file to which new ones are added.

    Args:
        path: of the file; None keeps nothing.
        header: what all rows depend on.

    Raises:
        RewardenError: the file has another header, or a line that is no row.
    """

    def __init__(self, path: str | Path | None, header: Mapping[str, str | float]) -> None:
        self.path, self.header = None if path is None else Path(path), dict(header)
        self.rows: dict[Key, Row] = {}
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if lines:
            self._check(lines[0])
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = json.loads(line)
                self.rows[row["organism"], row["dose"], row["seed"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise RewardenError(f"line {number} holds no graded model", where=str(self.path), why=str(error),
                                    fix="remove the line (an interrupted run may have cut it), or choose another path"
                                    ) from error

    def _check(self, line: str) -> None:
        try:
            held = json.loads(line)["grades"]
            other = [f"{name} {held.get(name)!r}, now {value!r}" for name, value in self.header.items()
                     if held.get(name) != value]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RewardenError("the file does not say how its grades were made", where=str(self.path),
                                why="its first line is no header", fix=AFRESH) from error
        if other:
            raise RewardenError(f"the file is of {'; '.join(other)}", where=str(self.path),
                                why="its models were not graded as these would be", fix=AFRESH)

    def row(self, key: Key, maker: str) -> Row | None:
        """The row of a model done before; None for a new one.

        Args:
            key: of the model.
            maker: who makes it, see `maker_name`, and at which dose.

        Raises:
            RewardenError: it was made by another one.
        """
        row = self.rows.get(key)
        if row is not None and row.get("maker") != maker:
            raise RewardenError(f"{key[0]!r} in the file was made by {row.get('maker')!r}, now by {maker!r}",
                                where=str(self.path), why="its rows are of other models", fix=AFRESH)
        return row

    def add(self, key: Key, maker: str, row: Row) -> Row:
        """Keep the row of a model."""
        self.rows[key] = made = {"maker": maker, **row}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists() or not self.path.stat().st_size
            with self.path.open("a", encoding="utf-8") as file:
                file.write((json.dumps({"grades": self.header}) + "\n" if new else "") + json.dumps(made) + "\n")
        return made


def maker_name(maker: Callable[..., Any]) -> str:
    """Name of a maker that is the same in another process; of a lambda or a partial also what it calls, and with what.

    Example:
        >>> from rewarden.organisms import noise
        >>> maker_name(noise)
        'rewarden.organisms.token_rules.noise'
        >>> maker_name(lambda seed: noise(seed, outputs=3)) == maker_name(lambda seed: noise(seed, outputs=4))
        False
    """
    if isinstance(maker, partial):
        return f"{maker_name(maker.func)}, {maker.args}, {sorted(maker.keywords.items())}"
    name = getattr(maker, "__qualname__", type(maker).__qualname__)
    full = f"{getattr(maker, '__module__', '')}.{name}"
    code = getattr(maker, "__code__", None)
    if code is None or not name.endswith("<lambda>"):
        return full
    plain = [one for one in code.co_consts if not hasattr(one, "co_code")]
    body = hashlib.sha256(code.co_code).hexdigest()[:8]
    return f"{full}, {code.co_names}, {plain}, {maker.__defaults__}, {body}"
