"""Option dataclasses as command-line flags, and the spellings peers use for them.

In: argv and a configuration file. Out: argv in our spelling, settings the flags override.
Ignorant of what any verb does with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from rewarden import options
from rewarden.errors import RewardenError


@dataclass(frozen=True)
class OutputOptions:
    """Where results go and what is printed."""

    output_dir: Annotated[str | None, Parameter(name=("--output-dir", "-o"))] = field(
        default=None, metadata={"aliases": ("output_path",)})
    """Folder for what is written."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Print one JSON object on stdout and nothing else."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Print no progress and no tables."""
    debug: Annotated[bool, Parameter(negative="")] = False
    """Show the traceback of an error."""
    config: str | None = None
    """YAML or JSON file of settings named like the flags; flags win."""


def _flat(title: str, order: int) -> Parameter:
    return Parameter(name="*", group=Group(title, sort_key=order))


Load = Annotated[options.LoadOptions, _flat("Model", 1)]
Data = Annotated[options.DataOptions, _flat("Preference pairs", 2)]
Score = Annotated[options.ScoreOptions, _flat("Scoring", 3)]
Lens = Annotated[options.LensOptions, _flat("Reward lens", 3)]
Attribute = Annotated[options.AttributeOptions, _flat("Attribution", 3)]
Patch = Annotated[options.PatchOptions, _flat("Patching", 3)]
Paths = Annotated[options.PathOptions, _flat("Path patching", 3)]
Agreement = Annotated[options.AgreementOptions, _flat("Agreement", 3)]
Flip = Annotated[options.FlipOptions, _flat("Preference flips", 3)]
Scan = Annotated[options.ScanOptions, _flat("Vocabulary", 3)]
Search = Annotated[options.SearchOptions, _flat("Search", 3)]
Harvest = Annotated[options.HarvestOptions, _flat("Harvest", 3)]
TrainDictionary = Annotated[options.TrainDictionaryOptions, _flat("Training", 3)]
AdaptDictionary = Annotated[options.AdaptDictionaryOptions, _flat("Training", 3)]
EvaluateDictionary = Annotated[options.EvaluateOptions, _flat("Evaluation", 3)]
Bias = Annotated[options.BiasOptions, _flat("Bias battery", 3)]
Features = Annotated[options.FeatureEffectOptions, _flat("Features", 3)]
LabelFeatures = Annotated[options.LabelOptions, _flat("Labels", 3)]
Card = Annotated[options.CardOptions, _flat("Cards", 3)]
TrainSarm = Annotated[options.TrainSarmOptions, _flat("Training", 3)]
Steering = Annotated[options.SteeringOptions, _flat("Steering", 3)]
Distortion = Annotated[options.DistortionOptions, _flat("Distortion", 3)]
Cascade = Annotated[options.CascadeOptions, _flat("Cascade", 3)]
Conflict = Annotated[options.ConflictOptions, _flat("Conflict", 3)]
Triggers = Annotated[options.TriggerOptions, _flat("Triggers", 3)]
Divergence = Annotated[options.DivergenceOptions, _flat("Divergence", 3)]
BestOfN = Annotated[options.BestOfNOptions, _flat("Best of n", 3)]
Sample = Annotated[options.SampleOptions, _flat("Sampling", 4)]
Compare = Annotated[options.CompareOptions, _flat("Comparison", 3)]
Survey = Annotated[options.SurveyOptions, _flat("Concepts", 3)]
HeadEdit = Annotated[options.EditOptions, _flat("Repair", 3)]
Grade = Annotated[options.GradeOptions, _flat("Grading", 3)]
Audit = Annotated[options.AuditOptions, _flat("Report", 3)]
Output = Annotated[OutputOptions, _flat("Output", 9)]

_OPTIONS = (options.LoadOptions, options.DataOptions, options.ScoreOptions, options.LensOptions,
            options.AttributeOptions, options.PatchOptions, options.PathOptions, options.AgreementOptions, options.FlipOptions,
            options.ScanOptions, options.SearchOptions, options.HarvestOptions, options.TrainDictionaryOptions,
            options.AdaptDictionaryOptions, options.EvaluateOptions, options.FeatureEffectOptions, options.LabelOptions,
            options.BiasOptions, options.TriggerOptions,
            options.CardOptions, options.TrainSarmOptions, options.SteeringOptions, options.DistortionOptions,
            options.DivergenceOptions, options.CascadeOptions, options.ConflictOptions, options.BestOfNOptions,
            options.SampleOptions, options.CompareOptions, options.SurveyOptions, options.EditOptions,
            options.GradeOptions, options.AuditOptions, OutputOptions)

_LISTS = {f.name for cls in _OPTIONS for f in fields(cls) if str(f.type).startswith("tuple")}
"""Options that take several values: the flag repeated, or commas between the values."""


def aliases() -> dict[str, str]:
    """Peers' spelling of an option -> ours, from the option dataclasses.

    Example:
        >>> aliases()["load_json"]
        'dataset'
    """
    return {other: f.name for cls in _OPTIONS for f in fields(cls) for other in f.metadata.get("aliases", ())}


def canonical(argv: Sequence[str]) -> list[str]:
    """Arguments with peers' flags renamed to ours; dashes and underscores are the same everywhere.

    Example:
        >>> canonical(["score", "--torch_dtype=float32", "--load-json", "pairs.jsonl"])
        ['score', '--dtype=float32', '--dataset', 'pairs.jsonl']
        >>> canonical(["patch", "--sites", "z,mlp_out"])
        ['patch', '--sites=z', '--sites=mlp_out']
    """
    known, renamed = aliases(), []
    for index, token in enumerate(argv):
        if token == "--":
            return _each(renamed) + list(argv[index:])
        if token in ("--load_json", "--load-json") and (index + 1 == len(argv) or argv[index + 1].startswith("-")):
            continue  # RewardBench's switch says that --dataset is a file; that is found without being told
        flag, equals, value = token.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in known:
            token = f"--{known[name].replace('_', '-')}{equals}{value}"
        renamed.append(token)
    return _each(renamed)


def _each(tokens: Sequence[str]) -> list[str]:
    """Tokens in which a flag that takes several values stands once for each of them: `--sites a,b` is `--sites=a --sites=b`."""
    listed = {f"--{name.replace('_', '-')}" for name in _LISTS}
    apart: list[str] = []
    for token in tokens:
        flag, equals, values = token.partition("=")
        if apart and apart[-1] in listed:
            flag, equals, values = apart.pop(), "=", token
        apart += [f"{flag}={value}" for value in values.split(",")] if equals and flag in listed else [token]
    return apart


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The value argv gives to a flag, or None."""
    for index, token in enumerate(argv):
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
        if token == flag and index + 1 < len(argv):
            return argv[index + 1]
    return None


def read_settings(path: str) -> dict[str, Any]:
    """Settings of a YAML or JSON file, by our names.

    Raises:
        RewardenError: no such file, not YAML or JSON, or not a mapping of names to plain values.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardenError(f"cannot read the configuration file {path!r}", where="--config", why=str(error),
                            fix="give the path of a YAML or JSON file") from error
    settings = _parse(text, path)
    if not isinstance(settings, dict):
        raise RewardenError(f"{path!r} holds a {type(settings).__name__}, not settings", where="--config",
                            why="settings are lines such as 'batch_size: 8'", fix="write one setting a line")
    known = aliases()
    names = {key: str(key).replace("-", "_") for key in settings}
    return {known.get(names[key], names[key]): value for key, value in settings.items()}


def _parse(text: str, path: str) -> Any:
    if path.endswith(".json"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise RewardenError(f"{path!r} is not JSON", where=f"{path}, line {error.lineno}", why=error.msg,
                                fix="mend the file, or call it .yaml if it is YAML") from error
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RewardenError(f"{path!r} is not YAML", where="--config", why=str(error).replace("\n", " "),
                            fix="mend the file, or call it .json if it is JSON") from error


def with_model(load: options.LoadOptions, model: str | None) -> options.LoadOptions:
    """Load options whose model may also stand as the first word after the verb."""
    if model is None or load.model == model:
        return load
    if load.model is not None:
        raise RewardenError(f"two models: {model!r} and --model {load.model!r}", where="command line",
                            fix="name the model once")
    return replace(load, model=model)
