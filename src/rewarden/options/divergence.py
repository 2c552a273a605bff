"""Options of the two questions about distributions: what evaluation pairs leave uncovered, which patched states are off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewarden.options.checks import check, choices, interval, whole

DIVERGENCE_SITES = ("resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True)
class DivergenceOptions:
    """Which activations are patched with what, and when a state counts as off the distribution of clean ones."""

    sites: tuple[str, ...] = DIVERGENCE_SITES
    """Kinds of activation, with commas between (attn_out,z), patched where the reward is read; z is patched head by head."""
    mode: Literal["noising", "denoising", "zero", "mean", "resample"] = "noising"
    """What is put in, as for patching: the rejected run, the chosen one, zeros, means, or another pair's run."""
    method: Literal["ledoit_wolf", "pca"] = "ledoit_wolf"
    """Covariance behind distances: shrunk (Ledoit-Wolf), or leading directions with one variance for all others (PCA)."""
    components: int = 32
    """Leading directions, in which distances are also taken by themselves; fewer where there are few clean rows."""
    references: int = 400
    """Clean conversations, at most, that distances are fitted and compared with; drawn by the seed."""
    alpha: float = 0.05
    """Share of clean states called divergent, and share of false findings allowed among the marked components."""
    level: float = 0.95
    """Coverage of the intervals over pairs."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the halves of the clean conversations, of the bootstrap and of the sign flips."""

    def __post_init__(self) -> None:
        sites = (self.sites,) if isinstance(self.sites, str) else self.sites
        object.__setattr__(self, "sites", tuple(dict.fromkeys(sites)))
        wrong = choices(self) | interval(self) | whole(self, components=1, references=4)
        if not self.sites or set(self.sites) - set(DIVERGENCE_SITES):
            wrong["sites"] = f"one or several of {', '.join(DIVERGENCE_SITES)}"
        check(self, **wrong)


@dataclass(frozen=True)
class DistortionOptions:
    """Where coverage is measured, and when a dimension counts as reward without evaluation."""

    layer: int | None = None
    """Layer whose residual stream says what a text is like; by default the middle one of those before the read-out."""
    energy: float = 0.9
    """Share of the squared differences within evaluation pairs that the directions called covered hold together."""
    covered: float = 0.8
    """Coverage below which a dimension counts as uncovered."""
    per_seed: int = 1
    """Templates that each seed meets where the direction of a dimension is found."""
    items: int = 12
    """Neutral texts of each dimension that are moved along its direction; fewer than five give no interval."""
    alpha: float = 0.05
    """Chance of any false flag among the dimensions (Holm over them), and p below which one has a direction in common."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of the halves of the evaluation pairs and of the battery's resamples."""

    def __post_init__(self) -> None:
        wrong = interval(self) | whole(self, per_seed=1, items=2)
        if self.layer is not None and (not isinstance(self.layer, int) or self.layer < 0):
            wrong["layer"] = "a layer counted from 0, or None"
        for name in ("energy", "covered"):
            if not 0 < getattr(self, name) < 1:
                wrong[name] = "between 0 and 1"
        check(self, **wrong)
