"""Does the code in a completion pass the tests of its gold?

In: a completion with code, test code. Out: `unit_tests`. Ignorant of how the sandbox closes (see `sandbox.running`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rewarden.errors import RewardenError
from rewarden.training.verifiers.protocol import as_text, in_row, malformed
from rewarden.training.verifiers.sandbox.running import Limits, Verdict, run_tests

FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)")
PYTHON = ("python", "py", "python3")


def last_code(completion: str) -> str:
    """The last block that is fenced as Python, else the last without a language, else the text as it is.

    A block that is never closed reaches to the end.

    Example:
        >>> last_code("Try:\\n```python\\nx = 1\\n```\\nor\\n```py\\nx = 2\\n```\\ndone"), last_code("x = 3")
        ('x = 2\\n', 'x = 3')
    """
    blocks: list[tuple[str, list[str]]] = []
    mark = None
    for line in completion.splitlines(keepends=True):
        match = FENCE.match(line)
        if mark is None and match:
            mark = match.group(1)
            blocks.append((match.group(2).lower(), []))
        elif mark is not None and match and match.group(1).startswith(mark) and not match.group(2):
            mark = None
        elif mark is not None:
            blocks[-1][1].append(line)
    for kinds in (PYTHON, ("",)):
        for kind, lines in reversed(blocks):
            if kind in kinds:
                return "".join(lines)
    return "" if blocks else completion


@dataclass(frozen=True)
class UnitTests:
    """Whether the code of a completion passes tests, run in a sandbox without network, files and child processes.

    The gold is test code: one text, of which every top-level statement that prepares nothing is a test (with functions
    `test…` and `unittest.TestCase` classes), or a list of texts, each of which is one test. Tests run in another process than
    the code, so they see functions and classes of the candidate through calls: arguments and results are copied (changes made
    to a list, dict, set or bytearray argument are copied back), exceptions keep their class, output is lost. Tests should
    compare plain data; `assert f(3) == 9` never tells the candidate 9.

    Raises:
        RewardenError: a gold that is no Python, tests nothing, or needs more than the standard library; a machine on which the
            sandbox cannot be closed.

    Example:
        >>> verifier = unit_tests()
        >>> verifier("```python\\ndef double(x):\\n    return 2 * x\\n```", "assert double(2) == 4")
        1.0
        >>> unit_tests(partial=True)("def double(x): return 4", ["assert double(2) == 4", "assert double(1) == 2"])
        0.5
    """

    partial: bool = False
    """Whether the verdict is the share of tests passed, instead of 1.0 for all and 0.0 otherwise."""
    limits: Limits = field(default_factory=Limits)
    """What a candidate may use."""
    workers: int | None = None
    """Candidates run at the same time by `many`; as many as there are usable processors by default."""
    name: str = "unit_tests"
    """In logs."""

    def __call__(self, completion: str, gold: Any) -> float:
        """1.0 or 0.0, or the share of tests passed."""
        verdict = self.run(completion, gold)
        return verdict.passed / verdict.total if self.partial else float(verdict.all_passed)

    def run(self, completion: str, gold: Any) -> Verdict:
        """The verdict with its details: tests passed, the first failure, what protected the machine."""
        whole = isinstance(gold, (list, tuple))
        tests = list(gold) if whole else [gold]
        if not all(isinstance(test, str) for test in tests):
            raise malformed(gold, self.name, "it is no text", "give test code as a text, or a list of texts")
        try:
            return run_tests(last_code(as_text(completion, self.name)), tests, whole=whole, partial=self.partial,
                             limits=self.limits)
        except RewardenError as error:
            if error.where != "tests":
                raise
            raise malformed(gold, self.name, error.why, error.fix) from error

    def many(self, completions: Sequence[str], golds: Sequence[Any]) -> list[float]:
        """Verdicts of a batch, several at a time."""
        def one(row: int) -> float:
            try:
                return self(completions[row], golds[row])
            except RewardenError as error:
                raise in_row(error, row) from error

        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(max_workers=max(1, self.workers or usable)) as pool:
            return list(pool.map(one, range(len(completions))))


unit_tests = UnitTests
