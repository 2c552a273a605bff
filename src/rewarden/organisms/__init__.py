"""Organisms: small reward models whose rule is planted, so that every instrument can be graded.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "Organism": "organism",
    "decisive_head": "decisive",
    "FormatBias": "format_bias",
    "format_bias": "format_bias",
    "EnglishOrganism": "english",
    "grade": "grading",
    "grade_table": "scoring",
    "RULES": "token_rules",
    "ORGANISMS": "makers",
    **dict.fromkeys(("length", "keyword", "format", "sycophancy", "position", "conflict", "backdoor", "noise"), "token_rules"),
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
