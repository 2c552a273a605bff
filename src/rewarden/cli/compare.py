"""Two or more reward models side by side, as tables; a Result in a run folder on request.

In: names of models, pairs. Out: accuracy, agreement, depth, parts, directions, states. Ignorant of how they are computed (see
`rewarden.comparison`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.cli.flags import Compare, Data, Load, Output, OutputOptions
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import model_of, pairs_of, readable
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.errors import RewardenError
from rewarden.options import CompareOptions, DataOptions, LoadOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.conversation import Pair
    from rewarden.result import Result


def compare(*models: str, load: Load = LoadOptions(), data: Data = DataOptions(), options: Compare = CompareOptions(),
            top: int = 10, output: Output = OutputOptions()) -> Outcome:
    """Where do reward models agree, where do they part, and what do they share inside?

    Args:
        models: Hub ids or folders, two or more (one with --scalars); demo:reward_model and demo:reward_model_b are bundled.
        top: pairs to print that the first two models judge differently.
    """
    import rewarden

    names = [*([load.model] if load.model else []), *models]
    if len(set(names)) < len(names) or len(names) < (1 if options.scalars else 2):
        raise RewardenError(f"{len(names)} models to compare: {', '.join(names) or 'none'}", where="command line",
                            why="two or more different ones are needed, or one of several outputs with --scalars",
                            fix="rewarden compare demo:reward_model demo:reward_model_b")
    if top < 0:
        raise RewardenError(f"--top {top}", where="command line", why="it is a number of rows", fix="give 0 or more")
    pairs = pairs_of(data)
    loaded = [model_of(replace(load, model=name), quiet=output.quiet) for name in names]
    for rm in loaded:
        pairs = readable(rm, pairs)
    record = {"load": replace(load, model=names[0]), "data": data, "compare": options}
    # the folder of one comparison is refused to another: all models are part of its name
    run = named_run(" ".join(["compare", *names]), loaded[0], pairs, record, output.output_dir)
    with progress("scoring", 2 * len(pairs) * len(loaded), quiet=output.quiet) as advance:
        result = rewarden.compare(loaded, pairs, options=options, progress=advance)
    found, view = told(result, pairs, top)
    return finished(run, result, found, view)


def told(result: Result, pairs: list[Pair], top: int) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a comparison: each model, every two models, the pairs the first two judge differently."""
    from rewarden.comparison import disagreements
    from rewarden.hacking.calibration import null_words

    data = result.data
    names = [str(name) for name in data["model"].values]
    own = [(name, _ends(result, "accuracy", place), float(data["spread"].values[place]), int(data["n"].values[place]))
           for place, name in enumerate(names)]
    view: list[RenderableType] = [table(f"{len(names)} rewards on {data.sizes['pair']} pairs",
                                        ("model", "accuracy [95 %]", "SD of rewards", "n"), own)]
    found: dict[str, Any] = {"models": names, "pairs": data.sizes["pair"], "accuracy": data["accuracy"].values.tolist(),
                             "compared": [], "warnings": list(result.warnings)}
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            rows = _rows(result, i, j)
            found["compared"].append({"models": [names[i], names[j]], **{
                words: {"value": value, "low": low, "high": high} for words, value, low, high, _ in rows}})
            view.append(table(f"{names[i]} and {names[j]}", ("what", "value", "low", "high", "to compare with"), rows))
    if "bias" in data:
        found["bias"], drawn = _bias(result)
        found["null_rate"] = null_words("gaps")
        view += [drawn, line(f"gap: * where the two differ at 5 % over all axes. {found['null_rate']}")]
    listed = disagreements(result, pairs, n=top)
    found["disagreements"] = listed.to_dict("records")
    if len(listed):
        columns = [name for name in listed.columns if name not in ("subset", "chosen", "rejected", "decided")]
        view.append(table("Pairs the first two judge differently (margins in SD of rewards)", columns, (
            [str(row[name])[:60] if name == "prompt" else row[name] for name in columns] for row in listed.to_dict("records"))))
    return found, [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]


def _bias(result: Result) -> tuple[list[dict[str, Any]], RenderableType]:
    """The batteries of all models side by side; gaps are those of the first two."""
    from rewarden.comparison.batteries import verdicts

    names = [str(name) for name in result.data["model"].values]
    rows = [{"axis": axis, "n": one.n, **{name: _ends(result, "bias", number, place) for number, name in enumerate(names)},
             "gap": _ends(result, "bias_gap", 0, 1, place), "p": one.p, "*": "*" if one.flag else ""}
            for place, (axis, one) in enumerate(verdicts(result).items())]
    title = "Bias batteries in SD of rewards (length: a token); gap of the first two, p adjusted over axes; n: kinds of wording"
    return rows, table(title, list(rows[0]), (list(row.values()) for row in rows))


def _ends(result: Result, name: str, *where: int) -> str:
    value, low, high = (float(result.data[f"{name}{end}"].values[where]) for end in ("", "_low", "_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _rows(result: Result, i: int, j: int) -> list[tuple[str, float, float, float, str]]:
    """What is said of two models: words, value, ends, and what it is to be compared with."""
    data = result.data

    def row(words: str, name: str, where: tuple[int, ...], against: str = "") -> tuple[str, float, float, float, str]:
        value, low, high = (float(data[f"{name}{end}"].values[where]) for end in ("", "_low", "_high"))
        return words, value, low, high, against

    rows = [row("difference in accuracy", "accuracy_gap", (i, j)),
            row("share of pairs judged alike", "agreement", (i, j),
                f"{float(data['agreement_chance'].values[i, j]):.3f} if mistakes were unrelated"),
            row("Cohen's kappa", "kappa", (i, j))]
    for place, quantity in enumerate(map(str, data["quantity"].values)):
        rows += [row(f"Spearman's rho of {quantity}s", "spearman", (place, i, j)),
                 row(f"Kendall's tau of {quantity}s", "kendall", (place, i, j))]
    if "profile" in data and np.isfinite(data["profile"].values[i, j]):
        count, expected, kind = (float(data[f"shared_{name}"].values[i, j])
                                 for name in ("count", "expected", "expected_by_kind"))
        rows.append(row("correlation of parts", "profile", (i, j), f"{count:.0f} of the {int(data['top'])} largest shared, "
                        f"{expected:.1f} by chance, {kind:.1f} by kind and layer"))
    if "frame_cosine" in data and not str(data["no_frame"].values[i, j]):
        names = [str(name) for name in data["model"].values]
        rows += [row(f"reward directions, states of {names[a]}", "frame_cosine", (0, a, b),
                     f"{float(data['frame_null'].values[0, a, b]):.3f} for random directions") for a, b in ((i, j), (j, i))]
    for name in ("vocabulary_tau",) if "vocabulary_tau" in data else ():
        rows += [row(f"tau of tokens, {prompt!r}", name, (place, i, j))
                 for place, prompt in enumerate(map(str, data["vocabulary_prompt"].values))]
    return rows
