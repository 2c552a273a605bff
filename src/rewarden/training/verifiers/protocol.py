"""What is a verifier, and how are many completions verified?

In: a verifier, completions and golds. Out: verdicts. Ignorant of what is verified. Letters: n completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rewarden.errors import RewardenError


class Verifier(Protocol):
    """Whether a completion is right: 1.0, wrong: 0.0, or a share. `many(completions, golds)` is used where there is one."""

    @property
    def name(self) -> str:
        """In logs."""
        ...

    def __call__(self, completion: str, gold: Any) -> float:
        """The verdict."""
        ...


def verify_all(verifier: Verifier, completions: Sequence[str], golds: Sequence[Any]) -> np.ndarray:
    """Verdicts float64 [n], in 0 to 1.

    Raises:
        RewardenError: another number of golds than completions, a gold that the verifier cannot read (with its row), or a
            verdict that is no number from 0 to 1.

    Example:
        >>> from rewarden.training.verifiers import gsm8k
        >>> verify_all(gsm8k(), ["#### 1,234", "so 7."], ["1234", "8"]).tolist()
        [1.0, 0.0]
    """
    name = str(getattr(verifier, "name", type(verifier).__name__))
    if len(completions) != len(golds):
        raise RewardenError(f"{len(golds)} golds for {len(completions)} completions", where=f"verify_all({name!r})",
                            fix="give one gold for each completion")
    many = getattr(verifier, "many", None)
    if many is not None:
        found = list(many(completions, golds))
    else:
        found = []
        for row, (completion, gold) in enumerate(zip(completions, golds)):
            try:
                found.append(verifier(completion, gold))
            except RewardenError as error:
                raise in_row(error, row) from error
    values = np.asarray(found, dtype=np.float64)
    if values.shape != (len(golds),) or not ((values >= 0) & (values <= 1)).all():
        raise RewardenError(f"{name!r} gave verdicts that are no {len(golds)} numbers from 0 to 1", where="verify_all",
                            fix="let the verifier return a float from 0 to 1 for each completion")
    return values


def in_row(error: RewardenError, row: int) -> RewardenError:
    """The same error, with the row of the batch it is about."""
    where = f"row {row}" + (f", {error.where}" if error.where else "")
    return RewardenError(error.what, where=where, why=error.why, fix=error.fix)


def as_text(completion: Any, name: str) -> str:
    """The completion, which must be text: another type is a mistake of the caller, not of the policy."""
    if not isinstance(completion, str):
        raise RewardenError(f"a completion of type {type(completion).__name__}", where=f"{name}, completion",
                            why="verifiers read text", fix="decode ids, or take the content of the last message")
    return completion


def malformed(gold: Any, name: str, why: str, fix: str) -> RewardenError:
    """The error of a gold that cannot be read."""
    shown = repr(gold)
    return RewardenError(f"gold {shown if len(shown) <= 120 else shown[:117] + '...'} cannot be used",
                         where=f"{name}, gold", why=why, fix=fix)
