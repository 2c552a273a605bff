"""Do the states that patching makes lie where clean runs are, and what are effects without those that do not?

In: the model and the pairs that the patching section uses; further pairs say what clean states are like.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.hacking.calibration import null_words
from rewarden.plots.divergence import divergence_table
from rewarden.report.context import Audit
from rewarden.report.section import FigureBlock, Finding, Section, section
from rewarden.report.sections.patching import patched_pairs
from rewarden.report.words import interval, listed, plural
from rewarden.result import Result

TITLE = "Whether patched states are states of this model"
CLEAN, PROMPTS = 200, 40
"""Pairs whose clean states are compared with, at most; distinct prompts that the ranks need."""

NAMED = 3
"""Components named in a sentence, at most."""


@section("divergence", title=TITLE, order=461)
def build(audit: Audit) -> Section | None:
    """The section; None where nothing is patched, for few prompts, and for read-outs of several positions."""
    rows = patched_pairs(audit) if audit.options.patch_pairs else []
    if len(rows) < 2 or len(np.unique(audit.counted["prompt"].to_numpy())) < PROMPTS:
        return None
    if audit.rm is None:
        if audit.run is None or not (audit.run.results_folder / "divergence.nc").exists():
            return None
    elif not _one_position(audit):
        return None
    return described(audit.result("divergence", lambda: _computed(audit, rows)))


def _one_position(audit: Audit) -> bool:
    """Whether the model is one that reads one position and has the sites that are patched."""
    from rewarden.hacking.off_distribution.clean import require_one_position

    rm = audit.model()
    if not hasattr(rm, "architecture") or {"writes", "heads"} & set(rm.architecture.gaps):
        return False
    try:
        require_one_position(rm, [rm.encode(talk) for talk in audit.pairs[0].conversations])
    except RewardenError:  # the section does not apply; the verb says why
        return False
    return True


def _computed(audit: Audit, rows: list[int]) -> Result:
    from rewarden.hacking.off_distribution.measure import divergence  # torch

    options, patched = audit.options, set(rows)
    clean = [audit.pairs[row] for row in audit.sample(CLEAN) if row not in patched]
    return divergence(audit.model(), [audit.pairs[row] for row in rows], clean=clean, level=options.level,
                      resamples=options.resamples, seed=options.seed)


def described(result: Result) -> Section:
    """The section of a divergence Result."""
    table, facts, data = divergence_table(result), result.provenance, result.data
    block = FigureBlock(
        plots.divergence_forest(result), "Left: share of pairs in which exchanging this activation makes a state beyond 95 % "
        "of clean ones, of other prompts; filled, where that is more often than a clean run would be. Right: mean effect on "
        "the reward, of all pairs and without those; filled, where it differs from zero. That a mark is gone without them may "
        "be for want of pairs: by how much the mean changes stands in the table (`shift`).", table)
    half = [int(n) for n in data["clean_rows"].values]
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in result.warnings)
    return Section(
        "divergence", TITLE, _findings(result), [block],
        f"The patched pairs of the section before, at the read-out ({facts['mode']}). A state is the activation put in "
        "together with the residual stream after its layer and all later ones; its largest standardised Mahalanobis distance "
        f"({str(facts['method']).replace('_', '-')} covariance; leading directions, the others, and all) is ranked among those "
        f"of clean runs of other prompts, with distances fitted on the other half of the prompts ({half[0]} + {half[1]} clean "
        f"conversations, one of each prompt): a clean state is called divergent with probability {facts['alpha']} at most. "
        "Only states farther out than clean ones count, not those too near their centre, as means are. Shares are marked by a "
        "beta-binomial test with Benjamini-Hochberg over components. Clean runs are beyond the threshold too, at that rate. "
        "`shift`: mean effect of all pairs less that of the pairs that are left, of the same pairs, Welch's interval over "
        "prompts for the pairs that are divergent here; without three prompts on either side it has no ends, as means of "
        "fewer than five have none. “In the reward's null space”: what the reward's frozen direction reads of the "
        f"final state is within the clean range, the rest of it need not be. {null_words('divergence')} {notes}".strip(),
        {"components": table.to_dict("records"), "n": int(data.sizes["pair"])})


def _findings(result: Result) -> list[Finding]:
    data, facts, table = result.data, result.provenance, divergence_table(result)
    n, states = data.sizes["pair"], int(np.isfinite(data["p_state"].values).sum())
    off, alpha = int(data["divergent"].values.sum()), 100 * float(facts["alpha"])
    only = int(data["null_only"].values.sum())
    said = (f"{off} of {states} patched states ({100 * off / max(states, 1):.1f} %) lie beyond {100 - alpha:g} % of clean ones "
            f"(n = {n} pairs, {len(table)} components)"
            + (f"; in {only} of them what the reward reads is within the clean range" if off else ""))
    marked = table[table["marked"]]
    suspect = [str(name) for name in data["component"].values[data["suspect"].values.astype(bool)]]
    if suspect:
        rows = table[table["component"].isin(suspect)].head(NAMED)
        named = [f"{row.name} ({100 * row.share:.0f} % divergent; effect {interval(row.mean, row.mean_low, row.mean_high)}, "
                 f"n = {row.n}; {_without(row)})" for row in rows.itertuples(index=False)]
        return [Finding(f"{plural(len(suspect), 'component')} with an effect left the clean range more often than clean runs "
                        f"do: {listed(named)}. {said}. {null_words('divergence')}", "concern", 12)]
    if len(marked):
        return [Finding(f"{said}; {plural(len(marked), 'component')} left the clean range more often than clean runs do, none "
                        "of them with an effect that was found to differ from zero.", "fact", 2)]
    kept = int((table["effect_marked"].astype(bool) & table["kept_marked"].astype(bool)).sum())
    return [Finding(f"No component was found whose patched states leave the clean range more often than clean runs do: {said}. "
                    f"Of {int(table['effect_marked'].sum())} effects that differ from zero, {kept} do so too without the "
                    f"divergent pairs (at least {int(table['kept_n'].min())} of {n} are left).", "fact", 2)]


def _without(row: Any) -> str:
    """The effect without the divergent pairs, and by how much that differs."""
    if not row.kept_n:
        return "no pair is left without those"
    return (f"without those {interval(row.kept_mean, row.kept_low, row.kept_high)}, n = {row.kept_n}, a difference of "
            f"{interval(row.shift, row.shift_low, row.shift_high)}")
