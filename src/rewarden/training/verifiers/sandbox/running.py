"""Does foreign code pass its tests, run where it can neither cheat nor do harm?

In: code, test code, limits. Out: a `Verdict`. Two interpreters are started, each in its own session with an empty environment,
and lock themselves up (`confinement`) before they read anything foreign. The *candidate* runs the code; the *judge* runs the
tests, in which the candidate's names stand for calls over a socket. So the tests, the expected values and the verdict are in a
process that the code shares nothing with: there is no token to steal and no frame to inspect. Code that exits, kills, patches
or prints only loses its own process, and with it the tests.

Not protected: this is no boundary against an attacker who has an exploit for the kernel or the interpreter; run training as an
unprivileged user or in a container all the same. Objects of the candidate's own classes compare among themselves by the
candidate's own rules, so tests should compare plain data. What a function is called with is known to it, so a test whose
arguments give the answer away can be passed without work. Without Landlock (Linux before 5.13) the code can read files that
nobody, or in a private Python installation the caller, may read. On other systems than Linux on x86_64 and aarch64 there is no
filter of system calls, and nothing runs unless `Limits(require=())` says that this is accepted: then the network is open and a
process that leaves its session may survive.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError
from rewarden.training.verifiers.sandbox.confinement import LAYERS
from rewarden.training.verifiers.sandbox.steps import plan, wanted

START = Path(__file__).with_name("start.py")
STARTING = 60.0  # seconds for two interpreters to come up on a busy machine
REPORT = 1 << 16  # bytes


@dataclass(frozen=True)
class Limits:
    """What each of the two processes may use.

    Example:
        >>> Limits(seconds=2).cpu_seconds
        10
    """

    seconds: float = 10.0
    """Wall time in seconds from when the code starts; what has not ended by then has failed."""
    cpu_seconds: int = 10
    """CPU time in whole seconds."""
    memory_mib: int = 512
    """Address space in MiB; an interpreter by itself takes about 50."""
    layers: tuple[str, ...] = LAYERS
    """Protections to put up where the kernel has them, see `confinement.LAYERS`."""
    require: tuple[str, ...] = ("seccomp",)
    """Protections without which nothing runs."""

    def __post_init__(self) -> None:
        wrong = [name for name in (*self.layers, *self.require) if name not in LAYERS]
        if wrong:
            raise RewardenError(f"unknown layer {wrong[0]!r}", where="Limits", fix=f"choose from {', '.join(LAYERS)}")
        if not (0 < self.seconds < 3600 and 1 <= self.cpu_seconds < 3600 and self.memory_mib >= 64):
            raise RewardenError(f"{self}", where="Limits", why="times are above 0 and below an hour, memory at least 64 MiB",
                                fix="choose limits in these ranges")


@dataclass(frozen=True)
class Verdict:
    """What came out of the tests of one candidate."""

    passed: int
    """Tests passed."""
    total: int
    """Tests there were; a failed preparation counts as one more."""
    detail: str
    """The first failure, empty if there was none."""
    layers: tuple[str, ...]
    """Protections that were in force in both processes."""
    seconds: float
    """Wall time, starting included."""

    @property
    def all_passed(self) -> bool:
        """Whether every test ran and passed."""
        return self.passed == self.total > 0


def run_tests(code: str, tests: Sequence[str], *, whole: bool = False, partial: bool = False, limits: Limits | None = None
              ) -> Verdict:
    """Whether code passes tests.

    Args:
        code: Python source, of the standard library only.
        tests: pieces of Python that call what the code defines, see `steps.plan`.
        whole: whether each piece is one test; otherwise each statement that prepares nothing is one.
        partial: run all tests; otherwise stop at the first that fails.
        limits: `Limits()` by default.

    Raises:
        RewardenError: tests that are no Python, test nothing, or need what the sandbox lacks; a machine without the required
            protections.

    Example:
        >>> verdict = run_tests("def double(x): return 2 * x", ["assert double(2) == 4", "assert double(0) == 1"], partial=True)
        >>> verdict.passed, verdict.total, verdict.detail
        (1, 2, 'assert double(0) == 1: AssertionError')
    """
    limits = limits or Limits()
    names, total = _checked(tuple(tests), whole)
    began = time.monotonic()
    started, report, codes = _talk(code, list(tests), names, {"whole": whole, "partial": partial}, limits)
    if started is None:
        raise RewardenError("the sandbox did not start", where="run_tests", why=f"its processes ended with {codes}",
                            fix=f"try whether `{sys.executable} -I -S -c pass` runs, with {limits.memory_mib} MiB of memory")
    layers = tuple(name for name in LAYERS if name in started["layers"])
    missing = sorted(set(limits.require) - set(layers))
    if missing:
        raise RewardenError("this machine cannot close the sandbox", where="run_tests",
                            why=f"not in force: {', '.join(missing)}; in force: {', '.join(layers) or 'nothing'}",
                            fix="run on Linux (x86_64 or aarch64), or accept it inside a container: Limits(require=())")
    if report is None:
        report = {"passed": 0, "total": total, "detail": f"not done within {limits.seconds:g} s, or out of memory or CPU time"}
    if report.get("gold"):
        raise _malformed(report["gold"], "use the standard library; pass numbers, text and containers of them, or functions")
    return Verdict(report["passed"], report["total"], report["detail"], layers, time.monotonic() - began)


def _malformed(why: str, fix: str) -> RewardenError:
    return RewardenError("these tests cannot be used", where="tests", why=why, fix=fix)


@lru_cache(maxsize=4096)
def _checked(tests: tuple[str, ...], whole: bool) -> tuple[list[str], int]:
    """Names the tests need of the candidate, and how many tests there are."""
    try:
        total = sum(step.is_test for step in plan(tests, whole))
        names = wanted(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _malformed(f"they are no Python: {error}", "repair the tests") from error
    if not total:
        raise _malformed("they test nothing", "assert something; a function check(f) has to be called: check(name)")
    if not names:
        raise _malformed("they use no name but their own and Python's", "call what the candidate has to define")
    return names, total


def _talk(code: str, tests: list[str], names: list[str], how: dict[str, Any], limits: Limits) -> tuple[Any, Any, list[Any]]:
    """Start both processes; what confines them, what came out, and how they ended. Leaves nothing running."""
    common = {"limits": {"cpu_seconds": limits.cpu_seconds, "memory": limits.memory_mib << 20}, "layers": limits.layers,
              "require": limits.require, "wanted": names, "parent": os.getpid()}
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="rewarden-"))
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair())
        reading, writing = os.pipe()
        undo.callback(os.close, reading)
        try:
            for job, passed in (({"part": "judge", "tests": tests, "socket": ours.fileno(), "result": writing, **how}, writing),
                                ({"part": "candidate", "code": code, "socket": theirs.fileno()}, None)):
                undo.callback(_end, process := _start(common | job, folder, passed))
                running.append(process)
        finally:
            os.close(writing)
        ours.close()
        theirs.close()
        lines = Lines(reading)
        started = lines.next(STARTING)
        report = lines.next(limits.seconds) if started is not None else None
        undo.close()
    return started, report, [process.returncode for process in running]


def _start(job: dict[str, Any], folder: str, extra: int | None) -> subprocess.Popen[bytes]:
    """An isolated interpreter with its job as standard input, and no other descriptor than its socket and its report."""
    keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # where libpython may be
    passed = (job["socket"],) if extra is None else (job["socket"], extra)
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(job).encode())
        given.seek(0)
        return subprocess.Popen([sys.executable, "-I", "-S", "-B", "-X", "utf8", str(START)], stdin=given, cwd=folder, env=keep,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=passed, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its session, and wait until it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


class Lines:
    """Lines of JSON from a pipe, each within a time."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.held = descriptor, b""

    def next(self, seconds: float) -> Any:
        """The next line; None at the end, after the time, or beyond REPORT bytes."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN | select.POLLHUP)
        while b"\n" not in self.held:
            left = until - time.monotonic()
            if left <= 0 or len(self.held) > REPORT or not poll.poll(left * 1000):
                return None
            part = os.read(self.descriptor, 1 << 12)
            if not part:
                return None
            self.held += part
        line, _, self.held = self.held.partition(b"\n")
        return json.loads(line)
