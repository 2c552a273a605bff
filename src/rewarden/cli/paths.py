"""Which part of the model acts on which: path patching as a table, a Result in a run folder on request.

In: model, pairs, senders and receivers. Out: mean effects of single connections with intervals. Ignorant of how they are
computed (see `rewarden.patching`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Data, Load, Output, OutputOptions, Paths
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import DataOptions, LoadOptions, PathOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result


def paths(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
          options: Paths = PathOptions(), top: int = 20, output: Output = OutputOptions()) -> Outcome:
    """Which part of the model acts on which? Mean effects of single connections, largest first.

    Args:
        model: Hub id or folder, as --model.
        top: rows of the printed table, largest first.
    """
    from rewarden.patching.paths import patch_paths

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("paths", rm, pairs, {"load": load, "data": data, "paths": options}, output.output_dir)
    with progress(f"patching paths of {rm.name}", len(pairs), quiet=output.quiet) as advance:
        result = patch_paths(rm, pairs, options=options, progress=advance)
    found, view = told(result, rm.name, top, options.alpha)
    return finished(run, result, found, view)


def told(result: Result, name: str, top: int, alpha: float) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a paths Result: its connections, the largest first, and what they cost."""
    from rewarden.report.effects import by_size, effect_rows

    edges = effect_rows(result)
    edges = by_size(edges[edges["mean"].notna()])
    facts, marked, tests = result.provenance, int(edges["marked"].sum()), int(edges["p_adjusted"].notna().sum())
    found = {"model": name, "pairs": result.data.sizes["pair"],
             **{key: facts[key] for key in ("mode", "positions", "alignment", "forwards", "edits", "backend")},
             "margin": float(result.data["margin"].mean()), "noise_floor": result.noise_floor, "marked": marked,
             "tests": tests, "edges": edges.to_dict("records"), "warnings": list(result.warnings)}
    rows = [(*(row[key] for key in ("sender", "receiver", "mean", "low", "high", "p_adjusted")), "*" if row["marked"] else "")
            for row in edges.head(top).to_dict("records")]
    title = (f"Effect of single connections of {name}: {facts['mode']}, {found['pairs']} pairs, mean margin "
             f"{found['margin']:.4g}")
    view: list[RenderableType] = [
        table(title, ("sender", "receiver", "mean effect", "low", "high", "adjusted p", "*"), rows),
        line(f"{len(rows)} of {len(edges)} connections; * differs from zero, as {marked} of {tests} tested ones do at a false "
             f"discovery rate of {100 * alpha:g} %"),
        line(f"{facts['edits']} counterfactuals for the price of {facts['forwards']:.4g} forwards ({facts['backend']})")]
    return found, [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]
