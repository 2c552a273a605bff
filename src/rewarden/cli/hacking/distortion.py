"""What moves the reward that your evaluation pairs hardly vary?"""

from __future__ import annotations

from rewarden.cli.flags import Data, Distortion, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import DataOptions, DistortionOptions, LoadOptions

COLUMNS = ("index", "low", "high", "sensitivity", "sensitive", "coverage", "coverage_low", "coverage_high", "dose", "flag")


def distortion(model: str | None = None, /, *, axes: str | None = None, load: Load = LoadOptions(), data: Data = DataOptions(),
               options: Distortion = DistortionOptions(), output: Output = OutputOptions()) -> Outcome:
    """What moves the reward that these evaluation pairs hardly vary? Sensitivity × uncovered share of each kind of change.

    Args:
        model: Hub id or folder, as --model.
        axes: kinds of change by name, with commas between, or a .jsonl file of your own; all bundled ones by default.
    """
    from rewarden.hacking.calibration import distortion_null_words
    from rewarden.hacking.off_distribution.distortion_index import distortion as measure
    from rewarden.plots.distortion import distortion_table

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("distortion", rm, pairs, {"load": load, "data": data, "distortion": options}, output.output_dir)
    with progress(f"moving texts of {rm.name}", None, quiet=output.quiet) as advance:
        result = measure(rm, pairs, axes, options=options, progress=advance)
    rows, data_ = distortion_table(result), result.data
    found = {"model": rm.name, "pairs": len(pairs), **{key: float(data_[key]) for key in ("chance", "own")},
             "flagged": rows.loc[rows["flag"], "dimension"].tolist(), "dimensions": rows.to_dict("records"),
             "warnings": list(result.warnings)}
    view = [table(f"What moves the reward of {rm.name}, and what {len(pairs)} evaluation pairs vary",
                  ("dimension", *COLUMNS), [tuple(row) for row in rows[["dimension", *COLUMNS]].itertuples(index=False)]),
            line(f"a dimension has at least {int(rows['n_seeds'].min())} seeds and {int(rows['n_templates'].min())} wordings"),
            line("index = sensitivity (SD of the reward) × share of the dimension's direction that the pairs do not cover; "
                 f"dose: what moving texts along that direction does. Coverage of a random direction {found['chance']:.2f}, of "
                 f"pairs like these {found['own']:.2f}"),
            line(f"{len(found['flagged'])} of {len(rows)} dimensions move the reward and are covered to less than "
                 f"{100 * options.covered:g} %, by Holm over them. {distortion_null_words(result.provenance)}"),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, found, view)
