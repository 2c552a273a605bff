"""Which run folder a verb writes to, and what makes two calls the same run.

In: options, a reward model, pairs. Out: an open `Run`; its options back from its record.
Ignorant of what the rows say.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarden import options as o
from rewarden.cli.terminal import Outcome, line
from rewarden.errors import RewardenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from rewarden.conversation import Pair
    from rewarden.result import Result
    from rewarden.reward_model import RewardModel
    from rewarden.store import Run

OPTIONS = {"load": o.LoadOptions, "data": o.DataOptions, "score": o.ScoreOptions, "lens": o.LensOptions,
           "attribute": o.AttributeOptions, "patch": o.PatchOptions, "paths": o.PathOptions, "agreement": o.AgreementOptions,
           "flip": o.FlipOptions, "scan": o.ScanOptions, "search": o.SearchOptions, "features": o.FeatureEffectOptions,
           "best_of_n": o.BestOfNOptions, "bias": o.BiasOptions, "compare": o.CompareOptions, "sample": o.SampleOptions,
           "survey": o.SurveyOptions, "edit": o.EditOptions}


def runs_root() -> Path:
    """Where run folders lie: $REWARDEN_RUNS, or ./runs."""
    return Path(os.environ.get("REWARDEN_RUNS") or "runs")


def open_run(verb: str, rm: RewardModel, pairs: Sequence[Pair], chosen: dict[str, Any], folder: str | None, *,
             resume: bool) -> Run:
    """The run of these options in `folder`, or in one named after model and content under the root of runs.

    Args:
        verb: what is done, the first word of the folder's name.
        chosen: options by the names of `OPTIONS`.
        folder: the caller's folder, if any.
        resume: continue what is there; otherwise it is set aside.
    """
    from rewarden.score_runs import identity_of
    from rewarden.store import Run

    identity = {"verb": verb, **identity_of(rm, pairs)}
    config = {"verb": verb, **{name: asdict(_absolute(value)) for name, value in chosen.items()}}
    path = folder or named_folder(verb, rm, pairs)
    return Run.open_or_create(path, config, rm.provenance(), identity=identity, resume=resume)


def named_folder(verb: str, rm: RewardModel, pairs: Sequence[Pair]) -> Path:
    """The folder of this verb, model and data under the root of runs: the same call finds it again."""
    from rewarden.score_runs import identity_of

    digest = hashlib.sha256(json.dumps(identity_of(rm, pairs), sort_keys=True).encode()).hexdigest()[:8]
    return runs_root() / f"{verb}-{_slug(rm.name)}-{digest}"


def named_run(verb: str, rm: RewardModel, pairs: Sequence[Pair], chosen: dict[str, Any], folder: str | None) -> Run | None:
    """The run in the folder the caller named, if any; opened before long work, so that a wrong folder is refused first."""
    return None if folder is None else open_run(verb, rm, pairs, chosen, folder, resume=True)


def finished(run: Run | None, result: Result, found: dict[str, Any], view: Sequence[RenderableType]) -> Outcome:
    """What a verb found, its Result stored in the run, if there is one, and where that lies."""
    if run is None:
        return Outcome(found, view)
    run.save_result(result)
    return Outcome({**found, "run": str(run.path)}, [*view, line(f"kept in {run.path}")])


def record_of(run: Run, part: str) -> dict[str, Any]:
    """The "config" or "provenance" in the record of a run."""
    found = run.manifest[part]
    return dict(found) if isinstance(found, Mapping) else {}


def options_of(run: Run) -> dict[str, Any]:
    """The options a run was started with; permission to run a model's code is never taken from a file.

    Raises:
        RewardenError: the record holds options this version does not know.
    """
    config = record_of(run, "config")
    found: dict[str, Any] = {}
    for name in OPTIONS.keys() & config.keys():
        values = config[name]
        if not isinstance(values, dict):
            raise RewardenError(f"the record of this run has no options under {name!r}", where=str(run.path),
                                fix="start the run anew")
        values = {key: value for key, value in values.items() if key != "trust_remote_code"}
        found[name] = o.resolve(OPTIONS[name], None, values)
    return found


def _absolute(options: Any) -> Any:
    """Options whose local paths hold from any working directory."""
    paths = {name: str(Path(value).resolve()) for name in ("model", "tokenizer", "adapter", "reference", "dataset")
             if (value := getattr(options, name, None)) and value != "demo" and Path(value).exists()}
    return replace(options, **paths)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").split("/")[-1])[:60].strip("-.") or "model"
