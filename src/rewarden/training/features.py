"""What does one token say of each feature: its SAE latent, a probe, a concept's direction?

In: residuals [..., R, d] of some tokens. Out: values [..., R, F], above a threshold or 0. Ignorant of tokens and completions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.errors import RewardenError
from rewarden.sarm.hashes import dictionary_sha256, tensors_sha256

if TYPE_CHECKING:
    from rewarden.concepts.directions import Direction


class TokenFeatures(ABC):
    """Values of features at single tokens.

    Attributes:
        names: one a feature.
        width: d, of the residuals they read.
    """

    names: tuple[str, ...]
    width: int

    @abstractmethod
    def __call__(self, residual: Tensor) -> Tensor:
        """Values float32 [..., F] of residuals [..., d]."""

    @abstractmethod
    def sha256(self) -> str:
        """Hash of all numbers in it."""

    def to(self, device: Any) -> TokenFeatures:
        """The same on another device."""
        return self


@dataclass(eq=False)
class Latents(TokenFeatures):
    """Some latents of a dictionary: all of it encodes, as a latent that fires only among the k largest must.

    Args:
        dictionary: of the residual stream where it is read.
        ids: latents [F], distinct.
        names: of them; "latent 12" where not given.
    """

    dictionary: Dictionary
    ids: Sequence[int]
    names: tuple[str, ...] = ()
    width: int = field(init=False)

    def __post_init__(self) -> None:
        ids = [int(i) for i in self.ids]
        bad = [i for i in ids if not 0 <= i < self.dictionary.d_sae]
        if not ids or bad or len(set(ids)) < len(ids):
            raise RewardenError("latents that cannot be read", where="Latents(ids=)",
                                why=f"{bad[:5]} of {self.dictionary.d_sae}" if bad else "none, or one of them twice",
                                fix="give distinct numbers of latents")
        if self.dictionary.activation == "batchtopk":
            raise RewardenError("a BatchTopK dictionary has no threshold yet", where="Latents",
                                why="a reward must not depend on the other rows of its batch",
                                fix="dictionary.with_threshold(number), or dictionary.with_k(k)")
        self.ids, self.width = tuple(ids), self.dictionary.d_in
        self.names = tuple(self.names) or tuple(f"latent {i}" for i in ids)

    def __call__(self, residual: Tensor) -> Tensor:
        """Values of the latents; 0 where they do not fire."""
        flat = residual.reshape(-1, residual.shape[-1]).float()
        latents, values = self.dictionary.encode(flat.detach())
        chosen = torch.tensor(self.ids, device=latents.device)
        found = ((latents[:, :, None] == chosen) * values[:, :, None]).sum(1)
        if flat.requires_grad:
            found = self._differentiable(flat, found)
        return found.reshape(*residual.shape[:-1], len(self.ids))

    def _differentiable(self, flat: Tensor, found: Tensor) -> Tensor:
        """The same values [n, F] as a function of the residuals [n, d]: which latents fire is held."""
        dictionary, chosen = self.dictionary, list(self.ids)
        pre = dictionary.pre(flat)[:, chosen]
        if dictionary.gate is not None:
            pre = pre * dictionary.gate.scale.exp()[chosen] + dictionary.b_enc[chosen]
        return pre * (found != 0)

    def sha256(self) -> str:
        """Of the dictionary and the numbers of the latents."""
        return tensors_sha256([(dictionary_sha256(self.dictionary), torch.tensor(self.ids))])

    def to(self, device: Any) -> Latents:
        """The same on another device."""
        return Latents(self.dictionary.to(device), self.ids, self.names)


@dataclass(eq=False)
class Linear(TokenFeatures):
    """Linear read-outs of a token: probes (`logits`), directions.

    Args:
        weight: float32 [F, d].
        bias: float32 [F]; zeros where not given.
        names: one a row.
        probability: squash to 0..1 (a logistic probe's probability).
    """

    weight: Tensor
    bias: Tensor | None = None
    names: tuple[str, ...] = ()
    probability: bool = False
    width: int = field(init=False)

    def __post_init__(self) -> None:
        weight = torch.as_tensor(np.asarray(self.weight), dtype=torch.float32)
        weight = weight[None] if weight.ndim == 1 else weight
        bias = torch.zeros(len(weight)) if self.bias is None else torch.as_tensor(np.asarray(self.bias), dtype=torch.float32)
        bias = bias.reshape(-1)
        if weight.ndim != 2 or len(bias) != len(weight) or not bool(torch.isfinite(weight).all() & torch.isfinite(bias).all()):
            raise RewardenError("a probe needs finite weights [F, d] and a bias [F]", where="Linear",
                                why=f"got {tuple(weight.shape)} and {tuple(bias.shape)}", fix="check the probe's file")
        self.weight, self.bias, self.width = weight, bias, weight.shape[1]
        self.names = tuple(self.names) or tuple(f"probe {i}" for i in range(len(weight)))

    @classmethod
    def of(cls, *directions: Direction) -> Linear:
        """Concept directions found with `rewarden.concepts.direction` at a site of the residual stream."""
        if any(one.place.normed or one.place.site.kind != "resid_post" for one in directions) or not directions:
            raise RewardenError("a direction that is not one of the residual stream", where="Linear.of",
                                why="values of single tokens are read after a layer, before any norm",
                                fix="find it with direction(rm, data, site='resid_post.L', positions='response')")
        weight = torch.as_tensor(np.stack([one.vector for one in directions]), dtype=torch.float32)
        bias = torch.as_tensor([-float(one.vector @ one.mean) for one in directions], dtype=torch.float32)
        return cls(weight, bias, tuple(one.name for one in directions))

    def __call__(self, residual: Tensor) -> Tensor:
        """weight · h + bias."""
        assert self.bias is not None  # see __post_init__
        found = residual.float() @ self.weight.to(residual.device).T + self.bias.to(residual.device)
        return found.sigmoid() if self.probability else found

    def sha256(self) -> str:
        """Of weights and bias."""
        assert self.bias is not None
        return tensors_sha256([(f"linear {self.probability}", self.weight), ("bias", self.bias)])
