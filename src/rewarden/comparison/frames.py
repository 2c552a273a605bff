"""Do two models read their reward along the same direction?

In: states of one model where the reward is read, reward directions of both. Out: the cosine in the frame of those states, w̃ =
Σ^½ w, which is the correlation of what both heads say of the same states; or the reason why there is no common frame. Angles
of raw weights mean little: states vary by orders of magnitude more along some directions than along others.
Letters: n texts, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import xarray as xr

from rewarden.comparison.inside import Inside
from rewarden.comparison.matrices import jackknifed, prompt_blocks
from rewarden.comparison.members import Member
from rewarden.options import CompareOptions
from rewarden.reward_model import RewardModel

LINEAGE = 0.5
"""Median cosine of weight matrices from which two trunks count as trained from one: unrelated ones have 0 up to 1/√size."""

DRAWS = 1000
"""Random directions behind the null."""


def frame_cosine(states: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of directions in the frame of states: the angle between Σ^½ first and Σ^½ second, Σ the states' covariance.

    Args:
        states: [n, d].
        first, second: directions [d], or several [..., d].

    Returns:
        Cosines [...]; equal to the correlation of states·first and states·second over the n texts. NaN where a direction says
        nothing of these states.

    Example:
        >>> states = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
        >>> round(float(frame_cosine(states, np.array([1.0, 1.0]), np.array([1.0, -1.0]))), 2)  # at right angles, but
        0.98
    """
    centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
    sigma = centred.T @ centred / max(1, len(states) - 1)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    size = np.sqrt(((a @ sigma) * a).sum(-1) * ((b @ sigma) * b).sum(-1))
    return np.divide(((a @ sigma) * b).sum(-1), size, out=np.full(np.shape(size), np.nan), where=size > 0)


def lineage(first: RewardModel, second: RewardModel) -> float:
    """How alike are the weights of two trunks? Median cosine over the embedding and the matrices of the first and last layer.

    Of embeddings the rows that both have are compared (tokens are added at the end), of layers the matrices of the same name
    and shape.

    Returns:
        1 for the same weights, near 0 for separately trained ones; NaN where no matrix of the layers has its like in the other.
    """
    own, other = _matrices(first), _matrices(second)
    alike = [(own[name], other[name]) for name in own if name in other and own[name].shape == other[name].shape]
    if not alike:
        return float("nan")
    a, b = (rm.architecture.embedding.weight for rm in (first, second))
    shared = min(len(a), len(b))
    cosines = []
    for one, two in [*([(a[:shared], b[:shared])] if a.shape[1] == b.shape[1] else []), *alike]:
        x, y = one.detach().float(), two.detach().float().to(one.device)
        cosines.append(float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-30)))
    return float(np.median(cosines))


def _matrices(rm: RewardModel) -> dict[tuple[int, str], torch.Tensor]:
    """Matrices of the first and the last layer, by layer and name."""
    arch = rm.architecture
    return {(layer, name): weight for layer in sorted({0, arch.n_layers - 1})
            for name, weight in sorted(arch.blocks[layer].layer.named_parameters()) if weight.ndim == 2}


def no_frame(members: Sequence[Member], found: Sequence[Inside | None], i: int, j: int) -> str:
    """Why members i and j have no common frame; "" where they have one.

    A frame needs one direction a model, read after the same layer, and a common basis of the residual stream, which only
    trunks trained from one another or from a common one have.
    """
    both = [(members[place], found[place]) for place in (i, j)]
    for member, inside in both:
        if member.rm is None or inside is None:
            return f"only scores are known of {member.name}"
        if isinstance(inside.direction, str):
            return f"{member.name} has no single reward direction: {inside.direction}"
    first, second = (member.rm for member, _ in both)
    assert first is not None
    assert second is not None
    if first.architecture.d_model != second.architecture.d_model or first.read_layer != second.read_layer:
        return (f"their states differ: width {first.architecture.d_model} read after layer {first.read_layer}, width "
                f"{second.architecture.d_model} read after layer {second.read_layer}")
    if not _same_norm(first, second):
        return "their final norms are of different kinds"
    alike = 1.0 if first.model is second.model else lineage(first, second)
    if np.isnan(alike):
        return ("no weight matrix of their first and last layers has the same name and shape, so that nothing tells whether "
                "their trunks were trained from a common one")
    if alike < LINEAGE:
        return (f"their trunks were not trained from a common one: the median cosine of their weight matrices is {alike:.2f}, "
                f"and {LINEAGE} is needed; without that, coordinates of one mean nothing in the other")
    return ""


def _same_norm(first: RewardModel, second: RewardModel) -> bool:
    """Whether both standardise a state in the same way, before the gain."""
    a, b = first.readout.norm, second.readout.norm
    if type(a) is not type(b) or a.is_identity != b.is_identity or a.centre != b.centre:
        return False
    return a.is_identity or abs(a.eps - b.eps) <= 1e-3 * max(a.eps, b.eps)


def standardised(member: Member, inside: Inside) -> np.ndarray:
    """States float64 [n, 2, d] where the reward is read, standardised by the model's final norm before its gain."""
    assert member.rm is not None
    norm, states = member.rm.readout.norm.to("cpu"), torch.from_numpy(inside.states[:, :, -1])
    return (norm.centred(states) * norm.scale(states)).double().numpy()


def compare_directions(members: Sequence[Member], found: Sequence[Inside | None], clusters: np.ndarray,
                       options: CompareOptions) -> xr.Dataset:
    """Cosines of reward directions; see `rewarden.compare` for the layout. Row `model` is whose states are the frame."""
    m = len(members)
    cosine = np.full((4, 2, m, m), np.nan)  # estimate, low, high, null
    raw, reason = np.full((m, m), np.nan), np.full((m, m), "", dtype=object)
    reasons = cache(lambda i, j: no_frame(members, found, i, j))  # a lineage is one, whichever way it is asked
    for i in range(m):
        for j in range(m):
            if i == j:
                continue
            reason[i, j] = reasons(min(i, j), max(i, j))
            own, other = found[i], found[j]
            if reason[i, j] or own is None or other is None:
                continue
            a, b = np.asarray(own.direction), np.asarray(other.direction)
            raw[i, j] = float(a @ b / np.sqrt((a @ a) * (b @ b)))
            states = standardised(members[i], own)
            for place, part in enumerate(_quantities(states, clusters)):
                cosine[:, place, i, j] = _cosine(*part, a, b, options)
    dims = ("quantity", "model", "other")
    names = ("frame_cosine", "frame_cosine_low", "frame_cosine_high", "frame_null")
    return xr.Dataset({**{name: (dims, value) for name, value in zip(names, cosine, strict=True)},
                       "raw_cosine": (("model", "other"), raw), "no_frame": (("model", "other"), reason)})


def _quantities(states: np.ndarray, clusters: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """States and prompts of all responses, and differences of chosen and rejected states."""
    return [(states.reshape(-1, states.shape[-1]), np.repeat(clusters, 2)), (states[:, 0] - states[:, 1], clusters)]


def _cosine(states: np.ndarray, clusters: np.ndarray, a: np.ndarray, b: np.ndarray, options: CompareOptions
            ) -> tuple[float, float, float, float]:
    """Cosine with its ends, and what a random direction stays below in 95 of 100 draws."""
    x, y = states @ a, states @ b

    def correlation(kept: np.ndarray) -> float:
        u, v = x[kept] - x[kept].mean(), y[kept] - y[kept].mean()
        size = float(np.sqrt((u @ u) * (v @ v)))
        return float(u @ v) / size if size > 0 else float("nan")

    _, low, high = jackknifed(correlation, prompt_blocks(clusters, options.seed), options.level)
    random = np.random.default_rng(options.seed).normal(size=(DRAWS, states.shape[1]))
    null = max(float(np.quantile(np.abs(frame_cosine(states, random, one)), 0.95)) for one in (a, b))
    return float(frame_cosine(states, a, b)), float(low), float(high), null
