"""Does foreign code pass its tests? Run in two confined processes that share no memory; see `running`."""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {"Limits": "running", "Verdict": "running", "run_tests": "running"}
__all__ = ["Limits", "Verdict", "run_tests"]

__getattr__, __dir__ = lazy(__name__, _HOME)
