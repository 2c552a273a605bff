"""What each activation does to the reward: activation patching as a table, a Result in a run folder that resumes.

In: model, pairs, what to patch. Out: mean effects with intervals. Ignorant of how effects are computed (see
`rewarden.patching`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Data, Load, Output, OutputOptions, Patch
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import DataOptions, LoadOptions, PatchOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result

COLUMNS = ("mean", "low", "high", "p_adjusted", "marked")


def patch(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
          options: Patch = PatchOptions(), top: int = 20, output: Output = OutputOptions()) -> Outcome:
    """What does each activation do to the reward? Mean effects of patching it, largest first.

    With -o, every finished pair is kept, and the same command goes on where it was stopped.

    Args:
        model: Hub id or folder, as --model.
        top: rows of the printed table, largest first.
    """
    from rewarden.patching.sweep import patch as sweep

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("patch", rm, pairs, {"load": load, "data": data, "patch": options}, output.output_dir)
    folder = None if run is None else run.path / "pairs"
    try:
        with progress(f"patching {rm.name}", len(pairs), quiet=output.quiet) as advance:
            result = sweep(rm, pairs, options=options, folder=folder, progress=advance)
    except KeyboardInterrupt as stop:
        if run is not None:
            stop.add_note(f"finished pairs are kept: the same command with -o {run.path} goes on")
        raise
    found, view = told(result, rm.name, top, options.alpha)
    return finished(run, result, found, view)


def told(result: Result, name: str, top: int, alpha: float) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a patch Result: its cells, the largest first, and what it cost."""
    from rewarden.report.effects import cell_name, cell_rows, decider

    cells = cell_rows(result)
    n, facts = result.data.sizes["pair"], result.provenance
    marked, tests, alone = int(cells["marked"].sum()), int(result.data["tests"]), decider(result)
    found = {"model": name, "pairs": n, **{key: facts[key] for key in ("mode", "positions", "alignment", "forwards", "edits",
                                                                      "backend")},
             "margin": float(result.data["margin"].mean()), "noise_floor": result.noise_floor, "marked": marked,
             "tests": tests, "deciding": None if alone is None else alone[0], "cells": cells.to_dict("records"),
             "warnings": list(result.warnings)}
    shown = cells.head(top)
    where = ("position",) if "position" in cells else ()
    rows = [(cell_name(row["site"], row["layer"], row["head"]), *(row[key] for key in (*where, *COLUMNS[:-1])),
             "*" if row["marked"] else "") for row in shown.to_dict("records")]
    title = f"Effect on the reward of {name}: {facts['mode']}, {n} pairs, mean margin {found['margin']:.4g}"
    view: list[RenderableType] = [
        table(title, ("site", *where, "mean effect", "low", "high", "adjusted p", "*"), rows),
        line(f"{len(shown)} of {len(cells)} cells; * differs from zero, as {marked} of {tests} tested cells do at a false "
             f"discovery rate of {100 * alpha:g} %"),
        line(f"{facts['edits']} counterfactuals for the price of {facts['forwards']:.4g} forwards ({facts['backend']}); "
             f"effects up to {result.noise_floor:.1e} are rounding")]
    if alone is not None:
        view.append(line(alone[1]))
    return found, [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]
