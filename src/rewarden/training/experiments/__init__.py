"""The reference experiments: what becomes of a small policy trained on outcomes, on features, on both, and who notices."""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {"ARMS": "arms", "Arm": "arms", "train": "arms", "make_setting": "setting", "measure": "setting", "run_arms": "runs",
         "summary": "runs", "gain": "runs"}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
