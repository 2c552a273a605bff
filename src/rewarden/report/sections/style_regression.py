"""Which features of style go with the reward in these pairs, and what is style worth beside content?

In: the scored pairs; rewards of versions of the same content, where the data have such. Out: a regression of the margin on
differences of style, and content, style and their interaction.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.errors import RewardenError
from rewarden.hacking.calibration import null_words
from rewarden.hacking.styles.interaction import ITEMS, grid_prompts, grid_rewards, style_content
from rewarden.hacking.styles.regression import style_regression
from rewarden.options import StyleOptions
from rewarden.report.context import Audit
from rewarden.report.section import Block, FigureBlock, Finding, Section, section
from rewarden.report.sections.style import scored_versions
from rewarden.report.words import interval, listed, plural
from rewarden.result import Result

TITLE = "Style in natural texts"

NAMED = 4
"""Features named in a finding, in each direction."""


@section("style_regression", title=TITLE, order=305)
def build(audit: Audit) -> Section | None:
    """The section; None for fewer prompts than the regression needs."""
    options = StyleOptions(level=audit.options.level)
    if len(np.unique(audit.counted["prompt"].to_numpy())) < options.prompts:
        return None
    result = audit.result("style_regression", lambda: style_regression(audit.score, audit.pairs, options=options))
    table = regression_table(result)
    blocks: list[Block] = [FigureBlock(
        plots.style_forest(result),
        "How the margin between chosen and rejected goes with the difference of each feature between them: dots with all "
        "other features held fixed, filled where the slope differs from zero; diamonds without the others. Right of the line, "
        "more of the feature goes with more reward.", table)]
    findings, data = [_finding(result)], {"features": table.to_dict("records"), "n": int(result.data["n_prompts"])}
    content = _content(audit)
    if content is not None:
        blocks.append(FigureBlock(
            plots.style_content(content),
            "Each answer in every style. Top: good answer less bad one, mean over styles. Then what a style earns whatever the "
            "answer; then by how much the style changes the difference between the answers (left of the line: style hides "
            "content).", content_table(content)))
        findings.append(_content_finding(content))
        data["content"] = content_table(content).to_dict("records")
    return Section("style_regression", TITLE, findings, blocks, _methods(result), data)


def regression_table(result: Result) -> pd.DataFrame:
    """The features with a slope, largest effect first, then those without one and why."""
    names = ("effect", "effect_low", "effect_high", "slope", "low", "high", "alone", "p_adjusted", "vif", "differs")
    table = pd.DataFrame({"feature": result.data["words"].values.astype(str), "unit": result.data["unit"].values.astype(str),
                          **{name: result.data[name].values for name in names},
                          "left out": result.data["left_out"].values.astype(str)})
    order = np.argsort(-np.abs(table["effect"].to_numpy()), kind="stable")  # NaN last
    return table.iloc[order].reset_index(drop=True)


def content_table(content: Result) -> pd.DataFrame:
    """Content, styles and interactions as rows."""
    rows = [{"what": "better answer", "step": "", **_ends(content, "content")}]
    rows += [{"what": part, "step": str(step), **_ends(content, part, place)}
             for part in ("style", "interaction") for place, step in enumerate(content.data["step"].values)]
    return pd.DataFrame(rows)


def _ends(content: Result, part: str, place: int | None = None) -> dict[str, float]:
    kinds = ("mean", "low", "high") if place is None else ("mean", "low", "high", "p_adjusted")
    return {kind: float(content.data[f"{part}_{kind}"].values[() if place is None else place]) for kind in kinds}


def _content(audit: Audit) -> Result | None:
    """Content against style, of a grid's own pairs or of scored versions; None with neither or with few prompts."""
    provenance, floor, level = dict(audit.score.provenance), audit.noise, audit.options.level
    whole = [row for row in audit.counted["row"] if isinstance(audit.pairs[row].metadata.get("style_chosen"), int)
             and "candidates" in audit.pairs[row].metadata]
    if whole:
        rewards = audit.main_reward(audit.score).sel(side=["chosen", "rejected"]).transpose("pair", "side").values[whole]
        pairs = [audit.pairs[row] for row in whole]
        try:
            grid, prompts = grid_rewards(rewards, pairs), grid_prompts(rewards, pairs)
        except RewardenError:  # no item has all its styles, or subsets have different numbers of them: nothing to compare
            return None
        if len(np.unique(prompts)) < ITEMS:
            return None
        return style_content(grid, prompts, level=level, provenance=provenance, noise_floor=floor)
    held = scored_versions(audit)
    if held is None or len(np.unique(held.data["prompt_number"].values)) < ITEMS:
        return None
    return style_content(held.data["reward"].transpose("item", "side", "style").values, held.data["prompt_number"].values,
                         styles=[str(name) for name in held.data["style"].values], level=level, provenance=provenance,
                         noise_floor=floor)


def _finding(result: Result) -> Finding:
    data = result.data
    tested, n = int(np.isfinite(data["p"].values).sum()), int(data["n_prompts"])
    flagged = data.isel(feature=np.flatnonzero(data["flagged"].values))
    if not flagged.sizes["feature"]:
        return Finding(f"No feature of style goes with the reward beyond chance: {tested} features, n = {n} prompts. "
                       f"{_false(result)}", "clear", 8)
    sides = []
    for sign, words in ((1, "more of it goes along with more reward"), (-1, "more of it goes along with less")):
        own = flagged.isel(feature=np.flatnonzero(np.sign(flagged["effect"].values) == sign))
        order = np.argsort(-np.abs(own["effect"].values), kind="stable")[:NAMED]
        ends = [[float(own[name].values[at]) for name in ("effect", "effect_low", "effect_high")] for at in order]
        named = [f"{own['words'].values[at]} {interval(*three)}" for at, three in zip(order, ends, strict=True)]
        sides += [f"{words}: {listed(named)}"] if named else []
    return Finding(f"{flagged.sizes['feature']} of {tested} features of style go with the reward (n = {n} prompts; standard "
                   f"deviations of reward per standard deviation of the feature, others held fixed); {'; '.join(sides)}. "
                   f"{_false(result)}", "concern", 40 + 20 * float(np.abs(flagged["effect"].values).max()))


def _content_finding(content: Result) -> Finding:
    data, n = content.data, int(content.data["n"])
    answer = interval(*(float(data[f"content_{end}"]) for end in ("mean", "low", "high")))
    styles = [f"{step} {interval(*(float(data[f'style_{end}'].sel(step=step)) for end in ('mean', 'low', 'high')))}"
              for step in data["step"].values]
    worth = float(np.nanmax(data["worth"].values)) if np.isfinite(data["worth"].values).any() else math.nan
    text = (f"The same content in several styles ({plural(n, 'prompt')}): the better answer earns {answer} reward units more; "
            f"a style instead of the plainest earns {listed(styles)}, at most {worth:.2f} times what content is worth")
    mean, flags = data["interaction_mean"].values, data["interaction_flagged"].values
    for sign, verb in ((-1, "shrinks"), (1, "grows")):
        steps = [str(step) for step, one, flag in zip(data["step"].values, mean, flags, strict=True) if flag and one * sign > 0]
        text += f"; the gap between the answers {verb} in {listed(steps)} style" if steps else ""
    hides, sways = bool((flags & (mean < 0)).any()), bool(data["style_flagged"].values.any())
    text += f". {null_words('style_content', alpha=float(content.provenance['alpha']))}"
    return Finding(text, "concern" if hides or (sways and worth > 0.5) else "fact", 35 if hides or sways else 4)


def _false(result: Result) -> str:
    """The null rate on these very pairs."""
    rate, low, high = (100 * float(result.data[f"false_any{end}"]) for end in ("", "_low", "_high"))
    return (f"With the sides of these pairs exchanged at random it flags something in {rate:.1f} % of "
            f"{int(result.provenance['exchanges'])} copies [{low:.1f}, {high:.1f}]; stated: "
            f"{100 * float(result.provenance['alpha']):g} %.")


def _methods(result: Result) -> str:
    return ("Features are counted in the responses by simple rules. The margin is regressed on their differences, chosen less "
            "rejected, with a level for what chosen responses earn anyway; intervals and p values are clustered by prompt "
            f"(CR2, Satterthwaite), and p values adjusted for the number of features ({result.provenance['adjust']}). These "
            "are associations in texts as they are, not effects of edits: a feature may stand in for content or for one that "
            "is not counted, and a model with random weights follows length and layout of texts, too. "
            f"{null_words('style')}")
