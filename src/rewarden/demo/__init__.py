"""Where the bundled models and preference pairs are, and what is known of them.

In: a name. Out: a path inside the installed package, or the manifest. Ignorant of how any of it is loaded or made
(see `rewarden.load`, `rewarden.load_pairs` and `demo/recipe`).
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError

_HERE = Path(str(files("rewarden.demo")))  # a wheel is always unpacked: torch and tokenizers need real files


def manifest() -> dict[str, Any]:
    """What the bundled models are: hashes, sources, licences, held-out accuracy, known failures.

    Returns:
        The manifest; `["models"]` maps each name to its facts.

    Example:
        >>> sorted(manifest()["models"])
        ['dictionary', 'language_model', 'policy', 'policy_dictionary', 'reward_model', 'reward_model_b', 'sarm']
    """
    return json.loads((_HERE / "models" / "manifest.json").read_text(encoding="utf-8"))


def model_path(name: str = "reward_model") -> Path:
    """The folder of a bundled model, loadable by transformers as well.

    Args:
        name: "reward_model", "reward_model_b", "language_model" (what both started from), "sarm" (a sparse reward model
            made from the first; `rewarden.sarm.load`), or "policy" (adds two-digit numbers; `rewarden.training.arithmetic`).

    Raises:
        RewardenError: no bundled model has that name.

    Example:
        >>> model_path("reward_model").name
        'reward_model'
    """
    names = sorted(path.parent.name for path in (_HERE / "models").glob("*/config.json"))
    if name not in names:
        raise RewardenError(f"no bundled model is called {name!r}", where="model_path",
                            why=f"bundled: {', '.join(names)}", fix="use one of those names")
    return _HERE / "models" / name


def dictionary_path(name: str = "dictionary") -> Path:
    """The folder of a bundled dictionary, for `rewarden.Dictionary.load`.

    Args:
        name: "dictionary" (1,024 features of the reward model's third layer) or "policy_dictionary" (256 features of the
            policy's third layer).

    Raises:
        RewardenError: no bundled dictionary has that name, or this installation is incomplete.

    Example:
        >>> dictionary_path().name, dictionary_path("policy_dictionary").name
        ('dictionary', 'policy_dictionary')
    """
    bundled = ("dictionary", "policy_dictionary")
    if name not in bundled:
        raise RewardenError(f"no bundled dictionary is called {name!r}", where="dictionary_path",
                            why=f"bundled: {', '.join(bundled)}", fix="use one of those names")
    path = _HERE / "models" / name
    if not path.is_dir():
        raise RewardenError(f"the bundled {name} is missing", where=str(path),
                            why="this installation of rewarden is incomplete", fix="install rewarden again")
    return path


def preferences_path() -> Path:
    """The bundled preference pairs, written for this project: JSON lines of prompt, chosen, rejected, subset.

    Example:
        >>> preferences_path().suffix
        '.jsonl'
    """
    folder = _HERE / "data"
    path = folder / "preferences.jsonl"
    if not path.is_file():
        raise RewardenError("the bundled preference pairs are missing", where=str(path),
                            why="this installation of rewarden is incomplete", fix="install rewarden again")
    return path
