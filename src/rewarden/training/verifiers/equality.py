"""Are two expressions equal, asked of math-verify in processes of its own?

In: two LaTeX expressions. Out: whether the first can be read, and whether they are equal. math-verify stops its own searches by
signals, which only work in a main thread and not in the middle of a long multiplication; a process can be killed. Processes are
started when needed, kept, and ended with this one.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
from pathlib import Path

from rewarden.errors import RewardenError
from rewarden.training.verifiers.sandbox.running import Lines

PROGRAM = Path(__file__).with_name("equality_worker.py")
STARTING = 120.0  # seconds to import sympy on a busy machine
GRACE = 2.0  # seconds beyond the limit before a worker is killed
MOST = 4  # workers kept; each holds about 90 MB

_IDLE: dict[int, queue.LifoQueue[_Worker]] = {}
"""Workers that wait, by the process that started them: a fork must not share its parent's."""


def most_workers() -> int:
    """How many comparisons are worth running at the same time."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST, usable))


def same(gold: str, found: str, seconds: float) -> tuple[bool, bool]:
    """Whether gold can be read, and whether both are equal; what takes longer than `seconds`, or needs too much memory, is not.

    Raises:
        RewardenError: math-verify is not installed, or its process does not start.

    Example:
        >>> same("x^2+2x+1", "(x+1)^2", 5.0), same("1", "2", 5.0)
        ((True, True), (True, False))
    """
    idle = _IDLE.setdefault(os.getpid(), queue.LifoQueue())
    try:
        worker = idle.get_nowait()
    except queue.Empty:
        worker = _Worker()
    answer = worker.ask(gold, found, seconds)
    if answer is None:
        worker.end()
        return True, False
    if idle.qsize() < MOST:
        idle.put(worker)
    else:
        worker.end()
    return bool(answer["gold"]), bool(answer["equal"])


class _Worker:
    """One process that compares."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-P", "-X", "utf8", str(PROGRAM)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        assert self.process.stdout is not None
        self.lines = Lines(self.process.stdout.fileno())
        ready = self.lines.next(STARTING) if self._send({"path": sys.path}) else None
        if ready is None or "missing" in ready:
            self.end()
            why = "its process did not start" if ready is None else ready["missing"]
            raise RewardenError("math-verify cannot be used", where="boxed_math", why=why,
                                fix='pip install "rewarden[verifiers]"')

    def _send(self, message: object) -> bool:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def ask(self, gold: str, found: str, seconds: float) -> dict[str, bool] | None:
        """The answer, None where there was none in time."""
        if not self._send({"gold": gold, "found": found, "seconds": seconds}):
            return None
        answer = self.lines.next(seconds + GRACE)
        return answer if isinstance(answer, dict) else None

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


@atexit.register
def end_workers() -> None:
    """End the processes that wait; more are started when they are needed."""
    idle = _IDLE.get(os.getpid())
    while idle is not None:
        try:
            idle.get_nowait().end()
        except queue.Empty:
            return
