"""Options of answering a trainer's questions about rewards over HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rewarden.options.checks import check, is_whole, whole


@dataclass(frozen=True)
class ServeOptions:
    """Where a reward server listens and what it refuses."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own (127.0.0.1, ::1, localhost) needs a token."""
    port: int = 5000
    """Port to listen on."""
    path: str = "/get_reward"
    """Path of the one question it answers."""
    max_bytes: int = 8 * 2**20
    """Bytes of a request's body, at most."""
    max_rollouts: int = 256
    """Rollouts of a request, at most."""
    max_tokens: int = 32768
    """Tokens of a rollout, prompt included, at most."""
    missing: float | None = None
    """Reward of a rollout that has no number (no token, or text that cannot be split); None refuses the request instead."""

    def __post_init__(self) -> None:
        wrong = whole(self, max_bytes=1024, max_rollouts=1, max_tokens=2)
        if not is_whole(self.port, 0) or self.port > 65535:
            wrong["port"] = "a whole number from 0 to 65535"
        if not isinstance(self.host, str) or not self.host.strip():
            wrong["host"] = "an address, such as 127.0.0.1"
        if not isinstance(self.path, str) or not self.path.startswith("/") or set("{}?# ") & set(self.path):
            wrong["path"] = "a path, such as /get_reward"
        if self.missing is not None and (isinstance(self.missing, bool) or not isinstance(self.missing, (int, float))
                                         or math.isinf(self.missing)):
            wrong["missing"] = "a number, NaN, or None to refuse"
        check(self, **wrong)
