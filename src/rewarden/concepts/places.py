"""In which space does a direction live, and where do texts stand in it?

In: a site's name, encoded texts. Out: `Place`, activations of texts there [n, d], and the direction of the reward there.
Ignorant of labels. Letters: n texts, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewarden.batching import plan_batches, run_groups
from rewarden.edits.edit import Site
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.readout.heads import SequenceHead
from rewarden.trace.capture import LAYER_SITES, Trace

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

READ = "read"
"""Name of the place where the reward is read: the residual after the final norm, as the head sees it."""


@dataclass(frozen=True)
class Place:
    """A space of activations.

    Attributes:
        site: kind, layer, maybe head.
        normed: after the read-out's norm, where a linear head is linear; only at the layer that is read.
        positions: "read" (last token that is read) or "response" (mean over the response).
    """

    site: Site
    normed: bool = False
    positions: str = "read"

    def __str__(self) -> str:
        head = "" if self.site.head is None else f".{self.site.head}"
        return "read" if self.normed else f"{self.site.kind}.{self.site.layer}{head}"


def place_of(rm: RewardModel, site: str | Site | Place, positions: str = "read") -> Place:
    """The place a name means.

    Args:
        rm: the model.
        site: "read" (what the head sees), a name such as "resid_post.3", "attn_out.2" or "z.3.5", a `Site`, or a place.
        positions: tokens looked at, of a name or a site.

    Raises:
        RewardenError: no such site, layer or head.

    Example:
        >>> import rewarden as rw
        >>> str(place_of(rw.load(), "read")), str(place_of(rw.load(), "z.3.5"))
        ('read', 'z.3.5')
    """
    if isinstance(site, Place):
        return site
    if site == READ:
        if positions != "read":
            raise RewardenError("what the head sees stands where it reads only", where="positions='response'",
                                fix="pass positions='read', or a site such as 'resid_post.3'")
        return Place(Site("resid_post", rm.read_layer), True)
    return Place(_checked(rm, site if isinstance(site, Site) else _parsed(site)), False, positions)


def _parsed(name: Any) -> Site:
    kind, *numbers = str(name).split(".")
    if kind not in LAYER_SITES or not 1 <= len(numbers) <= 2 or not all(n.isdigit() for n in numbers):
        raise RewardenError(f"no site is called {name!r}", where="site=", why="a site is KIND.LAYER, or KIND.LAYER.HEAD for z",
                            fix=f"use 'read', or one of {', '.join(LAYER_SITES)} with a layer, as in 'resid_post.3'")
    return Site(kind, int(numbers[0]), head=int(numbers[1]) if len(numbers) > 1 else None)


def _checked(rm: RewardModel, site: Site) -> Site:
    arch = rm.architecture
    if site.kind not in LAYER_SITES or site.position is not None:
        raise RewardenError(f"no direction is found at {site!r}", where="site=",
                            why=f"kinds are {', '.join(LAYER_SITES)}; positions are an option of their own",
                            fix="use a site such as 'resid_post.3'")
    headed = site.head is None or (site.kind == "z" and 0 <= site.head < arch.n_heads)
    if not 0 <= site.layer < arch.n_layers or not headed:
        raise RewardenError(f"{site!r}: the model has layers 0 to {arch.n_layers - 1} and heads 0 to {arch.n_heads - 1}",
                            where="site=", why="only z has heads", fix="count layers and heads from 0")
    return site


def activations(rm: RewardModel, rows: Sequence[Encoded], place: Place, *, batch_size: Any = "auto",
                progress: Callable[[int], None] | None = None) -> np.ndarray:
    """Where texts stand in a place, float64 [n, d].

    Args:
        rm: the model.
        rows: encoded texts; equal ones are run once.
        place: which space.
        batch_size: texts in one forward, or "auto".
        progress: called with the number of texts done after each batch.

    Raises:
        RewardenError: activations that are not finite.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> row = rm.encode(rw.Conversation.of("Hi", "Hello!"))
        >>> there = activations(rm, [row], place_of(rm, "read"))
        >>> bool(abs(there[0] @ rm.readout.weight[0].numpy() - rm.reward_encoded([row])[0, 0]) < 1e-5)  # no bias here
        True
    """
    return activations_at(rm, rows, [place], batch_size=batch_size, progress=progress)[0]


def activations_at(rm: RewardModel, rows: Sequence[Encoded], places: Sequence[Place], *, batch_size: Any = "auto",
                   progress: Callable[[int], None] | None = None) -> list[np.ndarray]:
    """`activations` in several places that look at the same positions, from one forward a text."""
    first: dict[str, int] = {}
    which = np.asarray([first.setdefault(row.key(), len(first)) for row in rows])
    distinct = [rows[i] for i in np.unique(which, return_index=True)[1]]
    where = [_positions(rm, row, places[0]) for row in distinct]
    kinds, layers = list(dict.fromkeys(p.site.kind for p in places)), sorted({p.site.layer for p in places})
    found: list[list[np.ndarray]] = [[] for _ in distinct]

    def run(group: np.ndarray) -> None:
        wide = max(len(where[i]) for i in group)
        # one position repeated fills up, so that rows can be stacked; the mean below takes each position once
        padded = [np.append(where[i], np.repeat(where[i][-1], wide - len(where[i]))) for i in group]
        kept = rm.capture([distinct[i] for i in group], kinds, padded, layers)
        for i, trace in zip(group, kept, strict=True):
            found[i] = [_pooled(rm, trace[p.site.kind][layers.index(p.site.layer)][:len(where[i])], p) for p in places]

    run_groups(plan_batches([row.length for row in distinct], batch_size if rm.pad_safe else 1, rm.device), run, progress)
    return [_finite(np.stack([states[number] for states in found]), place)[which] for number, place in enumerate(places)]


def _finite(states: np.ndarray, place: Place) -> np.ndarray:
    if not np.isfinite(states).all():
        bad = int((~np.isfinite(states).all(1)).sum())
        raise RewardenError(f"{bad} of {len(states)} texts have activations that are not finite", where=str(place),
                            why="a direction through them means nothing", fix="load in float32, or drop these texts")
    return states


def _positions(rm: RewardModel, row: Encoded, place: Place) -> np.ndarray:
    return np.flatnonzero(row.spans == RESPONSE) if place.positions == "response" else rm.readout.read(row).positions[-1:]


def _pooled(rm: RewardModel, kept: Tensor, place: Place) -> np.ndarray:
    """One vector [width] from [P, ...]."""
    kept = kept if place.site.head is None else kept[:, place.site.head]
    kept = rm.readout.norm(kept.float()) if place.normed else kept.float()
    return kept.flatten(1).double().mean(0).cpu().numpy()


def reward_direction(rm: RewardModel, place: Place, states: np.ndarray, rows: Sequence[Encoded]) -> np.ndarray:
    """The direction w of the reward in a place, float64 [d].

    Where the head sees it and is linear, w is the head's row; of another head, the mean over the texts of its gradients at
    the last token it reads (with a gate, of the mixed rows w(x), the gate as it is). At other sites of the residual stream, w
    is the head seen through the final norm's gain: the reward up to the norm's scale.

    Args:
        rm: the model.
        place: the place.
        states: activations there [n, d], used for heads that read one position and are not linear.
        rows: the texts.

    Raises:
        RewardenError: a read-out that adds up several positions, or a site that is no part of the residual stream.
    """
    readout = rm.readout
    if place.site.kind in ("z", "neurons"):
        raise RewardenError(f"{place} and the reward have no space in common", where="the direction of the reward",
                            why="the head reads the residual stream", fix="use resid_post, resid_pre, attn_out or mlp_out")
    if isinstance(readout, SequenceHead):
        weight = readout.weight[rm.main]
    elif place.normed:
        weight = _mean_gradient(rm, states, rows)
    else:
        raise RewardenError(f"{type(readout).__name__} has no direction of its own at {place}",
                            where="the direction of the reward", why="the head is not linear",
                            fix="use site='read', or dose_response")
    if not place.normed:
        weight = readout.norm.fold(weight, torch.ones(1, device=weight.device))
    return weight.double().cpu().numpy()


def _mean_gradient(rm: RewardModel, states: np.ndarray, rows: Sequence[Encoded]) -> Tensor:
    """Mean over texts of the gradient [d] at the last token that a read-out reads."""
    readout = rm.readout
    normed = [torch.as_tensor(state, dtype=torch.float32, device=rm.device)[None] for state in states]
    if len(readout.read(rows[0]).positions) > 1:  # a gate, say, is read elsewhere
        def keep(block: np.ndarray, traces: list[Trace]) -> None:
            for i, trace in zip(block, traces, strict=True):
                normed[i] = readout.norm(trace["resid_post"][0].float())

        rm.traces(rows, ["resid_post"], keep, layers=[rm.read_layer])
    found = [readout.weights_normed(one, readout.read(row), rm.main)[0] for one, row in zip(normed, rows, strict=True)]
    if any(bool((weight[:-1] != 0).any()) for weight in found):
        raise RewardenError("this read-out adds up several positions", where="the direction of the reward",
                            why=f"each position that a {type(readout).__name__} reads has a state of its own",
                            fix="use dose_response, which asks the whole model")
    return torch.stack([weight[-1] for weight in found]).mean(0)
