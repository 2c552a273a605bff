"""Which linear directions does a model weigh against each other, and how much does each count for an input?

In: a model with several scalars (a gated head, several outputs, an ensemble), or terms as contrasts or directions. Out:
`Objectives`, rows in the space that the head reads; the states of conversations in that space; a read-out that reads the rows.
Ignorant of statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewarden.contrasts import Contrast
from rewarden.conversation import Conversation, Message, Pair
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.readout import Reading, Readout
from rewarden.readout.gated import GatedHead
from rewarden.readout.heads import HeadEnsemble, SequenceHead
from rewarden.statistics import require_n

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

SEEDS = 10
"""Distinct seeds (prompts, where contrasts have none) below which a term has no direction."""

Weigh = Callable[[Tensor, Reading], Tensor]
"""From the normed states [R, d] of one conversation and its reading to the weight [K] of each objective in the reward."""


@dataclass(frozen=True, eq=False)
class Objectives:
    """Directions that are compared.

    Attributes:
        names: one a row, K of them.
        rows: float32 [K, d]; objective i of a conversation is rows[i]·(normed state), up to a constant.
        weigh: what each row counts for in the reward; None where the reward is not made of them.
        terms: whether they are concept directions of the user, not outputs of the model.
    """

    names: tuple[str, ...]
    rows: Tensor
    weigh: Weigh | None
    terms: bool = False


@dataclass(eq=False)
class RowsReadout(SequenceHead):
    """The objectives of a model as its scalars, read where its reward is."""

    base: Readout = field(kw_only=True)

    def __post_init__(self) -> None:
        self.layer, self.generation_prompt, self.reads_ids = self.base.layer, self.base.generation_prompt, self.base.reads_ids

    def read(self, encoded: Encoded) -> Reading:
        """The last of the positions that the model's own read-out reads."""
        return Reading(self.base.read(encoded).positions[-1:])

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """Those of the model's own read-out."""
        return self.base.messages(conversation)


def read_rows(rm: RewardModel, objectives: Objectives) -> RewardModel:
    """The model with its objectives as scalars, without their constants."""
    bias = torch.zeros(len(objectives.rows), device=objectives.rows.device)
    return rm.reading(RowsReadout(objectives.rows, bias, rm.readout.norm, objectives.names, base=rm.readout))


def head_objectives(rm: RewardModel, wanted: Sequence[str] = ()) -> Objectives:
    """The objectives of a model's own head.

    Of a gated head, each regression row with the weight that gate and transform give it; of averaged heads (`HeadEnsemble`),
    each; of a head with several outputs, each of them; or, where the reward's row is a fixed combination of the others, these.

    Args:
        rm: the model.
        wanted: names of objectives; all by default.

    Raises:
        RewardenError: fewer than two, unknown names, a head that is not linear in one state, or an ensemble of models.
    """
    if not hasattr(rm, "readout"):
        raise RewardenError(f"{type(rm).__name__} has no objectives in one space", where="conflict(rm)", why="its members are "
                            "different models, with states of their own", fix="[conflict(model, pairs, terms=...) for model in "
                            "ensemble.models]; several heads on one model are a rewarden.readout.HeadEnsemble")
    readout = rm.readout
    if isinstance(readout, GatedHead):
        found = Objectives(readout.names[1:], readout.regression, lambda normed, _: readout.transform @ readout.gate(normed[0]))
    elif isinstance(readout, HeadEnsemble) and all(isinstance(member, SequenceHead) for member in readout.members):
        rows = torch.cat([member.weight for member in readout.members])  # type: ignore[attr-defined]  # SequenceHeads, above
        even = torch.full((len(rows),), 1 / len(rows), device=rows.device)
        found = Objectives(readout.names[1:], rows, (lambda *_: even) if readout.reduce == "mean" else None)
    elif isinstance(readout, SequenceHead) and len(readout.weight) > 1:
        found = _outputs(rm, readout, wanted)
    else:
        raise RewardenError("this model has no two objectives to compare", where=f"conflict of {rm.name!r}",
                            why=f"its read-out, {type(readout).__name__}, has the scalars {list(rm.names)[:6]}",
                            fix="use a model with several outputs, or give terms of your own (terms=, --terms FILE)")
    return _selected(found, wanted or found.names, rm.name)


def _outputs(rm: RewardModel, readout: SequenceHead, wanted: Sequence[str]) -> Objectives:
    """All outputs; without the reward where its row is a fixed combination of the others, which then have weights."""
    every = Objectives(tuple(rm.names), readout.weight, None)
    others = [i for i in range(len(readout.weight)) if i != rm.main]
    rows, reward = readout.weight[others].double(), readout.weight[rm.main].double()
    if not 2 <= len(others) < rows.shape[1] or rm.names[rm.main] in wanted:
        return every
    weights = torch.linalg.lstsq(rows.T, reward[:, None]).solution[:, 0]
    if (rows.T @ weights - reward).norm() > 1e-5 * reward.norm():
        return every
    fixed = weights.float()
    return Objectives(tuple(rm.names[i] for i in others), readout.weight[others], lambda *_: fixed)


def _selected(found: Objectives, wanted: Sequence[str], model: str) -> Objectives:
    unknown = [name for name in wanted if name not in found.names]
    if unknown:
        raise RewardenError(f"no objectives called {', '.join(map(repr, unknown))}", where=f"conflict of {model!r}",
                            why=f"its objectives are {', '.join(found.names)}", fix="choose among these")
    if len(wanted) < 2:
        raise RewardenError("a conflict needs two objectives", where=f"conflict of {model!r}", why=f"got {list(wanted)}",
                            fix="name at least two")
    places, weigh = [found.names.index(name) for name in wanted], found.weigh
    some = None if weigh is None else lambda normed, reading: weigh(normed, reading)[places]
    return Objectives(tuple(wanted), found.rows[places], some, found.terms)


def term_objectives(rm: RewardModel, terms: Mapping[str, Any], *, batch_size: Any = "auto") -> Objectives:
    """Concept directions of the user as objectives: unit mean differences of states, weighed by what the reward reads of them.

    Args:
        rm: the model; its reward must be read at one position, or be gated.
        terms: name → contrasts, or pairs (chosen has the concept), of at least 10 distinct seeds (prompts, where they have
            none), or a vector [d] in the space that the head reads.

    Raises:
        RewardenError: fewer than two terms, one of too few seeds, a vector of another width, or states that do not differ.
    """
    if len(terms) < 2:
        raise RewardenError("a conflict needs two terms", where="conflict(terms=)", why=f"got {list(terms)}",
                            fix="give the contrasts of at least two terms")
    rows = []
    for name, given in terms.items():
        if isinstance(given, np.ndarray | Tensor):
            row = torch.as_tensor(given, dtype=torch.float32, device=rm.device)
        else:
            row = _mean_difference(rm, name, given, batch_size)
        if row.shape != (rm.architecture.d_model,) or not float(row.norm()) > 0:
            raise RewardenError(f"the term {name!r} is no direction", where="conflict(terms=)",
                                why=f"shape {tuple(row.shape)}, length {float(row.norm()):.3g}; the model's width is "
                                f"{rm.architecture.d_model}", fix="give a vector that is not 0, or contrasts that differ")
        rows.append(row / row.norm())
    stacked = torch.stack(rows)

    def weigh(normed: Tensor, reading: Reading) -> Tensor:
        return stacked @ reward_row(rm, normed, reading)

    return Objectives(tuple(terms), stacked, weigh, True)


def reward_row(rm: RewardModel, normed: Tensor, reading: Reading) -> Tensor:
    """What the reward reads at its last position [d], gates frozen."""
    return rm.readout.weights_normed(normed, reading, rm.main)[0][-1]


def _mean_difference(rm: RewardModel, name: str, given: Sequence[Contrast] | Sequence[Pair], batch_size: Any) -> Tensor:
    contrasts = [Contrast.of(item.prompt, item.chosen, item.rejected, axis=name) if isinstance(item, Pair) else item
                 for item in given]
    if not contrasts or not all(isinstance(item, Contrast) for item in contrasts):
        raise RewardenError(f"the term {name!r} has no contrasts", where="conflict(terms=)",
                            why=f"got {len(contrasts)} items" if not contrasts else "items are neither contrasts nor pairs",
                            fix="give Contrasts, Pairs, or a vector")
    seeds = {item.seed or str(item.terms[0][1].prompt) for item in contrasts}
    require_n(len(seeds), SEEDS, f"the direction of the term {name!r} (distinct seeds, or prompts where contrasts have none)")
    texts = [(weight, text) for item in contrasts for weight, text in item.terms]
    states, _ = states_of(rm, [rm.encode(text) for _, text in texts], lambda *_: torch.zeros(1, device=rm.device), batch_size)
    weights = torch.tensor([weight for weight, _ in texts], dtype=torch.float64)
    return (weights @ torch.from_numpy(states)).float().to(rm.device) / len(contrasts)


def states_of(rm: RewardModel, rows: Sequence[Encoded], weigh: Weigh | None, batch_size: Any = "auto",
              progress: Callable[[int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Normed states where the reward is read, float64 [n, d], and what `weigh` says of each conversation, float64 [n, K].

    Args:
        rm: the model.
        rows: encoded conversations.
        weigh: as in `Objectives`; without it [n, 0].
        batch_size, progress: as for scoring; progress counts conversations.

    Raises:
        RewardenError: the reward is read at several positions, and not by a gate and a last token.
    """
    layer = rm.readout.layer
    states: list[np.ndarray] = [np.empty(0)] * len(rows)
    weights: list[np.ndarray] = [np.empty(0)] * len(rows)
    done = 0

    def keep(block: np.ndarray, traces: list[Any]) -> None:
        nonlocal done
        for number, trace in zip(block, traces, strict=True):
            reading = rm.readout.read(rows[number])
            if len(reading.positions) > 1 and not isinstance(rm.readout, GatedHead):
                raise RewardenError("this reward is read at several positions", where=f"conflict of {rm.name!r}",
                                    why=f"{type(rm.readout).__name__} reads {len(reading.positions)} of them",
                                    fix="use a model whose reward is read at one position")
            normed = rm.readout.norm((trace["final"] if layer is None else trace["resid_post"][0]).float())
            states[number] = normed[-1].double().cpu().numpy()
            weights[number] = np.empty(0) if weigh is None else weigh(normed, reading).detach().double().cpu().numpy()
        done += len(block)
        if progress:
            progress(done)

    site, layers = ("final", None) if layer is None else ("resid_post", [layer])
    rm.traces(rows, [site], keep, layers=layers, batch_size=batch_size)
    return np.stack(states), np.stack(weights)
