"""Our rewards for OpenRLHF: a server in the schema of its remote reward models, and a `reward_func` file.

Written for OpenRLHF 0.11.2. The scorer is fixed: the model it reads is the one of the serving process, not the policy that
trains, unless weights are copied into it. A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewarden.lazy import lazy

if TYPE_CHECKING:
    from rewarden.training.openrlhf.answer import Answerer
    from rewarden.training.openrlhf.reward_file import file_reward, reward_func_file
    from rewarden.training.openrlhf.server import app, serve

_HOME = {
    "app": "server",
    "serve": "server",
    "reward_func_file": "reward_file",
    "file_reward": "reward_file",
    "Answerer": "answer",
}
__all__ = ["app", "serve", "reward_func_file", "file_reward", "Answerer"]

__getattr__, __dir__ = lazy(__name__, _HOME)
