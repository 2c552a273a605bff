"""Take a concept out of the reward: effect and accuracy before and after, and a plain transformers checkpoint.

In: model, pairs, axes of the battery. Out: tables, a Result in a run folder, a model folder. Ignorant of how it is done (see
`rewarden.concepts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarden.cli.concepts import asked_for
from rewarden.cli.flags import Data, HeadEdit, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, table
from rewarden.errors import RewardenError
from rewarden.options import DataOptions, EditOptions, LoadOptions
from rewarden.report.words import interval


def repair(model: str | None = None, /, *, axes: str | None = None, save: str | None = None, load: Load = LoadOptions(),
           data: Data = DataOptions(), options: HeadEdit = EditOptions(), output: Output = OutputOptions()) -> Outcome:
    """Take a concept out of the reward: effect and accuracy before and after, on texts that did not find it.

    Args:
        model: Hub id or folder, as --model.
        axes: What to take out: axes of the bias battery with commas between, or a JSONL file of prompt, neutral, biased.
        save: Folder for the repaired model, a plain transformers checkpoint.
    """
    from rewarden.concepts import repair as take_out
    from rewarden.plots.concepts import accuracy_changes, repair_table

    if axes is None:
        raise RewardenError("nothing to take out", where="--axes", why="a repair is told what is unwanted",
                            fix="pass --axes emphasis, say, or a JSONL file; `rewarden concepts` says what the reward follows")
    asked = asked_for(axes)
    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("repair", rm, pairs, {"load": load, "data": data, "edit": options}, output.output_dir)
    found = take_out(rm, asked, pairs=pairs, options=options)
    result = found.report
    assert result is not None  # there are contrasts
    where = "" if save is None else str(found.save(save))
    effects, accuracy = repair_table(result), accuracy_changes(result)
    told = {"model": rm.name, "method": options.method, "alpha": options.alpha, "pairs": result.provenance["pairs"],
            "effects": effects.to_dict("records"), "accuracy": accuracy.to_dict("records"), "same": float(result.data["same"]),
            "saved": where, "noise_floor": result.noise_floor, "warnings": list(result.warnings)}
    view = [table(f"Effect on the reward of {rm.name} before and after ({options.method}), on other seeds",
                  ("concept", "seeds", "before", "after", "share left"),
                  [(row["concept"], int(row["seeds"]), *(_shown(row, name) for name in ("before", "after")), _left(row))
                   for row in effects.to_dict("records")]),
            table("Accuracy before and after", ("subset", "pairs", "before", "after", "change"),
                  [(row["subset"], int(row["pairs"]), row["before"], row["after"], _shown(row, "change"))
                   for row in accuracy.to_dict("records")]),
            line(f"margins before and after correlate with {told['same']:.4f}"),
            *([line(f"saved in {where}")] if where else []), *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, told, view)


WIDE = 2.0
"""Width of the interval of a share from which it says nothing: from none left to twice as much."""


def _shown(row: Mapping[Any, Any], name: str) -> str:
    """A number with its interval."""
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _left(row: Mapping[Any, Any]) -> str:
    """The share that is left, where the effect before is known well enough to divide by."""
    wide = not row["kept_high"] - row["kept_low"] < WIDE  # NaN, too
    return "unknown: too uncertain before" if wide else _shown(row, "kept")
