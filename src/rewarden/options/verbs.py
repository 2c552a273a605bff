"""Options of loading, reading data, scoring, the observational analyses and the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rewarden.options.checks import alias, check, choices, interval


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
        wrong = choices(self)
        if self.max_length is not None and self.max_length < 8:
            wrong["max_length"] = "at least 8 tokens, or not given"
        local = bool(self.model) and Path(str(self.model)).is_dir()
        if self.trust_remote_code and not local and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            wrong["trust_remote_code"] = "used with revision=<commit hash>, so that the code run is the code you read"
        check(self, **wrong)


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
        wrong = choices(self)
        if self.limit is not None and not (0 < self.limit < 1 or (self.limit >= 1 and self.limit == int(self.limit))):
            wrong["limit"] = "a whole number of pairs from 1, or a share between 0 and 1"
        if self.columns is not None and not all("=" in item for item in self.columns.split(",")):
            wrong["columns"] = "written as prompt=NAME,chosen=NAME,rejected=NAME"
        check(self, **wrong)

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
        wrong = interval(self)
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            wrong["batch_size"] = "auto or a whole number from 1"
        check(self, **wrong)


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
        wrong = interval(self)
        if self.noise_multiple < 0:
            wrong["noise_multiple"] = "0 or larger"
        check(self, **wrong)


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
        wrong = interval(self)
        if self.top < 1:
            wrong["top"] = "at least 1"
        check(self, **wrong)


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
    vocabulary: Literal["auto", "all", "none"] = "auto"
    """Score every token of the vocabulary as a response: where that takes up to two minutes, always, or never."""
    dictionary: str = "auto"
    """Dictionary whose features are asked about: its file or folder; auto takes the model's own where it has one; or none."""
    bias: str = "all"
    """Kinds of change that the bias battery asks about: all, some of their names with commas between, or none."""
    candidates: str = "auto"
    """Responses to select among: a file of prompt, response, gold; auto takes the pairs' own, or bundled samples; or none."""
    against: str = "auto"
    """Reward model to compare with, by its folder or Hub id; auto takes the other bundled one for a bundled model; or none."""
    level: float = 0.95
    """Coverage of every interval."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of every draw and bootstrap."""

    def __post_init__(self) -> None:
        wrong = {**choices(self), **interval(self)}
        for name in ("examples", "errors"):
            if getattr(self, name) < 0:
                wrong[name] = "0 or larger"
        if self.lens_pairs < 2:
            wrong["lens_pairs"] = "at least 2, an interval needs two pairs"
        if self.patch_pairs < 0 or self.patch_pairs == 1:
            wrong["patch_pairs"] = "0, or at least 2, an interval needs two pairs"
        check(self, **wrong)
