"""A sweep that is interrupted goes on where it stopped: the same bits, and nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests.families import build
from tests.patching.by_hand import EQUAL, FAST, LONGER, SHORTER
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.patching import patch
from rewarden.result import Result
from rewarden.reward_model import RewardModel

PAIRS = [SHORTER, LONGER, EQUAL, Pair("why?", "no", "yes"), Pair("why?", "no", "yes")]

pytestmark = pytest.mark.filterwarnings("ignore")


def model(seed: int = 0) -> RewardModel:
    return RewardModel(build("llama", seed=seed, num_hidden_layers=2), tiny_tokenizer(), name="tiny", check=False)


@pytest.fixture
def rm() -> RewardModel:
    return model()


def counting(rm: RewardModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every run of a conversation and every plan."""
    runs: list[int] = []
    for name in ("bases", "plan", "reward_encoded"):
        original = getattr(rm, name)
        monkeypatch.setattr(rm, name, lambda *args, original=original, **named: runs.append(1) or original(*args, **named))
    return runs


def same(mine: Result, theirs: Result) -> None:
    """Every array bit for bit, and every word about them."""
    xr.testing.assert_identical(mine.data, theirs.data)
    assert (mine.provenance, mine.noise_floor, mine.warnings) == (theirs.provenance, theirs.noise_floor, theirs.warnings)


class Stop(BaseException):
    """Like the interrupt key: nobody catches it."""


def stopping_after(pairs: int):
    """A progress callback that ends the run."""
    done: list[int] = []

    def progress(step: int) -> None:
        done.append(step)
        if sum(done) >= pairs:
            raise Stop
    return progress


@pytest.mark.parametrize("mode", ["noising", "denoising", "zero", "resample", "mean"])
@pytest.mark.parametrize("positions", ["read_out", "each"])
def test_a_stopped_sweep_goes_on(rm: RewardModel, mode: str, positions: str, tmp_path: Path, monkeypatch) -> None:
    asked = {"mode": mode, "positions": positions, "alignment": "equal_only" if mode == "noising" else "suffix", **FAST}
    whole = patch(rm, PAIRS, **asked)
    with pytest.raises(Stop):
        patch(rm, PAIRS, folder=tmp_path, progress=stopping_after(2), **asked)
    runs, steps = counting(rm, monkeypatch), []
    same(patch(rm, PAIRS, folder=tmp_path, progress=steps.append, **asked), whole)
    assert steps == [2, 1, 1, 1]
    left = runs.copy()
    runs.clear()
    same(patch(rm, PAIRS, folder=tmp_path, **asked), whole)
    assert runs == []
    if mode in ("denoising", "zero"):  # what was run is what the last pairs alone need
        patch(rm, PAIRS[2:], **asked)
        assert left == runs


def test_pairs_may_be_added_and_only_they_are_run(rm: RewardModel, tmp_path: Path, monkeypatch) -> None:
    patch(rm, PAIRS[:3], folder=tmp_path, **FAST)
    runs = counting(rm, monkeypatch)
    same(patch(rm, PAIRS[:4], folder=tmp_path, **FAST), patch(model(), PAIRS[:4], **FAST))
    assert len(runs) == 2  # the two runs together, and a plan
    for options in ({"alpha": 0.2}, {"level": 0.5}, {"seed": 9}, {"resamples": 101}):  # how they are summarised
        patch(rm, PAIRS[:4], folder=tmp_path, **FAST | options)
    assert len(runs) == 2


@pytest.mark.parametrize("change", [{"mode": "denoising"}, {"positions": "all"}, {"alignment": "prefix"}, {"sites": ("z",)}])
def test_another_question_is_not_answered_from_the_folder(rm: RewardModel, tmp_path: Path, change: dict) -> None:
    patch(rm, PAIRS, folder=tmp_path, **FAST)
    same(patch(rm, PAIRS, folder=tmp_path, **FAST, **change), patch(rm, PAIRS, **FAST, **change))
    assert len(list(tmp_path.iterdir())) == 2


def test_another_model_or_donor_is_not_answered_from_the_folder(rm: RewardModel, tmp_path: Path) -> None:
    for seed, asked in ((0, {}), (1, {}), (0, {"mode": "resample", "seed": 1}), (0, {"mode": "resample", "seed": 2}),
                        (0, {"mode": "mean"})):
        same(patch(model(seed), PAIRS, folder=tmp_path, **FAST, **asked), patch(model(seed), PAIRS, **FAST, **asked))
    changed = model()
    changed.model.model.layers[1].mlp.down_proj.weight.mul_(2.0)  # in memory: no file, no name and no hash of files tells
    same(patch(changed, PAIRS, folder=tmp_path, **FAST), patch(changed, PAIRS, **FAST))
    # means are over all pairs, so with fewer pairs they are others
    fewer = patch(rm, PAIRS[:2], mode="mean", folder=tmp_path, **FAST)
    same(fewer, patch(rm, PAIRS[:2], mode="mean", **FAST))
    assert not np.array_equal(fewer.effect, patch(rm, PAIRS, mode="mean", **FAST).effect[:2])


KILLED = """
import os, signal, sys
import warnings; warnings.simplefilter("ignore")
from tests.patching.test_kept import PAIRS, model
from tests.patching.by_hand import FAST
from rewarden.patching import patch

done = []
def progress(step):
    done.append(step)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
patch(model(), PAIRS, folder=sys.argv[1], progress=progress, **FAST)
"""


@pytest.mark.slow
def test_kill_9_loses_no_finished_pair(rm: RewardModel, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, timeout=120, check=False,
                            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    steps: list[int] = []
    same(patch(rm, PAIRS, folder=tmp_path, progress=steps.append, **FAST), patch(rm, PAIRS, **FAST))
    assert steps == [3, 1, 1]
