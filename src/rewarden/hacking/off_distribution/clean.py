"""How far do clean runs lie from clean runs, at every site of a model?

In: a reward model and conversations. Out: `Clean`: in two halves of prompts, references fitted on the one half and distances of
the other half's own clean states, one of each prompt, against which any state of a prompt of that half is ranked. Distances of
several components are standardised with the tested state among the clean ones, so that a clean state is any of them: it is
called divergent with probability α at most, for any distribution and number of rows (conformal). Ignorant of patching.
Letters: n clean rows of a half, m of them of other prompts, K components (a site, layer and head).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.hacking.off_distribution.reference import Method, Reference

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

Key = tuple[str, int, int]
"""Site, layer, head (−1 where there is none)."""


def require_one_position(rm: RewardModel, rows: Sequence[Encoded]) -> None:
    """Refuse read-outs of several positions: what is a clean state of so many tokens at once is another question.

    Raises:
        RewardenError: the model reads several positions of a conversation.
    """
    several = [len(rm.readout.read(row).positions) for row in rows]
    if max(several, default=1) > 1:
        raise RewardenError("divergence is measured where one position is read", where=type(rm.readout).__name__,
                            why=f"this read-out reads up to {max(several)} positions of a conversation",
                            fix="use a reward model with a head at one token")


@dataclass(eq=False)
class Half:
    """One half of the prompts: its clean states, seen from the other half.

    Attributes:
        references: fitted on the other half, by component.
        prompts: int64 [n], of its clean rows, one of each prompt.
        distances: component → float64 [n, parts], of its own clean states.
        final: float64 [n, d], the residual that is read.
        read_layer: the layer that is read.
    """

    references: dict[Key, Reference]
    prompts: np.ndarray
    distances: dict[Key, np.ndarray] = field(default_factory=dict)
    final: np.ndarray = field(init=False)
    read_layer: int = field(init=False)

    def take(self, states: dict[Key, np.ndarray], read_layer: int) -> None:
        """The half's own clean states, [n, width] a component."""
        self.distances = {key: self.distance(key, rows) for key, rows in states.items()}
        self.final, self.read_layer = states["resid_post", read_layer, -1].astype(np.float64), read_layer

    def distance(self, key: Key, rows: np.ndarray) -> np.ndarray:
        """Distances [rows, parts] of states [rows, width]; infinite where a state is not finite."""
        finite = np.isfinite(rows).all(-1)[:, None]
        return np.where(finite, np.sqrt(self.references[key].squares(np.where(finite, rows, 0.0))), np.inf)

    def scores(self, prompt: int, keys: Sequence[Key], tested: Sequence[np.ndarray]) -> np.ndarray:
        """Standardised distances [m + 1, K] of clean rows of other prompts and, last, of a tested state; the largest of parts.

        Mean and standard deviation are those of all m + 1 rows: a tested state that is a clean one cannot be told from the
        others by how it is standardised, so that its rank among them is as likely any.

        Args:
            prompt: of the tested state.
            keys: components.
            tested: for each of them the tested state's distances [parts].
        """
        others = self.prompts != prompt
        rows = np.vstack([np.hstack([self.distances[key][others] for key in keys]), np.concatenate(tested)])
        lost = ~np.isfinite(rows[-1])
        rows[:, lost] = 0.0
        mean = rows.mean(0)
        rows = (rows - mean) / np.maximum(rows.std(0), 1e-9 * (1 + mean))
        rows[-1, lost] = np.inf
        return np.maximum.reduceat(rows, np.cumsum([0, *map(len, tested)])[:-1], axis=1)

    def rank(self, prompt: int, clean: np.ndarray, values: np.ndarray) -> np.ndarray:
        """p of values [...] among clean ones [n, ...] of other prompts: (1 + how many are as large) ÷ (1 + how many)."""
        others = clean[self.prompts != prompt]
        return (1 + (others >= values).sum(0)) / (1 + len(others))


@dataclass(eq=False)
class Clean:
    """Clean states of conversations, in two halves of prompts.

    Attributes:
        half_of: prompt → 0 or 1.
        halves: the two.
        read_layer: the layer that is read.
    """

    half_of: dict[int, int]
    halves: tuple[Half, Half]
    read_layer: int

    @classmethod
    def of(cls, rm: RewardModel, rows: Sequence[Encoded], prompts: np.ndarray, sites: Sequence[str], *, method: Method,
           components: int, limit: int, seed: int) -> Clean:
        """Run conversations once, and fit each half on the other.

        Args:
            rm: the reward model.
            rows: conversations; one that repeats counts once.
            prompts: int64 [row], equal where rows share a prompt.
            sites: kinds of activation; the residual stream is always among them.
            method, components: of `Reference.fit`.
            limit: rows used at most, drawn by the seed.
            seed: of the halves and of the draws: of these rows, and of the one of each prompt that states are ranked among.
        """
        require_one_position(rm, rows)
        rng = np.random.default_rng(seed)
        order = rng.permutation(np.unique(prompts))
        half_of = {int(prompt): number % 2 for number, prompt in enumerate(order)}
        distinct = list({row.key(): number for number, row in reversed(list(enumerate(rows)))}.values())
        drawn = np.sort(rng.permutation(np.sort(distinct))[:limit])
        states, finite = _states(rm, [rows[i] for i in drawn], ("resid_post", *(s for s in sites if s != "resid_post")))
        held = prompts[drawn[finite]]
        side = np.asarray([half_of[int(prompt)] for prompt in held])
        halves = []
        for number in (0, 1):
            fitted = {key: Reference.fit(value[side != number], method, components) for key, value in states.items()}
            # rows of one prompt are alike: of several, states would be ranked among fewer than there seem to be
            order = rng.permutation(np.flatnonzero(side == number))
            own = np.sort(order[np.unique(held[order], return_index=True)[1]])
            half = Half(fitted, held[own])
            half.take({key: value[own] for key, value in states.items()}, rm.read_layer)
            halves.append(half)
        return cls(half_of, (halves[0], halves[1]), rm.read_layer)

    def half(self, prompt: int) -> Half:
        """The half that a prompt belongs to."""
        return self.halves[self.half_of[int(prompt)]]

    @property
    def fewest(self) -> int:
        """Distinct prompts with clean rows in the smaller half."""
        return min(len(half.prompts) for half in self.halves)


def _states(rm: RewardModel, rows: Sequence[Encoded], sites: Sequence[str]) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """Clean states [row, width] of every component where the reward is read, and which rows are finite throughout."""
    layers = list(range(rm.read_layer + 1))
    found: dict[Key, np.ndarray] = {}

    def consume(block: np.ndarray, traces: list) -> None:
        for place, trace in zip(block, traces, strict=True):
            for site in sites:
                values = trace[site][:, 0].float().cpu().numpy()  # [layer, d], or [layer, head, d_head]
                for layer in layers:
                    heads = enumerate(values[layer]) if site == "z" else [(-1, values[layer])]
                    for head, value in heads:
                        key = (site, layer, int(head))
                        if key not in found:
                            found[key] = np.full((len(rows), len(value)), np.nan, dtype=np.float32)
                        found[key][place] = value

    rm.traces(rows, sites, consume, layers=layers)
    finite = np.all([np.isfinite(value).all(1) for value in found.values()], 0)
    return {key: value[finite] for key, value in found.items()}, finite
