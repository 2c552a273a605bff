"""The flip of one pair: candidate edits, the search, and its controls.

In: a reward model, pairs, options. Out: one `PairFlip` per pair. Ignorant of tables and of how sets are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.conversation import Pair
from rewarden.edits import BaseRun, Edit, Site
from rewarden.options import FlipOptions, PatchOptions
from rewarden.patching.pair import Sweeper
from rewarden.patching.sources import Source, recorded
from rewarden.patching.subsets import Found, Subset, smallest_subset

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

CALLED = {"z": "head", "attn_out": "attn", "mlp_out": "mlp"}
"""Kind of site → the name of what writes there."""

ULPS = 4
"""Units in the last place of a float32 reward below which no difference is one, however quiet the self-check was."""


@dataclass(frozen=True)
class Candidate:
    """One edit that a set may hold.

    Attributes:
        site: in the chosen run.
        counterpart: the same place in the rejected run.
        name: as in "head.3.5", "mlp.3", "resid_post.3@-2" (the token before the last).
    """

    site: Site
    counterpart: Site
    name: str


@dataclass(eq=False)
class PairFlip:
    """What one pair gave; rewards are of the runs with edits.

    Attributes:
        reward: of the chosen and the rejected side.
        found: the search; `values` are margins times the sign of the margin.
        names: of its members.
        candidates: number of edits to choose from.
        knockout, rescue: reward of the chosen run with the set patched; of the rejected run with the set restored.
        knockout_random, rescue_random: float64 [draw], the same for random sets.
        skipped: why the pair was not searched, or "".
        noise: margins up to this size have no sign.
        noise_floor: of the engine.
        forwards: cost of everything, in forwards of this conversation.
        edits: counterfactuals.
    """

    reward: tuple[float, float]
    found: Found = field(default_factory=Found)
    names: list[str] = field(default_factory=list)
    candidates: int = 0
    knockout: float = np.nan
    rescue: float = np.nan
    knockout_random: np.ndarray = field(default_factory=lambda: np.empty(0))
    rescue_random: np.ndarray = field(default_factory=lambda: np.empty(0))
    skipped: str = ""
    noise: float = 0.0
    noise_floor: float = 0.0
    forwards: float = 0.0
    edits: int = 0

    @property
    def margin(self) -> float:
        """Chosen − rejected."""
        return self.reward[0] - self.reward[1]


@dataclass(eq=False)
class Flips:
    """Runs pairs under one set of options.

    Attributes:
        rm: the reward model.
        pairs: all pairs of the call.
        options: what may be edited, and how far the search goes.
        sites: kinds of activation that may be edited.
    """

    rm: RewardModel
    pairs: list[Pair]
    options: FlipOptions
    sites: tuple[str, ...]
    sweeper: Sweeper = field(init=False)

    def __post_init__(self) -> None:
        self.sweeper = Sweeper(self.rm, self.pairs, PatchOptions(alignment=self.options.alignment))

    def run(self, index: int) -> PairFlip:
        """The flip of one pair."""
        chosen, rejected = self.rm.bases(self.sweeper.rows[index], recorded(self.sites))
        flip = PairFlip((chosen.reward, rejected.reward), forwards=2.0)
        flip.noise = self.options.noise_multiple * max(self.rm.noise_floor, ULPS * float(np.spacing(np.float32(max(
            map(abs, flip.reward))))))
        flip.knockout_random = flip.rescue_random = np.full(self.options.draws, np.nan)
        if not np.isfinite(flip.margin):
            flip.skipped = "a reward is not finite"
        elif abs(flip.margin) <= flip.noise:
            flip.skipped = "the margin is within the noise"
        elif not self.sweeper.comparable(index):
            flip.skipped = "the sides are of unequal length"
        if flip.skipped:
            return flip
        source = Source(chosen, self.sweeper.positions_of[index], rejected)
        candidates = self.candidates(source)
        zeros = Source(chosen, source.position_of)
        given = [self._edit(candidate.site, zeros if self.options.mode == "zero" else source) for candidate in candidates]

        def margins(sets: Sequence[Subset]) -> np.ndarray:
            rewards = self._rewards(flip, chosen, [[given[i] for i in members] for members in sets])
            return np.sign(flip.margin) * (rewards - flip.reward[1])

        flip.found = smallest_subset(margins, len(candidates), abs(flip.margin), -flip.noise, max_size=self.options.max_size,
                                     exhaustive=self.options.exhaustive, least=flip.noise)
        flip.names, flip.candidates = [candidates[i].name for i in flip.found.members], len(candidates)
        if flip.found.reached:
            sets = [flip.found.members, *self._random_sets(index, len(candidates), flip.found.members)]
            back = self._restored(source, candidates)
            knocked = self._rewards(flip, chosen, [[given[i] for i in members] for members in sets])
            rescued = self._rewards(flip, rejected, [[back[i] for i in members] for members in sets])
            flip.knockout, flip.rescue = float(knocked[0]), float(rescued[0])
            if len(sets) > 1:
                flip.knockout_random, flip.rescue_random = knocked[1:], rescued[1:]
        return flip

    def candidates(self, source: Source) -> list[Candidate]:
        """Every edit that may be in a set.

        The residual that is read is none: replaced, it makes the margin 0, and nothing else counts any more.
        """
        found, groups, last = [], self._groups(source), self.rm.read_layer
        for kind in self.sites:
            for layer in range({"embed": 1, "resid_post": last}.get(kind, last + 1)):
                for head in range(self.rm.architecture.n_heads) if kind == "z" else (None,):
                    numbers = [None if kind == "embed" else layer, head]
                    name = ".".join([CALLED.get(kind, kind), *(str(number) for number in numbers if number is not None)])
                    found += [self._candidate(source, kind, layer, head, name, group) for group in groups]
        return found

    def _candidate(self, source: Source, kind: str, layer: int, head: int | None, name: str, group: np.ndarray) -> Candidate:
        here, there = (Site(kind, layer, tuple(places.tolist()), head) for places in (group, source.position_of[group]))
        at = "" if self.options.positions == "read_out" else f"@{group[0] - source.base.length}"
        return Candidate(here, there, name + at)

    def _groups(self, source: Source) -> list[np.ndarray]:
        """Positions that one edit changes together; those that cannot differ are left out, unless they are set to zero."""
        base, read = source.base, source.base.reading.positions
        here = np.arange(base.length)
        where = source.usable & (np.full(base.length, self.options.mode == "zero") | ~source.untouched)
        if self.options.positions == "read_out":
            together = np.flatnonzero(where & np.isin(here, read))
            return [together] if len(together) else []
        return list(here[where & ((here <= read[-1]) if self.rm.architecture.causal else True)][:, None])

    def _edit(self, site: Site, source: Source) -> Edit:
        """Put the source's values at a site of its base."""
        assert isinstance(site.position, tuple)
        values = source.at(site.kind, site.layer, np.asarray(site.position))
        return Edit(site, values if site.head is None else values[:, site.head])

    def _restored(self, source: Source, candidates: Sequence[Candidate]) -> list[Edit]:
        """Edits of the rejected run that put the chosen run's values back."""
        back = []
        for candidate in candidates:
            place, there = candidate.site, candidate.counterpart
            assert isinstance(place.position, tuple)
            index = torch.as_tensor(place.position, device=self.rm.device)
            values: Tensor = source.base.activation(place.kind, place.layer)[index]
            back.append(Edit(there, values if place.head is None else values[:, place.head]))
        return back

    def _rewards(self, flip: PairFlip, base: BaseRun, rows: Sequence[Sequence[Edit]]) -> np.ndarray:
        """Reward of each counterfactual, float64 [n]; NaN where it is not finite."""
        plan = self.rm.plan(base, rows)
        edited = plan.run()
        flip.noise_floor = max(flip.noise_floor, edited.noise_floor)
        flip.forwards, flip.edits = flip.forwards + plan.forwards, flip.edits + plan.n
        rewards = edited.values[:, self.rm.main].double().cpu().numpy()
        return np.where(np.isfinite(rewards), rewards, np.nan)

    def _random_sets(self, index: int, n: int, members: Subset) -> list[Subset]:
        """Sets of the same size out of the other candidates; none where they do not suffice."""
        others = np.setdiff1d(np.arange(n), members)
        if len(others) < len(members):
            return []
        generator = np.random.default_rng([self.options.seed, index])
        return [tuple(generator.choice(others, len(members), replace=False).tolist()) for _ in range(self.options.draws)]
