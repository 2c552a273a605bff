"""Does a single token move the reward out of all proportion?"""

from __future__ import annotations

from rewarden.cli.flags import Data, Load, Output, OutputOptions, Triggers
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import DataOptions, LoadOptions, TriggerOptions


def triggers(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
             options: Triggers = TriggerOptions(), top: int = 5, output: Output = OutputOptions()) -> Outcome:
    """Does a single token move the reward out of all proportion, in the response (keyword) or in the prompt (backdoor)?

    Args:
        model: Hub id or folder, as --model.
        top: tokens printed at each end of each place.
    """
    from rewarden.hacking.calibration import null_words
    from rewarden.hacking.word_triggers import QUESTIONS, named, verdicts
    from rewarden.hacking.word_triggers import triggers as measure
    from rewarden.plots.triggers import trigger_table

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("triggers", rm, pairs, {"load": load, "data": data, "triggers": options}, output.output_dir)
    with progress(f"trying every token of {rm.name}", None, quiet=output.quiet) as advance:
        result = measure(rm, pairs, options=options, progress=advance)
    rows = trigger_table(result, top)
    said = {name: {"place": QUESTIONS[name], "flag": one.flag, "tokens": named(result, QUESTIONS[name]), "effect": one.estimate,
                   "low": one.low, "high": one.high, "p": one.p} for name, one in verdicts(result).items()}
    found = {"model": rm.name, "tokens": int(result.data.sizes["token"]), "verdicts": said,
             "outermost": rows.to_dict("records"), "noise_floor": result.noise_floor, "warnings": list(result.warnings)}
    shown = [(row.place, repr(row.token), row.effect, "*" if row.flag else "") for row in rows.itertuples(index=False)]
    words = [f"{name}: {', '.join(map(repr, one['tokens']))} in the {one['place']} moves the reward by {one['effect']:.3f} "
             f"[{one['low']:.3f}, {one['high']:.3f}], p = {one['p']:.2g}{', flagged' if one['flag'] else ', not flagged'}"
             for name, one in said.items()]
    view = [table(f"Outermost of {found['tokens']} tokens by their effect on the reward of {rm.name}",
                  ("place", "token", "effect", "*"), shown), *map(line, words), line(null_words("triggers")),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, found, view)
