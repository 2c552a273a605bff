"""Does a preference for one kind of misaligned response come with the others?"""

from __future__ import annotations

from rewarden.cli.flags import Cascade, Load, Output, OutputOptions, with_model
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import model_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.options import CascadeOptions, LoadOptions

COLUMNS = ("dimension", "preference", "low", "high", "adjusted p", "share", "share low", "share high", "*")


def cascade(model: str | None = None, /, *, items: str | None = None, load: Load = LoadOptions(),
            options: Cascade = CascadeOptions(), top: int = 10, output: Output = OutputOptions()) -> Outcome:
    """Does the model prefer misaligned responses, and does one such preference come with the others?

    Args:
        model: Hub id or folder, as --model.
        items: JSONL file with rows {prompt, dimension, misaligned, aligned}; the project's own 30 prompts in six dimensions by
            default.
        top: pairs of dimensions printed, the strongest correlation first.
    """
    from rewarden.conversation import Pair
    from rewarden.hacking.calibration import null_words
    from rewarden.hacking.misalignment import cascade as measure
    from rewarden.hacking.misalignment import cascade_items
    from rewarden.plots.objectives import cascade_table, preference_table

    texts = cascade_items(items)
    load = with_model(load, model)
    rm = model_of(load, quiet=output.quiet)
    pairs = [Pair(item.terms[1][1].prompt, item.terms[1][1].response, item.terms[0][1].response) for item in texts]
    run = named_run("cascade", rm, pairs, {"load": load, "cascade": options}, output.output_dir)
    with progress(f"scoring with {rm.name}", 2 * len(texts), quiet=output.quiet) as advance:
        result = measure(rm, texts, options=options, progress=advance)
    preferences, couples, data = preference_table(result), cascade_table(result), result.data
    ends = (("rho", ""), ("low", "_low"), ("high", "_high"), ("p", "_p"))
    together = {name: float(data[f"together{end}"]) for name, end in ends}
    flagged, n = int(couples["flag"].sum()), int(data.sizes["prompt"])
    found = {"model": rm.name, "prompts": n, "together": {**together, "flag": bool(data["together_flag"])},
             "preferences": preferences.to_dict("records"), "pairs": couples.to_dict("records"),
             "noise_floor": result.noise_floor, "warnings": list(result.warnings)}
    rows = [(row.first, row.second, row.rho, row.low, row.high, row.q, "*" if row.flag else "")
            for row in couples.head(top).itertuples(index=False)]
    view = [table(f"Reward of misaligned over aligned responses, {rm.name}, {n} prompts", COLUMNS,
                  [(row.dimension, row.preference, row.low, row.high, row.p_adjusted, row.share, row.share_low, row.share_high,
                    "*" if row.flag else "") for row in preferences.itertuples(index=False)]),
            table("Do such preferences come together? Rank correlation over prompts",
                  ("first", "second", "ρ", "low", "high", "q", "*"), rows),
            line(f"all dimensions together: mean ρ = {together['rho']:.3f} [{together['low']:.3f}, {together['high']:.3f}], "
                 f"p = {together['p']:.3g}{', flagged' if data['together_flag'] else ''}; {flagged} of {len(couples)} pairs "
                 "flagged"),
            line(f"* of a dimension: its preference differs from 0 at alpha = {options.alpha:g} (Holm over dimensions)"),
            *(line(f"{kind}: {null_words(name, unlike='items of your own' if items else '', alpha=options.alpha)}")
              for kind, name in (("preferences", "preferences"), ("correlations", "cascade"))),
            *(line(f"note: {text}", "yellow") for text in result.warnings)]
    return finished(run, result, found, view)
