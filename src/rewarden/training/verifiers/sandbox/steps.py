"""What does test code run, in which order, and what does it need of the candidate?

In: Python source. Out: `Step`s and names. Runs nothing. Standard library only: it runs in the sandbox as well.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SETTING_UP = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign,
              ast.AugAssign, ast.Delete, ast.Pass)


class Step(NamedTuple):
    """One thing to run: a statement, a function or a method, and whether it counts as a test."""

    kind: str
    text: str
    is_test: bool
    tree: ast.Module


def plan(sources: Sequence[str], whole: bool) -> list[Step]:
    """The steps of test code.

    Top-level statements run in order; imports, definitions and assignments set up, every other statement is a test. Then come
    functions `test…` without arguments and the methods `test…` of `unittest.TestCase` classes.

    Args:
        sources: pieces of test code that share their names.
        whole: whether each piece is one test.

    Raises:
        SyntaxError: a piece is no Python; ValueError: it holds a null byte.

    Example:
        >>> [(step.kind, step.text) for step in plan(["import math", "assert f(1) == 1"], False) if step.is_test]
        [('statement', 'assert f(1) == 1')]
    """
    first, after = [], []
    for source in sources:
        tree = ast.parse(source, "<tests>")
        body = [node for node in tree.body if not _is_main_call(node)]
        if whole:
            first.append(Step("statement", source.strip(), True, tree))
            continue
        for node in body:
            text = ast.get_source_segment(source, node) or ast.unparse(node)
            told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            counts = not (isinstance(node, SETTING_UP) or told or guard)
            first.append(Step("statement", text, counts, ast.Module([node], [])))
            after += list(_cases(node))
    return [*first, *after]


def _cases(node: ast.stmt) -> Iterator[Step]:
    """Tests that a definition holds."""
    none = ast.Module([], [])
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
        given = node.args
        if len(given.posonlyargs + given.args) == len(given.defaults) and None not in given.kw_defaults:
            yield Step("function", node.name, True, none)
    elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name.startswith("test"):
                yield Step("method", f"{node.name}.{method.name}", True, none)


def _is_main_call(node: ast.stmt) -> bool:
    """unittest.main(): the cases run anyway."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "unittest.main"


def wanted(sources: Sequence[str]) -> list[str]:
    """Names that test code uses, and neither defines nor finds among Python's own.

    Example:
        >>> wanted(["import math", "def check(f):\\n    assert f(2) == math.sqrt(16)", "check(square)"])
        ['square']
    """
    table = symtable.symtable("\n".join(sources), "<tests>", "exec")
    bound = {symbol.get_name() for symbol in table.get_symbols()
             if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()}
    used = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    for inner in _below(table):
        for symbol in inner.get_symbols():
            if symbol.is_declared_global() and symbol.is_assigned():
                bound.add(symbol.get_name())
            if symbol.is_global() and symbol.is_referenced():
                used.add(symbol.get_name())
    return sorted(name for name in used - bound if not hasattr(builtins, name) and not name.startswith("__"))


def imported(sources: Sequence[str]) -> list[str]:
    """Top-level packages that test code imports.

    Example:
        >>> imported(["import os.path\\nfrom math import sqrt"])
        ['math', 'os']
    """
    names = set()
    for node in ast.walk(ast.parse("\n".join(sources))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or ".").split(".")[0] or ".")
    return sorted(names)


def _below(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _below(child)
