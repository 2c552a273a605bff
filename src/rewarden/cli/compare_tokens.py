"""Do reward models love and hate the same words: scans of several models, matched token by token, as tables and Results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Load, Output, OutputOptions, Scan
from rewarden.cli.folders import named_run
from rewarden.cli.inputs import model_of
from rewarden.cli.terminal import Outcome, line, table
from rewarden.cli.tokens import check_top, scanned
from rewarden.errors import RewardenError
from rewarden.options import LoadOptions, ScanOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.result import Result
    from rewarden.tokens import SharedScores


def compare_tokens(*models: str, load: Load = LoadOptions(), options: Scan = ScanOptions(), top: int = 10,
                   output: Output = OutputOptions()) -> Outcome:
    """Do they love and hate the same words? Scans of two or more models, compared on the tokens that all of them have.

    Args:
        models: Hub ids or folders, two or more; demo:reward_model and demo:reward_model_b are bundled.
        top: tokens to print that two models rank most differently.
    """
    from rewarden.tokens import model_map, moments, rank_agreement, shared_vocabulary

    check_top(top)
    names = [*([load.model] if load.model else []), *models]
    if len(names) < 2 or len(set(names)) < len(names):
        raise RewardenError(f"{len(names)} models to compare: {', '.join(names) or 'none'}", where="command line",
                            why="two or more different ones are needed",
                            fix="rewarden compare-tokens demo:reward_model demo:reward_model_b")
    scans, run = [], None
    for number, name in enumerate(names):
        rm = model_of(replace(load, model=name), quiet=output.quiet)
        if number == 0:
            run = named_run("compare-tokens", rm, [], {"load": replace(load, model=name), "scan": options}, output.output_dir)
        scans.append(scanned(rm, options, quiet=output.quiet))
    shared = shared_vocabulary(scans, names=names)
    found: dict[str, Result] = {"shared": shared, "moments": moments(shared), "agreement": rank_agreement(shared)}
    if len(names) > 2:
        found["map"] = model_map(found["agreement"])
    said, view = told(shared, found["agreement"], top)
    if run is None:
        return Outcome(said, view)
    for name, result in {**found, **{f"scan-{n}": scan for n, scan in enumerate(scans)}}.items():
        run.save_result(result, name)
    return Outcome({**said, "run": str(run.path)}, [*view, line(f"kept in {run.path}")])


def told(shared: SharedScores, agreement: Result, top: int) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a comparison: what was matched, how far every two agree, where they differ most."""
    from rewarden.plots.tokens_names import token_name
    from rewarden.tokens import rank_gaps

    counts, data = shared.counts(), agreement.data
    said: dict[str, Any] = {"models": counts.reset_index().to_dict("records"), "tokens": shared.data.sizes["token"],
                            "pairs": [], "warnings": list(agreement.warnings)}
    columns = ("vocabulary", "shared", "special", "duplicate", "absent")
    view: list[RenderableType] = [table("Tokens matched by their bytes", ("model", *columns),
                                        [(name, *(row[column] for column in columns)) for name, row in counts.iterrows()])]
    names = [str(name) for name in data["model"].values]
    for i, first in enumerate(names):
        for second in names[i + 1:]:
            rows = []
            for number, prompt in enumerate(map(str, data["prompt"].values)):
                pair = data.isel(prompt=number).sel(model=first, other=second)
                row = {"models": [first, second], "prompt": prompt, "n": int(pair["n"]),
                       **{key: float(pair[key]) for key in ("tau", "tau_low", "tau_high", "spearman")},
                       "rbo_top": float(pair["rbo"].sel(end="top")), "rbo_bottom": float(pair["rbo"].sel(end="bottom")),
                       "rbo_chance": float(pair["rbo_chance"].sel(end="top")),
                       "gaps": rank_gaps(shared, first, second, number, top).to_dict("records")}
                said["pairs"].append(row)
                rows.append((prompt, f"{row['tau']:.3f} [{row['tau_low']:.3f}, {row['tau_high']:.3f}]", row["spearman"],
                             row["rbo_top"], row["rbo_bottom"], row["rbo_chance"]))
            view.append(table(f"Agreement of {first} and {second} on {said['tokens']} tokens",
                              ("prompt", "tau-b [95 %]", "Spearman", "RBO top", "RBO bottom", "RBO by chance"), rows))
            gaps = said["pairs"][-len(rows)]["gaps"]
            view.append(table(f"Ranked most differently for {data['prompt'].values[0]!r} (rank 1 is best)",
                              ("token", first, second, "gap"),
                              [(token_name(gap["text"]), gap["rank"], gap["other_rank"], gap["gap"]) for gap in gaps]))
    return said, [*view, *(line(f"note: {text}", "yellow") for text in agreement.warnings)]
