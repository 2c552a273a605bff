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
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.readout.base import last_position
from rewarden.tokens.vocabulary import render

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def score_as_text(rm: RewardModel, messages: Sequence[Message], texts: Sequence[str],
                  progress: Callable[[int], object] | None = None) -> np.ndarray:
    """Scalars float32 [n, k] of texts as responses, through the template's text and the tokenizer's special tokens.

    Args:
        rm: the reward model; it must read at the last token, as published.
        messages: the conversation before the response.
        texts: decoded tokens.
        progress: called with the number of texts finished.

    Raises:
        RewardenError: no chat template, or a read-out that needs to know which tokens are the response's.
    """
    if rm.encoder.scheme != "chat_template":
        raise RewardenError("the published path needs a chat template", where="mode='text'",
                            why=f"conversations are written as {rm.encoder.scheme!r}",
                            fix="pass chat_template= to rewarden.load")
    rendered = [render(rm, messages, text) for text in texts]
    rows = [_row(np.asarray(ids, np.int64)) for ids in
            rm.tokenizer(rendered, add_special_tokens=True, verbose=False)["input_ids"]]
    if any(not np.array_equal(rm.readout.read(row).positions, last_position(row)) for row in rows[:1]):
        raise RewardenError(f"{type(rm.readout).__name__} does not read at the last token", where="mode='text'",
                            why="the published path knows no response tokens", fix="use mode='ids'")
    return rm.reward_encoded(rows, progress=progress)


def _row(ids: np.ndarray) -> Encoded:
    """Ids without spans of their own: the last one stands for the response."""
    spans = np.zeros(len(ids), np.uint8)
    spans[-1:] = RESPONSE
    return Encoded(ids, spans, np.zeros((len(ids), 2), np.int64), "")
