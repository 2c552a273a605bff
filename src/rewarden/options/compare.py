"""Options of comparing reward models."""

from __future__ import annotations

from dataclasses import dataclass

from rewarden.options.checks import check, interval, whole


@dataclass(frozen=True)
class CompareOptions:
    """What reward models are compared on."""

    inside_pairs: int = 64
    """Pairs on which activations, the lens and the ledger are compared, drawn by the seed; 0 compares scores only."""
    components: int = 10
    """Largest components of each model whose overlap is counted."""
    depths: int = 21
    """Points of the common depth axis, from the embedding (0) to the layer the reward is read from (1)."""
    scalars: bool = False
    """Every scalar of a model with several outputs counts as a model of its own (the objectives of ArmoRM)."""
    bias: bool = False
    """Run the bias battery on every model as well."""
    vocabulary: bool = False
    """Score every token of each vocabulary as the response to two opposite questions as well."""
    level: float = 0.95
    """Coverage of the intervals."""
    resamples: int = 2000
    """Bootstrap resamples behind the intervals of means."""
    seed: int = 0
    """Seed of draws, resamples and blocks."""

    def __post_init__(self) -> None:
        wrong = {**interval(self), **whole(self, inside_pairs=0, components=1, depths=2)}
        if 0 < self.inside_pairs < 5:
            wrong["inside_pairs"] = "0, or at least 5: the unbiased similarity of activations needs as many prompts"
        check(self, **wrong)
