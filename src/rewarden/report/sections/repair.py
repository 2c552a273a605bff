"""If the strongest unwanted concept were taken out of the reward, what would be left of it, and what would it cost?

In: the survey of concepts, the model, the audited pairs. Out: effects before and after on seeds that did not find the
direction, accuracy by subset. No section where the reward follows no such concept, or the head is not linear.
"""

from __future__ import annotations

import numpy as np

from rewarden import plots
from rewarden.plots.concepts import accuracy_changes, repair_table
from rewarden.report.context import Audit
from rewarden.report.estimates import Estimate
from rewarden.report.section import Block, FigureBlock, Finding, Section, section
from rewarden.report.sections.concepts import asked, concepts_of
from rewarden.report.words import interval, points
from rewarden.result import Result

TITLE = "What a repair would change"
PAIRS, EACH = 200, 20
"""Pairs whose accuracy is compared, and contrasts of each axis that verify, at most."""
WANTED = ("length", "verbosity", "position", "repetition", "typos", "refusal")
"""Axes that are not taken out unasked: what they change may deserve another reward."""


@section("repair", title=TITLE, order=487)
def build(audit: Audit) -> Section | None:
    """The section; None where there is nothing to take out."""
    if audit.rm is None:
        stored = audit.run is not None and (audit.run.results_folder / "repair.nc").exists()
        return described(audit.result("repair", lambda: repair_of(audit, ""))) if stored else None
    if not _linear(audit):
        return None
    name = strongest(audit.result("concepts", lambda: concepts_of(audit)))
    return None if name is None else described(audit.result("repair", lambda: repair_of(audit, name)))


def _linear(audit: Audit) -> bool:
    from rewarden.readout.heads import SequenceHead

    return isinstance(getattr(audit.model(), "readout", None), SequenceHead)


def strongest(survey: Result) -> str | None:
    """The concept that the reward follows or is moved by, with the largest slope; None where there is none."""
    data = survey.data
    names = data["axis"].values.astype(str)
    on = (data["follows"].values | data["moves"].values) & ~np.isin(names, WANTED)
    return str(names[on][np.argmax(np.abs(data["slope"].values[on]))]) if on.any() else None


def repair_of(audit: Audit, name: str) -> Result:
    """The report of a repair that takes one concept out: of it on seeds that did not find it, of other axes on any seeds."""
    from rewarden.concepts import repair
    from rewarden.concepts.surveying import in_turns

    options, told = audit.options, asked()
    seeds = sorted({one.seed for one in told if one.axis == name})
    held = set(np.random.default_rng((options.seed, 8)).permutation(seeds)[: len(seeds) // 2].tolist())
    find = [one for one in told if one.axis == name and one.seed not in held]
    verify = [one for axis in dict.fromkeys(item.axis for item in told)
              for one in in_turns([item for item in told if item.axis == axis and (axis != name or item.seed in held)], EACH)]
    pairs = [audit.pairs[row] for row in audit.sample(PAIRS)]
    report = repair(audit.model(), find, contrasts=verify, pairs=pairs, level=options.level,
                    seed=options.seed).report
    assert report is not None  # contrasts and pairs were given
    return report


def described(result: Result) -> Section:
    """The section of a repair."""
    effects, accuracy = repair_table(result), accuracy_changes(result)
    blocks: list[Block] = [
        FigureBlock(plots.repair_effects(result), "Mean effect of each change of the battery on the reward, with intervals "
                    "over seeds and wordings; the seeds of the concept taken out found nothing.", effects),
        FigureBlock(plots.repair_accuracy(result), "Accuracy after less accuracy before, over the same pairs, with intervals "
                    "over prompts; filled: other than 0.", accuracy)]
    return Section("repair", TITLE, _findings(result), blocks, _methods(result),
                   {"concept": result.provenance["concepts"], "effects": effects.to_dict("records"),
                    "accuracy": accuracy.to_dict("records"), "same": float(result.data["same"]),
                    "warnings": list(result.warnings)})


def _findings(result: Result) -> list[Finding]:
    name = str(result.provenance["concepts"])
    one = result.data.sel(axis=name)
    shown = [interval(*(float(one[f"effect{end}"].sel(model=when)) for end in ("", "_low", "_high")))
             for when in ("before", "after")]
    whole = result.data.sel(split="all")
    change = Estimate.read(whole, "change", int(whole["pairs"]))
    told = [Finding(f"{text[:1].upper()}{text[1:]}.", "fact", 2) for text in result.warnings]
    return [Finding(f"Taking {name.replace('_', ' ')} out of the head would change its effect on the reward from {shown[0]} to "
                    f"{shown[1]} reward units (n = {int(one['seeds'])} seeds that did not find the direction), and accuracy by "
                    f"{points(change)} (n = {change.n} pairs).", "fact", 6), *told]


def _methods(result: Result) -> str:
    name = result.provenance["concepts"]
    return (f"The direction u of {name} is the difference of means at the state the head reads, from half of its seeds; the "
            "head w becomes w − (w·u)u, so that these seeds' mean effect is 0. What lies along the same direction, as length "
            "often does, goes with it: the figure shows how much. "
            f"The margins before and after correlate with {float(result.data['same']):.3f}. The model on disk is as it was; "
            "`rewarden repair` writes the changed one as a plain transformers checkpoint. Whether the concept deserves its "
            "effect is not measured.")
