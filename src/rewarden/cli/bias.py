"""Does the reward follow how something is said? The bias battery, or a regression on style over one's own pairs."""

from __future__ import annotations

from rewarden.cli.flags import Bias, Data, Load, Output, OutputOptions, with_model
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import asked_of, model_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import BiasOptions, DataOptions, LoadOptions

COLUMNS = ("axis", "size", "low", "high", "raw", "p_adjusted", "flag", "n")
"""Of the table; estimates in reward units and the rest stand in --json and in the run."""


def bias(model: str | None = None, /, *, axes: str | None = None, wordings: str | None = None, natural: bool = False,
         load: Load = LoadOptions(), data: Data = DataOptions(), options: Bias = BiasOptions(), output: Output = OutputOptions()
         ) -> Outcome:
    """Does the reward follow how something is said? Causal effects of length, hedging, markdown, flattery, identity and more.

    Args:
        model: Hub id or folder, as --model.
        axes: names with commas, or a JSONL of your own (prompt, neutral, biased, axis?, seed?, template?); all bundled ones by
            default.
        wordings: also show what each wording (or identity term) of this axis did.
        natural: instead, regress the margin on style features over the pairs of --dataset.
    """
    if natural:
        return _natural(model, load, data, options, output)
    from rewarden.hacking.bias.battery import bias_battery
    from rewarden.hacking.bias.result import wordings as each_wording
    from rewarden.hacking.calibration import battery_null_words
    from rewarden.plots.bias import bias_table

    load = with_model(load, model)
    rm = model_of(load, quiet=output.quiet)
    run = named_run("bias", rm, [], {"load": load, "bias": options}, output.output_dir)
    with progress(f"changing texts for {rm.name}", None, quiet=output.quiet) as advance:
        result = bias_battery(rm, axes, options=options, progress=advance)
    rows, null = bias_table(result), battery_null_words(result.provenance)
    flagged = [str(axis) for axis in rows.loc[rows["flag"], "axis"]]
    told = {"model": rm.name, "axes": rows.to_dict("records"), "flagged": flagged, "noise_floor": result.noise_floor,
            "null_rate": null, "warnings": list(result.warnings)}
    shown = rows.copy()
    shown["flag"] = [("as a kind" if row.kind else f"wordings {row.outlying}") if row.flag else "" for row in rows.itertuples()]
    title = f"What each kind of change does to the reward of {rm.name} (sizes in standard deviations of the reward)"
    view = [table(title, COLUMNS, [tuple(row) for row in shown[list(COLUMNS)].itertuples(index=False)])]
    if wordings is not None:
        each = each_wording(result, wordings)
        told["wordings"] = each.to_dict("records")
        view.append(table(f"{wordings}: raw effect of each wording, reward units", tuple(each.columns),
                          [tuple(row) for row in each.itertuples(index=False)]))
    tested = int(rows["p"].notna().sum())
    beyond = "" if result.provenance["calibration"] == "off" else " beyond what random-weight models show"
    view += [line(f"{len(flagged)} of {tested} kinds of change move the reward{beyond}"
                  + (f": {', '.join(flagged)}" if flagged else "")),
             line("flag: as a kind, over all wordings, which is what the interval is about; or single wordings that stand out "
                  "(--wordings AXIS shows them)"), line(null),
             *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, told, view)


def _natural(model: str | None, load: LoadOptions, data: DataOptions, options: BiasOptions, output: OutputOptions) -> Outcome:
    """Regression of the margin on style, in pairs as they are."""
    from rewarden.hacking.calibration import null_words
    from rewarden.hacking.styles.regression import style_regression
    from rewarden.report.sections.style_regression import regression_table

    load, rm, pairs = asked_of(model, load, data, quiet=output.quiet)
    run = named_run("style", rm, pairs, {"load": load, "data": data, "bias": options}, output.output_dir)
    adjust = {"holm": "holm", "bh": "fdr"}[options.correction]
    result = style_regression(rm, pairs, alpha=options.alpha, level=options.level, seed=options.seed, adjust=adjust,
                              batch_size=options.batch_size)
    rows = regression_table(result)
    told = {"model": rm.name, "pairs": len(pairs), "features": rows.to_dict("records"), "null_rate": null_words("style"),
            "warnings": list(result.warnings)}
    view = [table(f"Margin of {rm.name} on differences of style, {len(pairs)} pairs", tuple(rows.columns),
                  [tuple(row) for row in rows.itertuples(index=False)]),
            line("an association in texts as they are; the battery (without --natural) edits texts"), line(null_words("style")),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, told, view)
