"""Directions that stand for concepts: found, tested by cause, erased, and taken out of the reward."""

from rewarden.lazy import lazy

_HOME = {
    "Direction": "directions",
    "direction": "directions",
    "opposite": "directions",
    "reward_cosine": "directions",
    "dose_response": "dose",
    "Eraser": "erasure",
    "erase": "erasure",
    "leace": "erasure",
    "survey": "surveying",
    "verdicts": "surveying",
    "followed": "surveying",
    "Repaired": "repairing",
    "repair": "repairing",
    "verify": "verification",
}
"""Module of each public name."""

__all__ = list(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
