"""Where is the reward decided, causally? Activation patching at the read-out, and at every token of a few short pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.plots.heads import attributed_heads
from rewarden.plots.labels import one_line
from rewarden.report.context import Audit
from rewarden.report.effects import by_size, cell_name, cell_rows, decider, effect_rows
from rewarden.report.estimates import MINIMUM, too_few
from rewarden.report.section import Block, FigureBlock, Finding, Section, section
from rewarden.report.sections.ledger import ALPHA, attribution_of
from rewarden.report.sections.traces import example_rows
from rewarden.report.tables import number
from rewarden.report.words import interval, listed, plural
from rewarden.result import Result

MAPS = 3
"""Pairs shown token by token, where the report shows as many examples."""

POOL = 12
"""Shortest pairs that these are chosen from, of those whose sides are about as long."""

NEAR = 2
"""Tokens by which the sides of such a pair differ at most, where there are such pairs."""

CONTEXT = 4
"""Tokens before the first effect that a map keeps."""

MAP_FORWARDS = 600
"""A map is drawn when it costs at most about so many forwards of its conversation."""

TABLE = 60
"""Cells of a map in its table, the largest first; the result in the run folder has all."""

WHOLE = ("resid_post", "attn_out", "mlp_out")
PART = {"attn_out": "writes", "mlp_out": "writes", "z": "heads"}
"""Sites that some models do not have -> the gap of their architecture that says why."""


def patched_pairs(audit: Audit) -> list[int]:
    """Rows of the pairs whose read-out is patched: some of those the attribution looked into."""
    return audit.sample(audit.options.patch_pairs, among=audit.sample(audit.options.lens_pairs))


def patch_of(audit: Audit, rows: list[int], positions: str = "read_out", sites: tuple[str, ...] = (*WHOLE, "z"),
             alignment: str = "suffix") -> Result:
    """Effects of these pairs at the sites this model has; a warning names those it does not have."""
    from rewarden.patching import patch  # torch; a report written again from its folder does without
    from rewarden.patching.sources import require_one_model

    require_one_model(audit.model())
    gaps = audit.model().architecture.gaps
    lost = {site: gaps[PART[site]] for site in sites if PART.get(site) in gaps}
    options = audit.options
    result = patch(audit.model(), [audit.pairs[row] for row in rows], sites=tuple(site for site in sites if site not in lost),
                   positions=positions, alignment=alignment, alpha=ALPHA, level=options.level, resamples=options.resamples,
                   seed=options.seed)
    notes = tuple(f"{listed(sorted(site for site in lost if lost[site] == why))} cannot be patched: {why}"
                  for why in sorted(set(lost.values())))
    return replace(result, warnings=(*result.warnings, *notes))


def same_pairs(attribution: Result, rows: list[int], all_rows: list[int]) -> Result:
    """The attribution of some of its pairs only, by their rows in the audit; means are taken anew."""
    places = np.searchsorted(all_rows, rows)
    data = attribution.data.isel(pair=places).drop_vars(["mean", "low", "high"])
    return replace(attribution, data=data.assign(mean=data["difference"].mean("pair")))


@section("patching", title="Where it is decided, causally", order=460)
def build(audit: Audit) -> Section | None:
    """The section; None where no patching is asked for."""
    rows = patched_pairs(audit) if audit.options.patch_pairs else []
    if len(rows) < 2:
        return None
    result = audit.result("patch", lambda: patch_of(audit, rows))
    layers = by_layer(result)
    blocks: list[Block] = [FigureBlock(
        plots.patch_layers(result), "For each layer, the mean loss of reward when the chosen response's activation at the "
        "read-out is exchanged for the rejected one's: the residual stream after the layer (all that reached it so far), and "
        "what the layer's attention and MLP add. At the last layer the residual stream carries the whole margin. Filled dots "
        "differ from zero; bands are intervals over pairs.", layers)]
    if "effect_heads" in result.data:
        blocks.append(_head_block(audit, result, rows))
    shown, left_out = map_rows(audit, int(result.data.sizes["layer"]))
    known = tuple(str(name) for name in result.data["site"].values)
    for row, reason, sites in shown:
        each = audit.result(f"patch_each_{row}", lambda row=row, sites=sites: patch_of(
            audit, [row], "each", tuple(site for site in sites if site in known), "prefix"))
        blocks.append(_map_block(audit, each, row, reason))
    facts = result.provenance
    alone = decider(result)
    findings = [*_findings(result, layers), *(Finding(f"{text[0].upper()}{text[1:]}.", "fact", -5) for text in result.warnings)]
    return Section("patching", "Where it is decided, causally", findings, blocks,
                   f"{len(rows)} of the pairs of the attribution. Patching (noising): the chosen response is run again with "
                   "one activation exchanged for that of the rejected response, and the effect is the reward lost; everything "
                   "after it is computed anew, so this is the total causal effect, and effects of different sites need not "
                   "sum to anything. At the read-out it meets its own counterpart; token by token, tokens are matched from "
                   f"the start, so that the prompt meets itself, and the last token meets the last. {facts.get('edits')} "
                   f"counterfactuals cost what {number(float(facts.get('forwards', np.nan)), 3)} forwards cost "
                   f"({facts.get('backend')}). Effects up to {number(float(result.noise_floor or 0), 2)} reward units are "
                   "rounding. Intervals: bootstrap over prompts; marks: sign flips over prompts, Benjamini-Hochberg at "
                   f"{100 * ALPHA:g} % over all cells but those that are exactly 0 in every pair. {' '.join(left_out)}".strip(),
                   {"margin": float(np.nanmean(result.data["margin"].values)), "n": len(rows),
                    "deciding": None if alone is None else alone[0],
                    "layers": layers.to_dict("records"), "cells": cell_rows(result).to_dict("records"),
                    "maps": [{"pair": str(audit.table.loc[row, "id"]), "reason": reason} for row, reason, _ in shown]})


def by_layer(result: Result) -> pd.DataFrame:
    """Effects of whole sites, one row per site and layer."""
    return effect_rows(result).rename(columns={"p_adjusted": "adjusted p"})


def _head_block(audit: Audit, result: Result, rows: list[int]) -> FigureBlock:
    """Causal effect of each head beside the contribution of the same heads in the same pairs."""
    attribution = same_pairs(audit.result("attribution", lambda: attribution_of(audit)), rows,
                             audit.sample(audit.options.lens_pairs))
    table = effect_rows(result, "_heads").rename(columns={"mean": "effect", "p_adjusted": "adjusted p"})
    table["attribution"] = attributed_heads(attribution, (result.data.sizes["layer"], result.data.sizes["head"])).ravel()
    return FigureBlock(plots.patch_heads(result, attribution),
                       "Left: the reward lost when one head's output at the read-out is exchanged for that in the rejected "
                       "response, with all that follows from it. Right: what the same head writes into the margin by itself "
                       "(attribution). A head that is strong on the left and weak on the right acts through later parts of "
                       "the model.",
                       by_size(table.rename(columns={"effect": "mean"})).rename(columns={"mean": "effect"}))


def map_rows(audit: Audit, layers: int) -> tuple[list[tuple[int, str, tuple[str, ...]]], list[str]]:
    """Which short pairs are shown token by token, why, and at which sites; and what is said of those that cost too much.

    Pairs whose sides are about as long come first: there each token has a counterpart. A map of S sites, L layers and T tokens
    has S·L·T cells of a quarter of a forward each, at most: a cell only runs what comes after it.
    """
    table = audit.counted[np.abs(audit.counted["margin"]) > audit.noise]
    sides = table[["tokens_chosen", "tokens_rejected"]].to_numpy()
    longer, uneven = sides.max(axis=1), np.abs(sides[:, 0] - sides[:, 1])
    order = np.lexsort([longer, uneven > NEAR])[:POOL]
    pool = table.iloc[order]
    shown, dear = [], []
    for place, reason in example_rows(pool["margin"].to_numpy(float), min(MAPS, audit.options.examples)):
        row = int(pool["row"].iloc[place])
        cells = layers * longer[order[place]]
        sites = next((sites for sites in (WHOLE, WHOLE[:1]) if len(sites) * cells / 4 <= MAP_FORWARDS), ())
        if sites:
            shown.append((row, reason, sites))
        else:
            dear.append(str(audit.table.loc[row, "id"]))
    said = [f"No token by token map is drawn of {plural(len(dear), 'pair')}: it would cost more than {MAP_FORWARDS} forwards."]
    return shown, said if dear else []


def _map_block(audit: Audit, result: Result, row: int, reason: str) -> FigureBlock:
    """The map of one pair, with its strongest cell in words."""
    table = cell_rows(result)[["site", "layer", "position", "mean"]].rename(columns={"mean": "effect"})
    place = table["position"].to_numpy() + result.data.sizes["position"]
    token = result.data["token"].isel(pair=0).values
    table.insert(3, "token", [one_line(str(token[at])) for at in place])
    subset = f" ({audit.pairs[row].subset})" if audit.pairs[row].subset else ""
    figure = plots.patch_positions(result, context=CONTEXT,
                                   name=f"{audit.table.loc[row, 'id']}{subset}, {reason} among the shortest")
    best = table.iloc[0]
    return FigureBlock(figure, "Blue: with the state that the rejected response has at the same place, the chosen response "
                       "loses reward. Grey: no effect above rounding, where both responses are the same so far or nothing "
                       "that follows reads this. Hatched: the rejected response has no such place. The strongest cell is "
                       f"{cell_name(best['site'], int(best['layer']))} at the token “{best['token']}” (position "
                       f"{number(float(best['position']))}, counted from the end): {number(best['effect'], 3)}.",
                       table.head(TABLE))


def _findings(result: Result, layers: pd.DataFrame) -> list[Finding]:
    margin, n = float(np.nanmean(result.data["margin"].values)), result.data.sizes["pair"]
    if n < MINIMUM:
        return [Finding(too_few("causal effects", n, "pairs"), "fact", -5)]
    stream = layers[layers["site"] == "resid_post"].sort_values("layer")
    last = int(stream["layer"].iloc[-1])
    findings = []
    half = np.sign(margin) * stream["mean"].to_numpy() >= abs(margin) / 2
    if half[-1] and bool(stream["marked"].iloc[-1]):
        start = stream.iloc[int(np.flatnonzero(~half)[-1]) + 1 if (~half).any() else 0]
        findings.append(Finding(
            f"Causally, the read-out position decides half of the margin from layer {int(start['layer'])} on (of 0 to {last}): "
            f"with the rejected response's residual stream there, {interval(start['mean'], start['low'], start['high'])} of "
            f"the mean margin of {number(margin, 3)} are lost (n = {n} pairs).", "fact", 21.5))
    alone = decider(result)
    if alone is not None:
        findings.append(Finding(alone[1], "fact", 21))
    cells = cell_rows(result)
    parts = cells[cells["site"] != "resid_post"]
    marked = parts[parts["marked"]]
    if len(marked):
        named = [f"{cell_name(row['site'], row['layer'], row['head'])} ({interval(row['mean'], row['low'], row['high'])})"
                 for row in marked.head(3).to_dict("records")]
        findings.append(Finding(
            f"{len(marked)} of {len(parts)} attention writes, MLPs and heads at the read-out have a causal effect that differs "
            f"from zero at a false discovery rate of {100 * ALPHA:g} % (n = {n} pairs); the largest: {listed(named)}.", "fact",
            20))
    elif len(parts):
        findings.append(Finding("There is no evidence that any single attention write, MLP or head at the read-out has an "
                                f"effect on the reward (n = {n} pairs; sign-flip test, Benjamini-Hochberg over "
                                f"{int(cells['p_adjusted'].notna().sum())} tested cells).", "fact", 3))
    return findings
