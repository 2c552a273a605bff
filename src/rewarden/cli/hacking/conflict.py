"""Do the objectives of a reward model contradict each other?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewarden.cli.flags import Conflict, Data, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import ConflictOptions, DataOptions, LoadOptions

if TYPE_CHECKING:
    from rewarden.contrasts import Contrast

COLUMNS = ("first", "second", "ρ", "low", "high", "cosine", "adjusted p", "second by first", "first by second", "*")


def conflict(model: str | None = None, /, *, terms: str | None = None, load: Load = LoadOptions(), data: Data = DataOptions(),
             options: Conflict = ConflictOptions(), top: int = 20, output: Output = OutputOptions()) -> Outcome:
    """Which objectives of a model with several, or which terms of yours, pull in opposite directions?

    Args:
        model: Hub id or folder, as --model.
        terms: JSONL file with rows {prompt, neutral, biased, axis}: each axis is a term, of 10 rows or more; needed for a
            model with one scalar.
        top: pairs of objectives printed, the most opposed first.
    """
    from rewarden.hacking.calibration import null_words
    from rewarden.hacking.objectives.conflicts import conflict as measure
    from rewarden.plots.objectives import conflict_table

    given = None if terms is None else terms_of(terms)
    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("conflict", rm, pairs, {"load": load, "data": data, "conflict": options}, output.output_dir)
    with progress(f"reading objectives of {rm.name}", 2 * len(pairs), quiet=output.quiet) as advance:
        result = measure(rm, pairs, terms=given, options=options, progress=advance)
    rows, facts = conflict_table(result), result.provenance
    flagged, weighted = int(rows["flag"].sum()), bool(facts["weighted"])
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    cancelled = {name: float(result.data[f"cancelled{end}"]) for name, end in ends}
    found = {"model": rm.name, "pairs": int(result.data.sizes["pair"]), "objectives": result.data["objective"].values.tolist(),
             **{key: facts[key] for key in ("terms", "weighted", "layer", "alpha")}, "couples": rows.to_dict("records"),
             "cancelled": cancelled if weighted else None, "noise_floor": result.noise_floor, "warnings": list(result.warnings)}
    shown = [(row.first, row.second, row.rho, row.low, row.high, row.cosine, row.p_adjusted, row.second_by_first,
              row.first_by_second, "*" if row.flag else "") for row in rows.head(top).itertuples(index=False)]
    undone = (f"; {100 * cancelled['value']:.0f} % [{100 * cancelled['low']:.0f}, {100 * cancelled['high']:.0f}] of what they "
              "add is undone by others" if weighted else "")
    view = [table(f"Objectives of {rm.name} between two responses, {found['pairs']} pairs", COLUMNS, shown),
            line(f"{flagged} of {len(rows)} pairs of objectives are in conflict{undone}; last columns: change of one when the "
                 f"other is raised by 1 after layer {facts['layer']}, in standard sizes"),
            line(null_words("conflict", unlike="terms of your own" if facts["terms"] else "", alpha=options.alpha)),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, found, view)


def terms_of(path: str) -> dict[str, list[Contrast]]:
    """Contrasts of a file, by axis."""
    from rewarden.hacking.texts import load_user_axes

    found: dict[str, list[Contrast]] = {}
    for item in load_user_axes(path):
        found.setdefault(item.axis, []).append(item)
    return found
