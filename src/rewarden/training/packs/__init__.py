"""Feature packs: features of a dictionary as a reward, in one file that is checked before it is used.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "Pack": "pack",
    "PackModel": "pack",
    "PackSite": "pack",
    "PackDictionary": "pack",
    "PackFeature": "pack",
    "PackAggregation": "pack",
    "Normalisation": "pack",
    "list_packs": "pack",
    "Evidence": "evidence",
    "evidence_of": "evidence",
    "Finding": "findings",
    "validate": "findings",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
