"""Moves on disk, so that a killed search goes on where it stopped and ends where it would have ended.

In: a folder, what a search depends on, moves. Out: the moves made before, bit for bit, in place of model runs. Each question
has a run of its own below the folder. Ignorant of how moves are made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.options import SearchOptions
from rewarden.score_runs import NOT_IDENTITY, sample_of_weights
from rewarden.store import Run
from rewarden.tokens.search.constraints import Naturalness
from rewarden.tokens.search.exchange import Move, Space, Walk

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


class Record:
    """The moves of one question: those made before come from disk, new ones are committed before they count.

    Args:
        space: what is searched.
        run: where moves lie; None keeps nothing.
    """

    def __init__(self, space: Space, run: Run | None = None) -> None:
        self.space, self.run = space, run
        self.rows: dict[str, Any] = {} if run is None else {row["key"]: row for row in run.rows().to_dict("records")}

    def start(self, number: int, make: Callable[[], np.ndarray]) -> Walk:
        """A walk at its start."""
        space, known = self.space, self.rows.pop(f"{number}/start", None)
        if known is None:
            ids = np.asarray(make(), np.int64)
            score = float(space.history.look_up(np.asarray([space.history.key(ids)]))[0])
            fresh = np.isnan(score)
            move = Move(np.arange(len(ids) if fresh else 0), ids, np.asarray(
                [space.objective.at(ids) if fresh else score], np.float32))
            self._commit(f"{number}/start", move)
        else:
            move = self._restored(known)
        score = float(move.scores[0])
        space.history.add(np.asarray([space.history.key(move.ids)])[:len(move.positions)], move.scores[:len(move.positions)])
        return Walk(number, move.ids.astype(np.int64), score, [score], [int(len(move.positions) > 0)])

    def move(self, walk: Walk, kind: str, number: int, make: Callable[[], Move]) -> Move:
        """A move from disk, or a new one."""
        key = f"{walk.number}/{kind}/{number}"
        known = self.rows.pop(key, None)
        if known is not None:
            move = self._restored(known)
            self.space.remember(walk, move)
            return move
        move = make()
        self._commit(key, move)
        return move

    def _commit(self, key: str, move: Move) -> None:
        if self.run is None:
            return
        position, token, score = move.taken or (-1, -1, 0.0)
        candidates = [member.candidates for member in self.space.objective.members]
        row = {"positions": move.positions.astype(np.int32), "ids": move.ids.astype(np.int32), "scores": move.scores,
               "position": position, "token": token, "score": score,
               "floor": np.asarray([c.floor for c in candidates]), "whole": np.asarray([c.whole for c in candidates]),
               "checked": np.asarray([c.checked for c in candidates])}
        self.run.append([row], [key])

    def _restored(self, row: dict[str, Any]) -> Move:
        """The move, and what was known of the engine after it."""
        for number, member in enumerate(self.space.objective.members):
            member.candidates.floor = float(row["floor"][number])
            member.candidates.whole = bool(row["whole"][number])
            member.candidates.checked = bool(row["checked"][number])
        taken = (int(row["position"]), int(row["token"]), float(row["score"])) if row["position"] >= 0 else None
        return Move(np.asarray(row["positions"], np.int32), np.asarray(row["ids"], np.int32),
                    np.asarray(row["scores"], np.float32), taken)


def open_record(folder: str | os.PathLike[str] | None, space: Space, length: int, options: SearchOptions) -> Record:
    """The record of a question: its own run below the folder, continued where there is one."""
    if folder is None:
        return Record(space)
    identity = question(space, length, options)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    run = Run.open_or_create(Path(folder) / f"search-{digest}", asdict(options), space.objective.members[0].rm.provenance(),
                             identity=identity)
    return Record(space, run)


def question(space: Space, length: int, options: SearchOptions) -> dict[str, Any]:
    """What moves depend on: the models, what stands around the response, what is allowed, the options."""
    members = space.objective.members
    models = {member.model: model_identity(member.rm) for member in members}
    asked = space.checks.constraints
    around = _digest([part for m in members for part in (m.slot.before.ids, m.slot.after.ids)])
    found = {"verb": "search", "length": length, "sign": space.objective.sign, "around": around,
             "allowed": _digest([space.allowed]), "round_trip": asked.round_trip, **asdict(options)}
    for number, known in models.items():
        found |= {f"model {number}: {name}": value for name, value in known.items()}
    if isinstance(asked.naturalness, Naturalness) and space.checks.likelihood is not None:
        found |= {"bound": asked.naturalness.bound, "contexts": _digest(space.checks.likelihood.contexts),
                  "language_model": sample_of_weights(space.checks.likelihood.model)}
    return found


def model_identity(rm: RewardModel) -> dict[str, Any]:
    """All that is known of a model but where it runs."""
    known = {name: value for name, value in rm.provenance().items() if name not in NOT_IDENTITY}
    return {**known, "weights_sample": sample_of_weights(rm.model)}


def _digest(arrays: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(b"|".join(np.asarray(a, np.int64).tobytes() for a in arrays)).hexdigest()[:16]
