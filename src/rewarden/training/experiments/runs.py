"""All arms and seeds of the reference experiments: run what is missing, keep each, and put them side by side.

In: arms, seeds, a folder. Out: a run folder that goes on where it was stopped; a Result and a table with every number's range
over seeds. Ignorant of how an arm is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics.clustered import mean_interval
from rewarden.store import Run, row_key
from rewarden.training.experiments.arms import ARMS, STEPS, train
from rewarden.training.experiments.setting import Setting, make_setting

BASE = "base"
COLUMNS = ("accuracy", "greedy", "feature", "feature_frozen", "worked", "well_formed", "reverse", "empty", "flag_probe",
           "flag_distance", "flag_surprise")


def run_arms(folder: str | os.PathLike[str], arms: Sequence[str] | None = None, seeds: Sequence[int] = (0, 1, 2), *,
             steps: int = STEPS, setting: Setting | None = None, progress: Callable[[str, int], object] | None = None
             ) -> Result:
    """Train each arm with each seed, unless the folder has it already.

    Args:
        folder: of the run.
        arms: names out of `ARMS`; all of them by default.
        seeds: of training; the base policy, features and monitors are the same for all.
        steps: of each training.
        setting: see `make_setting`; that of seed 0 by default.
        progress: called with arm and seed before each training.

    Returns:
        Result "experiments": every number of `measure` by arm and seed, the untrained base policy as the first arm.

    Raises:
        RewardenError: no such arm, or a folder of other steps.
    """
    names = list(ARMS if arms is None else arms)
    strange = [name for name in names if name not in ARMS]
    if strange or not names or not len(seeds):
        raise RewardenError(f"no arm is called {strange[0]!r}" if strange else "nothing to run", where="run_arms",
                            why=f"there are {', '.join(ARMS)}", fix="name some of them, and at least one seed")
    setting = setting or make_setting()
    run = Run.open_or_create(folder, {"verb": "experiments", "steps": steps}, {"steps": steps}, identity={
        "steps": steps, "n": setting.n, "readout": str(setting.readout.provenance()["head_sha256"]),
        "arms": {name: str(asdict(arm)) for name, arm in ARMS.items()}})
    done = run.done_keys()
    for seed in seeds:
        for name in names:
            key = row_key(name, str(seed))
            if key in done:
                continue
            if progress:
                progress(name, seed)
            found = train(name, seed, steps=steps, folder=str(run.path / "trainer"), setting=setting)
            run.append([{"arm": name, "seed": int(seed), **found}], [key])
    rows = run.rows()
    return result_of(rows[rows["arm"].isin(names) & rows["seed"].isin(list(seeds))], names, setting.base)


def result_of(rows: pd.DataFrame, names: Sequence[str], base: dict[str, float]) -> Result:
    """Rows of arms and seeds as a Result, with the base."""
    seeds = sorted(set(rows["seed"]))
    held = {}
    for column in base:
        values = np.full((1 + len(names), len(seeds)), np.nan)
        values[0] = base[column]
        for place, name in enumerate(names, start=1):
            for at, seed in enumerate(seeds):
                some = rows[(rows["arm"] == name) & (rows["seed"] == seed)][column]
                values[place, at] = float(some.iloc[-1]) if len(some) else np.nan
        held[column] = (("arm", "seed"), values)
    return Result("experiments", xr.Dataset(held, coords={"arm": [BASE, *names], "seed": seeds}),
                  {"seeds": len(seeds), "n": int(base["n"])})


def summary(result: Result, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Mean of each number over seeds with the smallest and the largest, a row an arm."""
    data, rows = result.data, []
    for arm in data["arm"].values:
        row = {"arm": str(arm)}
        for column in columns:
            values = data[column].sel(arm=arm).values
            text = f"{np.nanmean(values):.2f}"
            row[column] = text if arm == BASE else f"{text} [{np.nanmin(values):.2f}, {np.nanmax(values):.2f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def gain(result: Result, arm: str, other: str, column: str = "accuracy", level: float = 0.95) -> tuple[float, float, float]:
    """Mean difference of two arms over seeds with its interval (Student's t over seeds); NaN ends with one seed."""
    values = result.data[column].sel(arm=arm).values - result.data[column].sel(arm=other).values
    found = mean_interval(values, np.arange(len(values)), level=level)
    return float(found.estimate), float(found.low), float(found.high)
