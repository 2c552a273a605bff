"""The program of both confined processes: lock up, then play the part that standard input names.

Run as a script by an isolated interpreter; it makes the modules beside it importable without importing the package.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType


def main() -> None:
    """Read the job, lock up, say so, play the part."""
    folder = os.path.dirname(os.path.abspath(__file__))
    names = ["rewarden", "rewarden.training", "rewarden.training.verifiers", "rewarden.training.verifiers.sandbox"]
    for name in names:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [folder]
    job = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    from rewarden.training.verifiers.sandbox import confinement

    if job["part"] == "judge":
        from rewarden.training.verifiers.sandbox.judge import play
    else:
        from rewarden.training.verifiers.sandbox.candidate import play
    play(job, confinement.confine(job["limits"], job["layers"], job["parent"]))


if __name__ == "__main__":
    main()
