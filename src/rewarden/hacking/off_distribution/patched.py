"""Where do patched runs leave the range of clean ones?

In: pairs, what is patched, and `Clean` states. Out: for each pair and component the exact effect, and p of its states among
clean ones. The sweep is that of `rewarden.patching`; here it is watched. Ignorant of intervals and tests.
Letters: C components, L layers, E edits, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from rewarden.edits import EditBatch
from rewarden.hacking.off_distribution.clean import Clean, Half, Key
from rewarden.patching.cells import Cells
from rewarden.patching.pair import Sweeper

TRACED = 2**26
"""Numbers of one plan's traces (256 MB); more edits are run in several plans."""

FIELDS = ("p_state", "p_source", "p_stream", "p_reward", "p_null", "null_share", "worst_layer")


@dataclass(eq=False)
class WatchedSweeper(Sweeper):
    """A sweep that looks at the states it makes.

    Attributes:
        clean: what they are compared with.
        prompts: int64 [pair].
        components: those that are patched, in order.
        states: pair → field of `FIELDS` → float64 [C]; NaN where nothing was put in.
    """

    clean: Clean
    prompts: np.ndarray
    components: list[Key]
    states: list[dict[str, np.ndarray]] = field(default_factory=list)
    _index: int = field(default=-1, init=False)

    def run(self, index: int):
        """All effects of one pair; its states are kept in `states`."""
        self._index = index
        self.states.append({name: np.full(len(self.components), np.nan) for name in FIELDS})
        return super().run(index)

    def fill(self, cells: Cells) -> tuple[float, float]:
        """Run all edits, and look at the residual stream after each; noise floor, and cost in forwards."""
        base, rewards, floor, cost = cells.source.base, [], 0.0, 0.0
        half, prompt = self.clean.half(self.prompts[self._index]), int(self.prompts[self._index])
        # to the read-out's frozen direction a change of the residual at right angles is nothing
        direction = self.rm.readout.frozen(base.activation("resid_post", self.rm.read_layer)[
            torch.as_tensor(base.reading.positions, device=self.rm.device)], base.reading, self.rm.main).weight[-1]
        against = _against(half, direction.double().cpu().numpy(), prompt)
        for edits, owners in self._portions(cells):
            plan = self.rm.plan(base, edits, trace=("resid_post",), trace_positions="read")
            edited = plan.run()
            rewards.append(edited.values[:, self.rm.main].cpu().double().numpy())
            floor, cost = max(floor, edited.noise_floor), cost + plan.forwards
            stream = edited.traces["resid_post"][:, :, -1].cpu().numpy()  # [E, L, d]
            clean = base.activation("resid_post", self.rm.read_layer)[int(base.reading.positions[-1])].cpu().numpy()
            self._look(cells, owners, stream, clean, against)
        if rewards:
            cells.take(np.concatenate(rewards))
        return floor, cost

    def _portions(self, cells: Cells) -> Iterator[tuple[list[EditBatch], list[int]]]:
        """Edits in portions whose traces fit, with the component of every row (−1 beyond the layer that is read)."""
        place = {key: number for number, key in enumerate(self.components)}
        whole = [site for site in self.options.sites if site != "z"]
        most = max(1, TRACED // ((self.rm.read_layer + 1) * self.rm.architecture.d_model))
        edits: list[EditBatch] = []
        owners: list[int] = []
        for batch, (suffix, cell) in zip(cells.edits, cells.slots, strict=True):
            keys = [("z", cell[0], head) for head in range(len(batch))] if suffix else [(whole[cell[0]], cell[1], -1)]
            if edits and len(owners) + len(keys) > most:
                yield edits, owners
                edits, owners = [], []
            edits.append(batch)
            owners += [place.get(key, -1) for key in keys]
        if edits:
            yield edits, owners

    def _look(self, cells: Cells, owners: list[int], stream: np.ndarray, clean: np.ndarray, against: _Against) -> None:
        """p of the states of some edits."""
        half, prompt, found = against.half, against.prompt, self.states[-1]
        after: list[Key] = [("resid_post", layer, -1) for layer in range(stream.shape[1])]
        distances = [half.distance(key, stream[:, layer]) for layer, key in enumerate(after)]  # L of [E, parts]
        change = (stream[:, -1] - clean).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = 1 - (change @ against.unit) ** 2 / (change**2).sum(1)
        p_reward, p_null = against.rank(stream[:, -1])
        for row, owner in enumerate(owners):
            if owner < 0:
                continue
            site, layer, head = key = self.components[owner]
            value = cells.source.at(site, layer, cells.live).float().cpu().numpy()[-1]
            put = half.distance(key, (value if head < 0 else value[head])[None])[0]
            scores = half.scores(prompt, [key, *after[layer:]], [put, *(each[row] for each in distances[layer:])])
            for name, of in (("p_source", scores[:, 0]), ("p_stream", scores[:, 1:].max(1)), ("p_state", scores.max(1))):
                found[name][owner] = (of >= of[-1]).mean()  # the tested state counts itself
            found["worst_layer"][owner] = layer + int(scores[-1, 1:].argmax())
            for name, values in (("p_reward", p_reward), ("p_null", p_null), ("null_share", share)):
                found[name][owner] = values[row]


@dataclass(frozen=True, eq=False)
class _Against:
    """What the residual that is read is compared with, in what the reward reads of it and in the rest.

    Attributes:
        half: clean states.
        prompt: of the pair.
        unit: float64 [d], the reward's frozen direction at length 1.
        reward: float64 [n], distance of clean rows along the direction.
        rest: float64 [n], of what the direction does not read.
    """

    half: Half
    prompt: int
    unit: np.ndarray
    reward: np.ndarray
    rest: np.ndarray

    def rank(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p [E] along the direction, and of the rest, of rows [E, d]."""
        reward, rest = _parts(self.half, self.unit, np.nan_to_num(rows, posinf=np.inf, neginf=-np.inf))
        lost = ~np.isfinite(rows).all(1)
        return tuple(self.half.rank(self.prompt, clean[:, None], np.where(lost, np.inf, mine)[None])  # type: ignore
                     for clean, mine in ((self.reward, reward), (self.rest, rest)))


def _against(half: Half, direction: np.ndarray, prompt: int) -> _Against:
    unit = direction / max(float(np.linalg.norm(direction)), np.finfo(np.float64).tiny)
    return _Against(half, prompt, unit, *_parts(half, unit, half.final))


def _parts(half: Half, unit: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances [n] of the residual that is read: along the reward's direction, and of the rest."""
    reference = half.references["resid_post", half.read_layer, -1]
    with np.errstate(invalid="ignore"):
        along = np.abs(reference.along(rows, unit))
        return along, np.sqrt(np.maximum(reference.squares(rows)[:, -1] - along**2, 0.0))
