"""Errors: every one that the package raises tells the next step, and shows all it knows line by line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rewarden.errors import RewardenError

PACKAGE = Path(__file__).parents[1] / "src" / "rewarden"
KINDS = {"RewardenError", "OneModelOnly", "MissingVariable"}  # a RowError is caught; who catches it says what to do


def without_fix(source: str) -> list[int]:
    """Lines that make an error of ours which names no next step."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
             and ast.unparse(node.func).split(".")[-1] in KINDS]
    fixes = [{keyword.arg: keyword.value for keyword in call.keywords}.get("fix", ast.Constant("")) for call in calls]
    return [call.lineno for call, fix in zip(calls, fixes, strict=True) if isinstance(fix, ast.Constant) and not fix.value]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_error_tells_the_next_step(path: Path) -> None:
    assert without_fix(path.read_text(encoding="utf-8")) == []


def test_the_check_itself_sees_what_it_must() -> None:
    assert without_fix("e.RewardenError('a', fix='b')\nRewardenError('a', fix=f'{b}')") == []
    assert without_fix("raise RewardenError('a')\nMissingVariable('a', why='b', fix='')\nValueError('c')") == [1, 2]


def test_an_error_is_shown_line_by_line() -> None:
    assert str(RewardenError("what", where="here", why="because", fix="do")) == (
        "what\n  where: here\n  why:   because\n  fix:   do")
    assert str(RewardenError("what", fix="do")) == "what\n  fix:   do"
