"""The published scoring path, for comparison: decode the id, render the conversation, tokenise the text again.

In: a reward model, messages, texts. Out: scalars of each text's conversation. Tokens are not scored as themselves where the
template trims or the tokenizer merges, and a tokenizer that adds a BOS doubles the template's: both are the path's own.
Source: arXiv 2506.07326's code, one forward per candidate there; equal rows are run once here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rewarden.conversation import Message
from rewarden.encoding import PROMPT, RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.readout import Readout
from rewarden.tokens.rounding import compare_with_alone, sample_of
from rewarden.tokens.vocabulary import render

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def score_as_text(rm: RewardModel, messages: Sequence[Message], texts: Sequence[str],
                  progress: Callable[[int], object] | None = None) -> tuple[np.ndarray, float]:
    """Texts as responses, through the template's text and the tokenizer's special tokens.

    Args:
        rm: the reward model; it must be shown the conversation itself and read it at the last token, as published.
        messages: the conversation before the response.
        texts: decoded tokens.
        progress: called with the number of texts finished.

    Returns:
        Scalars float32 [n, k], and their noise floor.

    Raises:
        RewardenError: no chat template, or a read-out that needs to know which tokens are the response's.
    """
    if rm.encoder.scheme != "chat_template":
        raise RewardenError("the published path needs a chat template", where="mode='text'",
                            why=f"conversations are written as {rm.encoder.scheme!r}",
                            fix="pass chat_template= to rewarden.load")
    if not _reads_last(rm.readout):
        raise RewardenError(f"{type(rm.readout).__name__} does not read a conversation at its last token", where="mode='text'",
                            why="the published path knows no response tokens", fix="use mode='ids'")
    rendered = [render(rm, messages, text) for text in texts]
    rows = [_row(np.asarray(ids, np.int64), RESPONSE) for ids in
            rm.tokenizer(rendered, add_special_tokens=True, verbose=False)["input_ids"]]
    values = rm.reward_encoded(rows, progress=progress)
    some = sample_of(len(rows), rm.dtype)
    return values, compare_with_alone(rm, [rows[number] for number in some], values[some]).floor


def _reads_last(readout: Readout) -> bool:
    """Whether the conversation is shown as it is, and the last token is all that is read, whichever tokens the response is."""
    if readout.reads_ids or type(readout).messages is not Readout.messages:
        return False
    try:
        read = [readout.read(_row(np.arange(5), code)).positions.tolist() for code in (RESPONSE, PROMPT)]
    except (IndexError, RewardenError):  # it looks for the response, or for a mark
        return False
    return read == [[4], [4]]


def _row(ids: np.ndarray, code: int) -> Encoded:
    """Ids of unknown kinds: all of the response, or none."""
    return Encoded(ids, np.full(len(ids), code, np.uint8), np.zeros((len(ids), 2), np.int64), "")
