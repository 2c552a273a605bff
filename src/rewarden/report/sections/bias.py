"""Does the reward follow how something is said? The bias battery, with what random-weight models would show beside it.

In: the model. Out: a forest of kinds of change, wordings of those that were flagged. The texts are the bundled ones, so that
two models can be compared; the pairs of the audit are not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from rewarden import plots
from rewarden.hacking.bias.result import wordings
from rewarden.hacking.calibration import CORRECTIONS, battery_null_words
from rewarden.options import BiasOptions
from rewarden.plots.bias import bias_table
from rewarden.report.context import Audit
from rewarden.report.section import Block, FigureBlock, Finding, Section, TableBlock, section
from rewarden.report.tables import number
from rewarden.report.words import interval, listed
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

TITLE = "How something is said"
PER_SEED = 2
"""Templates each seed meets, so that the section stays below half a minute on the bundled model; the verb `bias` takes more."""

NAMED, DETAILED = 5, 3
"""Axes named in a sentence, and axes whose wordings are shown, at most."""


@section("bias", title=TITLE, order=260)
def build(audit: Audit) -> Section | None:
    """The section; None where no axis is asked for, and for models that are no single trunk (an ensemble)."""
    if audit.options.bias == "none":
        return None
    if audit.rm is None:
        if audit.run is None or not (audit.run.results_folder / "bias.nc").exists():
            return None
    elif not hasattr(audit.rm, "architecture"):
        return None
    result = audit.result("bias", lambda: _battery(audit))
    return described(result)


def _battery(audit: Audit) -> Result:
    return battery(audit, audit.model())


def battery(audit: Audit, rm: RewardModel) -> Result:
    """The battery as the audit asks it, of its own model or of the one beside it."""
    from rewarden.hacking.bias.battery import bias_battery  # torch; a report written again from its folder does without

    axes = None if audit.options.bias == "all" else audit.options.bias
    return bias_battery(rm, axes, options=BiasOptions(per_seed=PER_SEED, level=audit.options.level))


def described(result: Result) -> Section:
    """The section of one battery."""
    table = bias_table(result)
    bar = ("" if result.provenance.get("calibration") == "off" else
           "The grey bar is the size that the test needs before it counts, before correction for the number of rows: the "
           "interval's half width, which is widened by what random-weight models show. ")
    blocks: list[Block] = [FigureBlock(
        plots.bias_forest(result),
        "A kind of change to a row: the same answer with and without it. Dots are what the change adds to the reward beyond "
        "what an innocuous change that adds as many tokens does, in standard deviations of the reward; lines are intervals "
        "over seeds and wordings, as wide as the test asks. "
        f"{bar}Filled dots are flagged after correction for the number of rows, squares for single wordings. Diamonds: the "
        "change as it stands, length and all. Identity rows ask whether terms differ more than innocuous ones do.", table)]
    flagged = [str(axis) for axis in table.loc[table["flag"], "axis"]]
    for axis in flagged[:DETAILED]:
        rows = wordings(result, axis)
        blocks.append(FigureBlock(
            plots.wording_forest(rows, axis), "Mean over seeds with a bootstrap interval; raw, not net of length. A kind of "
            "change is claimed only where its wordings agree.", rows))
    asked = pd.DataFrame({name: result.data[name].values.astype(str) for name in ("axis", "question", "note")})
    blocks.append(TableBlock("What was asked", "The questions, and what a reader must know of them.", asked, folded=True))
    return Section("bias", TITLE, findings(result, table), blocks, _methods(result),
                   {"axes": table.to_dict("records"), "flagged": flagged})


def findings(result: Result, table: pd.DataFrame) -> list[Finding]:
    """What is flagged, with n, interval and null rate; and the length slope, flagged or not."""
    correction = CORRECTIONS[str(result.provenance["correction"])]
    alpha = 100 * float(result.provenance["alpha"])
    table = table.dropna(subset="size")  # of the others too little was left to say anything
    if not len(table):
        return [Finding("No kind of change could be estimated: too few texts have finite rewards.", "fact", 20)]
    least, most = int(table["n"].min()), int(table["n"].max())
    basis = (f"{least} to {most} comparisons each, at least {int(table['seeds'].min())} seeds and "
             f"{int(table['templates'].min())} wordings; {correction} at {alpha:g} %")
    flagged = table[table["flag"]]
    named = listed([_named(row) for row in flagged.head(NAMED).to_dict("records")])
    rest = f" and {len(flagged) - NAMED} more" if len(flagged) > NAMED else ""
    if len(flagged):
        said = Finding(f"{len(flagged)} of {len(table)} kinds of change move the reward beyond what random-weight models show: "
                       f"{named}{rest} (standard deviations of the reward, net of innocuous changes that add as many tokens; "
                       f"{basis}). "
                       f"{battery_null_words(result.provenance)}", "concern", 45)
    else:
        said = Finding(f"None of {len(table)} kinds of change moves the reward beyond what random-weight models show "
                       f"({basis}). {battery_null_words(result.provenance)}", "clear", 20)
    return [said, *_length(result)]


def _named(row: Mapping[str, Any]) -> str:
    """An axis with its size and interval; the raw effect beside it, where there is one."""
    raw = "" if math.isnan(row["raw"]) else f", {number(float(row['raw']), 2)} as it stands"
    raw += "" if row["kind"] else f", by single wordings ({row['outlying'] or 'together'})"
    return f"{str(row['axis']).replace('_', ' ')} {interval(row['size'], row['low'], row['high'])}{raw}"


def _length(result: Result) -> list[Finding]:
    """The slope of the reward on length at the same content."""
    data = result.data.isel(output=int(result.data.attrs["main"]))
    found = []
    for axis in data["axis"].values[data["design"].values == "slope"]:
        row = data.sel(axis=axis)
        if math.isnan(float(row["estimate"])):
            continue
        slope = interval(float(row["estimate"]), float(row["low"]), float(row["high"]))
        flagged = bool(row["flag"])
        verdict = "more than" if flagged else "no more than"
        found.append(Finding(
            f"A further token of padding that adds nothing changes the reward by {slope} (n = {int(row['n'])} comparisons, "
            f"{int(row['n_templates'])} wordings), {verdict} random-weight models show (adjusted p = "
            f"{number(float(row['p_adjusted']), 2)}).", "concern" if flagged else "fact", 15))
    return found


def _methods(result: Result) -> str:
    return ("Bundled seeds (a question with a plain answer) are changed by bundled templates, crossed and balanced; each seed "
            f"meets {result.provenance.get('per_seed', '')} template(s) an axis. Errors count seeds and wordings as drawn from "
            "more of their kind (two-way clustered, Satterthwaite's t), since a model reacts to any one word in always the "
            "same way. A line through innocuous changes, effect on tokens added, is taken off; changes longer than those are "
            f"left out. {_calibrated(result)} Effects of an edit are causal for these texts; other texts may differ.")


def _calibrated(result: Result) -> str:
    """By how much errors were widened, and where the factors are from."""
    if result.provenance.get("calibration") == "off":
        return ("Wordings that share something (line breaks, length itself) move random-weight models too; this is not allowed "
                "for.")
    least, most = (number(float(getattr(result.data["null_factor"], end)()), 2) for end in ("min", "max"))
    place = {"packaged": " with this tokenizer and template", "measured": " with this tokenizer and template, for this run"}
    return ("Wordings that share something (line breaks, bytes of emoji, length itself) move random-weight models too: p and "
            f"intervals are taken with errors widened by factors of {least} to {most} that were measured on such models"
            f"{place.get(str(result.provenance.get('calibration')), '')}.")
