"""The candidate's process: runs foreign code and lets the judge call it. It never sees a test, only what is passed in calls.

Standard library only: it runs in the sandbox.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from rewarden.training.verifiers.sandbox.execution import execute
from rewarden.training.verifiers.sandbox.peers import Peer
from rewarden.training.verifiers.sandbox.wire import Channel, Gone

NAME = "candidate"


def play(job: dict[str, Any], layers: list[str]) -> None:
    """Say what confines this process, run the code, say what it defines, then answer."""
    channel = Channel(job["socket"])
    channel.send({"layers": layers})
    if not set(job["require"]) <= set(layers):
        return
    peer = Peer(channel, opaque=True)
    module = ModuleType(NAME)
    sys.modules[NAME] = module
    try:
        execute(job["code"], "<candidate>", module.__dict__)
        hello = {"names": {name: _offer(peer, vars(module)[name]) for name in job["wanted"] if name in vars(module)}}
    except BaseException as error:  # noqa: BLE001  # foreign code fails in any way, SystemExit included
        hello = {"failed": f"{type(error).__name__} while the code was run"}
    try:
        channel.send(hello)
        while True:
            peer.answer(channel.receive())
    except Gone:
        return


def _offer(peer: Peer, value: Any) -> Any:
    """A name's value for the judge; of an exception class the builtin one that it extends."""
    if isinstance(value, type) and issubclass(value, Exception):
        base = next(kind.__name__ for kind in value.__mro__ if kind.__module__ == "builtins")
        return {"error": base, "class": peer.keep(value)}
    return {"module": True} if isinstance(value, ModuleType) else {"value": peer.encode(value)}
