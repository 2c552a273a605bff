"""The judge's process: runs the tests, whose names of the candidate stand for calls into the candidate's process.

Standard library only: it runs in the sandbox.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from importlib.util import find_spec
from typing import Any

from rewarden.training.verifiers.sandbox.execution import execute
from rewarden.training.verifiers.sandbox.peers import Peer, Unsendable
from rewarden.training.verifiers.sandbox.steps import Step, imported, plan
from rewarden.training.verifiers.sandbox.wire import Channel, Gone

LONGEST = 500  # characters of a detail


def play(job: dict[str, Any], layers: list[str]) -> None:
    """Say what confines both processes, run the tests, report: one line of JSON each."""
    channel = Channel(job["socket"])
    both = [layer for layer in channel.receive()["layers"] if layer in layers]
    _report(job["result"], {"layers": both})
    if set(job["require"]) <= set(both):
        _report(job["result"], _judge(job, Peer(channel, opaque=False)))


def _report(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


def _judge(job: dict[str, Any], peer: Peer) -> dict[str, Any]:
    steps = plan(job["tests"], job["whole"])
    found: dict[str, Any] = {"passed": 0, "total": sum(step.is_test for step in steps), "detail": "", "gold": None}
    missing = [name for name in imported(job["tests"]) if find_spec(name) is None]
    if missing:
        return found | {"gold": f"the tests import {', '.join(missing)}, which the sandbox's Python does not have"}
    try:
        hello = peer.channel.receive()
        if not isinstance(hello, dict) or "failed" in hello:
            return found | {"detail": str(hello.get("failed") if isinstance(hello, dict) else hello)[:LONGEST]}
        namespace = {"__name__": "tests", "__builtins__": builtins, **_names(hello["names"], job["wanted"], peer)}
    except (Gone, LookupError, TypeError, AttributeError) as error:
        return found | {"detail": str(error)[:LONGEST] or "the candidate's process did not answer as agreed"}
    for step in steps:
        problem = _run(step, namespace, peer)
        if peer.trouble:
            return found | {"passed": 0, "gold": peer.trouble}
        if problem is None:
            found["passed"] += step.is_test
            continue
        found["detail"] = found["detail"] or f"{step.text}: {problem}"[:LONGEST]
        found["total"] += not step.is_test  # a failed preparation counts as a failed test
        if not job["partial"]:
            break
    return found


def _names(offered: dict[str, Any], wanted: list[str], peer: Peer) -> dict[str, Any]:
    """Names for the tests: only those asked for, so that no builtin can be replaced."""
    names = {}
    for name in wanted:
        offer = offered.get(name, {})
        if "value" in offer:
            names[name] = peer.decode(offer["value"])
        elif "error" in offer:
            base = getattr(builtins, offer["error"])
            if not issubclass(base, Exception):
                raise Gone("a class is malformed")
            names[name] = peer.errors[int(offer["class"])] = type(name, (base,), {})
        elif name in sys.stdlib_module_names:  # tests that count on the candidate's own "import math"
            names[name] = importlib.import_module(name)
    return names


def _run(step: Step, namespace: dict[str, Any], peer: Peer) -> str | None:
    """What went wrong in a step, None if nothing."""
    try:
        if step.kind == "statement":
            execute(step.tree, "<tests>", namespace)
        elif step.kind == "function":
            namespace[step.text]()
        else:
            return _method(*step.text.split("."), namespace)
    except (Gone, Unsendable) as error:
        return str(error)
    except BaseException as error:  # noqa: BLE001  # any failure of a test is its result
        return f"{type(error).__name__} {_text(error)}".strip()
    return "the candidate's process ended" if peer.ended else None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST]
    except Exception:  # noqa: BLE001  # a message may hold the candidate's own objects
        return ""


def _method(case: str, method: str, namespace: dict[str, Any]) -> str | None:
    import unittest  # slow to import, and seldom needed

    result = unittest.TestResult()
    unittest.TestSuite([namespace[case](method)]).run(result)
    wrong = [text for _, text in result.failures + result.errors]
    if wrong or result.testsRun != 1 or result.skipped or not result.wasSuccessful():
        return (wrong or ["it did not run"])[0].strip().splitlines()[-1]
    return None
