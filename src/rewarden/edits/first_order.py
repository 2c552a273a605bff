"""What gradients say of a plan's edits: the effect of each counterfactual on the reward, to first order.

In: a plan of replacements, gradients of its base run. Out: one estimate per counterfactual. Ignorant of where values come from
and of what estimates are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewarden.edits.base import BaseRun
from rewarden.edits.gradients import MIXED, Gradients
from rewarden.edits.plan import Plan
from rewarden.edits.softmax import effects as softmax_effects
from rewarden.edits.units import Part


def first_order(plan: Plan, several: Sequence[Gradients], *, softmax: bool = False) -> np.ndarray:
    """(value − activation)·gradient of each counterfactual of a plan of replacements: its effect on the reward, to first order.

    Args:
        plan: of edits of mode "replace".
        several: G gradients of the plan's base run, at the kinds of its edits (`kinds_of`).
        softmax: compute what a new query or key does to the softmax exactly, and only the rest to first order.

    Returns:
        float64 [G, n]; exactly 0 for counterfactuals that cannot change the read-out.
    """
    found = np.zeros((len(several), plan.n))
    for unit in plan.units:
        for part in unit.parts:
            if softmax and part.kind in ("q", "k"):
                found[:, unit.ids] += _past_softmax(part, several).cpu().numpy()
            else:
                found[:, unit.ids] += _products(plan.base, part, several).cpu().numpy()
    live = np.isin(np.arange(plan.n), live_ids(plan))
    return np.where(live, found, 0.0)


def kinds_of(plan: Plan) -> tuple[str, ...]:
    """Kinds of site that a plan edits."""
    return tuple(dict.fromkeys(part.kind for unit in plan.units for part in unit.parts))


def _products(base: BaseRun, part: Part, several: Sequence[Gradients]) -> Tensor:
    """(value − activation)·gradient of each row of a part, float64 [G, n]."""
    now, slopes = base.activation(part.kind, part.layer), [one.at(part.kind, part.layer) for one in several]
    device = now.device
    where: tuple[Tensor, ...] = (torch.as_tensor(np.ascontiguousarray(part.positions), device=device),)  # [n, P]
    if part.heads is not None:
        where += (torch.as_tensor(part.heads, device=device)[:, None],)
    elif now.ndim == 3:
        now, slopes = now.flatten(1), [slope.flatten(1) for slope in slopes]
    change = part.values.to(device).float() - now[where].float()  # [n, P, width]
    return torch.stack([(change * slope[where]).sum((1, 2), dtype=torch.float64) for slope in slopes])


def _past_softmax(part: Part, several: Sequence[Gradients]) -> Tensor:
    call = several[0].calls[part.layer]
    slopes = torch.stack([one.kept[MIXED, part.layer] for one in several])  # [G, T, head·d_head]
    return softmax_effects(call, part, slopes.unflatten(-1, (call.query.shape[1], -1)).double())


def live_ids(plan: Plan) -> np.ndarray:
    """Numbers int64 [m] of the counterfactuals that may change the read-out, increasing."""
    starts = np.cumsum([0, *(len(unit.ids) for unit in plan.units)])
    return np.sort(np.concatenate([unit.ids for unit in plan.units])[starts[plan.rows.unit] + plan.rows.index])
