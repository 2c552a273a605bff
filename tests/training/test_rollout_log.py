"""Rollouts are kept once, survive kill -9, and a training that is started again shows each step once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.training.rollout_log import RolloutLog
from rewarden.training.rollouts import Rollouts

BATCH = Rollouts.of([[5, 6], [5, 6], [7]], [[8], [9, 9], []])
TEXTS = (["a", "a", "b"], ["8", "99", ""])


def add(log, step, shift=0.0):
    return log.add(step, BATCH, *TEXTS, {"reward": np.array([1.0, 2.0, np.nan]) + shift, "flag": np.array([0, 1, 0])})


def test_what_was_added_comes_back(tmp_path):
    log = RolloutLog(tmp_path / "run", {"model": "m"})
    assert [add(log, step, step) for step in (0, 0, 1)] == [3, 3, 3]
    frame = RolloutLog(tmp_path / "run", {"model": "m"}).frame()
    assert frame["step"].tolist() == [0] * 6 + [1] * 3
    assert frame["completion_ids"].tolist()[:3] == ["[8]", "[9, 9]", "[]"]
    assert frame["reward"].tolist()[:2] == [1.0, 2.0]
    assert np.isnan(frame["reward"].tolist()[2])
    steps = log.steps(resamples=100).data
    np.testing.assert_allclose(steps["reward"], [1.5, 2.5])
    np.testing.assert_allclose(steps["flag"], [1 / 3, 1 / 3])
    assert steps["n"].values.tolist() == [6, 3]


def test_a_second_start_takes_the_place_of_steps_that_it_repeats(tmp_path):
    first = RolloutLog(tmp_path / "run", {"model": "m"})
    for step in range(4):
        add(first, step)
    again = RolloutLog(tmp_path / "run", {"model": "m"})
    for step in (2, 3):
        add(again, step, 10.0)
    assert again.frame().groupby("step")["reward"].max().tolist() == [2.0, 2.0, 12.0, 12.0]
    assert len(again.run.rows()) == 18, "nothing is lost"


def test_another_training_is_refused(tmp_path):
    add(RolloutLog(tmp_path / "run", {"model": "m"}), 0)
    with pytest.raises(RewardenError, match="another model"):
        RolloutLog(tmp_path / "run", {"model": "other"})


def test_two_processes_share_a_folder(tmp_path):
    logs = [RolloutLog(tmp_path / "run", {"model": "m"}, process=number) for number in range(2)]
    for log in logs:
        add(log, 0)
    assert len(logs[0].frame()) == 6


def test_what_does_not_fit_is_refused(tmp_path):
    log = RolloutLog(tmp_path / "run", {"model": "m"})
    with pytest.raises(RewardenError, match="nothing was logged"):
        log.frame()
    with pytest.raises(RewardenError, match="cannot be kept"):
        log.add(0, BATCH, *TEXTS, {"reward": np.zeros(2)})
    with pytest.raises(RewardenError, match="cannot be kept"):
        log.add(0, BATCH, *TEXTS, {"prompt": np.zeros(3)})


WRITER = """
import sys, numpy as np
from rewarden.training.rollout_log import RolloutLog
from rewarden.training.rollouts import Rollouts
log = RolloutLog(sys.argv[1], {"model": "m"})
for step in range(10**6):
    log.add(step, Rollouts.of([[1]] * 4, [[step % 7]] * 4), ["p"] * 4, ["c"] * 4, {"reward": np.arange(4.0)})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_sigkill_loses_no_acknowledged_batch(tmp_path):
    for seconds in (0.3, 0.7):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        told = [line for line in process.stdout.read().split("\n") if line]
        process.wait()
        log = RolloutLog(tmp_path / "run", {"model": "m"})
        rows = log.run.rows()
        mine = rows[rows["start"] == log.start - 1]
        assert set(map(int, told)) <= set(mine["step"])
        assert (mine.groupby("step").size() == 4).all(), "whole batches"
