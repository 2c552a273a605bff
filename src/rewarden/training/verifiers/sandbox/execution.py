"""The one place where foreign code is run; only inside the sandbox.

In: Python source or a syntax tree, and the names it runs among. Standard library only.
"""

from __future__ import annotations

import ast
import sys
from typing import Any


def execute(code: str | ast.Module, file: str, names: dict[str, Any]) -> None:
    """Run code among `names`.

    Raises:
        RuntimeError: in an ordinary interpreter. Otherwise whatever the code raises.
    """
    if not (sys.flags.isolated and sys.flags.no_site):
        raise RuntimeError("foreign code runs in the sandbox only")
    exec(compile(code, file, "exec"), names)  # noqa: S102 (what the sandbox is for)
