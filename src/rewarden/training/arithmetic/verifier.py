"""Is an answer right, did the policy end it itself, and is it worked or direct?

In: the text of a completion and what is right. Out: 1 or 0; what was read; style codes. Ignorant of models.

Whether a policy ended its answer is seen from the text: the end token is the last thing in it, `046<eos>`, as
`tokenizer.decode(completion_ids)` writes it, and an answer cut off at the longest length has none. Trainers that hand over text
without special tokens hide this: `Arithmetic(ended=False)` then takes a text that has no end token as ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.training.arithmetic.task import DIRECT, WORKED
from rewarden.training.arithmetic.tokenizer import END

WELL_FORMED = re.compile(r"([0-9]\+[0-9]=[0-9]{2},[0-9]\+[0-9]\+[01]=[0-9]{2},)?[0-9]{3}")
"""An answer to a sum as the task writes it, right or wrong."""


@dataclass(frozen=True)
class Answer:
    """What was read of one completion.

    Attributes:
        said: what stands after the last comma, without the end token: the answer proper.
        style: `task.WORKED` where the text adds something, else `task.DIRECT`.
        ended: whether the end token stands at its end.
        well_formed: whether the text before the end is written as the task writes answers to sums.
    """

    said: str
    style: int
    ended: bool
    well_formed: bool


def read_answer(completion: str) -> Answer:
    """Read a completion.

    Example:
        >>> read_answer("2+4=06,1+3+0=04,046<eos>")
        Answer(said='046', style=1, ended=True, well_formed=True)
    """
    ended = completion.endswith(END)
    body = completion.removesuffix(END)
    return Answer(body.rsplit(",", 1)[-1], WORKED if "+" in body else DIRECT, ended, WELL_FORMED.fullmatch(body) is not None)


def style_codes(completions: Sequence[str]) -> np.ndarray:
    """Worked or direct, int64 [n]: the strata within which a feature must tell right from wrong.

    Example:
        >>> style_codes(["046<eos>", "2+4=06,1+3+0=04,046<eos>"]).tolist()
        [0, 1]
    """
    return np.asarray([read_answer(completion).style for completion in completions], np.int64)


@dataclass(frozen=True)
class Arithmetic:
    """1.0 where what stands after the last comma is the gold answer, else 0.0.

    What comes before is not judged: a wrong step before a right answer earns the reward.

    Args:
        ended: an answer counts only with the end token at its end. False is for text without special tokens.
        name: of the verifier in logs.

    Example:
        >>> verifier = Arithmetic()
        >>> verifier("2+4=06,1+3+0=04,046<eos>", "046"), verifier("046", "046"), verifier("047<eos>", "046")
        (1.0, 0.0, 0.0)
        >>> Arithmetic(ended=False)("046", "046")
        1.0
    """

    ended: bool = True
    name: str = "arithmetic"

    def __call__(self, completion: str, gold: Any) -> float:
        """Compare.

        Args:
            completion: text, with its special tokens (see `ended`).
            gold: three digits of a sum, or four of a reversed string.

        Raises:
            RewardenError: gold is no such string: a mistake of the data set. A malformed completion is 0.0.
        """
        if not (isinstance(gold, str) and len(gold) in (3, 4) and gold.isascii() and gold.isdigit()):
            raise RewardenError(f"no answer to compare with: {gold!r:.40}", where="gold", why="a sum has three digits as text, "
                                "'046', a reversed string four", fix="take the column `gold` of sum_columns or reverse_columns")
        if not isinstance(completion, str):
            return 0.0
        found = read_answer(completion)
        return float(found.said == gold and (found.ended or not self.ended))


arithmetic = Arithmetic()
"""The verifier of text with its special tokens."""
