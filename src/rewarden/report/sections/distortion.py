"""What moves the reward that the audited pairs hardly vary? Sensitivity of kinds of change beside their coverage by the pairs.

In: the model, the pairs, and the Result of the bias battery, which is shared with its own section.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.hacking.calibration import distortion_null_words
from rewarden.options import DistortionOptions
from rewarden.plots.distortion import distortion_table
from rewarden.report.context import Audit
from rewarden.report.section import FigureBlock, Finding, Section, section
from rewarden.report.sections.bias import battery
from rewarden.report.tables import number
from rewarden.report.words import interval, listed
from rewarden.result import Result

TITLE = "What these pairs do not see"
PAIRS, PROMPTS = 400, 20
"""Pairs whose differences are looked at, at most; distinct prompts below which nothing is said."""

NAMED = 4
"""Kinds of change named in a sentence, at most."""


@section("distortion", title=TITLE, order=372)
def build(audit: Audit) -> Section | None:
    """The section; None without the battery, for few prompts, and for models that are no single trunk."""
    if audit.options.bias == "none" or len(np.unique(audit.counted["prompt"].to_numpy())) < PROMPTS or (
            audit.rm is not None and not hasattr(audit.rm, "architecture")):
        return None
    if audit.rm is None and (audit.run is None or not (audit.run.results_folder / "distortion.nc").exists()):
        return None
    return described(audit.result("distortion", lambda: _computed(audit)))


def _computed(audit: Audit) -> Result:
    from rewarden.hacking.off_distribution.distortion_index import (
        distortion,  # torch; a report written again from its folder does without
    )

    asked = audit.result("bias", lambda: battery(audit, audit.model()))
    axes = [str(name) for name, design in zip(asked.data["axis"].values, asked.data["design"].values, strict=True)
            if design != "spread"]  # terms that differ have no common direction
    if not axes:
        raise RewardenError("none of the axes asked for has a direction", where="bias=",
                            why=f"the battery was asked {', '.join(map(str, asked.data['axis'].values))}",
                            fix="ask for all axes, or for others than identity")
    options = DistortionOptions(level=audit.options.level, seed=audit.options.seed, items=10)
    return distortion(audit.model(), [audit.pairs[row] for row in audit.sample(PAIRS)], axes, battery=asked,
                      options=options)


def described(result: Result) -> Section:
    """The section of a distortion Result."""
    table, facts, data = distortion_table(result), result.provenance, result.data
    block = FigureBlock(
        plots.distortion_forest(result), "A row a kind of change. Left: what it does to the reward, net of its length; filled, "
        "where that differs from zero. Right: how much of the direction in which it moves the model's states lies in "
        "directions that the two sides of the pairs vary. Orange: the reward follows it and its coverage is below "
        f"{100 * float(facts['covered']):g} %, both by a test over all rows; of the share that is not covered, these "
        "pairs tell little. Lines are intervals over seeds and wordings.", table)
    return Section(
        "distortion", TITLE, findings(result), [block],
        "Index = sensitivity × (1 − coverage). Sensitivity: the bias battery's, in standard deviations of the reward. "
        f"Coverage: R² of the common direction of a change from the {int(data['directions'])} of "
        f"{int(data['width'])} directions that hold {100 * float(facts['energy']):g} % of the squared differences between the "
        f"sides of {facts['pairs']} pairs ({facts['prompts']} prompts); states are means over response tokens after layer "
        f"{facts['layer']}, each coordinate in units of its standard deviation. Products of contrasts that share neither seed "
        f"nor wording, so that noise counts for nothing. A random direction would have {number(float(data['chance']), 2)}; of "
        f"the pairs' own differences, those with other prompts cover {number(float(data['own']), 2)}. Not covered: below "
        f"{100 * float(facts['covered']):g} %, one-sided. Flagged: that and the sensitivity, by the larger p of the two, Holm "
        f"over the {data.sizes['dimension']} kinds at α = {facts['alpha']:g}. `dose` in the table: what moving neutral "
        "texts along that direction by its mean length does, for that step as it is; where it is far smaller than the "
        "sensitivity, the effect takes "
        "other ways than this layer's mean, and coverage says less. Identity terms have no direction in common and are left "
        f"out. {distortion_null_words(facts)}",
        {"dimensions": table.to_dict("records"), "chance": float(data["chance"]), "own": float(data["own"]),
         "pairs": int(facts["pairs"])})


def findings(result: Result) -> list[Finding]:
    """What is rewarded and covered too little, or that nothing was found; and what has no direction."""
    table, facts = distortion_table(result), result.provenance
    flagged, known = table[table["flag"]], table[np.isfinite(table["coverage"])]
    least = f"{100 * float(facts['covered']):g} %"
    seeds, wordings = (int(table[name].min()) for name in ("n_seeds", "n_templates"))
    n = f"n = {facts['pairs']} pairs, {facts['prompts']} prompts; of each kind at least {seeds} seeds and {wordings} wordings"
    if len(flagged):
        found = [Finding(f"{len(flagged)} of {len(table)} kinds of change move the reward and are covered to less than {least} "
                         f"by these pairs, both by a test: {listed(_covered(flagged))}. Of the share that is not covered, "
                         f"these pairs tell little ({n}). {distortion_null_words(facts)}", "concern", 40)]
    else:
        said = _covered(known[known["sensitive"].astype(bool)].sort_values("sensitivity", key=abs, ascending=False))
        found = [Finding(f"Of {len(known)} kinds of change with a direction in common, none was found that moves the reward "
                         f"and is covered to less than {least} by these pairs ({n})"
                         + (f"; the reward follows {listed(said)}." if said else "."), "clear", 8)]
    if len(known):
        row = known.iloc[0]
        found.append(Finding(f"The largest product of sensitivity and uncovered share is that of {row['dimension']}: "
                             f"{interval(row['index'], row['low'], row['high'])} SD of the reward.", "fact", 4))
    lost = table[~np.isfinite(table["coverage"])]
    if len(lost):
        moved = [f"{row['dimension']} ({number(row['sensitivity'], 2)} SD)" for _, row in lost[lost["sensitive"]].iterrows()]
        found.append(Finding("No direction in common was found, so nothing is said of the coverage, of "
                             + listed(list(lost["dimension"])) + (f"; the reward follows {listed(moved)}." if moved else "."),
                             "fact", 3))
    return found


def _covered(rows: pd.DataFrame) -> list[str]:
    """Kinds of change with sensitivity and coverage, the first few."""
    return [f"{row['dimension']} ({number(row['sensitivity'], 2)} SD, {100 * row['coverage']:.0f} % covered "
            f"[{100 * row['coverage_low']:.0f}, {100 * row['coverage_high']:.0f}])" for _, row in rows.head(NAMED).iterrows()]
