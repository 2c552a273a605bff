"""Look after run folders: list, show, resume, verify. Everything is read from the folders themselves."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

from cyclopts import Parameter

from rewarden.cli.flags import Output, OutputOptions
from rewarden.cli.folders import options_of, record_of, runs_root
from rewarden.cli.terminal import FAILED, OK, Outcome, line, table
from rewarden.errors import RewardenError


def list_(folder: str | None = None, /, *, output: Output = OutputOptions()) -> Outcome:
    """The run folders under a folder.

    Args:
        folder: where to look; $REWARDEN_RUNS or ./runs by default.
    """
    from rewarden.store import list_runs

    root = folder or str(runs_root())
    found = [{"run": str(run.path), "verb": record_of(run, "config").get("verb", ""),
              "model": record_of(run, "provenance").get("model", ""), "created": run.created,
              "rows": len(run.done_keys())} for run in list_runs(root)]
    if not found:
        return Outcome({"runs": []}, (line(f"no runs under {root}"),))
    rows = [tuple(run.values()) for run in found]
    return Outcome({"runs": found}, (table(f"Runs under {root}", tuple(found[0]), rows),))


def show_(run: str, /, *, output: Output = OutputOptions()) -> Outcome:
    """What one run is, and how far it got.

    Args:
        run: the run folder.
    """
    from rewarden.store import Run

    opened = Run.open(run)
    data = {"run": str(opened.path), "created": opened.created, "rows": len(opened.done_keys()),
            "results": sorted(path.stem for path in opened.results_folder.glob("*.nc")),
            "config": record_of(opened, "config"), "provenance": record_of(opened, "provenance")}
    rows = [(name, data[name]) for name in ("run", "created", "rows")] + [("results", ", ".join(data["results"]))]
    rows += [(f"{group}.{name}", value) for group in ("config", "provenance") for name, value in data[group].items()]
    return Outcome(data, (table("Run", ("what", "value"), rows),))


def resume_(run: str, /, *, trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
            output: Output = OutputOptions()) -> Outcome:
    """Continue a run that was interrupted, with the options it was started with.

    Args:
        run: the run folder.
        trust_remote_code: run Python code that comes with the model; never taken from the folder's record.
    """
    from rewarden.cli.app import command_of
    from rewarden.cli.score import score
    from rewarden.store import Run

    opened = Run.open(run)
    verb = record_of(opened, "config").get("verb", "VERB")
    if verb != "score":
        raise RewardenError(f"{run} is not a scoring run", where=run, why="only scoring is continued by this command",
                            fix=f"run `rewarden {command_of(str(verb))}` again, into the same folder")
    chosen = options_of(opened)
    load = replace(chosen["load"], trust_remote_code=trust_remote_code)
    options = replace(chosen["score"], resume=True)
    return score(load=load, data=chosen["data"], options=options, output=replace(output, output_dir=run))


def verify_(run: str, /, *, quarantine: Annotated[bool, Parameter(negative="")] = False,
            output: Output = OutputOptions()) -> Outcome:
    """Check every file of a run against its recorded hash.

    Args:
        run: the run folder.
        quarantine: set bad shards aside in rows/quarantine/, so that `runs resume` computes their rows again.
    """
    from rewarden.store import Run

    opened = Run.open(run)
    found = opened.verify()
    moved = [str(path) for path in opened.quarantine()] if quarantine else []
    data = {"run": str(opened.path), **asdict(found), "ok": found.ok, "quarantined": moved}
    view = [line(found)] + [line(f"set aside: {path}") for path in moved]
    return Outcome(data, view, OK if found.ok else FAILED)
