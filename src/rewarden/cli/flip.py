"""How few edits turn a preference: the smallest sets as a table, a Result in a run folder on request.

In: model, pairs. Out: for each pair the activations that turn it, and how random sets of their size do. Ignorant of how sets
are searched (see `rewarden.patching`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Data, Flip, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, number, plain, progress, table
from rewarden.options import DataOptions, FlipOptions, LoadOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result

VALUES = ("margin", "size", "knockout", "rescue", "knockout_random_mean", "rescue_random_mean", "random_flips", "candidates")
"""What is said of each pair, by the names of its variables."""


def flip(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(), options: Flip = FlipOptions(),
         top: int = 20, output: Output = OutputOptions()) -> Outcome:
    """How few edits turn a preference? For each pair a small set of activations whose exchange turns it, and controls.

    Args:
        model: Hub id or folder, as --model.
        top: pairs of the printed table, the smallest sets first.
    """
    from rewarden.patching.flips import flip as turn

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("flip", rm, pairs, {"load": load, "data": data, "flip": options}, output.output_dir)
    with progress(f"turning preferences of {rm.name}", len(pairs), quiet=output.quiet) as advance:
        result = turn(rm, pairs, options=options, progress=advance)
    found, view = told(result, rm.name, top)
    return finished(run, result, found, view)


def sets_of(result: Result) -> list[dict[str, Any]]:
    """One entry per pair: its set, whether it turns the pair, and the controls."""
    data = result.data
    sites = data["site"].transpose("pair", "step").values.astype(str)
    return [{"pair": str(name), "status": str(data["status"].values[row]), "sites": [site for site in sites[row] if site],
             **{key: plain(data[key].values[row]) for key in VALUES}} for row, name in enumerate(data["pair"].values)]


def told(result: Result, name: str, top: int) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a flip Result: how many pairs turn, the sets, and the sites in most of them."""
    data, facts = result.data, result.provenance
    sets = sets_of(result)
    share = {str(end): float(data["flipped"].sel(statistic=end)) for end in data["statistic"].values}
    turned = [entry for entry in sets if entry["status"] == "flipped"]
    often = Counter(site for entry in turned for site in entry["sites"])
    summary = {str(quantity): {str(end): plain(data["summary"].sel(quantity=quantity, statistic=end).values)
                               for end in data["statistic"].values} for quantity in data["quantity"].values}
    found = {"model": name, "pairs": len(sets), "flipped": share, "summary": summary, "forwards": facts["forwards"],
             "edits": facts["edits"], "noise_floor": result.noise_floor, "sets": sets, "often": dict(often.most_common()),
             "warnings": list(result.warnings)}
    first = sorted(turned, key=lambda entry: entry["size"])[:top]
    rows = [(entry["pair"], entry["margin"], int(entry["size"]), ", ".join(entry["sites"]), *(
        "" if entry[key] is None else entry[key] for key in ("knockout", "rescue", "random_flips"))) for entry in first]
    view: list[RenderableType] = [table(
        f"Smallest sets of edits that turn a preference of {name}",
        ("pair", "margin", "edits", "set", "knock-out", "rescue", "random sets that turn it"), rows)]
    size = summary["size"]
    view += [line(f"{len(turned)} of {len(sets)} pairs turn: {100 * share['mean']:.1f} % [{100 * share['low']:.1f}, "
                  f"{100 * share['high']:.1f}] of those searched") if turned else line("no pair turns within the budget"),
             *([line(f"mean size {number(size['mean'])} [{_bound(size['low'])}, {_bound(size['high'])}]; most often: "
                     + ", ".join(f"{site} ({count})" for site, count in often.most_common(5)))] if turned else []),
             line(f"{facts['edits']} counterfactuals for the price of {facts['forwards']:.4g} forwards ({facts['backend']})")]
    return found, [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]


def _bound(value: float | None) -> str:
    return "undefined" if value is None else number(value)
