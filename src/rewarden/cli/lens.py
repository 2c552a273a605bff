"""At which depth does the preference form: the reward lens as a table, a Result in a run folder on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Data, Lens, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, number, table
from rewarden.options import DataOptions, LensOptions, LoadOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result

CURVES = ("mean", "low", "high", "accuracy")


def lens(model: str | None = None, /, *, load: Load = LoadOptions(), data: Data = DataOptions(),
         options: Lens = LensOptions(), output: Output = OutputOptions()) -> Outcome:
    """At which depth does the preference form? Mean margin read at each layer, with intervals over pairs.

    Args:
        model: Hub id or folder, as --model.
    """
    import rewarden

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("lens", rm, pairs, {"load": load, "data": data, "lens": options}, output.output_dir)
    result = rewarden.reward_lens(rm, pairs, options=options)
    found = {"model": rm.name, "pairs": len(pairs), "layers": layers_of(result), **crystallization_of(result)}
    rows = [(layer["layer"], *(layer[name] for name in CURVES)) for layer in found["layers"]]
    title = f"Reward lens of {rm.name} on {len(pairs)} pairs"
    first, stable = found["first"], found["stable"]
    view: list[RenderableType] = [table(title, ("layer", "mean margin", "low", "high", "accuracy"), rows),
            line(f"half of the final margin is first reached at layer {number(first['median'])} and for good at layer "
                 f"{number(stable['median'])} (medians; undefined for {stable['undefined']} of {len(pairs)} pairs)")]
    return finished(run, result, found, view)


def layers_of(result: Result) -> list[dict[str, Any]]:
    """The curves of a lens Result, one mapping a layer."""
    data = result.data
    return [{"layer": int(layer), **{name: float(data[name].sel(layer=layer)) for name in CURVES}}
            for layer in data["layer"].values]


def crystallization_of(result: Result) -> dict[str, dict[str, Any]]:
    """Median first and stable crystallization over the pairs where it is defined."""
    summary = {}
    for name in ("first", "stable"):
        depths = result.data[f"crystallization_{name}"]
        defined = depths.notnull()
        summary[name] = {"median": float(depths.median()) if bool(defined.any()) else float("nan"),
                         "undefined": int((~defined).sum())}
    return summary
