"""Every choice a user can make, one frozen dataclass a verb; Python, command line and help text come from here.

In: keyword arguments or flags. Out: checked options, or one error that names all that is wrong.
Ignorant of models and data: nothing here imports a heavy library or touches a file's content.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from rewarden.errors import RewardenError

O = TypeVar("O")


def alias(default: Any, *names: str) -> Any:
    """A field that the command line also knows under the names peers use (RewardBench, lm-evaluation-harness)."""
    return field(default=default, metadata={"aliases": names})


def resolve(cls: type[O], options: O | None, overrides: Mapping[str, Any]) -> O:
    """One checked options object from `options=` and keyword overrides.

    Args:
        cls: the options class of the verb.
        options: the caller's options, or None for the defaults.
        overrides: single fields that win over `options`.

    Raises:
        RewardenError: `options` of another class, or names that are no field of it (all listed, with the nearest).

    Example:
        >>> resolve(LensOptions, LensOptions(seed=3), {"level": 0.9})
        LensOptions(level=0.9, resamples=2000, seed=3, noise_multiple=3.0)
        >>> resolve(LensOptions, None, {"leevl": 0.9})
        Traceback (most recent call last):
        rewarden.errors.RewardenError: unknown option 'leevl'
          where: LensOptions
          why:   known options: level, resamples, seed, noise_multiple
          fix:   did you mean 'level'?
    """
    if options is not None and not isinstance(options, cls):
        raise RewardenError(f"options of type {type(options).__name__} where {cls.__name__} is expected",
                            where="options=", fix=f"pass rewarden.options.{cls.__name__}(...) or keyword arguments")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # every cls here is a dataclass
    unknown = [name for name in overrides if name not in known]
    if unknown:
        near = {name: difflib.get_close_matches(name, known, n=1) for name in unknown}
        hints = [f"did you mean {match[0]!r}?" if len(unknown) == 1 else f"{name!r} -> {match[0]!r}"
                 for name, match in near.items() if match]
        raise RewardenError(f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}",
                            where=cls.__name__, why=f"known options: {', '.join(known)}",
                            fix="; ".join(hints) or "use one of the known options")
    return replace(cls() if options is None else options, **overrides)  # type: ignore[type-var]  # the same


def _check(options: object, **refused: str) -> None:
    """Raise one error that lists every refused field with what would be accepted."""
    if refused:
        wrong = ", ".join(f"{name}={getattr(options, name)!r}" for name in refused)
        raise RewardenError(f"impossible options: {wrong}", where=type(options).__name__,
                            why="; ".join(f"{name} must be {rule}" for name, rule in refused.items()),
                            fix="change these values")


def _interval(options: Any) -> dict[str, str]:
    """What is wrong with the fields level, seed and, where there is one, resamples."""
    wrong = {}
    if not 0 < options.level < 1:
        wrong["level"] = "between 0 and 1 (0.95 for a 95 % interval)"
    if options.seed < 0:
        wrong["seed"] = "0 or larger"
    if getattr(options, "resamples", 100) < 100:
        wrong["resamples"] = "at least 100"
    return wrong


@dataclass(frozen=True)
class LoadOptions:
    """Which reward model, and how to load it."""

    model: str | None = None
    """Hub id or folder of the reward model; the bundled demo model when not given."""
    revision: str | None = None
    """Branch, tag or commit of the model on the Hub."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer, when it is not the model's own."""
    chat_template: str | None = None
    """Jinja chat template, or the file that holds it, instead of the tokenizer's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = alias("auto", "torch_dtype")
    """Number format of the weights; auto is float32 on CPU and the checkpoint's own format on an accelerator."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, mps."""
    bos: Literal["auto", "keep", "strip"] = "auto"
    """Begin-of-sequence token: auto removes a doubled one, keep takes what the template writes, strip removes it."""
    readout: str | None = None
    """Kind of read-out: sequence, token, judge, gated, implicit (DPO) or a registered name; found when not given."""
    output: str | None = None
    """Name of the scalar that counts as the reward, for models with several outputs."""
    reference: str | None = alias(None, "ref_model")
    """Hub id or folder of the reference policy of a DPO-implicit reward."""
    adapter: str | None = None
    """Hub id or folder of a PEFT adapter to put on the model."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention kernel of transformers; its own choice when not given."""
    max_length: int | None = None
    """Longest conversation in tokens, longer ones lose the beginning of the prompt; by default the model's limit."""
    layers: str | None = None
    """Dotted path of the list of layers, when it is not found."""
    on_overflow: Literal["truncate", "error"] = "truncate"
    """A conversation that is too long loses the beginning of its prompt (counted), or stops the run."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model; needs a pinned revision (or a local folder)."""

    def __post_init__(self) -> None:
        wrong = {}
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            wrong["dtype"] = "auto, float32, bfloat16 or float16"
        if self.bos not in ("auto", "keep", "strip"):
            wrong["bos"] = "auto, keep or strip"
        if self.max_length is not None and self.max_length < 8:
            wrong["max_length"] = "at least 8 tokens, or not given"
        local = bool(self.model) and Path(str(self.model)).is_dir()
        if self.trust_remote_code and not local and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            wrong["trust_remote_code"] = "used with revision=<commit hash>, so that the code run is the code you read"
        _check(self, **wrong)


@dataclass(frozen=True)
class DataOptions:
    """Which preference pairs, and how to read them."""

    dataset: str = alias("demo", "load_json")
    """Pairs to use: demo (bundled), a JSONL, JSON, CSV or Parquet file, or a Hub id such as allenai/reward-bench."""
    split: str | None = None
    """Part to read, where the data set has parts."""
    subset: str | None = None
    """Only pairs of this subset."""
    limit: float | None = None
    """Only the first pairs (10), or the first share of them (0.1)."""
    columns: str | None = None
    """Column names as prompt=question,chosen=best,rejected=worst, when they differ."""
    format: str = "auto"
    """Layout of a row: auto, pairs, transcripts (HH-RLHF), best-of-n (RewardBench 2), style-grid (RM-Bench)."""
    on_error: Literal["raise", "skip"] = "raise"
    """Stop at bad rows and list them, or skip them and count them."""

    def __post_init__(self) -> None:
        wrong = {}
        if self.limit is not None and not (0 < self.limit < 1 or (self.limit >= 1 and self.limit == int(self.limit))):
            wrong["limit"] = "a whole number of pairs from 1, or a share between 0 and 1"
        if self.columns is not None and not all("=" in item for item in self.columns.split(",")):
            wrong["columns"] = "written as prompt=NAME,chosen=NAME,rejected=NAME"
        if self.on_error not in ("raise", "skip"):
            wrong["on_error"] = "raise or skip"
        _check(self, **wrong)

    @property
    def column_names(self) -> dict[str, str] | None:
        """`columns` as a mapping from our name to theirs."""
        if self.columns is None:
            return None
        return {ours.strip(): theirs.strip() for ours, _, theirs in (c.partition("=") for c in self.columns.split(","))}


@dataclass(frozen=True)
class ScoreOptions:
    """How pairs are scored and summarised."""

    batch_size: int | Literal["auto"] = "auto"
    """Conversations in one forward pass; auto fits the device and halves when memory runs out."""
    resume: bool = True
    """Continue the run folder when it holds rows of the same model, data and options; off sets it aside first."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            wrong["batch_size"] = "auto or a whole number from 1"
        _check(self, **wrong)


@dataclass(frozen=True)
class LensOptions:
    """How the reward lens is summarised."""

    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap."""
    noise_multiple: float = 3.0
    """A margin smaller than this many noise floors of the dtype has no sign, and its crystallization is undefined."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        if self.noise_multiple < 0:
            wrong["noise_multiple"] = "0 or larger"
        _check(self, **wrong)


@dataclass(frozen=True)
class AttributeOptions:
    """How finely the reward is divided among the parts of the model."""

    neurons: bool = False
    """Divide each MLP among its neurons as well."""
    source_tokens: bool = False
    """Divide each head among the tokens it reads as well."""
    top: int = 20
    """Rows of the printed ledger, largest first."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        if self.top < 1:
            wrong["top"] = "at least 1"
        _check(self, **wrong)


@dataclass(frozen=True)
class AuditOptions:
    """How much goes into the report."""

    examples: int = 4
    """Pairs shown in full, with a reward trace on their text."""
    lens_pairs: int = 64
    """Pairs the lens and the attribution run on, drawn by the seed; scores use all."""
    patch_pairs: int = 24
    """Pairs of these whose activations are patched, for causal effects; 0 leaves patching out."""
    errors: int = 10
    """Largest errors listed."""
    level: float = 0.95
    """Coverage of every interval."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of every draw and bootstrap."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        for name in ("examples", "errors"):
            if getattr(self, name) < 0:
                wrong[name] = "0 or larger"
        if self.lens_pairs < 2:
            wrong["lens_pairs"] = "at least 2, an interval needs two pairs"
        if self.patch_pairs < 0 or self.patch_pairs == 1:
            wrong["patch_pairs"] = "0, or at least 2, an interval needs two pairs"
        _check(self, **wrong)


PATCH_SITES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")
PATCH_MODES = ("noising", "denoising", "zero", "mean", "resample")
PATCH_POSITIONS = ("read_out", "each", "all")
PATCH_ALIGNMENTS = ("suffix", "prefix", "diff", "equal_only", "read_out")


@dataclass(frozen=True)
class PatchOptions:
    """Which activations are patched, with what, and how effects are summarised over pairs."""

    sites: tuple[str, ...] = ("attn_out", "mlp_out", "z")
    """Kinds of activation; z, q, k and v are patched head by head."""
    mode: Literal["noising", "denoising", "zero", "mean", "resample"] = "noising"
    """What is put in: the rejected run into the chosen one, the reverse, zeros, means, or another pair's chosen run."""
    positions: Literal["read_out", "each", "all"] = "read_out"
    """Where: the positions that the read-out reads, every position by itself, or all positions at once."""
    alignment: Literal["suffix", "prefix", "diff", "equal_only", "read_out"] = "suffix"
    """Which token stands for which: from the end, the start, equal tokens, by index (equal lengths), or the read-out only."""
    alpha: float = 0.05
    """Share of false findings allowed among the marked cells."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap, of the sign flips and of the draw of other pairs."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        object.__setattr__(self, "sites", tuple(dict.fromkeys(sites)))
        if not sites or set(sites) - set(PATCH_SITES):
            wrong["sites"] = f"one or several of {', '.join(PATCH_SITES)}"
        for name, allowed in (("mode", PATCH_MODES), ("positions", PATCH_POSITIONS), ("alignment", PATCH_ALIGNMENTS)):
            if getattr(self, name) not in allowed:
                wrong[name] = f"one of {', '.join(allowed)}"
        if not 0 < self.alpha < 1:
            wrong["alpha"] = "between 0 and 1 (0.05 for 5 % false findings)"
        _check(self, **wrong)


@dataclass(frozen=True)
class AgreementOptions:
    """Which effects attribution is compared with, and how the rank correlations are summarised."""

    heads: bool = True
    """Compare single attention heads as well, patched at the read-out position."""
    sequences: bool = True
    """Also patch whole sequences, aligned at the end and left-aligned as published (about one forward per layer each)."""
    sequence_heads: bool = False
    """Patch whole sequences head by head as well (about half a forward per head, twice)."""
    apart: int = 1
    """Tokens by which the sides of a pair must differ to count as shorter or longer."""
    permutations: int = 999
    """Shuffles of the components behind each p."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap and of the shuffles."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        if self.apart < 1:
            wrong["apart"] = "at least 1 token"
        if self.permutations < 19:
            wrong["permutations"] = "at least 19 (the smallest p is 1 / (permutations + 1))"
        if self.sequence_heads and not (self.sequences and self.heads):
            wrong["sequence_heads"] = "used with sequences and heads"
        _check(self, **wrong)


PATH_SENDERS = r"embed|position|(attn|mlp)(\.\d+)?|head(\.\d+){0,2}"
PATH_RECEIVERS = r"read_out|(attn|mlp)(\.\d+)?|head(\.\d+){0,2}"


def _names(value: Any) -> tuple[str, ...]:
    """One name or several, each once, in the order given."""
    return tuple(dict.fromkeys((value,) if isinstance(value, str) else value))


@dataclass(frozen=True)
class PathOptions:
    """Which edges between components are patched, and how effects are summarised over pairs."""

    senders: tuple[str, ...] = ()
    """Components whose writes change: embed, position, head, attn, mlp, or head.3.5, mlp.3; all but attn when not given."""
    receivers: tuple[str, ...] = ()
    """Components that see the change: attn, mlp, read_out, head, or mlp.3, head.3.5; all but head when not given."""
    mode: Literal["noising", "denoising"] = "noising"
    """Writes of the rejected run are put into the chosen one, or the reverse."""
    positions: Literal["read_out", "all"] = "read_out"
    """Where receivers see the change: the positions that the read-out reads, or every position with a counterpart."""
    alignment: Literal["suffix", "prefix", "diff", "equal_only", "read_out"] = "suffix"
    """Which token of the one run stands for which of the other, as for patching."""
    alpha: float = 0.05
    """Share of false findings allowed among the marked edges."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap and of the sign flips."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        for name, pattern, example in (("senders", PATH_SENDERS, "embed, head, head.3, head.3.5, attn.3, mlp.3"),
                                       ("receivers", PATH_RECEIVERS, "read_out, head, head.3, head.3.5, attn.3, mlp.3")):
            object.__setattr__(self, name, _names(getattr(self, name)))
            if not all(re.fullmatch(pattern, item) for item in getattr(self, name)):
                wrong[name] = f"names such as {example}"
        for name, allowed in (("mode", ("noising", "denoising")), ("positions", ("read_out", "all")),
                              ("alignment", PATCH_ALIGNMENTS)):
            if getattr(self, name) not in allowed:
                wrong[name] = f"one of {', '.join(allowed)}"
        if not 0 < self.alpha < 1:
            wrong["alpha"] = "between 0 and 1 (0.05 for 5 % false findings)"
        _check(self, **wrong)


FLIP_SITES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True)
class FlipOptions:
    """How the smallest set of edits that turns a preference round is searched."""

    mode: Literal["noising", "zero"] = "noising"
    """What an edit puts into the chosen run: what the rejected run holds there, or zeros."""
    sites: tuple[str, ...] = ()
    """Kinds of activation an edit may change; when not given z (head by head) and mlp_out, resid_post for positions=each."""
    positions: Literal["read_out", "each"] = "read_out"
    """Where an edit acts: at the positions that the read-out reads, or at one token of the text."""
    alignment: Literal["suffix", "prefix", "diff", "equal_only", "read_out"] = "suffix"
    """Which token of the one run stands for which of the other, as for patching."""
    max_size: int = 10
    """Edits after which the search gives up on a pair."""
    exhaustive: int = 1
    """Every set of up to this many edits is tried, so that sizes up to it are exact; larger sets are found greedily."""
    draws: int = 20
    """Random sets of the same size that each found set is compared with."""
    noise_multiple: float = 3.0
    """A margin smaller than this many noise floors of the dtype has no sign."""
    level: float = 0.95
    """Coverage of the intervals."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the random sets and of the bootstrap."""

    def __post_init__(self) -> None:
        wrong = _interval(self)
        object.__setattr__(self, "sites", _names(self.sites))
        if set(self.sites) - set(FLIP_SITES):
            wrong["sites"] = f"one or several of {', '.join(FLIP_SITES)}"
        for name, allowed in (("mode", ("noising", "zero")), ("positions", ("read_out", "each")),
                              ("alignment", PATCH_ALIGNMENTS)):
            if getattr(self, name) not in allowed:
                wrong[name] = f"one of {', '.join(allowed)}"
        if self.max_size < 1:
            wrong["max_size"] = "at least 1"
        if not 1 <= self.exhaustive <= max(1, self.max_size):
            wrong["exhaustive"] = "from 1 to max_size"
        if self.draws < 2:
            wrong["draws"] = "at least 2, an interval needs two draws"
        if self.noise_multiple < 0:
            wrong["noise_multiple"] = "0 or larger"
        _check(self, **wrong)


ESTIMATE_METHODS = ("attribution", "integrated", "atp_star")


@dataclass(frozen=True)
class EstimateOptions(PatchOptions):
    """How effects are estimated from gradients, and how many of the estimates are checked against the exact effect."""

    sites: tuple[str, ...] = ("attn_out", "mlp_out", "z")
    """Kinds of activation, as for patching."""
    mode: Literal["noising", "denoising", "zero", "mean", "resample"] = "noising"
    """What is put in, as for patching."""
    positions: Literal["read_out", "each", "all"] = "read_out"
    """Where, as for patching."""
    alignment: Literal["suffix", "prefix", "diff", "equal_only", "read_out"] = "suffix"
    """Which token of the one run stands for which of the other, as for patching."""
    alpha: float = 0.05
    """Share of false findings allowed among the marked cells, where all effects are exact."""
    level: float = 0.95
    """Coverage of the intervals."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the random sample, of the bootstrap and of the draw of other pairs."""
    method: Literal["attribution", "integrated", "atp_star"] = "attribution"
    """The gradient at the base run, its mean on the way to the source (integrated gradients), or AtP*'s corrections."""
    steps: int = 8
    """Points on the way from base to source, for integrated gradients."""
    budget: float = 50.0
    """Forwards that one pair may cost: where all its exact effects cost no more, they are computed instead."""
    top: int = 20
    """Cells of a pair with the largest estimates that are computed exactly."""
    sample: int = 50
    """Other cells of a pair, drawn at random, that are computed exactly to measure how good the estimates are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = {}
        if self.method not in ESTIMATE_METHODS:
            wrong["method"] = f"one of {', '.join(ESTIMATE_METHODS)}"
        if self.steps < 1:
            wrong["steps"] = "at least 1"
        for name in ("budget", "top", "sample"):
            if not getattr(self, name) >= 0:
                wrong[name] = "0 or larger"
        _check(self, **wrong)
