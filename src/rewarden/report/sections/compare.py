"""How does the model differ from another one? Verdicts, depth, parts, directions and states side by side, on the same pairs.

In: the model, its pairs, a second model (the other bundled one for a bundled model, or the one asked for). Out: what
`rewarden.compare` found. No section where there is no second model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.plots.depth import layer_name
from rewarden.report.batteries import BIAS_NOTE, bias_findings, bias_rows, both_batteries, shown
from rewarden.report.context import Audit
from rewarden.report.estimates import MINIMUM, Estimate, too_few
from rewarden.report.section import Block, FigureBlock, Finding, Section, TableBlock, section
from rewarden.report.tables import number
from rewarden.report.words import interval, percent, points
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.conversation import Pair
    from rewarden.reward_model import RewardModel

TITLE = "Beside another reward model"
BUNDLED = ("reward_model", "reward_model_b")
"""The bundled models that are compared with each other unasked."""

LISTED = 12
"""Pairs listed that the models judge differently."""

PARTS = 20
"""Parts in the table, those with the largest shares."""


@section("compare", title=TITLE, order=490)
def build(audit: Audit) -> Section | None:
    """The section; None without a second model."""
    if not _asked(audit):
        return None
    other = cache(lambda: _other(audit))
    result = audit.result("comparison", lambda: comparison_of(audit, other()))
    if int(result.data["n_both"].values[0, 1]) < MINIMUM:
        n = int(result.data["n_both"].values[0, 1])
        return Section("compare", TITLE, [Finding(too_few("how two models compare", n, "pairs"), "fact", -5)])
    return described(result, pairs_of(audit, result), both_batteries(audit, other))


def _asked(audit: Audit) -> bool:
    """Whether there is a second model, or what was found with one."""
    if audit.options.against == "none":
        return False
    if audit.rm is None:
        return audit.run is not None and (audit.run.results_folder / "comparison.nc").exists()
    return audit.options.against != "auto" or other_bundled(audit.rm) is not None


def other_bundled(rm: RewardModel) -> str | None:
    """The name of the other bundled model, for a bundled one (known by its weights)."""
    from rewarden.checkpoint import weights_hash
    from rewarden.demo import model_path

    own = rm.provenance().get("weights_sha256")
    for name, other in (BUNDLED, BUNDLED[::-1]):
        if own and own == weights_hash(str(model_path(name)), None):
            return f"demo:{other}"
    return None


def _other(audit: Audit) -> RewardModel:
    """The second model."""
    from rewarden import load  # torch; a report written again from its folder does without

    return load(other_bundled(audit.model()) if audit.options.against == "auto" else audit.options.against)


def comparison_of(audit: Audit, other: RewardModel) -> Result:
    """The comparison of the audited model with the other one, on the pairs that both can read."""
    from rewarden.comparison import compare
    from rewarden.fitting import fitting

    rm, options = audit.model(), audit.options
    pairs = [replace(pair, id=str(name)) for pair, name in zip(audit.pairs, audit.score.data["pair"].values, strict=True)]
    fit = fitting(other, pairs)
    known = None if fit.left_out else audit.score
    return compare([rm, other], fit.pairs, scores=[known, None], inside_pairs=max(5, options.lens_pairs), level=options.level,
                   resamples=options.resamples, seed=options.seed)


def pairs_of(audit: Audit, result: Result) -> list[Pair]:
    """The audit's pairs that were compared, in the order of the result."""
    place = {str(name): row for row, name in enumerate(audit.score.data["pair"].values)}
    return [audit.pairs[place[str(name)]] for name in result.data["pair"].values]


def described(result: Result, pairs: list[Pair], asked: Sequence[Result] = ()) -> Section:
    """The section of a comparison of two models.

    Args:
        result: the comparison.
        pairs: its pairs.
        asked: the bias battery of both models, or nothing.
    """
    from rewarden.comparison import disagreements

    listed = disagreements(result, pairs, n=LISTED)
    blocks: list[Block] = [FigureBlock(
        plots.compare_margins(result), "A dot is a pair; its margin in both models, each in SD of that model's rewards. In the "
        "upper left and lower right the models prefer different responses.", verdict_rows(result))]
    if len(listed):
        blocks.append(TableBlock("Pairs the two models judge differently", "The most decided ones first: those with the "
                                 "largest margins in both. Right is the model that prefers the chosen response.", listed))
    if "lens" in result.data:
        blocks += _inside_blocks(result)
    biases = bias_rows(result, asked) if asked else pd.DataFrame()
    if len(biases):
        blocks.append(TableBlock("The bias battery of both models", BIAS_NOTE, shown(result, biases)))
    return Section("compare", TITLE, [*_findings(result), *bias_findings(result, biases, asked)], blocks, _methods(result), {
        "biases": biases.to_dict("records"),
        "models": [str(name) for name in result.data["model"].values], "n": result.data.sizes["pair"],
        "rows": verdict_rows(result).to_dict("records"), "directions": direction_rows(result).to_dict("records"),
        "warnings": list(result.warnings)})


def _inside_blocks(result: Result) -> list[Block]:
    blocks: list[Block] = [FigureBlock(
        plots.compare_depth(result), "Above: the mean margin that the lens reads at each depth. Below: whether pairs that one "
        "model decides clearly for the chosen response at that depth are those of the other.", depth_rows(result))]
    if "share" in result.data:
        blocks.append(FigureBlock(
            plots.compare_parts(result), "A dot is a part (attention head, MLP): the share of the margin's mean square that it "
            "writes in each model, signs counted; the shares of a model sum to 100 %.", part_rows(result)))
    if np.isfinite(result.data["cka"].values[0, 1]).any():
        blocks.append(FigureBlock(
            plots.compare_layers(result), "1: the states of two layers differ by rotation and scale only; 0: unrelated. Grey: "
            "texts shuffled between the models reach as much.", layer_rows(result)))
    rows = direction_rows(result)
    if len(rows):
        blocks.append(TableBlock(
            "Reward directions in a common frame", "What both heads would say of the same states: the cosine in the frame of "
            "these states, which is the correlation of both readings. Random directions stay below the last column in 95 of "
            "100 draws: states vary along few directions, and whatever reads them correlates.", rows))
    return blocks


def _estimate(result: Result, name: str, *where: int) -> Estimate:
    data = result.data
    low, high = (float(data[f"{name}_{end}"].values[where]) for end in ("low", "high"))
    return Estimate(float(data[name].values[where]), low, high, int(data["n_both"].values[0, 1]))


def verdict_rows(result: Result) -> pd.DataFrame:
    """What both models say of the pairs: accuracies, their difference, agreement, rank correlations."""
    names = [str(name) for name in result.data["model"].values]
    held = {f"accuracy of {names[0]}": _estimate(result, "accuracy", 0), f"accuracy of {names[1]}": _estimate(
        result, "accuracy", 1), "difference in accuracy, paired": _estimate(result, "accuracy_gap", 0, 1),
        "share of pairs judged alike": _estimate(result, "agreement", 0, 1), "Cohen's κ": _estimate(result, "kappa", 0, 1)}
    for place, quantity in enumerate(result.data["quantity"].values.astype(str)):
        held |= {f"Spearman's ρ of {quantity}s": _estimate(result, "spearman", place, 0, 1),
                 f"Kendall's τ of {quantity}s": _estimate(result, "kendall", place, 0, 1)}
    return pd.DataFrame([{"what": what, **found.data()} for what, found in held.items()])


def depth_rows(result: Result) -> pd.DataFrame:
    """The lens of both models and their agreement, one row a depth."""
    data = result.data
    names = [str(name) for name in data["model"].values]
    return pd.DataFrame({
        "depth": data["depth"].values,
        **{f"{words} {names[place]}": data[key].values[place] for place in (0, 1) for words, key in
           (("margin,", "lens"), ("low,", "lens_low"), ("high,", "lens_high"), ("accuracy,", "lens_accuracy"),
            ("accuracy low,", "lens_accuracy_low"), ("accuracy high,", "lens_accuracy_high"))},
        "agreement": data["lens_agreement"].values[0, 1], "low": data["lens_agreement_low"].values[0, 1],
        "high": data["lens_agreement_high"].values[0, 1]})


def part_rows(result: Result) -> pd.DataFrame:
    """Shares of the margin's mean square by part, those largest in either model first."""
    data = result.data
    table = pd.DataFrame({"part": data["component"].values.astype(str), **{
        f"{name!s}{end.replace('_', ', ')}": data[f"share{end}"].values[place]
        for place, name in enumerate(data["model"].values[:2]) for end in ("", "_low", "_high")}})
    order = np.argsort(-np.nanmax(np.abs(data["share"].values[:2]), axis=0), kind="stable")
    return table.iloc[order[:PARTS]].reset_index(drop=True)


def layer_rows(result: Result) -> pd.DataFrame:
    """CKA of every two layers, one row each."""
    data = result.data
    held = {name: data[name].values[0, 1] for name in ("cka", "cka_low", "cka_high", "cka_null")}
    rows, columns = np.nonzero(np.isfinite(held["cka"]))
    names = [str(name) for name in data["model"].values]
    return pd.DataFrame({f"layer of {names[0]}": [layer_name(int(data["layer"].values[row])) for row in rows],
                         f"layer of {names[1]}": [layer_name(int(data["other_layer"].values[column])) for column in columns],
                         **{name: values[rows, columns] for name, values in held.items()}})


def direction_rows(result: Result) -> pd.DataFrame:
    """Cosines of the reward directions in the frame of either model's states; empty without a frame."""
    data = result.data
    if "frame_cosine" not in data or str(data["no_frame"].values[0, 1]):
        return pd.DataFrame()
    names, rows = [str(name) for name in data["model"].values], []
    for place, quantity in enumerate(data["quantity"].values.astype(str)):
        for i, j in ((0, 1), (1, 0)):
            rows.append({"of": f"{quantity}s", "states of": names[i],
                         **{words: float(data[f"frame_cosine{end}"].values[place, i, j])
                            for words, end in (("cosine", ""), ("low", "_low"), ("high", "_high"))},
                         "cosine of raw weights": float(data["raw_cosine"].values[i, j]),
                         "random directions": float(data["frame_null"].values[place, i, j])})
    return pd.DataFrame(rows)


def _findings(result: Result) -> list[Finding]:
    data = result.data
    names, n = [str(name) for name in data["model"].values], int(data["n_both"].values[0, 1])
    agreement, kappa, gap = (_estimate(result, name, 0, 1) for name in ("agreement", "kappa", "accuracy_gap"))
    rank = _estimate(result, "spearman", 1, 0, 1)
    chance = Estimate(float(data["agreement_chance"].values[0, 1]), float("nan"), float("nan"), n)
    beyond = "includes" if kappa.covers(0) else "excludes"
    found = [Finding(
        f"{names[0]} and {names[1]} prefer the same response in {percent(agreement)} of {n} pairs; {percent(chance)} would be "
        f"chance, if their mistakes were unrelated, which κ = {interval(kappa.value, kappa.low, kappa.high)} {beyond}. "
        f"Spearman's ρ of their margins is {interval(rank.value, rank.low, rank.high)}.", "fact", 14)]
    own, other = (percent(_estimate(result, "accuracy", place)) for place in (0, 1))
    found.append(Finding(f"The accuracy of {names[0]} is {own}, that of {names[1]} {other}: a paired difference of "
                         f"{points(gap)} (n = {n}), an interval that {'includes' if gap.covers(0) else 'excludes'} 0.",
                         "fact", 13))
    return [*found, *_inside_findings(result, names)] if "lens" in data else found


def _inside_findings(result: Result, names: list[str]) -> list[Finding]:
    data, found = result.data, []
    if "shared_count" in data and np.isfinite(data["shared_count"].values[0, 1]):
        count, expected, p, kind, p_kind = (float(data[f"shared_{name}"].values[0, 1]) for name in (
            "count", "expected", "p", "expected_by_kind", "p_by_kind"))
        found.append(Finding(
            f"Of the {int(data['top'])} parts that write most of the margin, the models share {int(count)} (n = "
            f"{data.sizes['inside']} pairs): unrelated rankings share {number(expected, 2)} on average (p = {number(p, 2)}), "
            f"rankings unrelated but for kind and layer {number(kind, 2)} (p = {number(p_kind, 2)}).", "fact", 4))
    rows = direction_rows(result)
    reason = str(data["no_frame"].values[0, 1])
    if reason:
        found.append(Finding(f"Their reward directions are not compared: {reason}.", "fact", 2))
    elif len(rows):
        row = rows.iloc[0]
        bound = float(row["random directions"])
        beyond = ("more than random directions, which" if abs(row["cosine"]) > bound and row["low"] * row["high"] > 0
                  else "within what random directions reach, which")
        found.append(Finding(
            f"Read from the same states (those of {row['states of']}), both reward heads correlate with r = "
            f"{interval(row['cosine'], row['low'], row['high'])}, {beyond} stay below {number(bound, 2)} in 95 of 100 draws; "
            f"the cosine of their raw weights is {number(float(row['cosine of raw weights']), 2)}.", "fact", 5))
    cka = data["cka"].values[0, 1]
    if np.isfinite(cka).any():
        i, j = np.unravel_index(int(np.nanargmax(cka)), cka.shape)
        ends = [float(data[f"cka{end}"].values[0, 1, i, j]) for end in ("", "_low", "_high", "_null")]
        found.append(Finding(
            f"Their states where the reward is read are most alike after layers {layer_name(int(data['layer'].values[i]))} and "
            f"{layer_name(int(data['other_layer'].values[j]))}: CKA {interval(*ends[:3])} (n = {int(data['cka_n'])} prompts; "
            f"shuffled texts stay below {number(ends[3], 2)} in 95 of 100).", "fact", 3))
    return found


def _methods(result: Result) -> str:
    notes = " ".join(f"{text[0].upper()}{text[1:]}." for text in result.warnings)
    return ("Both models score the same pairs; units of every interval are prompts. Shares and means: Wilson's interval or a "
            "bootstrap; the difference in accuracy: an interval that stays open where no pair changes sides (after Bonett & "
            "Price); correlations: a jackknife over blocks of prompts. κ is agreement beyond what accuracies alone give, as "
            "a share of what is possible. Depth puts the embedding at 0 and the layer the reward is read from at 1, and "
            "interpolates between layers. Shares of parts are Σ contribution · margin over Σ margin², so that a model that is "
            "as often wrong as right has parts as well; the correlation over parts is free of the noise that both models share "
            "through the texts. A common frame of reward directions exists only for models trained from one another or from a "
            "common one. CKA is the unbiased linear one, from one pair a prompt, chosen and rejected responses apart. "
            + notes).strip()
