"""What does a reward model think of each of these answers? Many responses to one prompt, the shared beginning computed once.

In: a reward model, prompts, responses. Out: a Result (prompt, response). Ignorant of what the responses stand for: word
lists, ranked items, identity terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from rewarden.edits.inputs import check_ids
from rewarden.edits.tree import score_rows
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.result import Result
from rewarden.tokens.rounding import compare_with_alone, sample_of
from rewarden.tokens.scan import apart, listed_prompts, with_readout
from rewarden.tokens.scores import ties_of
from rewarden.tokens.slot import Prompt, find_slot, label_of, prompt_messages, token_ids

if TYPE_CHECKING:
    from rewarden.readout import Readout
    from rewarden.reward_model import RewardModel


def score_responses(rm: RewardModel, prompt: Prompt | Sequence[Prompt], responses: Sequence[str | Sequence[int]], *,
                    system: str | None = None, readout: Readout | None = None,
                    progress: Callable[[int], object] | None = None) -> Result:
    """Rewards of many responses to the same prompts.

    Args:
        rm: the reward model.
        prompt: one prompt or several, as for `score_vocabulary`.
        responses: texts, rendered and tokenised as in any conversation; or token ids, put into the slot as they are.
        system: text of a system message put before each prompt.
        readout: another read-out of the same model in place of its own.
        progress: called with the number of responses finished.

    Returns:
        Result of kind "responses": `reward`, `ties` (prompt, response), `distinct` (prompt), `scalars` (prompt, response,
        scalar) where the model has several; coordinates `response` (text) and `tokens` (response), their number. Equal to
        `rm.reward` on each conversation, each token of the tree of responses computed once.

    Raises:
        RewardenError: no responses, an empty one, one too long for the model.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> found = rw.score_responses(rm, "What is best?", ["love", "love and peace", "war"])
        >>> alone = rm.reward([rw.Pair("What is best?", "war", "x").conversations[0]])[0, 0]
        >>> bool(abs(found.reward[0, 2] - alone) < 1e-4)
        True
    """
    rm, prompts = with_readout(rm, readout), listed_prompts(prompt)
    if isinstance(responses, str) or not len(responses):
        raise RewardenError(f"{responses!r:.80} are no responses", where="responses=", fix="pass a list with at least one text")
    given, floor = list(responses), rm.noise_floor
    values, labels, lengths = [], [], np.zeros(len(given), np.int64)
    for text in prompts:
        messages = prompt_messages(text, system)
        rows = _rows(rm, text, system, messages, given)
        lengths = np.asarray([int((row.spans == RESPONSE).sum()) for row in rows])
        found, rounding = _scored(rm, rows, progress)
        values, floor = [*values, found], max(floor, rounding)
        labels.append(label_of(text, messages))
    scalars = np.stack(values)  # [prompt, response, scalar]
    reward = scalars[..., rm.main]
    ties, distinct = ties_of(reward)
    shown = [text if isinstance(text, str) else rm.tokenizer.decode(list(text)) for text in given]
    data = xr.Dataset({"reward": (("prompt", "response"), reward), "ties": (("prompt", "response"), ties),
                       "distinct": ("prompt", distinct)},
                      coords={"prompt": np.asarray(apart(labels), dtype=object), "response": np.asarray(shown, dtype=object),
                              "tokens": ("response", lengths)})
    if len(rm.names) > 1:
        data = data.assign_coords(scalar=list(rm.names)).assign(scalars=(("prompt", "response", "scalar"), scalars))
    lost = int((~np.isfinite(reward)).sum())
    return Result("responses", data, {**rm.provenance(), "system": system or ""}, True, floor,
                  (f"{lost} rewards are not finite: they have no rank",) if lost else ())


def _scored(rm: RewardModel, rows: list[Encoded], progress: Callable[[int], object] | None) -> tuple[np.ndarray, float]:
    """Scalars [n, k] and their noise floor; each row alone where the tree does not fit the model."""
    values = score_rows(rm, rows, progress)
    some = sample_of(len(rows), rm.dtype)
    found = compare_with_alone(rm, [rows[number] for number in some], values[some])
    if found.fits:
        return values, found.floor
    warnings.warn(f"responses together and alone differ by {found.apart:.1e} on {rm.name}: all are run whole, which is slow "
                  "but right", RewardenWarning, stacklevel=3)
    values = rm.reward_encoded(rows)
    return values, compare_with_alone(rm, [rows[number] for number in some], values[some]).floor


def _rows(rm: RewardModel, prompt: Prompt, system: str | None, messages: Sequence, given: Sequence) -> list[Encoded]:
    slot = None
    rows = []
    for number, response in enumerate(given):
        try:
            if isinstance(response, str):
                rows.append(rm.encode([*messages, {"role": "assistant", "content": response}]))
                continue
            slot = slot or find_slot(rm, prompt, system)
            listed = token_ids(response, "ids")
            check_ids(rm, listed)
            rows.append(slot.filled(listed))
        except RewardenError as error:
            raise RewardenError(error.what, where=f"response {number}, {error.where}", why=error.why, fix=error.fix) from error
    return rows
