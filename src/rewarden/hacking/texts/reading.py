"""Where do the bundled texts lie?

In: a file's name. Out: its rows. Ignorant of what they mean.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def bundled(name: str) -> tuple[dict[str, Any], ...]:
    """The rows of a JSONL file of this package; whoever gets them must not change them."""
    text = resources.files("rewarden.hacking.texts").joinpath(name).read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines() if line)
