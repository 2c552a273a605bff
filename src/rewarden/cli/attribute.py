"""Which parts of the model add up to the reward: the ledger as a table, a Result in a run folder on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.cli.flags import Attribute, Data, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, plain, table
from rewarden.options import AttributeOptions, DataOptions, LoadOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result


def attribute(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
              options: Attribute = AttributeOptions(), output: Output = OutputOptions()) -> Outcome:
    """Which parts of the model add up to the reward? Mean contribution to the margin, largest first.

    Args:
        model: Hub id or folder, as --model.
    """
    import rewarden

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("attribute", rm, pairs, {"load": load, "data": data, "attribute": options}, output.output_dir)
    result = rewarden.attribute(rm, pairs, options=options)
    ledger = ledger_of(result)
    worst = float(np.abs(result.data["completeness_error"].values).max())
    found = {"model": rm.name, "pairs": len(pairs), "components": ledger, "completeness_error": worst}
    shown = ledger[: options.top]
    rows = [(entry["component"], entry["mean"], entry["low"], entry["high"]) for entry in shown]
    title = f"Contribution to the margin, {rm.name} on {len(pairs)} pairs"
    view: list[RenderableType] = [table(title, ("component", "mean", "low", "high"), rows),
            line(f"{len(shown)} of {len(ledger)} components; together they are the reward within {worst:.1e} of it")]
    return finished(run, result, found, view)


def ledger_of(result: Result) -> list[dict[str, Any]]:
    """Components with their mean contribution to the margin, largest first by absolute value."""
    data = result.data
    columns = {name: np.asarray(data[name].values) for name in ("component", "kind", "mean", "low", "high")}
    order = np.argsort(-np.abs(columns["mean"]), kind="stable")
    return [{name: plain(values[i]) for name, values in columns.items()} for i in order]
