"""How far do clean runs lie from clean runs, at every site of a model?

In: a reward model and conversations. Out: `Clean`: in two halves of prompts, references fitted on the one half and distances of
the other half's own clean states, against which any state of a prompt of that half is ranked (split conformal: a clean state is
called divergent with probability α, whatever the distribution). Ignorant of patching.
Letters: n clean rows of a half, L layers, C components (a site, layer and head).
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
        prompts: int64 [n], of its clean rows.
        stream: float64 [n, L, parts], standardised distances of the residual stream after each layer.
        sites: component → float64 [n], standardised distances, the largest over parts.
        centre, scale: component → [parts], of its own clean distances: what standardises others.
        final: float64 [n, d], the residual that is read.
    """

    references: dict[Key, Reference]
    prompts: np.ndarray
    stream: np.ndarray = field(init=False)
    sites: dict[Key, np.ndarray] = field(default_factory=dict)
    centre: dict[Key, np.ndarray] = field(default_factory=dict)
    scale: dict[Key, np.ndarray] = field(default_factory=dict)
    final: np.ndarray = field(init=False)

    def take(self, states: dict[Key, np.ndarray], read_layer: int) -> None:
        """The half's own clean states, [n, width] a component."""
        for key, rows in states.items():
            distance = np.sqrt(self.references[key].squares(rows))
            self.centre[key] = distance.mean(0)
            self.scale[key] = np.maximum(distance.std(0), 1e-9 * (1 + self.centre[key]))
            self.sites[key] = ((distance - self.centre[key]) / self.scale[key]).max(-1)
        self.stream = np.stack([self.sites["resid_post", layer, -1] for layer in range(read_layer + 1)], 1)
        self.final = states["resid_post", read_layer, -1].astype(np.float64)

    def distance(self, key: Key, rows: np.ndarray) -> np.ndarray:
        """Standardised distances [n] of states [n, width], the largest over parts; infinite where a state is not finite."""
        finite = np.isfinite(rows).all(-1)
        squares = self.references[key].squares(np.where(finite[:, None], rows, 0.0))
        found = ((np.sqrt(squares) - self.centre[key]) / self.scale[key]).max(-1)
        return np.where(finite, found, np.inf)

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
            seed: of the halves and of the draw.
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
            half = Half(fitted, held[side == number])
            half.take({key: value[side == number] for key, value in states.items()}, rm.read_layer)
            halves.append(half)
        return cls(half_of, (halves[0], halves[1]), rm.read_layer)

    def half(self, prompt: int) -> Half:
        """The half that a prompt belongs to."""
        return self.halves[self.half_of[int(prompt)]]

    @property
    def fewest(self) -> int:
        """Distinct prompts with clean rows in the smaller half."""
        return min(len(np.unique(half.prompts)) for half in self.halves)


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
