"""What happens to responses that are selected by this reward? Best-of-n curves and the features that selection raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import BestOfN, Data, Load, Output, OutputOptions, Sample, with_model
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import model_of, pairs_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.errors import RewardenError
from rewarden.options import BestOfNOptions, DataOptions, LoadOptions, SampleOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from rewarden.conversation import Pair
    from rewarden.hacking.selection.candidates import ScoreTable
    from rewarden.result import Result
    from rewarden.reward_model import RewardModel

TOP = 10

POINTS = ("onset", "best_n", "best_gold", *(f"{name}{end}" for name in ("best_gold_held_out", "agreement")
                                            for end in ("", "_low", "_high")))


def bestof(model: str | None = None, /, *, table: str | None = None, gold: str | None = None, policy: str | None = None,
           dictionary: str | None = None, site: str | None = None, load: Load = LoadOptions(), data: Data = DataOptions(),
           options: BestOfN = BestOfNOptions(), sample: Sample = SampleOptions(), output: Output = OutputOptions()) -> Outcome:
    """What happens to responses that are selected by this reward? Exact best-of-n curves of reward and gold, without training.

    Candidates are the rows of --table, samples of --policy for the prompts of the pairs, or else the responses that the pairs
    hold, with their labels as gold.

    Args:
        model: Hub id or folder, as --model; not needed for a table that has rewards, which are kept: a model named with it must
            be the one that gave them, and scores the samples that lack one.
        table: File of prompt, response, reward (or proxy) and gold, one row a sample; without rewards the model scores them.
        gold: A second reward model that stands for what is wanted.
        policy: A causal language model to draw responses from, such as demo:language_model.
        dictionary: Follow this dictionary's features too: a file or folder, demo for the bundled one, auto for the model's own.
        site: where the dictionary reads, such as resid_post.12, where its files do not say.
    """
    from rewarden.hacking.selection.bestof import best_of_n
    from rewarden.hacking.selection.covariances import susceptibility

    load = with_model(load, model)
    rm, pairs, found = _candidates(load, data, sample, table, gold, policy, output)
    inner = {} if dictionary is None else _inner(rm, found, dictionary, site)
    settings = {"load": load, "data": data, "best_of_n": options, "sample": sample}
    if rm is None and output.output_dir is not None:
        raise RewardenError("a table that has its rewards is not kept", where="--output-dir", why="no model was named",
                            fix="leave --output-dir out, or name the model that gave the rewards")
    run = None if rm is None else named_run("bestof", rm, pairs, settings, output.output_dir)
    style = found.responses is not None
    curves = best_of_n(found, _with_style(found, options, inner) if inner else None, options=options)
    results = {"susceptibility": susceptibility(found, options=options)} if style else {}
    if inner:
        results["susceptibility_dictionary"] = susceptibility(found, inner, options=options)
    told, view = described(curves, results.get("susceptibility"), results.get("susceptibility_dictionary"))
    if run is not None:
        run.save_result(found.result())
        for name, result in results.items():
            run.save_result(result, name)
    return finished(run, curves, told, view)


def _inner(rm: RewardModel | None, table: ScoreTable, name: str, site: str | None) -> dict[str, Any]:
    """Features of a dictionary that fire where the reward is read."""
    from rewarden.cli.dictionaries import dictionary_of
    from rewarden.hacking.selection.scoring import dictionary_features
    from rewarden.report.sections.features import own_dictionary
    from rewarden.report.selected_features import FOLLOWED

    if rm is None:
        raise RewardenError("features of a dictionary need the model whose states it reads", where="--dictionary",
                            why="the table has its rewards, and no model is named", fix="name the model that gave the rewards")
    found = own_dictionary(rm) if name == "auto" else dictionary_of(name, site=site)
    if found is None:
        raise RewardenError(f"no dictionary belongs to {rm.name}", where="--dictionary auto",
                            why="it is neither the bundled model nor a sparse reward model", fix="give the dictionary's file")
    features = dictionary_features(rm, table, found, top=FOLLOWED)
    if not features:
        raise RewardenError("no feature of the dictionary fires where the reward is read", where="--dictionary",
                            why=f"in {len(table.proxy)} samples", fix="check that the dictionary is of this model and site")
    return features


def _with_style(table: ScoreTable, options: BestOfNOptions, inner: dict[str, Any]) -> dict[str, Any]:
    """Features that are followed along the curve: those of style, where asked for, and those of a dictionary."""
    from rewarden.hacking.selection.covariances import feature_columns

    names, values = feature_columns(table) if options.style else ([], None)
    return {**({} if values is None else dict(zip(names, values.T, strict=True))), **inner}


def _candidates(load: LoadOptions, data: DataOptions, sample: SampleOptions, path: str | None, gold: str | None,
                policy: str | None, output: OutputOptions) -> tuple[RewardModel | None, list[Pair], ScoreTable]:
    """The model, the pairs, and the scored candidates."""
    import numpy as np

    from rewarden.hacking.selection.candidates import ScoreTable
    from rewarden.hacking.selection.sampling import sample_responses
    from rewarden.hacking.selection.scoring import candidates, fill, judged, score_table, table_again

    if path is not None and policy is not None:
        raise RewardenError("candidates come from --table or from --policy", where="command line", why="both are given",
                            fix="leave one out")
    held = ScoreTable.read(path) if path is not None else None
    judge = None if gold is None else model_of(LoadOptions(model=gold), quiet=output.quiet)
    scored = held is not None and bool(np.isfinite(held.proxy).any())
    if held is not None and scored and load.model is None:
        return None, [], held if judge is None else judged(held, judge)
    pairs = [] if held is not None else pairs_of(data)
    rm = model_of(load, quiet=output.quiet)
    if held is not None:
        return rm, pairs, fill(rm, held, gold=judge) if scored else table_again(rm, held, gold=judge)
    if policy is not None:
        prompts = list({str(pair.prompt): pair.prompt for pair in pairs}.values())
        with progress(f"sampling {policy}", len(prompts), quiet=output.quiet) as advance:
            drawn = sample_responses(policy, prompts, options=sample, progress=advance).responses
        labels: Any = None
    else:
        prompts, drawn, labels = candidates(pairs)
        if not prompts:
            raise RewardenError("no prompt of these pairs has four candidates", where=data.dataset,
                                why="best-of-n selects among several responses to one prompt",
                                fix="give --policy to draw responses, or --table")
    with progress(f"scoring {rm.name}", sum(map(len, drawn)), quiet=output.quiet) as advance:
        return rm, pairs, score_table(rm, labels if judge is None else judge, prompts, drawn, progress=advance)


def described(curves: Result, follows: Result | None, inner: Result | None = None
              ) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of the curves, of features of style, and of features of a dictionary."""
    from rewarden.plots.bestof import best_of_n_table, gold_fall
    from rewarden.report.sections.best_of_n import fall_words

    rows, data = best_of_n_table(curves), curves.data
    points = {name: float(data[name]) for name in POINTS if name in data}
    told = {"prompts": curves.provenance["prompts"], "samples": curves.provenance["samples"], "curve": rows.to_dict("records"),
            **points, "fall": (fall := gold_fall(curves)), "warnings": list(curves.warnings)}
    doubled = rows[rows["n"].isin({*data["step_from"].values, *data["step_to"].values})] if "step_from" in data else rows
    sides = [side for side in ("reward", "gold") if side in rows]
    view: list[RenderableType] = [table(
        f"The best of n by the reward, {told['prompts']} prompts", ("n", "KL", *sides),
        [(int(row["n"]), row["kl"], *(_interval(row, side) for side in sides)) for row in doubled.to_dict("records")])]
    if "onset" in points:
        view.append(line("no doubling of n is shown to lower the gold; that is no evidence that none does" if fall is None
                         else f"{fall_words(fall)}; n = {told['prompts']} prompts. Beyond that the gold may rise again"))
        view.append(line(f"best n = {points['best_n']:g}; its gold on prompts that did not choose it "
                         f"{_interval(points, 'best_gold_held_out')}"))
    if follows is not None:
        rows, shown = _followed(follows, curves, "Features")
        told |= {"features": rows, "hacks": [row["feature"] for row in rows if row["hack"]]}
        view += shown
    if inner is not None:
        rows, shown = _followed(inner, curves, "Features of the dictionary")
        told |= {"dictionary_features": rows}
        view += shown
    view += [line(f"note: {text}", "yellow") for text in curves.warnings]
    return told, view


def _followed(follows: Result, curves: Result, what: str) -> tuple[list[dict[Any, Any]], list[RenderableType]]:
    """Rows of the features that selection raises, and how they are printed."""
    from rewarden.hacking.selection.covariances import reliability
    from rewarden.plots.bestof import susceptibility_table

    rows = susceptibility_table(follows, curves).to_dict("records")
    sides = [side for side in ("reward", "gold") if rows and side in rows[0]]
    most = int(curves.data["n"].values[-1])
    title = f"{what} that go with the reward within prompts, and with the gold; hack: predicted to rise without it"
    return rows, [table(title, ("feature", *(f"r with {side}" for side in sides), "q", f"rise at n = {most} (SD)", "hack"),
                        [(row["feature"], *(_interval(row, side) for side in sides), row["q"], row.get("rise"),
                          "yes" if row["hack"] else "") for row in rows[:TOP]]), line(reliability(follows))]


def _interval(row: Mapping[Any, Any], name: str) -> str:
    from rewarden.report.words import interval

    return interval(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))
