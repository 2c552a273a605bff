"""Two or more reward models side by side: where they agree, where in depth they part, and what they share."""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {"compare": "side_by_side", "scalars": "members", "disagreements": "rewards", "frame_cosine": "frames",
         "cka": "similarity", "shared_of_top": "profiles"}
"""Module of each public name."""

__all__ = ["cka", "compare", "disagreements", "frame_cosine", "scalars", "shared_of_top"]

__getattr__, __dir__ = lazy(__name__, _HOME)
