"""A search that is stopped anywhere ends as if it had not been: same responses, same rewards, same paths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests.tokens.small import PROMPT, language_model, small

from rewarden.store import Run
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.search import Constraints, Found, search
from rewarden.tokens.search.objective import Objective

ASKED = {"restarts": 3, "steps": 6, "width": 16, "top_k": 8, "seed": 2}
PROMPTS = [PROMPT, "w1"]


def same(one: Found, other: Found) -> None:
    xr.testing.assert_identical(one.data, other.data)
    assert one.noise_floor == other.noise_floor
    assert one.provenance == other.provenance
    assert one.warnings == other.warnings


class Stopped(Exception):
    """What stops a search in these tests."""


def limits(kind: str) -> Constraints:
    """No constraints, or all of them with a bound that half of the responses of two tokens miss."""
    return Constraints() if kind == "free" else Constraints("ascii", round_trip=True, naturalness=(language_model(), -7.0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("direction", "kind"), [("max", "free"), ("min", "free"), ("min", "constrained")])
def test_an_error_at_random_steps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, direction: str,
                                                  kind: str) -> None:
    asked = {"constraints": limits(kind), **ASKED}
    expected = search(small(1), PROMPTS, 3, direction, **asked)  # type: ignore[arg-type]
    rng, plain, gradient = np.random.default_rng(seed), Candidates.substitute, Objective.promised
    left = [0]

    def counted(method):
        def call(self, *args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return method(self, *args, **kwargs)
        return call

    monkeypatch.setattr(Candidates, "substitute", counted(plain))
    monkeypatch.setattr(Objective, "promised", counted(gradient))
    stops = 0
    while True:
        left[0] = int(rng.integers(1, 12))
        try:
            found = search(small(1), PROMPTS, 3, direction, folder=tmp_path, **asked)  # type: ignore[arg-type]
            break
        except Stopped:
            stops += 1
    assert stops >= 3
    same(found, expected)


def test_a_finished_search_is_read_without_evaluating_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Constraints(allowed="ascii", round_trip=True)
    first = search(small(2), PROMPT, 2, constraints=limits, folder=tmp_path, **ASKED)  # type: ignore[arg-type]
    monkeypatch.setattr(Objective, "bases", None)  # nothing may be run but the final responses
    same(search(small(2), PROMPT, 2, constraints=limits, folder=tmp_path, **ASKED), first)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"direction": "min"}, {"length": 3}, {"prompt": "w1"}, {"seed": 3}, {"aggregate": "worst"},
                                    {"constraints": Constraints(allowed=range(10, 200))}, {"system": "w8"},
                                    {"constraints": Constraints(round_trip=True)}, {"rm": small(4)}, {"width": 8}])
def test_another_question_is_not_answered_from_the_folder(tmp_path: Path, change: dict) -> None:
    asked = {"rm": small(3), "prompt": PROMPT, "length": 2, **ASKED}
    search(folder=tmp_path, **asked)  # type: ignore[arg-type]
    same(search(folder=tmp_path, **asked | change), search(**asked | change))  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_changed_in_memory_are_another_model(tmp_path: Path) -> None:
    from tests.families import build
    from tests.tokens.small import SIZE, tokenizer_of_200

    from rewarden.reward_model import RewardModel

    rm = RewardModel(build("llama", vocab_size=SIZE), tokenizer_of_200(), check=False)
    search(rm, PROMPT, 2, folder=tmp_path, **ASKED)  # type: ignore[arg-type]
    rm.model.model.layers[1].mlp.down_proj.weight.mul_(3.0)
    same(search(rm, PROMPT, 2, folder=tmp_path, **ASKED), search(rm, PROMPT, 2, **ASKED))  # type: ignore[arg-type]


def test_every_move_is_one_row(tmp_path: Path) -> None:
    found = search(small(5), PROMPT, 2, folder=tmp_path, **ASKED)  # type: ignore[arg-type]
    (folder,) = tmp_path.iterdir()
    run = Run.open(folder)
    assert not run.verify().problems
    moves = found.data["steps"].values.sum() + found.data["scans"].values.sum()
    assert len(run.rows()) == 3 + moves
    starts = run.rows()["key"].str.endswith("/start")
    assert run.rows()["scores"].map(len).sum() == found.data["evaluations"].values.sum()
    assert starts.sum() == 3


KILLED = """
import os, signal, sys
import warnings; warnings.simplefilter("ignore")
from tests.tokens.small import small
from tests.tokens.test_search_resume import ASKED, PROMPTS
from rewarden.tokens.search import search

left = [int(sys.argv[2])]
replace = os.replace
def stopping(*args):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # a move is written but not committed
    return replace(*args)
os.replace = stopping
search(small(1), PROMPTS, 3, folder=sys.argv[1], **ASKED)
"""


@pytest.mark.slow
def test_kill_9_loses_no_finished_move(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for writes in (9, 14):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(writes)], cwd=root, timeout=120, check=False,
                                env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
        assert killed.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert len(Run.open(folder).rows()) >= 15
    same(search(small(1), PROMPTS, 3, folder=tmp_path, **ASKED), search(small(1), PROMPTS, 3, **ASKED))  # type: ignore[arg-type]
