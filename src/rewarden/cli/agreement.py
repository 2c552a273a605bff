"""Does attribution predict causal effects: rank correlations as a table, a Result in a run folder on request.

In: model, pairs. Out: correlations with intervals, in our convention and in the published one. Ignorant of how they are
computed (see `rewarden.patching`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Agreement, Data, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import AgreementOptions, DataOptions, LoadOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result

def agreement(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
              options: Agreement = AgreementOptions(), output: Output = OutputOptions()) -> Outcome:
    """Does attribution predict causal effects? Rank correlations over components, by our convention and by the published one.

    Args:
        model: Hub id or folder, as --model.
    """
    from rewarden.patching.agreement import agreement as compare
    from rewarden.report.effects import correlation_rows

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("agreement", rm, pairs, {"load": load, "data": data, "agreement": options}, output.output_dir)
    with progress(f"comparing in {rm.name}", len(pairs), quiet=output.quiet) as advance:
        result = compare(rm, pairs, options=options, progress=advance)
    found = {"model": rm.name, "pairs": len(pairs), "forwards": result.provenance["forwards"],
             "edits": result.provenance["edits"], "noise_floor": result.noise_floor,
             "correlations": correlation_rows(result).to_dict("records"), "warnings": list(result.warnings)}
    return finished(run, result, found, view_of(result, rm.name, found))


def view_of(result: Result, name: str, found: dict[str, Any]) -> list[RenderableType]:
    """The correlations as tables: those over all pairs, then both conventions by length."""
    rows = [row for row in found["correlations"] if row["convention"] != "mixed" and row["components"] in ("block", "head")]
    whole = [_cells(row, "convention", "comparison", "components") for row in rows if row["pairs"] == "all"]
    shown = ("attribution vs total", "attribution_raw vs total_left")
    parts = [_cells(row, "convention", "pairs", "components") for row in rows
             if row["pairs"] != "all" and row["comparison"] in shown and row["components"] == "block"]
    ends = ("rho", "low", "high", "pairs", "p")
    view: list[RenderableType] = [
        table(f"Rank correlation over components of {name}, mean of {found['pairs']} pairs",
              ("convention", "comparison", "components", *ends), whole)]
    if parts:
        view.append(table("Attribution and total effect of attention blocks and MLPs, by length",
                          ("convention", "pairs", "components", *ends), parts))
    view.append(line(f"{found['edits']} counterfactuals for the price of {found['forwards']:.4g} forwards; p: components "
                     "shuffled, the same shuffle for all pairs"))
    return [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]


def _cells(row: dict[str, Any], *first: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*first, "rho", "low", "high", "n", "p"))
