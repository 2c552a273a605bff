"""Options of the hackability preview: best-of-n, tilting, susceptibility, and the sampling of responses."""

from __future__ import annotations

from dataclasses import dataclass

from rewarden.options.checks import check, interval, is_whole, whole


@dataclass(frozen=True)
class BestOfNOptions:
    """How far selection by the reward goes, and how sure the curves are."""

    max_n: int | None = None
    """Largest n of best-of-n, 2 or more; by default the number of samples that nine of ten prompts have."""
    replacement: bool = False
    """Draw with replacement from each prompt's pool, which any n allows; else curves are unbiased for the policy drawn from."""
    tilts: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Strengths of the exponential tilt, in 1 / standard deviation of the reward within prompts, with commas between."""
    least_ess: float = 5.0
    """Effective samples a prompt below which a tilt is refused; nine of ten prompts must have as many."""
    noise: float | None = None
    """Standard deviation of the noise of the reward, in its units; by default what is known of the model's arithmetic."""
    splits: int = 200
    """Random halves of the prompts on which the best n is chosen, the other half telling what it is worth."""
    style: bool = True
    """Follow style features of the responses along the curve, where responses are known."""
    negligible: float = 0.1
    """Correlation of a feature with the gold within prompts up to which the gold counts as indifferent to it; 0 is strict."""
    alpha: float = 0.05
    """Chance of naming an onset where gold never falls, and share of false findings among features."""
    level: float = 0.95
    """Coverage of the intervals over prompts."""
    resamples: int = 2000
    """Bootstrap resamples of prompts behind each interval."""
    seed: int = 0
    """Seed of the bootstrap and of the splits."""

    def __post_init__(self) -> None:
        several = self.tilts if isinstance(self.tilts, tuple | list) else (self.tilts,)
        object.__setattr__(self, "tilts", tuple(dict.fromkeys(several)))
        wrong = interval(self) | whole(self, max_n=2, splits=1)
        if not all(isinstance(value, int | float) and value > 0 for value in self.tilts):
            wrong["tilts"] = "numbers above 0"
        if not 0 <= self.negligible < 1:
            wrong["negligible"] = "from 0 to below 1"
        if not self.least_ess >= 2:
            wrong["least_ess"] = "at least 2"
        if self.noise is not None and not self.noise >= 0:
            wrong["noise"] = "0 or larger, or not given"
        check(self, **wrong)


@dataclass(frozen=True)
class SampleOptions:
    """How responses are drawn from a policy."""

    samples: int = 16
    """Responses a prompt."""
    max_new_tokens: int = 64
    """Longest response in tokens; longer ones are cut and counted."""
    temperature: float = 1.0
    """Logits are divided by it; 1 is the policy itself."""
    prompts_at_once: int = 8
    """Prompts whose responses are drawn together; the draws do not depend on it."""
    sample_seed: int = 0
    """Seed of the draws: each prompt has a generator of its own, made from the seed, its text, and how often it came before."""

    def __post_init__(self) -> None:
        wrong = whole(self, samples=1, max_new_tokens=1, prompts_at_once=1)
        if not self.temperature > 0:
            wrong["temperature"] = "above 0"
        if not is_whole(self.sample_seed, 0):
            wrong["sample_seed"] = "a whole number from 0"
        check(self, **wrong)
