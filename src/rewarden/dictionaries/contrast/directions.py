"""A small reward model on decoder directions of the features that fire more often in chosen or in rejected responses.

In: a frozen model, pairs, a dictionary of a residual stream. Out: a `SparseDirections` read-out, for `rm.reading`. Ignorant of
what the model's own reward is, if it has one. Source: SparseRM, arXiv 2511.07896.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rewarden.conversation import Conversation, Message, Pair
from rewarden.dictionaries.contrast.pairwise import Head, fit_head
from rewarden.dictionaries.contrast.separating import provenance_of
from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.effects.placement import place_of
from rewarden.dictionaries.prompts import prompts_of
from rewarden.dictionaries.sites import activations_at
from rewarden.edits.edit import Site
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.norms import Norm
from rewarden.options.checks import resolve
from rewarden.options.contrast import DirectionOptions
from rewarden.readout import Reading, Readout
from rewarden.result import Result
from rewarden.scores import as_pairs, encode_pairs
from rewarden.statistics import Interval, require_n, share_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

MINIMUM = 20
"""Prompts below which there is nothing to choose directions by, and nothing to hold out."""


@dataclass(eq=False)
class SparseDirections(Readout):
    """A read-out of a few decoder directions: r = head(⟨x, d_1⟩, …, ⟨x, d_n⟩), x the normed residual at the last read position.

    Args:
        directions: float32 [n, d], rows of the dictionary's decoder.
        features: int64 [n], their latents.
        head: maps [..., n] to rewards [...].
        norm: what the dictionary does to h first.
        reader: decides where, and what the model is shown.
        report: how directions were chosen and how good the head is on held-out pairs.
        layer: whose residual stream is read.
    """

    directions: Tensor
    features: np.ndarray
    head: Head
    norm: Norm
    reader: Readout
    report: Result
    layer: int | None = None
    names: tuple[str, ...] = ("score",)

    def __post_init__(self) -> None:
        self.generation_prompt = self.reader.generation_prompt

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """Those of the model's own read-out."""
        return self.reader.messages(conversation)

    def read(self, encoded: Encoded) -> Reading:
        """The last position of the model's own read-out."""
        return Reading(self.reader.read(encoded).positions[-1:])

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The head's reward [..., 1]."""
        return self.head(normed[..., -1, :] @ self.directions.T)[..., None]

    def parts(self, residual: Tensor, reading: Reading) -> dict[str, Tensor]:
        """How far the residual lies along each direction, [..., n]."""
        return {"direction": self.norm(residual.float())[..., -1, :] @ self.directions.T}


def sparse_directions(rm: RewardModel, pairs: Sequence[Pair], dictionary: Dictionary, *, site: Site | None = None,
                      options: DirectionOptions | None = None, **overrides: Any) -> SparseDirections:
    """Train a SparseRM: a reward from the frozen model and some hundred decoder directions.

    Features are sorted by how much more often they fire in chosen than in rejected responses; the directions of the first
    and of the last ones are read, whether or not their features fire. The head is trained with a pairwise margin loss,
    mean(max(0, margin − (r_chosen − r_rejected))), and keeps the weights that are best on prompts it has not seen.

    Args:
        rm: the model whose trunk is read; its own reward is not used.
        pairs: pairs of at least 20 prompts; about a thousand pairs serve.
        dictionary: of a residual stream (`resid_post`, or `resid_pre` from layer 1 on).
        site: where it reads, if it does not say so itself.
        options: `DirectionOptions`; single fields may be given as keywords.

    Returns:
        A read-out: `rm.reading(found).score(pairs)`. Its `report` is a Result of kind "sparse_directions" over `feature`:
        `chosen_rate`, `rejected_rate` (share of training responses in which it fires), `sign` (1 or −1); `loss`,
        `held_out_loss` (step); `accuracy` (), `accuracy_low`, `accuracy_high` on held-out pairs (over prompts, see
        `rewarden.statistics.share_interval`; a little too good, because these pairs also chose when to stop).

    Raises:
        RewardenError: a dictionary of another site, too few prompts, or no feature that fires more often on one side.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> atoms = torch.eye(rm.architecture.d_model)
        >>> basis = Dictionary(atoms, torch.zeros(len(atoms)), atoms, torch.zeros(len(atoms)), k=9, site=Site("resid_post", 3))
        >>> pairs = [rw.Pair(f"Count to {i}", "One, two, three.", "No!") for i in range(20)]
        >>> sparse = rm.reading(sparse_directions(rm, pairs, basis, steps=20))
        >>> bool((sparse.score(pairs).margin > 0).all())
        True
    """
    chosen = resolve(DirectionOptions, options, overrides)
    place, layer = _residual(rm, dictionary, site)
    dictionary, pairs = dictionary.to(rm.device), as_pairs(pairs)
    rows = [row for both in encode_pairs(rm, pairs) for row in both]
    where = [rm.readout.read(row).positions[-1:] for row in rows]
    h = activations_at(rm, rows, where, [place], batch_size=chosen.batch_size, dtype=torch.float32, device=rm.device)[place]
    clusters = prompts_of(pairs)
    held_out = _held_out(clusters, chosen)
    rates = _rates(h, dictionary, ~held_out)
    features, sign = _chosen(rates, chosen.directions)
    directions = dictionary.W_dec[torch.as_tensor(features, device=h.device)]
    along = (dictionary.scaled(h)[0] @ directions.T).reshape(len(pairs), 2, -1)
    head, losses = fit_head(along, held_out, chosen)
    won = (np.sign(_margin(head, along)[held_out]) + 1) / 2
    right = share_interval(won, clusters[held_out], level=chosen.level, seed=chosen.seed)
    data = _described(rates[:, features], sign, losses, right)
    made = provenance_of(rm, dictionary, place, chosen, pairs=len(pairs), held_out_pairs=int(held_out.sum()))
    report = Result("sparse_directions", data.assign_coords(feature=features), made, exact=True, noise_floor=rm.noise_floor)
    assert dictionary.norm is not None  # Dictionary.__post_init__
    return SparseDirections(directions, features, head, dictionary.norm, rm.readout, report, layer)


def _residual(rm: RewardModel, dictionary: Dictionary, site: Site | None) -> tuple[Site, int]:
    """The site, and the layer whose output it is."""
    place = place_of(rm, dictionary, site)
    if place.kind not in ("resid_post", "resid_pre") or (place.kind == "resid_pre" and place.layer == 0):
        raise RewardenError(f"a read-out cannot read {place!r}", where="dictionary.site",
                            why="it reads the residual stream after a layer", fix="use a dictionary of resid_post")
    layer = place.layer - (place.kind == "resid_pre")
    return Site("resid_post", layer), layer


def _held_out(clusters: np.ndarray, options: DirectionOptions) -> np.ndarray:
    """Pairs kept apart, bool [n]: whole prompts, at least one and not all."""
    count = int(clusters.max()) + 1
    require_n(count, MINIMUM, "sparse directions (pairs with prompts of their own)")
    apart = min(count - 1, max(1, round(options.held_out * count)))
    return np.isin(clusters, np.random.default_rng(options.seed).permutation(count)[:apart])


def _rates(h: Tensor, dictionary: Dictionary, learnt: np.ndarray) -> np.ndarray:
    """Share of chosen and of rejected training responses in which each latent fires, float64 [2, M]."""
    indices, values = (found.reshape(-1, 2, found.shape[-1])[torch.as_tensor(learnt)].cpu() for found in dictionary.encode(h))
    on = values > 0
    return np.stack([torch.bincount(indices[:, side][on[:, side]], minlength=dictionary.d_sae).numpy() / learnt.sum()
                     for side in range(2)])


def _chosen(rates: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that fire more often in chosen (sign 1), then in rejected (−1), each by how much more, at most `count`."""
    difference = rates[0] - rates[1]
    order = np.argsort(-difference, kind="stable")
    above = order[:count][difference[order[:count]] > 0]
    below = order[::-1][:count]
    below = below[difference[below] < 0]
    if not len(above) + len(below):
        raise RewardenError("no feature fires more often on one side of these pairs", where="pairs",
                            why=f"{int((rates > 0).any(0).sum())} features fire where the reward is read",
                            fix="use a dictionary with more features alive there, or more pairs")
    return np.concatenate([above, below]).astype(np.int64), np.repeat([1, -1], [len(above), len(below)])


def _margin(head: Head, along: Tensor) -> np.ndarray:
    reward = head(along)
    return (reward[:, 0] - reward[:, 1]).cpu().numpy()


def _described(rates: np.ndarray, sign: np.ndarray, losses: np.ndarray, right: Interval) -> xr.Dataset:
    return xr.Dataset({
        "chosen_rate": ("feature", rates[0]), "rejected_rate": ("feature", rates[1]), "sign": ("feature", sign),
        "loss": ("step", losses[0]), "held_out_loss": ("step", losses[1]), **right.variables("accuracy")})
