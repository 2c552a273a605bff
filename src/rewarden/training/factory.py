"""Which function of the user's makes the reward, in a process that another program starts?

In: its name in a configuration, `package.module:function` or `folder/file.py:function`, and arguments. Out: the reward.
Ignorant of rewards and trainers.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError


def find(name: str) -> Callable[..., Any]:
    """The function of that name.

    Raises:
        RewardenError: a name of another form, or nothing of that name that can be called.

    Example:
        >>> find("math:hypot")(3, 4)
        5.0
    """
    home, colon, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not (home and colon and function.isidentifier()):
        raise RewardenError(f"{name!r} names no function", where="name of the function that makes the reward",
                            why="a module or file and a function are needed",
                            fix="write package.module:function or folder/file.py:function")
    try:
        found = getattr(_file(Path(home)) if home.endswith(".py") else importlib.import_module(home), function, None)
    except (ImportError, OSError) as error:
        raise RewardenError(f"{home!r} cannot be imported", where=f"function {name!r}", why=str(error),
                            fix="give a file's whole path, or a module that this process can import") from error
    if not callable(found):
        raise RewardenError(f"there is no function {function!r}", where=home, why=f"found {found!r:.60}",
                            fix="name one that takes the tokenizer and returns a reward")
    return found


def make(name: str, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> Any:
    """The reward: the named function called with the tokenizer, and with the arguments as keywords."""
    return find(name)(tokenizer, **dict(arguments or {}))


def _file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rewarden_reward_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise OSError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
