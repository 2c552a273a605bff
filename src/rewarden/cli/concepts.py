"""Which concepts does the model know, which does its reward follow, and which move it?

In: model, pairs as a corpus, axes of the battery. Out: a table, and a Result in a run folder. Ignorant of how it is computed
(see `rewarden.concepts`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rewarden.cli.flags import Data, Load, Output, OutputOptions, Survey
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import DataOptions, LoadOptions, SurveyOptions
from rewarden.report.words import interval

if TYPE_CHECKING:
    from rewarden.contrasts import Contrast


def concepts(model: str | None = None, /, *, axes: str | None = None, load: Load = LoadOptions(), data: Data = DataOptions(),
             options: Survey = SurveyOptions(), output: Output = OutputOptions()) -> Outcome:
    """Which concepts does the model know, which does its reward follow, and which move it?

    The pairs are the corpus on which reward and concepts are compared.

    Args:
        model: Hub id or folder, as --model.
        axes: Axes of the bias battery with commas between, or a JSONL file of prompt, neutral, biased and axis; all that are
            one concept by default.
    """
    from rewarden.concepts import survey
    from rewarden.hacking.calibration import survey_null_words
    from rewarden.plots.concepts import concept_table

    asked = asked_for(axes)
    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("concepts", rm, pairs, {"load": load, "data": data, "survey": options}, output.output_dir)
    with progress(f"concepts of {rm.name}", len({one.axis for one in asked}), quiet=output.quiet) as advance:
        result = survey(rm, asked, pairs, options=options, progress=advance)
    rows = concept_table(result)
    null, follows = (survey_null_words(result.provenance, _which(axes), name) for name in ("concepts", "follows"))
    told = {"model": rm.name, "pairs": len(pairs), "layer": result.provenance["layer"], "concepts": rows.to_dict("records"),
            "null_rate": null, "null_rate_follows": follows, "noise_floor": result.noise_floor,
            "warnings": list(result.warnings)}
    shown = [(row["concept"], int(row["seeds"]), row["auc"], interval(row["cosine"], row["cosine_low"], row["cosine_high"]),
              "*" if row["follows"] else "", interval(row["slope"], row["slope_low"], row["slope_high"]),
              "*" if row["moves"] else "") for row in rows.to_dict("records")]
    view = [table(f"Concepts and the reward of {rm.name}",
                  ("concept", "seeds", "held-out AUC", "correlation", "*", "slope", "*"), shown),
            line(f"correlation with the reward on {2 * len(pairs)} texts, * beyond random read-outs; slope: reward units for "
                 f"as much of the concept as its texts have, moved after layer {told['layer']}, * beyond random directions; "
                 f"both at {100 * options.alpha:g} % over all concepts"),
            line(f"of slopes: {null}"), line(f"of correlations: {follows}"),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, told, view)


def _which(axes: str | None) -> str:
    """Which axes `asked_for` gives: a file's, some of the battery's, or those that are one concept."""
    from rewarden.preferences.files import file_format
    from rewarden.report.sections.concepts import ASKED

    return ASKED if axes is None else "own" if file_format(Path(axes)) else "some"


def asked_for(axes: str | None) -> list[Contrast]:
    """Contrasts of the axes named, of a file, or of all axes that are one concept."""
    from rewarden.hacking.bias.battery import contrasts
    from rewarden.report.sections.concepts import asked

    if axes is None:
        return asked()
    return contrasts(axes)
