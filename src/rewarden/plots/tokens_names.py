"""How are tokens and models written so that a reader can tell them apart, and what is said of a token in a word?

In: the coordinates of a vocabulary scan; names of models. Out: one-line names in which white space and bytes show, short notes,
short names. Ignorant of rewards and of figures; nothing here is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from rewarden.plots.labels import one_line

SPACE = "␣"
"""How a space at a token's end is written: " love" and "love" are different tokens."""

NOTES = {"special": "special", "byte": "bytes", "trimmed": "trimmed", "round_trip": "not itself as text"}
"""A token's flag -> what a table says of it; of `round_trip`, where it is missing."""


def token_name(text: str, raw: str = "", byte: bool = False, piece: str = "") -> str:
    """A token on one line: spaces at its ends as signs, bytes that are no text in hexadecimal.

    Args:
        text: decoded.
        raw: its bytes in hexadecimal, "" where unknown.
        byte: whether they are no whole text.
        piece: its name in the vocabulary, for a token without text.

    Example:
        >>> token_name(" love"), token_name("�", "e298", byte=True), token_name("\\n\\n"), token_name("", piece="[unused7]")
        ('␣love', 'bytes e2 98', '⏎⏎', '[unused7]')
    """
    if byte and raw:
        return "bytes " + " ".join(raw[place:place + 2] for place in range(0, len(raw), 2))
    if not text:
        return one_line(piece) or "no text"
    bare = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    return SPACE * before + one_line(bare) + SPACE * (len(text) - len(bare) - before)


def token_names(data: xr.Dataset) -> list[str]:
    """`token_name` of every token of a scan.

    Args:
        data: with the coordinate `text` (token), and `bytes`, `byte`, `piece` where known.
    """
    n, byte = data.sizes["token"], flag_of(data, "byte")
    text, raw, piece = (data[name].values if name in data.variables else np.full(n, "", dtype=object)
                        for name in ("text", "bytes", "piece"))
    return [token_name(str(shown), str(held), bool(own), str(called)) for shown, held, own, called in
            zip(text, raw, np.zeros(n, bool) if byte is None else byte, piece, strict=True)]


def flag_of(data: xr.Dataset, flag: str) -> np.ndarray | None:
    """bool [token], where the flag is known; of several models' tokens, whether it holds for any of them."""
    if flag not in data.variables:
        return None
    values = data[flag].values.astype(bool)
    if values.ndim > 1:
        values = (np.logical_and if flag == "round_trip" else np.logical_or).reduce(values, axis=0)
    return values


def token_notes(data: xr.Dataset) -> list[str]:
    """What is said of each token: "special", "bytes", "trimmed", "not itself as text", comma separated.

    Example:
        >>> from rewarden.plots.token_examples import scan_result
        >>> token_notes(scan_result(n=50).data)[:2]
        ['special', 'bytes, not itself as text']
    """
    flags = [(words, flag_of(data, flag)) for flag, words in NOTES.items()]
    said = [(words, ~here if words == NOTES["round_trip"] else here) for words, here in flags if here is not None]
    return [", ".join(words for words, here in said if here[row]) for row in range(data.sizes["token"])]


def is_text(data: xr.Dataset) -> np.ndarray:
    """bool [token]: neither a control token nor bytes that are no text."""
    own = np.ones(data.sizes["token"], dtype=bool)
    for flag in ("special", "byte"):
        here = flag_of(data, flag)
        own &= True if here is None else ~here
    return own


def model_names(models: Sequence[str], length: int = 26) -> list[str]:
    """Short names that stay different: without the owner, long ones cut in the middle, as size and version are at the end.

    Example:
        >>> model_names(["org/reward-model-of-2-billion-v1", "org/reward-model-of-9-billion-v1"], 16)
        ['reward-mo…ion-v1', 'reward-mo…ion-v1 #2']
        >>> model_names(["a/rm", "b/rm"])
        ['a/rm', 'b/rm']
    """
    full = [one_line(str(name)) for name in models]
    bare = [name.rsplit("/", 1)[-1] or name for name in full]
    shown = [name if bare.count(name) == 1 else whole for name, whole in zip(bare, full, strict=True)]
    keep = length - 1
    front = keep * 3 // 5
    cut = [name if len(name) <= length else f"{name[:front]}…{name[front - keep:]}" for name in shown]
    return [name if name not in cut[:place] else f"{name} #{cut[:place].count(name) + 1}" for place, name in enumerate(cut)]
