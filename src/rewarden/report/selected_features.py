"""Which features of a dictionary does selecting by the reward raise?

In: an audit whose options name a dictionary, scored candidates. Out: values of features, and what the section on best-of-n
says of them. Ignorant of how candidates were found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden import plots
from rewarden.plots.bestof import susceptibility_table
from rewarden.report.section import Block, FigureBlock, Finding
from rewarden.report.words import interval, listed, plural
from rewarden.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

    from rewarden.hacking.selection.candidates import ScoreTable
    from rewarden.report.context import Audit
    from rewarden.result import Result

FOLLOWED = 64
"""Features followed at most."""

NAMED = 3
"""Features named in a sentence."""

NAME = "susceptibility_dictionary"
"""Of the stored result."""


def follows_dictionary(audit: Audit) -> bool:
    """Whether there is a dictionary, or what was found with one."""
    from rewarden.report.sections.features import own_dictionary

    if audit.options.dictionary == "none":
        return False
    if audit.rm is None:
        return audit.run is not None and (audit.run.results_folder / f"{NAME}.nc").exists()
    return audit.options.dictionary != "auto" or own_dictionary(audit.rm) is not None


def values_of(audit: Audit, table: ScoreTable) -> dict[str, Any]:
    """Features that fire where the reward is read; one that never varies, so that it is not tested, where none does."""
    from rewarden.hacking.selection.scoring import dictionary_features
    from rewarden.report.sections.features import dictionary_of

    found = dictionary_features(audit.model(), table, dictionary_of(audit), top=FOLLOWED)
    return found or {"no feature": np.zeros(len(table.proxy))}


def blocks_of(follows: Result, curves: Result) -> list[Block]:
    """The figure, where a feature could be tested."""
    table = susceptibility_table(follows, curves)
    if not len(table):
        return []
    caption = ("The same for features of the dictionary, at the token where the reward is read: of those that fire there, the "
               f"{FOLLOWED} or fewer that differ among candidates of most prompts.")
    return [FigureBlock(plots.susceptibility_forest(follows), caption, table)]


def findings_of(follows: Result, curves: Result) -> list[Finding]:
    """Which features selection raises most, and which of them the gold does not ask for."""
    from rewarden.hacking.selection.covariances import compared, reliability

    table, prompts = susceptibility_table(follows, curves), int(follows.provenance["prompts"])
    if not len(table):
        return []
    alpha, most = float(follows.provenance["alpha"]), int(curves.data["n"].values[-1])
    raised = table[(benjamini_hochberg(table["p"].to_numpy(float)) <= alpha) & (table["rise"] > 0)]
    raised = raised.sort_values("rise", ascending=False)
    asked = f"{plural(len(table), 'feature')} of the dictionary, n = {prompts} prompts"
    if not len(raised):
        return [Finding(f"No feature of the dictionary is shown to rise when the reward selects ({asked}).", "fact", 6)]
    beyond = (f"; the reward follows {int((raised['q'] <= alpha).sum())} of these more than random read-outs of the same states"
              if compared(follows) else "")
    return [Finding(f"Taking the best of {most} by the reward raises {listed(_rises(raised, curves))}"
                    f"{' most' if len(raised) > NAMED else ''} ({asked}: {len(raised)} rise beyond chance{beyond})."
                    f"{_hacks(raised)} {reliability(follows)}", "fact", 15)]


def _hacks(raised: pd.DataFrame) -> str:
    names = raised.loc[raised["hack"].astype(bool), "feature"].tolist()
    if not names:
        return ""
    named = listed(names if len(names) <= NAMED else [*names[:NAMED], f"{len(names) - NAMED} more"])
    return f" {named} {'is' if len(names) == 1 else 'are'} predicted to rise although the gold is not shown to ask for it."


def _rises(raised: pd.DataFrame, curves: Result) -> list[str]:
    names = list(map(str, curves.data["feature"].values))
    ends = {end: curves.data[f"rise{end}"].values for end in ("", "_low", "_high")}
    return [f"{name} by {interval(*(float(ends[end][names.index(name)]) for end in ends))} standard deviations"
            for name in raised["feature"].head(NAMED)]
