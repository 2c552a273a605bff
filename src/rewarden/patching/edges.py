"""Which components send and which receive, in what order, and how the senders' writes differ between two runs.

In: names; a base run and its source. Out: `Node`s, differences of writes, contributions to the reward. Ignorant of edits and
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewarden.edits import BaseRun
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.patching.components import Layout, contributions, frozen_direction, head_changes
from rewarden.patching.sources import Source
from rewarden.trace.hooks import Tap

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

RECORDED = {"attn": "attn_out", "mlp": "mlp_out", "head": "z", "position": "position"}
"""Kind of sender → kind of activation that base runs keep for it."""


@dataclass(frozen=True)
class Node:
    """A sender or a receiver: its kind, and the layer and head it belongs to (−1 where none)."""

    kind: str
    layer: int = -1
    head: int = -1

    @property
    def name(self) -> str:
        """As in "head.3.5": kind, layer, head."""
        return ".".join([self.kind, *(str(i) for i in (self.layer, self.head) if i >= 0)])

    @property
    def writes_at(self) -> int:
        """Its turn: embeddings, then attention and MLP of each layer."""
        return -1 if self.layer < 0 else 2 * self.layer + (self.kind == "mlp")

    def reads_at(self, parallel: bool) -> float:
        """It sees what was written before this turn; in parallel blocks the MLP reads what attention reads."""
        if self.kind == "read_out":
            return np.inf
        return 2 * self.layer + (self.kind == "mlp" and not parallel)


def senders_of(rm: RewardModel, names: Sequence[str] = ()) -> list[Node]:
    """Components that write, by name ("head.3.5") or by kind ("head"); without names embeddings, heads and MLPs.

    Raises:
        RewardenError: names this model lacks, all listed.

    Example:
        >>> import rewarden as rw
        >>> [node.name for node in senders_of(rw.load(), ["mlp.1", "head.0"])][:3]
        ['mlp.1', 'head.0.0', 'head.0.1']
    """
    heads = _heads(rm)
    known = [Node("embed"), *([Node("position")] if rm.architecture.position_embedding is not None else [])]
    for layer in range(rm.read_layer + 1):
        known += [*(Node("head", layer, head) for head in range(heads)), Node("attn", layer), Node("mlp", layer)]
    left_out = "attn" if heads else "head"
    return _chosen(rm, "senders", known, names) if names else [node for node in known if node.kind != left_out]


def receivers_of(rm: RewardModel, names: Sequence[str] = ()) -> list[Node]:
    """Components that read, by name or by kind; without names attention, MLPs and the read-out.

    Raises:
        RewardenError: names this model lacks, all listed.
    """
    known = []
    for layer, block in enumerate(rm.architecture.blocks[:rm.read_layer + 1]):
        if block.attn_in is not None:
            known += [Node("attn", layer), *(Node("head", layer, head) for head in range(_heads(rm)))]
        if block.mlp_in is not None:
            known.append(Node("mlp", layer))
    known.append(Node("read_out"))
    return _chosen(rm, "receivers", known, names) if names else [node for node in known if node.kind != "head"]


def _heads(rm: RewardModel) -> int:
    return 0 if "heads" in rm.architecture.gaps else rm.architecture.n_heads


def _chosen(rm: RewardModel, role: str, known: list[Node], names: Sequence[str]) -> list[Node]:
    same = {name: [node for node in known if f"{node.name}.".startswith(f"{name}.")] for name in names}
    missing = [name for name, nodes in same.items() if not nodes]
    if missing:
        kinds = ", ".join(dict.fromkeys(node.kind for node in known))
        reasons = "".join(f"; {reason}" for reason in rm.architecture.gaps.values())
        raise RewardenError(f"no {role} {', '.join(map(repr, missing))}", where=f"{role}=",
                            why=f"this model has {kinds} in layers 0 to {rm.read_layer}, heads 0 to {_heads(rm) - 1}{reasons}",
                            fix="use names of these")
    return list(dict.fromkeys(node for nodes in same.values() for node in nodes))


def is_parallel(rm: RewardModel, row: Encoded) -> bool:
    """Whether the MLP of a layer reads the stream before that layer's attention has written (found by one run)."""
    given: dict[tuple[int, str], Tensor] = {}
    taps = []
    for layer, block in enumerate(rm.architecture.blocks):
        if block.mlp_in is not None:
            for what, module in (("layer", block.layer), ("mlp", block.mlp_in.norm or block.mlp_in.reads)):
                def keep(hidden: Tensor, key: tuple[int, str] = (layer, what)) -> None:
                    given[key] = hidden.reshape(row.length, -1).clone()  # some families add into the same buffer

                taps.append(Tap(module, "input", keep))
    rm.forward([row], taps)
    return all(torch.equal(value, given[layer, "layer"]) for (layer, what), value in given.items() if what == "mlp")


@torch.inference_mode()
def write_differences(source: Source, senders: Sequence[Node], positions: np.ndarray) -> Tensor:
    """What each sender would add to the stream of the base run if its output were the source's.

    Of a head, its output z alone is the source's, the other heads of its layer stay: where a norm follows the out-projection,
    its scale moves, and the differences of heads do not sum to that of their attention. What does not differ is 0 to the bit.

    Args:
        source: of the base run.
        senders: whose writes.
        positions: of the base run; all have a counterpart.

    Returns:
        float32 [sender, position, d].
    """
    base, arch = itself(source.base), source.base.rm.architecture
    out = torch.zeros(len(senders), len(positions), arch.d_model, device=source.base.rm.device)
    held, heads = -1, out
    for number, sender in enumerate(senders):
        if sender.kind != "head":
            out[number] = _write(source, sender, positions) - _write(base, sender, positions)
            continue
        if sender.layer != held:  # one layer at a time; senders come sorted
            held, heads = sender.layer, head_changes(source, sender.layer, positions)
        differs = source.at("z", held, positions)[:, sender.head] != base.at("z", held, positions)[:, sender.head]
        out[number] = heads[sender.head] * differs.any(-1, keepdim=True)
    return out


def itself(run: BaseRun) -> Source:
    """A run as its own source."""
    return Source(run, np.arange(run.length), run)


def _write(source: Source, sender: Node, positions: np.ndarray) -> Tensor:
    """The write [position, d] of a sender that is no head."""
    if sender.kind == "embed":  # with a position embedding, which is a sender of its own, the first residual holds both
        return source.at("embed" if source.base.has("position") else "resid_pre", 0, positions).float()
    return source.at(RECORDED[sender.kind], max(sender.layer, 0), positions).float()


@torch.inference_mode()
def ledger(run: BaseRun, senders: Sequence[Node]) -> np.ndarray:
    """What each sender wrote into the reward of its own run, norms at the scale they had there: float64 [sender].

    The lines of `rewarden.attribute`; of "attn.l" the sum of its heads and `attn_bias.l`.
    """
    rm, weight = run.rm, frozen_direction(run)
    layout = Layout.of(rm, heads=any(node.kind == "head" for node in senders))
    known = dict(zip(layout.names, contributions(run, weight, layout), strict=True))
    found = []
    for node in senders:
        if node.layer < 0:
            found.append(float((weight * _write(itself(run), node, run.reading.positions)).sum()))
            continue
        block = rm.architecture.blocks[node.layer]
        bias = getattr(block.down_projection, "bias", None)
        apart = node.kind == "mlp" and block.mlp_norm is None and isinstance(bias, Tensor)  # a line of its own: `mlp_bias`
        found.append(known[node.name] - (float((block.scale * weight * bias.float()).sum()) if apart else 0.0))
    return np.asarray(found)
