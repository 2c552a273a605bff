"""Do the objectives of this model contradict each other between two responses to the same prompt?

In: pairs, and a model with several scalars. Out: correlations of what objectives add, slopes of pushing one, conflicts. No
section for a model with one scalar.
"""

from __future__ import annotations

import numpy as np

from rewarden.hacking.calibration import null_words
from rewarden.plots.objectives import conflict_figure, conflict_table
from rewarden.report.context import Audit
from rewarden.report.estimates import Estimate
from rewarden.report.section import Block, FigureBlock, Finding, Section, TableBlock, section
from rewarden.report.words import interval, listed, percent, plural
from rewarden.result import Result

TITLE = "Objectives in conflict"
PAIRS = 400
"""Pairs at most, drawn by the seed."""


@section("conflict", title=TITLE, order=378)
def build(audit: Audit) -> Section | None:
    """The section; None for a model with one scalar."""
    if audit.score.data.sizes.get("scalar", 1) < 2:
        return None

    def compute() -> Result:
        from rewarden.hacking.objectives.conflicts import conflict

        options = audit.options
        return conflict(audit.model(), [audit.pairs[row] for row in audit.sample(PAIRS)], level=options.level,
                        resamples=options.resamples, seed=options.seed)

    return described(audit.result("conflict", compute))


def described(result: Result) -> Section:
    """The section of a conflict Result."""
    table, data = conflict_table(result), result.data
    blocks: list[Block] = [FigureBlock(
        conflict_figure(result), "Left: over differences between the two responses of a pair, does what one objective adds go "
        "with what another adds? The grey bar holds 95 % of pairs of random directions in the same space; a filled dot is a "
        "conflict. Right: what each objective does when another is pushed where the reward is read, each in its standard size.",
        table)]
    cancelled = Estimate.read(data, "cancelled", _prompts(result))
    weighted = bool(result.provenance["weighted"])
    if weighted:
        pushes = data[["size", "push", "push_low", "push_high", "share"]].to_dataframe().reset_index()
        blocks.append(TableBlock("What each objective adds", "size: of its own differences; push: mean size of what it adds to "
                                 "the difference in reward, after its weight; share: of all pushes.", pushes, folded=True))
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in result.warnings)
    return Section(
        "conflict", TITLE, _findings(result, cancelled if weighted else None), blocks,
        "Which response was chosen plays no part. Two objectives are in conflict if the interval of their correlation lies "
        "below 0 and they are more opposed than random directions, by this correlation or by the cosine of their rows (Holm "
        "over pairs of objectives). Intervals of correlations: jackknife over prompts; of slopes and shares: "
        "bootstrap-t over conversations and prompts, of five or more. "
        f"{_null(result)} {notes}".strip(),
        {"couples": table.to_dict("records"), "cancelled": cancelled.data() if weighted else None, "weighted": weighted})


def _null(result: Result) -> str:
    facts = result.provenance
    return null_words("conflict", unlike="terms of your own" if facts.get("terms") else "", alpha=facts.get("alpha"))


def _prompts(result: Result) -> int:
    return len(np.unique(result.data["prompt"].values))


def _findings(result: Result, cancelled: Estimate | None) -> list[Finding]:
    table, null = conflict_table(result), _null(result)
    data = result.data
    asked = (f"{len(table)} pairs of objectives over {data.sizes['pair']} pairs of responses to {_prompts(result)} prompts; "
             f"slopes: {plural(data.sizes['item'], 'conversation')}")
    flagged = table[table["flag"].astype(bool)]
    found = []
    if len(flagged):
        named = [f"{row.first} and {row.second} (ρ = {interval(row.rho, row.low, row.high)}; raising the first by 1 moves the "
                 f"second by {interval(row.second_by_first, row.second_by_first_low, row.second_by_first_high)})"
                 for row in flagged.head(4).itertuples(index=False)]
        more = f" and {len(flagged) - 4} more" if len(flagged) > 4 else ""
        found.append(Finding(f"Objectives contradict each other: {listed(named)}{more} ({asked}). {null}", "concern", 60))
    else:
        found.append(Finding(f"No two objectives are more opposed than random directions ({asked}). {null}", "clear", 5))
    if cancelled is not None:
        found.append(Finding(f"{percent(cancelled)} of what objectives add to differences in reward is undone by other "
                             f"objectives (n = {cancelled.n} prompts).", "fact", 15))
    return found
