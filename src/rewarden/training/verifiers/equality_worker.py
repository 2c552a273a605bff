"""The program that compares expressions with math-verify, one line of JSON at a time, until its input ends.

Run as a script (see `equality`); it imports nothing of this package.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

MEMORY = 4 << 30  # bytes of address space


class Overtime(BaseException):
    """The time is over; no library may catch it as an Exception."""


def main() -> None:
    """Answer until the input ends."""
    job = json.loads(sys.stdin.readline())
    sys.path[:] = job["path"]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _overtime)
    try:
        from math_verify import LatexExtractionConfig, parse, verify
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    target = [LatexExtractionConfig(boxed_match_priority=0)]  # LaTeX only: plain expressions are evaluated as Python

    def read(text: str) -> list[Any]:
        return parse(f"\\boxed{{{text}}}", extraction_config=target, parsing_timeout=None)  # type: ignore[arg-type]

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job, answer = json.loads(line), {"gold": True, "equal": False}
        try:
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])
            gold = read(job["gold"])
            answer["gold"] = bool(gold)
            if gold and job["found"]:
                answer["equal"] = bool(verify(gold, read(job["found"]), timeout_seconds=None))
        except (Exception, Overtime):  # noqa: BLE001  # hostile text fails in any way, and is then not equal
            answer["equal"] = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)


def _overtime(*_: object) -> None:
    raise Overtime


if __name__ == "__main__":
    main()
