"""What a script says at its end: one record of the run, printed, and kept under its date where asked.

In: the numbers, a folder. Out: text on stdout, a JSON file, and a Markdown file where there is a page. Ignorant of meanings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def record(script: str, flags: str, found: dict[str, Any]) -> dict[str, Any]:
    """The numbers below which script made them, with which flags, and when."""
    return {"benchmark": script, "command": f"python benchmarks/{script}.py{flags}",
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **found}


def tell(found: dict[str, Any], stem: str, out: Path | None, page: Callable[[dict[str, Any]], str] | None = None) -> None:
    """Print a record and write it.

    Args:
        found: of `record`.
        stem: file name without its end; DATE in it becomes the day.
        out: folder, made where it is missing; None writes nothing.
        page: makes the Markdown that is printed; without it the JSON is.
    """
    numbers = json.dumps(found, indent=1, ensure_ascii=False)
    text = numbers if page is None else page(found)
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    stem = stem.replace("DATE", time.strftime("%Y-%m-%d", time.gmtime()))
    (out / f"{stem}.json").write_text(f"{numbers}\n", encoding="utf-8")
    if page is not None:
        (out / f"{stem}.md").write_text(text, encoding="utf-8")
