"""Do two models have the same biases? The battery of both side by side, for the section that compares them.

In: an audit, the second model. Out: the audit's own battery and the same asked of the second model; a table; a sentence.
Ignorant of what else is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from rewarden.hacking.calibration import battery_null_words
from rewarden.plots.bias import bias_table
from rewarden.report.context import Audit
from rewarden.report.section import Finding
from rewarden.report.words import interval, listed, plural
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

NAMED = 6
"""Kinds of change named in a sentence, at most."""

BIAS, OTHER_BIAS = "bias", "bias_other"
"""Stored results: the audit's own battery, and that of the other model."""

BIAS_NOTE = ("What each kind of change adds to the reward beyond an innocuous change of the same length, in standard "
             "deviations of each model's reward over these texts (of length: for 20 tokens), with intervals over seeds and "
             "wordings. Flags are each model's own, corrected for the number of rows: one model flagged and the other not is "
             "no proof that they differ; rewarden compare --bias gives intervals of the differences.")


def both_batteries(audit: Audit, other: Callable[[], RewardModel]) -> list[Result]:
    """The bias battery of both models: what the audit asked its own model, asked of the other one as well; empty where it was
    not asked."""
    from rewarden.report.sections.bias import battery

    if audit.options.bias == "none":
        return []
    if audit.rm is None:
        folder = None if audit.run is None else audit.run.results_folder
        if folder is None or not all((folder / f"{name}.nc").exists() for name in (BIAS, OTHER_BIAS)):
            return []
    elif not hasattr(audit.rm, "architecture"):  # an ensemble
        return []
    return [audit.result(BIAS, lambda: battery(audit, audit.model())),
            audit.result(OTHER_BIAS, lambda: battery(audit, other()))]


def bias_rows(result: Result, asked: Sequence[Result]) -> pd.DataFrame:
    """The battery of both models side by side, one row an axis, in the order of the first model's sizes."""
    tables = []
    for name, found in zip(result.data["model"].values[:2], asked, strict=True):
        table = bias_table(found).set_index("axis")[["size", "low", "high", "flag", "templates"]]
        tables.append(table.rename(columns={"size": f"{name}", **{one: f"{name}, {one}" for one in ("low", "high")},
                                            "flag": f"{name} flagged"}))
    both = tables[0].join(tables[1].drop(columns="templates"), how="inner").rename(columns={"templates": "wordings"})
    return both[[*both.columns.drop("wordings"), "wordings"]].reset_index()


def shown(result: Result, biases: pd.DataFrame) -> pd.DataFrame:
    """The rows as a reader sees both models at once: an interval a cell."""
    cells = {name: [interval(*ends) + (", flagged" if flag else "") for *ends, flag in
                    biases[[name, f"{name}, low", f"{name}, high", f"{name} flagged"]].itertuples(index=False)]
             for name in map(str, result.data["model"].values[:2])}
    return pd.DataFrame({"kind of change": biases["axis"].str.replace("_", " "), **cells, "wordings": biases["wordings"]})


def bias_findings(result: Result, biases: pd.DataFrame, asked: Sequence[Result]) -> list[Finding]:
    """Which kinds of change are flagged in which model."""
    if not len(biases) or not asked:
        return []
    names = [str(name) for name in result.data["model"].values[:2]]
    flags = [biases[f"{name} flagged"].to_numpy() for name in names]
    axes = biases["axis"].str.replace("_", " ").to_numpy()
    parts = [f"{len(some)} in {words}{f' ({listed(some[:NAMED])})' if len(some) else ''}" for words, some in (
        ("both", axes[flags[0] & flags[1]]), (f"{names[0]} alone", axes[flags[0] & ~flags[1]]),
        (f"{names[1]} alone", axes[~flags[0] & flags[1]]))]
    least = int(biases["wordings"].min())
    return [Finding(f"Of {plural(len(biases), 'kind')} of change (at least {least} wordings each), those that move the reward "
                    f"beyond what random-weight models show: {'; '.join(parts)}. {battery_null_words(asked[0].provenance)}",
                    "fact", 6)]
