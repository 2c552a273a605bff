"""What is each token of a vocabulary, and does the conversation's text path keep it as it is?

In: a reward model's tokenizer and template. Out: `Vocabulary`: text, name, bytes and flags of each id. Ignorant of rewards.
Source of the text path's losses: research on arXiv 2506.07326's pipeline, which decodes, renders and tokenises each id again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Conversation, Message
from rewarden.readout import Readout
from rewarden.tokens.slot import find_slot

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

PROBES = (" x", "x ", "\nx", "x\n", "\tx", " \n x\n ")
"""Texts that tell how a template treats white space around a message."""

BATCH = 8192
"""Texts tokenised at once."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens as a reader and as the text path see them.

    Attributes:
        token_id: int64 [n].
        text: decoded.
        piece: names in the vocabulary.
        bytes: hexadecimal, "" where a token stands for none (control tokens, rows without a token).
        special: bool [n], control tokens and embedding rows without a token.
        byte: bool [n], tokens whose bytes are no whole text.
        trimmed: bool [n], tokens whose text the template changes.
        round_trip: bool [n], tokens that come back as themselves when the rendered conversation is tokenised.
    """

    token_id: np.ndarray
    text: list[str]
    piece: list[str]
    bytes: list[str]
    special: np.ndarray
    byte: np.ndarray
    trimmed: np.ndarray
    round_trip: np.ndarray

    @property
    def flags(self) -> dict[str, np.ndarray]:
        """The flags by name."""
        return {name: getattr(self, name) for name in ("special", "byte", "trimmed", "round_trip")}


def every_id(rm: RewardModel) -> np.ndarray:
    """Ids that have both a token and an embedding, int64 [V]."""
    rows = int(rm.architecture.embedding.num_embeddings)  # type: ignore[arg-type]
    return np.arange(min(len(rm.tokenizer), rows), dtype=np.int64)


def describe_ids(rm: RewardModel, ids: Sequence[int] | np.ndarray) -> Vocabulary:
    """Text, name, bytes and flags of ids under a reward model's tokenizer and template.

    Args:
        rm: the reward model; the flags hold for its template and BOS policy, tried in a short conversation.
        ids: int [n].

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> hello = rm.tokenizer.encode("hello", add_special_tokens=False)
        >>> "".join(describe_ids(rm, hello).text)
        'hello'
    """
    ids = np.asarray(ids, np.int64)
    tokenizer = rm.tokenizer
    piece = ["" if name is None else str(name) for name in tokenizer.convert_ids_to_tokens(ids.tolist())]
    text = tokenizer.batch_decode([[i] for i in ids.tolist()], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    control = set(tokenizer.all_special_ids) | {
        int(i) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    special = np.asarray([i in control or not name for i, name in zip(ids.tolist(), piece, strict=True)], bool)
    raw = token_bytes(tokenizer, piece, text)
    raw = [b"" if flag else value for flag, value in zip(special, raw, strict=True)]
    byte = np.asarray([not flag and not _is_text(value) for flag, value in zip(special, raw, strict=True)], bool)
    rendered, trimmed = _rendered(rm, text)
    return Vocabulary(ids, text, piece, [value.hex() for value in raw], special, byte, trimmed,
                      _round_trip(rm, ids, text, rendered))


def token_bytes(tokenizer: Any, piece: Sequence[str], text: Sequence[str]) -> list[bytes]:
    """The bytes each token stands for, from its name where the vocabulary's way of writing bytes is known, else its text.

    Known ways: GPT-2's printable bytes, and SentencePiece's "▁" with <0x..> for single bytes.
    """
    printable = _printable_bytes()
    marked = sum("\u2581" in name for name in piece)
    spaced = sum(name.startswith(("Ġ", "Ċ")) for name in piece)
    if spaced and spaced >= marked:
        return [bytes(printable[c] for c in name) if name and all(c in printable for c in name) else _encoded(shown)
                for name, shown in zip(piece, text, strict=True)]
    if marked:
        return [bytes([int(name[3:5], 16)]) if len(name) == 6 and name.startswith("<0x") and name.endswith(">")
                else _encoded(name.replace("\u2581", " ")) for name in piece]
    return [_encoded(shown) for shown in text]


def _printable_bytes() -> dict[str, int]:
    """GPT-2's character of each byte, the other way round."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return {**{chr(b): b for b in kept}, **{chr(256 + n): b for n, b in enumerate(others)}}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_text(value: bytes) -> bool:
    try:
        return "\ufffd" not in value.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _rendered(rm: RewardModel, text: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The conversation with each text as the response, and whether the template changed the text."""
    if rm.encoder.scheme == "text_pair":
        return list(text), np.zeros(len(text), bool)
    before, after, change = _template(rm)
    if change is None:
        whole = [_render(rm, shown) for shown in text]
        same = [before + shown + after for shown in text]
    else:
        whole = [before + change(shown) + after for shown in text]
        same = [before + shown + after for shown in text]
    return whole, np.asarray([a != b for a, b in zip(whole, same, strict=True)], bool)


def _template(rm: RewardModel) -> tuple[str, str, Any]:
    """Text before and after the response, and what the template does to a response's ends; None where that is no trimming."""
    marked = _render(rm, "\ue000")
    before, _, after = marked.partition("\ue000")
    for change in (lambda text: text, lambda text: text.strip(), lambda text: text.lstrip(), lambda text: text.rstrip()):
        if all(_render(rm, probe) == before + change(probe) + after for probe in PROBES):
            return before, after, change
    return before, after, None


SHORT = "Hi"
"""The user's text of the conversation that flags are tried in."""


def _render(rm: RewardModel, response: str) -> str:
    return render(rm, ({"role": "user", "content": SHORT},), response)


def render(rm: RewardModel, messages: Sequence[Message], response: str) -> str:
    """The text of a conversation whose response may be nothing but white space, as that of a token may.

    A judge is asked about no such response: there is no text then, "".
    """
    talk = [*messages, {"role": "assistant", "content": response}]
    if type(rm.readout).messages is Readout.messages:
        return rm.encoder.render(talk)
    if not response.strip():
        return ""
    return rm.encoder.render(rm.readout.messages(Conversation(talk)))


def _round_trip(rm: RewardModel, ids: np.ndarray, text: Sequence[str], rendered: Sequence[str]) -> np.ndarray:
    """Whether the rendered conversation's ids are those of the slot filled with the id."""
    slot = find_slot(rm, SHORT)
    start, end = slot.before.ids.tolist(), slot.after.ids.tolist()
    found: list[list[int]] = []
    for rows in _batched(rendered, BATCH):
        found += (rm.tokenizer([SHORT] * len(rows), list(rows), verbose=False)["input_ids"]
                  if rm.encoder.scheme == "text_pair" else rm.encoder.tokenise(rows))
    return np.asarray([row == [*start, i, *end] for row, i in zip(found, ids.tolist(), strict=True)], bool)


def _batched(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (values[start:start + size] for start in range(0, len(values), size))
