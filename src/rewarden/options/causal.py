"""Options of the causal analyses: patching, paths, agreement, flips, estimates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from rewarden.options.checks import check, choices, interval

PATCH_SITES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")
FLIP_SITES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z")
PATH_SENDERS = r"embed|position|(attn|mlp)(\.\d+)?|head(\.\d+){0,2}"
PATH_RECEIVERS = r"read_out|(attn|mlp)(\.\d+)?|head(\.\d+){0,2}"


def _names(value: Any) -> tuple[str, ...]:
    """One name or several, each once, in the order given."""
    return tuple(dict.fromkeys((value,) if isinstance(value, str) else value))


@dataclass(frozen=True)
class PatchOptions:
    """Which activations are patched, with what, and how effects are summarised over pairs."""

    sites: tuple[str, ...] = ("attn_out", "mlp_out", "z")
    """Kinds of activation, with commas between (attn_out,z); z, q, k and v are patched head by head."""
    mode: Literal["noising", "denoising", "zero", "mean", "resample"] = "noising"
    """What is put in: the rejected run into the chosen one, the reverse, zeros, means, or another pair's chosen run."""
    positions: Literal["read_out", "each", "all"] = "read_out"
    """Where: the positions that the read-out reads, every position by itself, or all positions at once."""
    alignment: Literal["suffix", "prefix", "diff", "equal_only", "read_out"] = "suffix"
    """How what follows the shared beginning is matched: from the end or start, equal tokens, by index, or the read-out only."""
    alpha: float = 0.05
    """Share of false findings allowed among the marked cells."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap, of the sign flips and of the draw of other pairs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", _names(self.sites))
        check(self, **self._wrong())

    def _wrong(self) -> dict[str, str]:
        """Refused fields, with what would be accepted."""
        wrong = choices(self) | interval(self)
        if not self.sites or set(self.sites) - set(PATCH_SITES):
            wrong["sites"] = f"one or several of {', '.join(PATCH_SITES)}"
        return wrong


@dataclass(frozen=True)
class AgreementOptions:
    """Which effects attribution is compared with, and how the rank correlations are summarised."""

    heads: bool = True
    """Compare single attention heads as well, patched at the read-out position."""
    sequences: bool = True
    """Also patch whole sequences, aligned at the end and left-aligned as published (about one forward per layer each)."""
    sequence_heads: bool = False
    """Patch whole sequences head by head as well (about half a forward per head, twice)."""
    alignment: Literal["suffix", "prefix", "diff", "read_out"] = "suffix"
    """How whole sequences are matched in our quantities, as for patching; the read-out always meets the read-out."""
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
        wrong = choices(self) | interval(self)
        if self.apart < 1:
            wrong["apart"] = "at least 1 token"
        if self.permutations < 19:
            wrong["permutations"] = "at least 19 (the smallest p is 1 / (permutations + 1))"
        if self.sequence_heads and not (self.sequences and self.heads):
            wrong["sequence_heads"] = "used with sequences and heads"
        check(self, **wrong)


@dataclass(frozen=True)
class PathOptions:
    """Which edges between components are patched, and how effects are summarised over pairs."""

    senders: tuple[str, ...] = ()
    """Components whose writes change, with commas between: embed, head, attn, mlp, head.3.5, ...; by default all but attn."""
    receivers: tuple[str, ...] = ()
    """Components that see the change, with commas between: attn, mlp, read_out, head, mlp.3, ...; by default all but head."""
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
        wrong = choices(self) | interval(self)
        for name, pattern, example in (("senders", PATH_SENDERS, "embed, head, head.3, head.3.5, attn.3, mlp.3"),
                                       ("receivers", PATH_RECEIVERS, "read_out, head, head.3, head.3.5, attn.3, mlp.3")):
            object.__setattr__(self, name, _names(getattr(self, name)))
            if not all(re.fullmatch(pattern, item) for item in getattr(self, name)):
                wrong[name] = f"names such as {example}"
        check(self, **wrong)


@dataclass(frozen=True)
class FlipOptions:
    """How the smallest set of edits that turns a preference round is searched."""

    mode: Literal["noising", "zero"] = "noising"
    """What an edit puts into the chosen run: what the rejected run holds there, or zeros."""
    sites: tuple[str, ...] = ()
    """Kinds of activation an edit may change (z,mlp_out); when not given z and mlp_out, resid_post for positions=each."""
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
        wrong = choices(self) | interval(self)
        object.__setattr__(self, "sites", _names(self.sites))
        if set(self.sites) - set(FLIP_SITES):
            wrong["sites"] = f"one or several of {', '.join(FLIP_SITES)}"
        if self.max_size < 1:
            wrong["max_size"] = "at least 1"
        if not 1 <= self.exhaustive <= max(1, self.max_size):
            wrong["exhaustive"] = "from 1 to max_size"
        if self.draws < 2:
            wrong["draws"] = "at least 2, an interval needs two draws"
        if self.noise_multiple < 0:
            wrong["noise_multiple"] = "0 or larger"
        check(self, **wrong)


@dataclass(frozen=True)
class EstimateOptions(PatchOptions):
    """What is patched, as for patching; how effects are estimated from gradients, and how many are checked exactly."""

    alpha: float = 0.05
    """Share of false findings allowed among the marked cells, where all effects are exact."""
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

    def _wrong(self) -> dict[str, str]:
        wrong = super()._wrong()
        if self.steps < 1:
            wrong["steps"] = "at least 1"
        for name in ("budget", "top", "sample"):
            if not getattr(self, name) >= 0:
                wrong[name] = "0 or larger"
        return wrong
