"""How do messages get from one process to another that it does not trust?

In: a socket. Out: `Channel`, which takes nothing but JSON of bounded length. Ignorant of what is said. Standard library only:
it runs in the sandbox.
"""

from __future__ import annotations

import json
import os
from typing import Any

LARGEST = 4 << 20  # bytes of a message


class Gone(BaseException):
    """The other side has ended, or speaks nonsense; no test may catch it as an Exception."""


class Channel:
    """Messages over a socket: four bytes of length, then JSON."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: Any) -> None:
        """One message.

        Raises:
            ValueError: it is larger than LARGEST. Gone: nobody reads.
        """
        data = json.dumps(message).encode()
        if len(data) > LARGEST:
            raise ValueError(f"a value of {len(data)} bytes is too large to pass")
        data = len(data).to_bytes(4, "big") + data
        try:
            while data:
                data = data[os.write(self.descriptor, data):]
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self) -> Any:
        """The next message; Gone at the end and at anything that is none."""
        size = int.from_bytes(self._read(4), "big")
        if size > LARGEST:
            raise Gone("a message is too large")
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise Gone("a message is malformed") from error

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(self.descriptor, min(size, 1 << 16))
            except OSError as error:
                raise Gone(str(error)) from error
            if not part:
                raise Gone("the candidate's process ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
