"""How do values of a completion's tokens become one number?

In: values [..., R, F] of R tokens. Out: one value a feature [..., F], and the share [R, F] that each token has in it (the
gradient). Ignorant of what the values are.

A mean is the easiest to evade: a policy spreads what it hides over many tokens. Trained against a probe's mean, policies evaded
it in 59 to 82 % of the cases at 1 % false positives, against a maximum in 6 % at most (RL-Obfuscation, arXiv 2506.14261); and a
mean moves with length. So rewards use the mean of the largest quarter by default, and monitors the maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewarden.errors import RewardenError

Kind = Literal["mean", "max", "last", "top", "attention", "sum"]
KINDS: tuple[Kind, ...] = ("mean", "max", "last", "top", "attention", "sum")


@dataclass(frozen=True, eq=False)
class Aggregation:
    """One way of summing up tokens.

    Attributes:
        kind: "mean"; "max"; "last": mean of the last `k` tokens; "top": mean of the largest `share` of the values of each
            feature (at least one); "attention": weights softmax(states · query); "sum": what tokens are paid one by one.
        k: tokens of "last".
        share: of "top", above 0 and up to 1.
        query: float32 [d], of "attention".

    Example:
        >>> Aggregation("top", share=0.5)(torch.tensor([[1.0], [5.0], [3.0], [0.0]])).tolist()
        [4.0]
    """

    kind: Kind = "top"
    k: int = 1
    share: float = 0.25
    query: Tensor | None = None

    def __post_init__(self) -> None:
        wrong = (f"kind is one of {', '.join(KINDS)}" if self.kind not in KINDS else
                 f"k must be a whole number from 1, got {self.k!r}" if not isinstance(self.k, int) or self.k < 1 else
                 f"share lies above 0 and up to 1, got {self.share!r}" if not 0 < self.share <= 1 else
                 "attention needs a query [d]" if self.kind == "attention" and (
                     self.query is None or self.query.ndim != 1) else "")
        if wrong:
            raise RewardenError("impossible aggregation", where=f"Aggregation({self.kind!r})", why=wrong,
                                fix="change that value")

    def __str__(self) -> str:
        return {"last": f"last {self.k}", "top": f"top {self.share:g}"}.get(self.kind, self.kind)

    def __call__(self, values: Tensor, states: Tensor | None = None) -> Tensor:
        """One value a feature.

        Args:
            values: [..., R, F], R tokens of one completion, none of them padding.
            states: [..., R, d], what "attention" looks at.

        Returns:
            [..., F]; NaN where there is no token.
        """
        count = values.shape[-2]
        if not count:
            return values.new_full((*values.shape[:-2], values.shape[-1]), torch.nan)
        if self.kind == "mean":
            return values.mean(-2)
        if self.kind == "sum":
            return values.sum(-2)
        if self.kind == "max":
            return values.amax(-2)
        if self.kind == "last":
            return values[..., -self.k:, :].mean(-2)
        if self.kind == "top":
            return values.topk(max(1, math.ceil(self.share * count - 1e-9)), dim=-2).values.mean(-2)
        if states is None or self.query is None:
            raise RewardenError("attention looks at states, and none were given", where="Aggregation('attention')",
                                fix="use it in a FeatureReadout")
        weight = (states.float() @ self.query.to(states.device)).softmax(-1)
        return (weight[..., None] * values).sum(-2)

    def shares(self, values: Tensor, states: Tensor | None = None) -> Tensor:
        """Weight [R, F] of each token in the aggregate of values [R, F]: Σ share · value is the aggregate."""
        if self.kind == "attention":
            assert states is not None
            assert self.query is not None
            return (states.float() @ self.query.to(states.device)).softmax(-1)[:, None].expand_as(values)
        with torch.inference_mode(False), torch.enable_grad():
            held = torch.tensor(values.detach().cpu().numpy(), requires_grad=True)
            (share,) = torch.autograd.grad(self(held).sum(), held)
        return share.to(values.device)
