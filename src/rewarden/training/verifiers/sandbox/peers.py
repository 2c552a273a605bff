"""How do two processes that do not trust each other call each other's functions?

In: a channel. Out: `Peer`, which asks and answers, and `Handle`, an object of the other side. Plain data (numbers, text, bytes
and containers of them) is copied; what is no plain data stays where it is. Ignorant of tests. Standard library only: it runs
in the sandbox.
"""

from __future__ import annotations

import builtins
import operator
from collections import deque
from collections.abc import Callable
from typing import Any

from rewarden.training.verifiers.sandbox.wire import Channel, Gone


class Unsendable(BaseException):
    """A test handed over what cannot leave its process."""


class Peer:
    """One side of a conversation in which both may call.

    Args:
        channel: to the other side.
        opaque: whether objects of any kind may be kept here for the other side to use (the candidate), or functions only,
            which it may only call (the judge).
    """

    def __init__(self, channel: Channel, *, opaque: bool) -> None:
        self.channel, self.opaque = channel, opaque
        self.kept: list[Any] = []
        self.errors: dict[int, type[Exception]] = {}
        self.trouble: str | None = None  # what a test could not hand over, even where the test caught the exception
        self.ended = False  # the same of an early end of the other side
        self._numbers: dict[int, int] = {}

    def keep(self, value: Any) -> int:
        """The number of an object that stays here; the same object has the same number."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        return self._numbers[id(value)]

    def encode(self, value: Any) -> Any:
        """Plain data as JSON with tags, everything else as a number."""
        kind = type(value)
        if value is None or kind in (bool, str) or (kind is int and abs(value) < 1 << 53):
            return value
        if kind is int:
            return ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if kind is complex:
            return ["complex", value.real.hex(), value.imag.hex()]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.hex()]
        if kind in (list, tuple, set, frozenset, deque):
            return [kind.__name__, *map(self.encode, value)]
        if kind.__name__ in ("dict_keys", "dict_values", "dict_items"):
            return ["list", *map(self.encode, value)]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["tuple", *map(self.encode, value)]
        if isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
            return ["dict", *([self.encode(key), self.encode(item)] for key, item in value.items())]
        if kind is range:
            return ["range", *(hex(part) for part in (value.start, value.stop, value.step))]
        if (kind.__module__, kind.__name__) in (("fractions", "Fraction"), ("decimal", "Decimal")):
            return [kind.__name__, str(value)]
        if kind is Handle:
            return ["yours", value._number]
        if self.opaque or callable(value):
            return ["mine", self.keep(value)]
        raise Unsendable(f"a test passes a {kind.__name__} to the candidate")

    def decode(self, data: Any) -> Any:
        """The value of what `encode` of the other side made; Gone where it is malformed."""
        try:
            return self._decode(data)
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise Gone("a value is malformed") from error

    def _decode(self, data: Any) -> Any:
        if not isinstance(data, list):
            if isinstance(data, (dict, float)):
                raise ValueError(data)
            return data
        kind, *parts = data
        if kind in ("list", "tuple", "set", "frozenset", "deque"):
            make: Callable[[Any], Any] = deque if kind == "deque" else getattr(builtins, kind)
            return make([self._decode(part) for part in parts])
        if kind == "dict":
            return {self._decode(key): self._decode(value) for key, value in parts}
        if kind == "range":
            return range(*(int(part, 16) for part in parts))
        if kind == "complex":
            return complex(*map(float.fromhex, parts))
        (part,) = parts
        if kind == "int":
            return int(part, 16)
        if kind == "float":
            return float.fromhex(part)
        if kind in ("bytes", "bytearray"):
            return getattr(builtins, kind).fromhex(part)
        if kind == "Fraction":
            from fractions import Fraction

            over, _, under = part.partition("/")
            return Fraction(int(over), int(under or 1))  # not of the text: "1e999999999" would be computed
        if kind == "Decimal":
            from decimal import Decimal

            return Decimal(part)
        if kind == "yours":
            return self.kept[part]
        if kind == "mine":
            return Handle(self, int(part))
        raise ValueError(kind)

    def ask(self, what: str, *arguments: Any) -> Any:
        """The other side's answer; its exceptions are raised here, and containers it changed are changed here."""
        changing = [value for value in _flat(arguments) if type(value) in (list, dict, set, bytearray)]
        try:
            self.channel.send({"ask": what, "with": [self.encode(value) for value in arguments]})
            while "ask" in (message := self.channel.receive()):
                self.answer(message)
            if message.get("ended"):
                raise Gone("the candidate's code exited")
            for place, data in message.get("changed", {}).items():
                _become(changing[int(place)], self.decode(data))
        except Unsendable as error:
            self.trouble = self.trouble or f"{error}, which cannot leave the tests' process"
            raise
        except Gone:
            self.ended = True
            raise
        except (TypeError, LookupError, AttributeError) as error:  # a message of another shape than ours
            self.ended = True
            raise Gone("a message is malformed") from error
        if "error" in message:
            raise self._error(message)
        return self.decode(message.get("value"))

    def _error(self, message: dict[str, Any]) -> Exception:
        text = str(message.get("text", ""))[:1000]
        known = self.errors.get(message["class"]) if isinstance(message.get("class"), int) else None
        kind = known or getattr(builtins, str(message["error"]), RuntimeError)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError
        try:
            return kind(text)
        except TypeError:  # such as UnicodeDecodeError, which is made of five arguments
            return ValueError(text)

    def answer(self, message: dict[str, Any]) -> None:
        """Do what the other side asks, and reply."""
        try:
            what, arguments = message["ask"], [self.decode(data) for data in message["with"]]
            if not self.opaque and (what != "call" or not any(arguments[0] is function for function in self.kept)):
                raise Gone("the candidate asks for what it may not")
            changing = [value for value in _flat(arguments) if type(value) in (list, dict, set, bytearray)]
            before = [self.encode(value) for value in changing]
            reply = {"value": self.encode(ACTIONS[what](*arguments))}
            after = enumerate(map(self.encode, changing))
            changed = {place: data for place, data in after if data != before[place]}
            self.channel.send(reply | {"changed": changed} if changed else reply)
        except Exception as error:  # noqa: BLE001  # foreign code fails in any way; the failure is its answer
            self.channel.send(self._failure(error))
        except Unsendable as error:
            self.channel.send(self._failure(TypeError(str(error))))
        except Gone:
            raise
        except BaseException:  # SystemExit and its like: an early exit, never an exception a test may expect
            if not self.opaque:
                raise
            self.channel.send({"ended": True})

    def _failure(self, error: Exception) -> dict[str, Any]:
        family = type(error).__mro__
        builtin = next(kind.__name__ for kind in family if kind.__module__ == "builtins")
        ours = next((self._numbers[id(kind)] for kind in family if id(kind) in self._numbers), None)
        return {"error": builtin, "class": ours, "text": _text(error)}


def _text(error: Exception) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # noqa: BLE001  # its __str__ is foreign
        return ""


def _flat(arguments: Any) -> list[Any]:
    """Arguments of a call, positional and by name: call(f, [a, b], {"c": d}) -> a, b, d."""
    if len(arguments) != 3 or type(arguments[1]) is not list or type(arguments[2]) is not dict:
        return []
    return [*arguments[1], *arguments[2].values()]


def _become(old: Any, new: Any) -> None:
    """Give a container the content of another of its kind, in place."""
    if type(old) is not type(new):
        raise TypeError("a container changed its kind")
    if isinstance(old, (list, bytearray)):
        old[:] = new
    else:
        old.clear()
        old.update(new)


BINARY = ("eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv")
ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, positional, named: function(*positional, **named), "get": getattr, "set": setattr, "len": len,
    "iter": iter, "next": next, "bool": bool, "str": str, "repr": repr, "isinstance": isinstance,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    **{name: getattr(operator, name) for name in BINARY},
}
"""What may be asked of an object."""


class Handle:
    """An object of the other side. Compared with plain data it is unequal, and it is never told what it is compared with."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._peer.ask("call", self, list(positional), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return self._peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __hash__(self) -> int:
        return self._number

    def __iter__(self) -> Any:
        found = self._peer.ask("iter", self)
        return found if isinstance(found, Handle) else iter(found)

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Handle and self._peer.ask("isinstance", value, self) is True


def _asking(what: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._peer.ask(what, self, *arguments)


def _comparing(what: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: self._peer.ask(what, self, other) if type(other) is Handle else NotImplemented


for _name in ("len", "next", "bool", "str", "repr", "getitem", "setitem", "delitem"):
    setattr(Handle, f"__{_name}__", _asking(_name))
for _name in BINARY:
    setattr(Handle, f"__{_name}__", _comparing(_name))
