"""A trainer of the package index, in a virtual environment of its own, as a process that is handed JSON and prints JSON.

In: a list of requirements beside this file, a script. Out: what the script says. The environments lie in `benchmarks/.peers`
and are kept between runs; nothing of them enters ours. Where one cannot be made, the test skips and says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PEERS = ROOT / "benchmarks" / ".peers"
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0", "--timeout", "20")
SECONDS = 900
"""To make an environment, at most."""
_refused: dict[str, str] = {}
"""Why a trainer's environment could not be made: asked once a run."""


def python_of(trainer: str) -> Path:
    """The Python of a trainer's environment, made on first use: our torch, its requirements, and what rewarden needs."""
    if trainer in _refused:
        pytest.skip(_refused[trainer])
    alone, wanted = _requirements(trainer)
    torch = f"torch=={version('torch').partition('+')[0]}"
    folder = PEERS / f"{alone[0].replace('==', '-')}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, done = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), folder / ".installed"
    asked = "\n".join([torch, *alone, *wanted])
    PEERS.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.is_file() or done.read_text(encoding="utf-8") != asked:  # what is there already is kept
            try:
                _run([sys.executable, "-m", "venv", str(folder)])
                # the trainer first: it is small, and where there is no index it is known at once
                for step in (["--no-deps", *alone], [torch], [torch, *wanted]):
                    _run([str(python), *PIP, *step])
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as problem:
                told = (getattr(problem, "stderr", None) or str(problem)).strip().splitlines() or [type(problem).__name__]
                _refused[trainer] = f"no environment for {trainer}: {told[-1][:200]}"
                pytest.skip(_refused[trainer])
            done.write_text(asked, encoding="utf-8")
    return python


def ask(trainer: str, script: str, question: Any, folder: Path, seconds: float = 120) -> Any:
    """What a script of this folder answers: JSON of its last line, told a question as JSON on its standard input."""
    home = folder / "home"  # Ray writes a token into it, and libraries their caches
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)]),
                   "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
                   "CUDA_VISIBLE_DEVICES": "", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)  # a cluster that runs here is not ours
    done = subprocess.run([str(python_of(trainer)), str(HERE / script)], input=json.dumps(question), capture_output=True,
                          text=True, timeout=seconds, cwd=folder, env=environment)
    if done.returncode:
        raise AssertionError(f"{script} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _requirements(trainer: str) -> tuple[list[str], list[str]]:
    """Those without what they ask for, and the rest, with rewarden's own."""
    lines = (HERE / f"requirements-{trainer}.txt").read_text(encoding="utf-8").splitlines()
    stated = [line.split("#")[0].strip() for line in lines]
    alone = [line.removesuffix("--no-deps").strip() for line in stated if line.endswith("--no-deps")]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return alone, [*(line for line in stated if line and not line.endswith("--no-deps")), *ours]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
