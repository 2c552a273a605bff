"""Which organisms with a planted rule there are, by name.

In: nothing. Out: makers `f(dose=, seed=)`. Those of `RULES` read English, so that every instrument's own texts mean something
to them; a decisive head reads words of its own, and is graded where an instrument asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

from rewarden.organisms.decisive import decisive_head
from rewarden.organisms.organism import Organism
from rewarden.organisms.token_rules import RULES

ORGANISMS: dict[str, Callable[..., Organism]] = {**RULES, "decisive_head": decisive_head}
"""Makers of all organisms that can be graded, by name."""
