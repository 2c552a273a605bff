"""How do our rewards run inside OpenRLHF's own processes, without a server?

In: the name of a function that makes the reward. Out: a file with `reward_func(queries, prompts, labels)`, which OpenRLHF loads
where a URL could stand. Ignorant of HTTP. Written for OpenRLHF 0.11.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.serving import ServeOptions
from rewarden.training import factory
from rewarden.training.openrlhf.answer import Answerer

TEMPLATE = '''"""The reward {make}, in OpenRLHF's form. Written by rewarden.training.openrlhf.reward_func_file."""

from rewarden.training.openrlhf import file_reward

reward_func = file_reward({make!r}, {tokenizer!r}, arguments={arguments!r}, scores={scores!r}, missing={missing})
'''


def reward_func_file(path: str | Path, make: str, tokenizer: str | Path, *, arguments: Mapping[str, Any] | None = None,
                     scores: str | None = None, missing: float | None = None) -> Path:
    """Write a file that OpenRLHF takes in place of a reward model's URL: `--reward.remote_url FILE.py`.

    Args:
        path: the file; its name ends with .py.
        make: the function that makes the reward, as `package.module:function` or `folder/file.py:function`; it is called with
            the tokenizer and the arguments, once in each process that loads the file.
        tokenizer: folder or name of the policy's.
        arguments: keywords for it: text, numbers, truth values, None, lists and objects of them.
        scores: a function that makes the reward for dynamic filtering, from 0 to 1.
        missing: reward of a rollout that has no number; None lets the call fail, which OpenRLHF logs and goes on without.

    Returns:
        The file.

    Raises:
        RewardenError: no function of that name, or arguments that cannot be written down.

    Example:
        >>> import tempfile
        >>> path = reward_func_file(Path(tempfile.mkdtemp()) / "reward.py", "my_rewards:make", "models/policy", missing=0.0)
        Traceback (most recent call last):
        rewarden.errors.RewardenError: 'my_rewards' cannot be imported
          where: function 'my_rewards:make'
          why:   No module named 'my_rewards'
          fix:   give a file's whole path, or a module that this process can import
    """
    path = Path(path)
    if path.suffix != ".py":
        raise RewardenError(f"{path.name} is no Python file", where="reward_func_file(path)",
                            why="OpenRLHF tells a file from a URL by its end", fix="give a name that ends with .py")
    for name in filter(None, (make, scores)):
        factory.find(name)
    resolve(ServeOptions, None, {"missing": missing})
    given = dict(arguments or {})
    try:
        same = json.loads(json.dumps(given)) == given
    except (TypeError, ValueError):
        same = False
    if not same:
        raise RewardenError("arguments that cannot be written down", where="reward_func_file(arguments=)",
                            why=f"got {given!r:.200}",
                            fix="pass text, numbers, truth values, None, and lists and objects of them")
    text = TEMPLATE.format(make=make, tokenizer=str(tokenizer), arguments=given, scores=scores,
                           missing="float('nan')" if missing is not None and missing != missing else repr(missing))
    path.write_text(text, encoding="utf-8")
    return path


def file_reward(make: str, tokenizer: str, *, arguments: Mapping[str, Any] | None = None, scores: str | None = None,
                missing: float | None = None) -> Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]:
    """What a written file calls: OpenRLHF's `reward_func`.

    Args:
        make, tokenizer, arguments, scores, missing: see `reward_func_file`.

    Returns:
        `(queries, prompts, labels)` -> `rewards` float32 [n], maybe `scores` [n], and `extra_logs`, numbers as tensors.
    """
    import torch
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tokenizer)
    answer = Answerer(factory.make(make, ids, arguments), ids,
                      scores=None if scores is None else factory.make(scores, ids, arguments),
                      options=resolve(ServeOptions, None, {"missing": missing}))

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        told = answer(queries, prompts, labels)
        scored = {} if told.scores is None else {"scores": torch.as_tensor(told.scores, dtype=torch.float32)}
        return {"rewards": torch.as_tensor(told.rewards, dtype=torch.float32), **scored,
                "extra_logs": {name: torch.tensor(value) for name, value in told.logs.items()}}

    return reward_func
