"""Where does a response stand in a conversation, and how is it filled with token ids?

In: a reward model and a prompt. Out: a `Slot`, the ids before and after the response as this model is shown them. Ids put
there are read as they are: nothing is decoded, trimmed or tokenised again. Ignorant of rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Conversation, Message
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

Prompt = str | Conversation | Sequence[Message]
"""The user's text, or messages up to the response."""

PLACEHOLDERS = ("a", "7", "Zebra")
"""Responses of unlike characters: what all three renderings share is not the response's."""


@dataclass(frozen=True, eq=False)
class Slot:
    """A prompt with room for a response.

    Attributes:
        label: the prompt as figures call it.
        messages: the conversation before the response.
        before: the tokens before the response.
        after: the tokens after it.
        limit: longest sequence the model takes, None for no limit.
        tokenizer: names and decodes ids.
        span: whose text is filled in, one of `rewarden.encoding`'s.
    """

    label: str
    messages: tuple[Message, ...]
    before: Encoded
    after: Encoded
    limit: int | None
    tokenizer: Any
    span: int = RESPONSE

    @property
    def start(self) -> int:
        """Position of the response's first token."""
        return self.before.length

    def filled(self, ids: Sequence[int] | np.ndarray) -> Encoded:
        """The conversation with these ids as the response.

        Raises:
            RewardenError: no ids, ids out of range, or more than the model takes.
        """
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        total = self.before.length + len(ids) + self.after.length
        if not len(ids):
            raise RewardenError("empty response", where="Slot.filled", fix="pass at least one token id")
        if self.limit is not None and total > self.limit:
            raise RewardenError(f"a response of {len(ids)} tokens makes a conversation of {total}", where="response",
                                why=f"the model takes {self.limit} tokens", fix="shorten the prompt or the response")
        ends = _ends(self.tokenizer, ids)
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        start = len(self.before.text)
        offsets = start + np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)
        names = tuple(str(name) for name in self.tokenizer.convert_ids_to_tokens(ids.tolist()))
        before, after = self.before, self.after
        shown = after.offsets + len(text) * (after.offsets[:, 1:] > after.offsets[:, :1])
        types = None
        if before.type_ids is not None and after.type_ids is not None:
            own = after.type_ids[:1] if len(after.type_ids) else before.type_ids[-1:]
            types = np.concatenate([before.type_ids, np.repeat(own, len(ids)), after.type_ids])
        return Encoded(np.concatenate([before.ids, ids, after.ids]),
                       np.concatenate([before.spans, np.full(len(ids), self.span, np.uint8), after.spans]),
                       np.concatenate([before.offsets, offsets, shown]), before.text + text + after.text,
                       before.truncated, types, before.names + names + after.names)


def find_slot(rm: RewardModel, prompt: Prompt, system: str | None = None, room: int = 1) -> Slot:
    """The slot of a prompt.

    Args:
        rm: the reward model: its template, BOS policy and read-out decide what it is shown.
        prompt: the user's text, or messages; a system message is put first.
        system: text of a system message.
        room: response tokens to leave room for.

    Raises:
        RewardenError: an empty prompt, one too long for the model, a system message given twice, a template without a place
            for the response.
    """
    messages = prompt_messages(prompt, system)
    rows = [rm.encode([*messages, {"role": "assistant", "content": text}]) for text in PLACEHOLDERS]
    first, limit = rows[0], rm.encoder.max_length
    if any(row.truncated for row in rows):  # each is cut elsewhere, so that nothing is shared
        longest = max(row.length + row.truncated for row in rows)
        raise RewardenError(f"a conversation of {longest} tokens leaves no room for a response",
                            where="prompt=", why=f"the model takes {limit} tokens", fix="shorten the prompt")
    shared = min(_shared(first.ids, row.ids) for row in rows[1:])
    ending = min(_shared(first.ids[::-1], row.ids[::-1]) for row in rows[1:])
    # the response is what differs, and whatever of it happens not to
    start, stop = min(shared, first.response_start), max(first.length - ending, first.response_end)
    if start >= stop:
        raise RewardenError("the response's place cannot be told", where="chat template",
                            why=f"the template wrote {first.text[-120:]!r} for the responses {PLACEHOLDERS}",
                            fix="check that the chat template writes assistant messages")
    if limit is not None and start + room + first.length - stop > limit:
        raise RewardenError(f"a prompt of {start} tokens leaves no room for {room} response tokens", where="prompt=",
                            why=f"the model takes {limit} tokens", fix="shorten the prompt")
    border = _borders(first, start, stop)
    return Slot(label_of(prompt, messages), messages, _part(first, slice(0, start), first.text[:border[0]], 0),
                _part(first, slice(stop, first.length), first.text[border[1]:], border[0] - border[1]), limit, rm.tokenizer)


def slot_at(rm: RewardModel, row: Encoded, position: int, label: str = "") -> Slot:
    """One token of an encoded conversation as a slot, in the prompt or in the response.

    Args:
        rm: the model that encoded it.
        row: the conversation.
        position: of the token.
        label: what figures call it.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> row = rm.encode(rw.Conversation.of("Hi", "Hello there!"))
        >>> bool((slot_at(rm, row, 3).filled(row.ids[3:4]).ids == row.ids).all())
        True
    """
    border = _borders(row, position, position + 1)
    return Slot(label, (), _part(row, slice(0, position), row.text[:border[0]], 0),
                _part(row, slice(position + 1, row.length), row.text[border[1]:], border[0] - border[1]),
                rm.encoder.max_length, rm.tokenizer, int(row.spans[position]))


def token_ids(ids: Iterable[int] | np.ndarray, where: str) -> np.ndarray:
    """Token ids as int64 [n].

    Raises:
        RewardenError: none, or something that is no list of whole numbers (a mask, a text).
    """
    try:
        found = ids if isinstance(ids, np.ndarray) else np.asarray(list(ids))
    except TypeError:
        found = np.empty(0, object)
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise RewardenError(f"{str(ids)[:80]!r} are no token ids", where=where, why="ids are whole numbers, at least one",
                            fix="pass a list such as [17, 42]; of a mask, np.flatnonzero(mask)")
    return found.astype(np.int64)


def label_of(prompt: Prompt, messages: Sequence[Message]) -> str:
    """What figures call a prompt: its text, or all that the user says."""
    return prompt if isinstance(prompt, str) else "\n\n".join(m["content"] for m in messages if m["role"] == "user")


def prompt_messages(prompt: Prompt, system: str | None = None) -> tuple[Message, ...]:
    """The messages before the response.

    Raises:
        RewardenError: no text, or two system messages.
    """
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
    elif isinstance(prompt, Conversation | Sequence):
        messages = tuple(prompt.messages if isinstance(prompt, Conversation) else prompt)
    else:
        messages = ()
    if not messages or not all(_is_message(message) for message in messages):
        raise RewardenError("this is no prompt", where="prompt=", why=f"got {str(prompt)[:80]!r}",
                            fix="pass a text that is not empty, or messages {'role': ..., 'content': ...} with texts")
    if messages[-1]["role"] == "assistant":
        raise RewardenError("the prompt ends with an assistant message", where="prompt=",
                            why="the response is what is searched or scored", fix="leave the last message out")
    if system:
        if messages[0]["role"] == "system":
            raise RewardenError("two system messages", where="system=", fix="give the system message in one place")
        messages = ({"role": "system", "content": system}, *messages)
    return messages


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    text = message.get("content")
    return isinstance(text, str) and bool(text.strip()) and not any("\ud800" <= c <= "\udfff" for c in text)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _borders(row: Encoded, start: int, stop: int) -> tuple[int, int]:
    """Characters of the text at which the response begins and ends."""
    covered = row.offsets[start:stop]
    covered = covered[covered[:, 1] > covered[:, 0]]
    return (int(covered[0, 0]), int(covered[-1, 1])) if len(covered) else (len(row.text), len(row.text))


def _part(row: Encoded, where: slice, text: str, shift: int) -> Encoded:
    offsets = row.offsets[where]
    shown = offsets + np.where((offsets[:, 1:] > offsets[:, :1]), shift, 0)
    return Encoded(row.ids[where], row.spans[where], shown, text, row.truncated,
                   None if row.type_ids is None else row.type_ids[where], row.names[where])


def _ends(tokenizer: Any, ids: np.ndarray) -> np.ndarray:
    """Characters of the decoded response up to the end of each token, int64 [n], never falling."""
    if len(ids) == 1:
        return np.asarray([len(tokenizer.decode(ids.tolist(), skip_special_tokens=False))])
    prefixes = [ids[:end].tolist() for end in range(1, len(ids) + 1)]
    return np.maximum.accumulate([len(tokenizer.decode(prefix, skip_special_tokens=False)) for prefix in prefixes])
