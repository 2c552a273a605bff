"""Responses scored the plain way: whole rows through a transformers classifier, or behind its key-value cache.

In: a classifier, ids before and after the response, responses. Out: rewards. What scans and search steps are compared with.
It imports nothing of rewarden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from harness import plain


def rows_of(before: Tensor, responses: Tensor, after: Tensor) -> Tensor:
    """Ids [n, P + N + S] of responses [n, N] between what stands before [P] and after [S] all of them.

    Example:
        >>> rows_of(torch.tensor([1, 2]), torch.tensor([[7], [8]]), torch.tensor([3])).tolist()
        [[1, 2, 7, 3], [1, 2, 8, 3]]
    """
    n = len(responses)
    return torch.cat([before.expand(n, -1), responses, after.expand(n, -1)], 1)


def whole(model: nn.Module, rows: Tensor, batch: int) -> Tensor:
    """Rewards [n] of rows of equal length, so many in a forward."""
    return torch.cat([plain.forward(model, part) for part in rows.split(batch)])


@dataclass(eq=False)
class Expanded:
    """Rows behind the cache of the prompt, expanded to the batch, as nanoGCG runs them.

    The cheapest way transformers has for it: a batch size is expanded to once, and the cache is cropped back after every batch.

    Attributes:
        model: the classifier.
        before: ids [P] of the prompt, run once when this is made.
        anew: expand for every batch instead, which copies the prompt's keys and values twice.
    """

    model: Any
    before: Tensor
    anew: bool = False
    _caches: dict[int, DynamicCache] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.prompt = DynamicCache()
        with torch.inference_mode():
            self.model.model(self.before[None], past_key_values=self.prompt, use_cache=True)

    def __call__(self, rows: Tensor, batch: int) -> Tensor:
        """Rewards [n] of rows [n, N + S] that follow the prompt, so many in a forward."""
        found = []
        with torch.inference_mode():
            for part in rows.split(batch):
                cache = self._cache(len(part))
                hidden = self.model.model(part, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
                cache.crop(-part.shape[1])
                found.append(self.model.score(hidden)[:, 0])
        return torch.cat(found)

    def _cache(self, rows: int) -> DynamicCache:
        if self.anew or rows not in self._caches:
            self._caches[rows] = DynamicCache([(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
                                               for layer in self.prompt.layers])
        return self._caches[rows]
