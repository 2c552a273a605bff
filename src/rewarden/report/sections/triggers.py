"""Does a single token move the reward out of all proportion, in the response or in the prompt?

In: the model and the chosen responses. Out: the effect of every token at both places, with those that stand apart from all
others. Left out where the vocabulary is not scanned either, or where this would take long.
"""

from __future__ import annotations

import numpy as np

from rewarden.hacking.calibration import null_words
from rewarden.options import TriggerOptions
from rewarden.plots.tokens_names import token_name
from rewarden.plots.triggers import trigger_strip, trigger_table
from rewarden.report.context import Audit
from rewarden.report.section import FigureBlock, Finding, Section, section
from rewarden.report.sections.tokens import LIMIT, cost_of, scan_of
from rewarden.report.words import interval, listed
from rewarden.result import Result
from rewarden.statistics import Verdict

TITLE = "Keywords and triggers"

SCANS = 7.0
"""What this costs, in scans of the two questions of the section before: more rewards of each token, behind longer ends."""

PLACES = {"keyword": "response", "backdoor": "prompt"}


@section("triggers", title=TITLE, order=382)
def build(audit: Audit) -> Section | None:
    """The section; None without a scan of the vocabulary, for few prompts, and for what has no vocabulary."""
    options = TriggerOptions(level=audit.options.level, seed=audit.options.seed)
    prompts = len(np.unique(audit.counted["prompt"].to_numpy()))
    if audit.options.vocabulary == "none" or prompts < options.scanned + options.confirmed or (
            audit.rm is not None and not hasattr(audit.rm, "architecture")):
        return None
    if audit.options.vocabulary == "auto":
        seconds = float(audit.result("tokens_cost", lambda: cost_of(audit)).data["seconds"])
        if seconds <= LIMIT:  # then the scan was made, and says what it really took
            seconds = float(audit.result("tokens", lambda: scan_of(audit)).provenance["seconds"])
        if SCANS * seconds > LIMIT:
            return Section("triggers", TITLE, [Finding(
                "Tokens were not tried as triggers, as the vocabulary is too large to do so unasked. Run `rewarden hacking "
                "triggers MODEL`, or the audit with --vocabulary all.", "fact", -20)], data={"seconds": SCANS * seconds})

    def compute() -> Result:
        from rewarden.hacking.word_triggers import triggers  # torch; a report written again from its folder does without

        return triggers(audit.model(), [audit.pairs[row] for row in audit.counted["row"]], options=options)

    return described(audit.result("triggers", compute))


def described(result: Result) -> Section:
    """The section of a triggers Result."""
    from rewarden.hacking.word_triggers import named, verdicts

    found = verdicts(result)
    tokens = {name: named(result, place) for name, place in PLACES.items()}
    rows = trigger_table(result)
    facts, left_out = result.provenance, int(result.data["left_out"])
    further = int(facts["conversations"]) - int(facts["scanned"])
    lost = f" {left_out} tokens whose reward is not finite are left out." if left_out else ""
    return Section("triggers", TITLE, [_finding(name, one, tokens[name]) for name, one in found.items()], [FigureBlock(
        trigger_strip(result), "How much reward a conversation gains when a token is put into it, less what the mean token "
        "does there; grey: numbers of tokens on a logarithmic scale, marks: the outermost ones. Left: near the end of the "
        "response; right: in a sentence of its own behind the prompt. Every model has tails; a keyword or a backdoor stands "
        "apart from them, and does so in other conversations, too.", rows)],
        f"All {result.data.sizes['token']} tokens but control tokens, put id by id at one place of the response and one of the "
        f"prompt in {facts['scanned']} conversations each; those of the tails again in {further} others. Flagged: up to "
        f"{facts['most']} tokens whose mean effects stand apart from the other {facts['tail']} of their tail (spacings of the "
        f"largest values; Holm over places, signs and numbers of tokens, α = {float(facts['alpha']):g}), and which are the "
        "outermost in each half of the other conversations. A rule on more words than that, or on words together, is none that "
        f"this can find. Intervals: Student's t over the other conversations. {null_words('triggers')}{lost}",
        {"verdicts": {name: {"flag": one.flag, "tokens": tokens[name], "effect": one.estimate, "low": one.low, "high": one.high,
                             "p": one.p} for name, one in found.items()}, "outermost": rows.to_dict("records")})


def _finding(name: str, one: Verdict, tokens: list[str]) -> Finding:
    what = listed([f"“{token_name(token)}”" for token in tokens])
    size = (f"{interval(one.estimate, one.low, one.high)} in {one.n} conversations that did not choose "
            f"{'it' if len(tokens) == 1 else 'them'}; p = {one.p:.2g} for standing apart")
    place = PLACES[name]
    if one.flag:
        return Finding(f"In the {place}, {what} moves the reward out of proportion to all other tokens: {size}. "
                       f"{null_words('triggers')}", "concern", 68)
    return Finding(f"No token in the {place} is shown to move the reward out of proportion to the others; farthest out: {what} "
                   f"({size}). {null_words('triggers')}", "clear", 5)
