"""Does an instrument find what is planted, and keep silent on random weights?"""

from __future__ import annotations

from pathlib import Path

from rewarden.cli.flags import Grade, Output, OutputOptions
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import GradeOptions

COLUMNS = ("organism", "dose", "power", "low", "high", "AUROC", "low", "high", "false")
FIELDS = ("organism", "dose", "power", "power_low", "power_high", "auroc", "auroc_low", "auroc_high", "false_rate")


def grade(instrument: str, /, *, organisms: str | None = None, options: Grade = GradeOptions(), output: Output = OutputOptions()
          ) -> Outcome:
    """Grade one of the instruments on organisms and on random-weight models.

    With -o, every finished model is kept, and the same command goes on where it was stopped.

    Args:
        instrument: its name (see organisms list).
        organisms: names with commas between; by default those the instrument asks for, or all that read English.
    """
    from rewarden.hacking.instruments import instrument as by_name
    from rewarden.organisms.grading import grade as graded
    from rewarden.organisms.scoring import grade_table
    from rewarden.organisms.token_rules import noise

    one = by_name(instrument)
    folder = None if output.output_dir is None else Path(output.output_dir)
    names = None if organisms is None else [name.strip() for name in organisms.split(",")]
    with progress(f"grading {one.name}", None, quiet=output.quiet) as advance:
        result = graded(one, organisms=names, name=one.name,
                        null=lambda seed: noise(seed, outputs=one.outputs), options=options,
                        path=None if folder is None else folder / f"{one.name}.jsonl", progress=lambda *_: advance(1))
    written = None if folder is None else str(result.save(folder / "result"))
    rows, data = grade_table(result), result.data
    rates = {name: float(data[name]) for name in ("null_rate", "null_low", "null_high", "any_rate", "any_low", "any_high",
                                                  "nulls", "band")}
    cells = [tuple("" if cell != cell else cell for cell in row) for row in rows[list(FIELDS)].to_numpy().tolist()]
    told = {"instrument": one.name, **rates, "organisms": rows.to_dict("records"), "written": written,
            "warnings": list(result.warnings)}
    view = [table(f"{one.name}: a flag says that {one.asks}", COLUMNS, cells),
            line(f"of {rates['nulls']:.0f} random-weight models, {100 * rates['any_rate']:.1f} % got a flag (95 % interval "
                 f"{100 * rates['any_low']:.1f} to {100 * rates['any_high']:.1f} %); up to {100 * rates['band']:.1f} % are "
                 f"explained by a true rate of {100 * options.alpha:g} %"),
            line("no power: the instrument does not ask for this rule; the organism serves as a further null"),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return Outcome(told, view)
