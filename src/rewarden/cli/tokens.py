"""What does a reward model love and hate: the best and worst tokens of its vocabulary, a Result in a run folder on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.cli.flags import Load, Output, OutputOptions, Scan, with_model
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import model_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.errors import RewardenError
from rewarden.options import LoadOptions, ScanOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.reward_model import RewardModel
    from rewarden.tokens import TokenScores


def tokens(model: str | None = None, /, *, load: Load = LoadOptions(), options: Scan = ScanOptions(), top: int = 20,
           output: Output = OutputOptions()) -> Outcome:
    """What does it love and hate? Every token of the vocabulary scored as the whole response.

    Args:
        model: Hub id or folder, as --model.
        top: best and worst tokens to print.
    """
    check_top(top)
    load = with_model(load, model)
    rm = model_of(load, quiet=output.quiet)
    run = named_run("tokens", rm, [], {"load": load, "scan": options}, output.output_dir)
    result = scanned(rm, options, quiet=output.quiet)
    found, view = told(result, rm.name, top, options.special)
    return finished(run, result, found, view)


def check_top(top: int) -> None:
    """Refuse a table without rows before anyone waits for a scan."""
    if top < 1:
        raise RewardenError(f"--top {top}", where="command line", fix="ask for at least 1 row")


def scanned(rm: RewardModel, options: ScanOptions, *, quiet: bool) -> TokenScores:
    """The scan of one model, with its progress."""
    from rewarden.tokens import score_vocabulary
    from rewarden.tokens.vocabulary import every_id

    with progress(f"scanning {rm.name}", len(every_id(rm)) * len(options.prompt), quiet=quiet) as advance:
        return score_vocabulary(rm, options.prompt, system=options.system, mode=options.mode, progress=advance)


def told(result: TokenScores, name: str, top: int, special: bool) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a scan: extremes of each prompt, ties, and what the text path would have changed."""
    from rewarden.plots.tokens_names import token_name

    n, changed = result.data.sizes["token"], int((~result.data["round_trip"].values).sum())
    found: dict[str, Any] = {"model": name, "tokens": n, "mode": result.provenance["mode"], "noise_floor": result.noise_floor,
                             "not_round_trip": changed, "prompts": [], "warnings": list(result.warnings)}
    view: list[RenderableType] = []
    for number, prompt in enumerate(map(str, result.data["prompt"].values)):
        ends = {"top": result.top(top, number, special=special), "bottom": result.bottom(top, number, special=special)}
        distinct = int(result.data["distinct"].values[number])
        found["prompts"].append({"prompt": prompt, "distinct": distinct,
                                 **{side: rows.to_dict("records") for side, rows in ends.items()}})
        for side, word in (("top", "best"), ("bottom", "worst")):
            rows = [(row["rank"], token_name(row["text"]), row["token_id"], row["reward"], said(row))
                    for row in ends[side].to_dict("records")]
            view.append(table(f"{name}: {word} tokens for {prompt!r}", ("rank", "token", "id", "reward", "note"), rows))
        view.append(line(f"{distinct} different rewards among {n} tokens; differences up to {result.noise_floor:.1e} are "
                         "rounding"))
    view.append(line(f"{changed} of {n} tokens are not themselves after being written into the conversation and read again: "
                     "the published way scores them as others"))
    return found, [*view, *(line(f"note: {text}", "yellow") for text in result.warnings)]


def said(row: dict[str, Any]) -> str:
    """The flags of a token in words."""
    words = [row["notes"]] if row["notes"] else []
    words += [f"{row['ties']} tied"] if row["ties"] > 1 else []
    words += [f"{row['near']} within rounding"] if row["near"] > row["ties"] else []
    return ", ".join(words)
