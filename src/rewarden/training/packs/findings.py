"""What is wrong with a pack's file, and what should give its reader pause?

In: a path. Out: findings, errors first: a pack with errors does not load, one with warnings does. Ignorant of models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

from rewarden.errors import RewardenError
from rewarden.training.packs.evidence import shortfalls
from rewarden.training.packs.pack import Pack, from_json
from rewarden.training.packs.reading import read_json
from rewarden.training.packs.rules import MOST_FAULTS, pack_faults

FEW = 200
"""Rollouts below which a warning says so."""


class Finding(NamedTuple):
    """One line of `rewarden packs validate`."""

    severity: Literal["error", "warning"]
    where: str
    """JSON path; the file where it could not be read."""
    what: str


def validate(path: str | os.PathLike[str]) -> list[Finding]:
    """All that is wrong with a file (up to 20 errors), or what its reader should know.

    Returns:
        Findings; none for a validated pack without reservations. Unreadable files are one error, not an exception.

    Example:
        >>> [(one.severity, one.what) for one in validate("nowhere.json")]
        [('error', "there is no file 'nowhere.json'")]
    """
    try:
        value = read_json(path)
    except RewardenError as error:
        return [Finding("error", error.where, error.what + (f": {error.why}" if error.why else ""))]
    found = [Finding("error", *fault) for fault in islice(pack_faults(value), MOST_FAULTS)]
    return found or list(_reservations(from_json(value)))


def _reservations(pack: Pack) -> Iterator[Finding]:
    if pack.aggregation.kind == "mean":
        yield Finding("warning", "$.aggregation.kind", "a mean over tokens is the easiest to evade, and moves with length "
                      "(arXiv 2506.14261); top or max holds longer")
    if pack.normalisation is None:
        yield Finding("warning", "$.normalisation", "not measured: the reward is in units of the features")
    if pack.evidence is None:
        yield Finding("warning", "$.evidence", "there is none: whether these features read the outcome or only style is "
                      "not known")
        return
    for fault in shortfalls(pack.evidence):
        yield Finding("warning", fault.where, f"not validated: {fault.what}")
    if not pack.validated and not any(shortfalls(pack.evidence)):
        yield Finding("warning", "$.validated", "false, though the evidence would bear it")
    if pack.evidence.n < FEW:
        yield Finding("warning", "$.evidence.n", f"{pack.evidence.n} rollouts: intervals are wide")
    if pack.evidence.chosen_on is None:
        yield Finding("warning", "$.evidence.chosen_on", "not said: that other data chose the features cannot be checked")
