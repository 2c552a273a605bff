"""Are the parts that write the reward the parts that cause it? Attribution against patching, in both conventions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.plots.agreement import SHOWN
from rewarden.report.context import Audit
from rewarden.report.effects import correlation_rows
from rewarden.report.estimates import MINIMUM, too_few
from rewarden.report.section import FigureBlock, Finding, Section, section
from rewarden.report.sections.patching import patched_pairs
from rewarden.report.tables import number
from rewarden.report.words import interval
from rewarden.result import Result

FORWARDS = 800
"""Patching whole sequences costs about two forwards per layer and pair; fewer pairs are taken where that would be more."""

DIRECT, TOTAL, PUBLISHED = SHOWN


def agreement_of(audit: Audit) -> Result:
    """The agreement of the pairs whose activations are patched, of fewer in a deep model."""
    from rewarden.patching.agreement import agreement  # torch; a report written again from its folder does without
    from rewarden.patching.sources import require_one_model

    rm, options = audit.model(), audit.options
    require_one_model(rm)
    rows = audit.sample(max(2, FORWARDS // (2 * rm.architecture.n_layers)), among=patched_pairs(audit))
    return agreement(rm, [audit.pairs[row] for row in rows], level=options.level, resamples=options.resamples,
                     seed=options.seed)


@section("agreement", title="Does attribution agree with causal effects?", order=470)
def build(audit: Audit) -> Section | None:
    """The section; None where no patching is asked for."""
    if not audit.options.patch_pairs or len(patched_pairs(audit)) < 2:
        return None
    result = audit.result("agreement", lambda: agreement_of(audit))
    data = result.data
    n = data.sizes["pair"]
    table = correlation_rows(result)
    drawn = table["comparison"].isin((TOTAL, PUBLISHED)) & (table["components"] == "block")
    blocks = [FigureBlock(
        plots.agreement_scatter(result),
        "A point is an attention block, an MLP or a head; values are means over pairs, correlations are computed within each "
        "pair and averaged. Left: what a part writes into the margin against the reward lost when only that write is "
        "exchanged, all between held. Middle: against the reward lost when all that follows is computed anew. Right: the "
        "published convention, which leaves the final norm out of the attribution and matches tokens from the "
        "left.", component_rows(result))]
    if np.isfinite(data["total_left"].values).any():
        blocks.append(FigureBlock(
            plots.agreement_by_length(result), "Attention blocks and MLPs. With tokens matched from the left, the token that "
            "the reward is read at is not patched at all where the rejected response is shorter, and gets the state of a "
            "token in mid-response where it is longer. With tokens matched from the end it always meets its own "
            "counterpart.", table[drawn]))
    return Section("agreement", "Does attribution agree with causal effects?", _findings(result), blocks,
                   f"{n} of the pairs whose activations are patched. Spearman's ρ over components, per pair; means with "
                   "bootstrap intervals over prompts; p: components shuffled, the same shuffle for all pairs, not adjusted "
                   f"for the number of comparisons. Effects within {number(float(result.noise_floor or 0), 2)} reward units "
                   "count as equal. The published convention: reward-lens (arXiv 2604.26130), raw projection on the reward "
                   f"direction and patching of equal indices. {result.provenance['edits']} counterfactuals cost what "
                   f"{number(float(result.provenance['forwards']), 3)} forwards cost.",
                   {"correlations": table.to_dict("records"), "n": n})


def component_rows(result: Result) -> pd.DataFrame:
    """Means over pairs of every quantity, one row per component, the largest total effect first."""
    data = result.data
    names = [name for name in ("attribution", "direct", "total", "total_all", "attribution_raw", "total_left")
             if np.isfinite(data[name].values).any()]
    table = pd.DataFrame({"component": data["component"].values.astype(str), "type": data["kind"].values.astype(str),
                          **{name: data[name].mean("pair").values for name in names}})
    return table.sort_values("total", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _findings(result: Result) -> list[Finding]:
    table = correlation_rows(result)
    n = result.data.sizes["pair"]
    if n < MINIMUM:
        return [Finding(too_few("the agreement of attribution with causal effects", n, "pairs"), "fact", -5)]

    def words(comparison: str, components: str = "block", pairs: str = "all") -> str:
        found = table[(table["comparison"] == comparison) & (table["components"] == components) & (table["pairs"] == pairs)]
        if len(found) == 0:
            return ""
        row = found.iloc[0]
        return f"ρ = {interval(row['rho'], row['low'], row['high'])}"

    heads = f", single heads {words(TOTAL, 'head')}" if words(TOTAL, "head") else ""
    findings = [Finding(
        f"Attribution ranks attention blocks and MLPs by their direct effects with {words(DIRECT)}, and by their total effects "
        f"with {words(TOTAL)}{heads} (n = {n} pairs).", "fact", 18)]
    if words(PUBLISHED):
        split = [f"{name} {words(PUBLISHED, pairs=name)} (aligned: {words(TOTAL, pairs=name)})"
                 for name in ("rejected shorter", "rejected longer") if words(PUBLISHED, pairs=name)]
        findings.append(Finding(
            f"The published convention, raw attribution against left-aligned patching, gives {words(PUBLISHED)} on the same "
            "pairs; it depends on length: "
            f"{'; '.join(split)}." if split else "The published convention, raw attribution against left-aligned "
            f"patching, gives {words(PUBLISHED)} on the same pairs.", "fact", 5))
    return findings
