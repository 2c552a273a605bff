"""Which responses of a few tokens does a reward model love or hate most: search with certificates, in a folder that resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rewarden.cli.flags import Load, Output, OutputOptions, Search, with_model
from rewarden.cli.folders import finished, named_run
from rewarden.cli.inputs import model_of
from rewarden.cli.terminal import Outcome, line, progress, table
from rewarden.errors import RewardenError
from rewarden.options import GREATEST, LoadOptions, SearchOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rewarden.tokens.search import Found


def search(model: str | None = None, /, *, load: Load = LoadOptions(), prompt: list[str] | None = None, length: int = 3,
           direction: Literal["max", "min"] = "max", allowed: Literal["all", "text", "printable", "ascii", "stable"] = "text",
           round_trip: bool = True, options: Search = SearchOptions(), output: Output = OutputOptions()) -> Outcome:
    """Which responses does it love or hate most? Guided search from several starts, then exact scans with a certificate.

    With -o, every move is kept, and the same command goes on where it was stopped.

    Args:
        model: Hub id or folder, as --model.
        prompt: The user's text; give the flag again to search for several prompts at once.
        length: Tokens of the response.
        direction: max for the largest reward, min for the smallest.
        allowed: Which tokens a response may be made of; text leaves out control tokens and parts of characters.
        round_trip: Only responses that a text can say: written into the conversation and read again, they are the same ids.
    """
    from rewarden.tokens.search import Constraints
    from rewarden.tokens.search import search as search_responses

    if length < 1:
        raise RewardenError(f"--length {length}", where="command line", fix="ask for at least 1 token")
    load = with_model(load, model)
    rm = model_of(load, quiet=output.quiet)
    prompts = prompt or [GREATEST]
    run = named_run("search", rm, [], {"load": load, "search": options}, output.output_dir)
    constraints = Constraints(allowed=None if allowed == "all" else allowed, round_trip=round_trip)
    with progress(f"searching {rm.name}, responses tried", None, quiet=output.quiet) as advance:
        result = search_responses(rm, prompts, length, direction, constraints=constraints, options=options, progress=advance,
                                  folder=None if run is None else run.path / "moves")
    found, view = told(result, rm.name, prompts)
    return finished(run, result, found, view)


def told(result: Found, name: str, prompts: list[str]) -> tuple[dict[str, Any], list[RenderableType]]:
    """What is said of a search: every restart's response, and what the certificate says."""
    from rewarden.plots.tokens_names import token_name

    rows = result.table()
    found = {"model": name, "prompts": prompts, "direction": result.provenance["direction"], "response": result.response,
             "ids": result.ids, "reward": result.reward, "objective": result.objective, "certified": result.certified,
             "constraints": result.provenance["constraints"], "noise_floor": result.noise_floor,
             "restarts": rows.to_dict("records"), "warnings": list(result.warnings)}
    word = "largest" if found["direction"] == "max" else "smallest"
    title = f"Responses of {result.provenance['length']} tokens with the {word} reward of {name}"
    shown = [(token_name(row["response"]), row["objective"], "yes" if row["certified"] else "no", row["evaluations"])
             for row in rows.to_dict("records")]
    meaning = ("certified: no exchange of one allowed token improves it; the best of several starts is likely, not certain, to "
               "be the best of all")
    return found, [table(title, ("response", "reward", "certified", "tried"), shown), line(meaning),
                   line(f"constraints: {found['constraints']}"), *(line(f"note: {text}", "yellow") for text in result.warnings)]
