"""Options of the two questions about several aims at once: misaligned preferences that go together, objectives in conflict."""

from __future__ import annotations

from dataclasses import dataclass

from rewarden.options.checks import check, interval, whole


@dataclass(frozen=True)
class CascadeOptions:
    """How sure it must be that preferences for misaligned responses go together."""

    adjust: bool = True
    """Take out of each dimension what numbers of prompt and response tokens explain of it."""
    permutations: int = 9999
    """Shuffles of prompts behind each p value."""
    alpha: float = 0.05
    """Chance of any flag without an association: half for all dimensions together, half for the pairs of them."""
    level: float = 0.95
    """Coverage of the intervals over prompts."""
    seed: int = 0
    """Seed of the shuffles."""

    def __post_init__(self) -> None:
        check(self, **interval(self), **whole(self, permutations=99))


@dataclass(frozen=True)
class ConflictOptions:
    """Which objectives are compared, and against how many random directions."""

    objectives: tuple[str, ...] = ()
    """Names of the objectives to compare, with commas between; all of the model's by default."""
    layer: int | None = None
    """Push objectives in the residual stream after this layer, at the response's tokens; by default the read-out's."""
    pushed: int = 24
    """Conversations, at most, in which objectives are pushed; one a prompt, drawn by the seed."""
    step: float = 0.25
    """Size of a push, in root mean squares of the pushed objective's differences between responses."""
    draws: int = 20_000
    """Pairs of random directions behind each p value."""
    alpha: float = 0.05
    """Chance of any false flag among the pairs of objectives (Holm)."""
    level: float = 0.95
    """Coverage of the intervals over prompts."""
    resamples: int = 2000
    """Resamples of prompts behind each share of negative signs."""
    seed: int = 0
    """Seed of the resamples and of the random directions."""

    def __post_init__(self) -> None:
        named = (self.objectives,) if isinstance(self.objectives, str) else self.objectives
        object.__setattr__(self, "objectives", tuple(dict.fromkeys(named)))
        check(self, **interval(self), **whole(self, draws=99, pushed=1, layer=0),
              **({} if self.step > 0 else {"step": "larger than 0"}))
