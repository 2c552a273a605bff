"""What of each model's inside is compared: the lens, the ledger and the states where the reward is read.

In: members with their models, pairs. Out: one `Inside` a member; a model that stands for several members runs once. Ignorant of
how any of it is compared. Letters: n pairs, L layers, d width, C components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rewarden.comparison.members import Member
from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.lens import PairTraces, attribute, reward_lens, trace_pairs
from rewarden.options import CompareOptions
from rewarden.reward_model import RewardModel

ASKED = 4
"""Pairs on which it is checked that a read-out's direction is the same for every text."""

SAME = 1e-5
"""Largest relative difference of directions that count as one."""


@dataclass(frozen=True, eq=False)
class Inside:
    """What one member's model did on the pairs.

    Attributes:
        lens: float64 [n, L + 1], margin of the reward lens, embedding first.
        crystallization: float64 [n, 2], first and stable crystallization as shares of depth; NaN where undefined.
        ledger: float64 [n, C], contribution of each component to the margin; None where the model has no ledger.
        components: name, kind and layer of each of the C components.
        states: float32 [n, 2, L + 1, d], residual at the last read position after each layer, embedding first.
        direction: float64 [d], reward direction for standardised states, or the reason why there is not one.
        no_ledger: why there is no ledger; "" where there is one.
    """

    lens: np.ndarray
    crystallization: np.ndarray
    ledger: np.ndarray | None
    components: tuple[tuple[str, str, int], ...]
    states: np.ndarray
    direction: np.ndarray | str
    no_ledger: str = ""


def look_inside(members: Sequence[Member], pairs: Sequence[Pair], options: CompareOptions) -> list[Inside | None]:
    """The inside of each member; None where only its scores are known."""
    found: list[Inside | None] = []
    known: tuple[tuple[int, int], PairTraces, np.ndarray] | None = None
    for member in members:
        rm = member.rm
        if rm is None:
            found.append(None)
            continue
        key = (id(rm.model), id(rm.readout))
        if known is None or known[0] != key:
            traces = trace_pairs(rm, list(pairs))
            known = key, traces, _states(rm, traces)
        found.append(_inside(rm, replace(known[1], made_by=rm), known[2], options))
    return found


def _states(rm: RewardModel, traces: PairTraces) -> np.ndarray:
    """[n, 2, L + 1, d] at the last read position."""
    last = rm.read_layer + 1
    sides = [torch.cat([trace["resid_pre"][:1], trace["resid_post"][:last]])[:, -1].float().cpu().numpy()
             for both in traces.traces for trace in both]
    return np.stack(sides).reshape(len(traces.pairs), 2, last + 1, -1)


def _inside(rm: RewardModel, traces: PairTraces, states: np.ndarray, options: CompareOptions) -> Inside:
    few = {"level": options.level, "resamples": 100, "seed": options.seed}  # their intervals are not used
    lens = reward_lens(rm, traces.pairs, traces=traces, **few).data
    layers = np.stack([lens["crystallization_first"].values, lens["crystallization_stable"].values], axis=1)
    ledger, components, reason = None, (), ""
    try:
        parts = attribute(rm, traces.pairs, traces=traces, **few).data
        ledger = parts["difference"].values
        components = tuple(zip(*(parts[name].values.tolist() for name in ("component", "kind", "layer")), strict=True))
    except RewardenError as error:  # said in the result's warnings
        reason = f"{error.what}: {error.why}"
    return Inside(lens["margin"].values, (layers + 1) / max(1, rm.read_layer + 1), ledger, components, states,
                  read_direction(rm, traces), reason)


def read_direction(rm: RewardModel, traces: PairTraces) -> np.ndarray | str:
    """The one direction along which a model reads its reward, for states standardised as its final norm does, before the gain.

    Returns:
        float64 [d], or why there is no such direction: the reward is read at several positions, or along another direction
        in every text (a gate, log-probabilities).
    """
    found = []
    for both, readings in zip(traces.traces[:ASKED], traces.readings[:ASKED], strict=True):
        for trace, reading in zip(both, readings, strict=True):
            residual = trace["final"] if rm.readout.layer is None else trace["resid_post"][rm.readout.layer]
            weight, _ = rm.readout.weights_normed(rm.readout.norm(residual.float()), reading, rm.main)
            if bool((weight[:-1] != 0).any()):
                return "it reads its reward at several positions"
            folded = rm.readout.norm.fold(weight[-1], torch.ones(1, device=weight.device))
            found.append(folded.double().cpu().numpy())
    spread = max(float(np.abs(one - found[0]).max()) for one in found)
    if spread > SAME * float(np.abs(found[0]).max()):
        return "its reward direction is another one in every text"
    return found[0]
