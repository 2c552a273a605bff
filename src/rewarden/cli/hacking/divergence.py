"""Do patched activations leave the range of clean ones, and what are effects without those that do?"""

from __future__ import annotations

from rewarden.cli.flags import Data, Divergence, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.errors import RewardenError
from rewarden.options import DataOptions, DivergenceOptions, LoadOptions

COLUMNS = ("component", "divergent", "low", "high", "q", "in null space", "effect", "effect, rest", "left",
           "difference", "from", "to")


def divergence(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
               options: Divergence = DivergenceOptions(), patched: int = 24, top: int = 20, output: Output = OutputOptions()
               ) -> Outcome:
    """Do patched activations leave the range of clean ones, and what are effects without those that do?

    Args:
        model: Hub id or folder, as --model.
        patched: pairs that are patched, the first ones; all pairs tell what clean activations are like.
        top: rows of the printed table, the most divergent first.
    """
    from rewarden.hacking.calibration import null_words
    from rewarden.hacking.off_distribution.measure import divergence as measure
    from rewarden.plots.divergence import divergence_table

    if patched < 1:
        raise RewardenError(f"--patched {patched}", where="command line", why="it is a number of pairs", fix="give 1 or more")
    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("divergence", rm, pairs, {"load": load, "data": data, "divergence": options}, output.output_dir)
    some = pairs[:patched]
    with progress(f"patching {rm.name}", len(some), quiet=output.quiet) as advance:
        result = measure(rm, some, clean=pairs[patched:], options=options, progress=advance)
    rows, facts = divergence_table(result), result.provenance
    marked, states, off = int(rows["marked"].sum()), int(rows["n"].sum()), float((rows["share"] * rows["n"]).sum())
    suspect = [str(name) for name in result.data["component"].values[result.data["suspect"].values]]
    found = {"model": rm.name, "pairs": len(some), "suspect": suspect,
             "clean": [int(n) for n in result.data["clean_rows"].values],
             **{key: facts[key] for key in ("mode", "method", "alpha", "edits", "forwards")}, "states": states,
             "divergent": round(off), "marked": marked, "noise_floor": result.noise_floor,
             "components": rows.to_dict("records"), "warnings": list(result.warnings)}
    shown = [(row.component, row.share, row.low, row.high, row.q, row.null_only, row.mean, row.kept_mean,
              row.kept_n, row.shift, row.shift_low, row.shift_high) for row in rows.head(top).itertuples()]
    title = f"Share of patched states of {rm.name} that are off the clean distribution: {facts['mode']}, {len(some)} pairs"
    view = [table(title, COLUMNS, shown),
            line(f"{round(off)} of {states} patched states lie beyond {100 * (1 - float(facts['alpha'])):g} % of clean ones "
                 f"(rows: {found['clean'][0]} + {found['clean'][1]}); {marked} of {len(rows)} components do so more often than "
                 "clean states, at that false discovery rate; rest: without the divergent pairs, of which so many are left"),
            line(f"{len(suspect)} of these have an effect that differs from zero. {null_words('divergence')}"),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, found, view)
