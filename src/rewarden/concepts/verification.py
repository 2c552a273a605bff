"""What did a repair change: the effect of each concept, the accuracy on each subset, and everything else?

In: a model before and after, contrasts, preference pairs. Out: a Result "repair". Ignorant of how the model was repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.contrasts import Contrast, contrast_effects
from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.preferences import prompt_keys, wins
from rewarden.result import Result
from rewarden.scores import set_apart
from rewarden.statistics import share_interval
from rewarden.statistics.clustered import change_interval, correlation_interval, mean_interval, ratio_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

MODELS = ("before", "after")
ENDS = ("", "_low", "_high")


def verify(before: RewardModel, after: RewardModel, contrasts: Sequence[Contrast], pairs: Sequence[Pair], *,
           level: float = 0.95, batch_size: Any = "auto") -> Result:
    """How much of each effect is left, and at what price?

    Args:
        before, after: the two models; one tokenizer and template.
        contrasts: that did not find what was repaired.
        pairs: preference pairs.
        level: of the intervals.
        batch_size: texts in one forward, or "auto".

    Returns:
        Result "repair". With contrasts: `contrast_effect` (model, contrast) in reward units; `effect` with `effect_low`,
        `effect_high` (model, axis), means (t over seeds and templates, both ways); `kept` with `kept_low`, `kept_high` (axis),
        after ÷ before (Fieller, over seeds and templates likewise); `spread` (model), SD of the rewards of these texts;
        `contrasts`, `seeds` (axis).
        With pairs: `margin` (model, pair), NaN where not finite; `accuracy` with `accuracy_low`, `accuracy_high` (model,
        split), ties ½; `change` with `change_low`, `change_high` (split), after − before over the same pairs
        (`clustered.change_interval`, over prompts); `pairs` (split); `same`, `same_low`, `same_high`, correlation of the
        margins. Splits are the pairs' subsets, and "all".

    Raises:
        RewardenError: neither contrasts nor pairs.

    Example:
        >>> import rewarden as rw
        >>> rm = rw.load()
        >>> verify(rm, rm, [], [rw.Pair("Hi", "Hello!", "No."), rw.Pair("Hey", "Hello!", "No.")]).change.tolist()
        [0.0]
    """
    if not contrasts and not pairs:
        raise RewardenError("nothing to verify with", where="verify", why="neither contrasts nor pairs were given",
                            fix="pass contrasts=, pairs=, or both")
    models = (before, after)
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {"model": list(MODELS)}
    warnings: tuple[str, ...] = ()
    if contrasts:
        parts, names = _effects(models, contrasts, level, batch_size)
        variables |= parts
        coords |= names
    if pairs:
        parts, names, warnings = _accuracies(models, pairs, level, batch_size)
        variables |= parts
        coords |= names
    asked = {"contrasts": len(contrasts), "pairs": len(pairs), "level": level}
    return Result("repair", xr.Dataset(variables, coords=coords), {**after.provenance(), **asked}, True,
                  max(before.noise_floor, after.noise_floor), warnings)


def _effects(models: Sequence[RewardModel], contrasts: Sequence[Contrast], level: float, batch_size: Any
             ) -> tuple[dict[str, Any], dict[str, Any]]:
    found = [contrast_effects(rm, contrasts, batch_size=batch_size) for rm in models]
    effect = np.stack([one.reward for one in found])  # [model, contrast]
    axes = list(dict.fromkeys(item.axis for item in contrasts))
    axis = np.array([item.axis for item in contrasts], dtype=object)
    seeds = np.array([item.cluster for item in contrasts])
    templates = np.array([item.template for item in contrasts])
    means, kept, counts = [], [], []
    for name in axes:
        on = axis == name
        crossed = templates[on] if len(set(templates[on])) > 1 else None
        means.append([mean_interval(row[on], seeds[on], crossed, level=level) for row in effect])
        kept.append(ratio_interval(effect[1, on], effect[0, on], seeds[on], crossed, level=level))
        counts.append((int(on.sum()), len(set(seeds[on]))))
    shown: dict[str, Any] = {"contrast_effect": (("model", "contrast"), effect),
                             "spread": ("model", [float(one.spread[one.main]) for one in found]),
                             "contrasts": ("axis", [n for n, _ in counts]), "seeds": ("axis", [k for _, k in counts])}
    for end, field in zip(ENDS, ("estimate", "low", "high"), strict=True):
        shown[f"effect{end}"] = (("model", "axis"), [[float(getattr(one[m], field)) for one in means] for m in range(2)])
        shown[f"kept{end}"] = ("axis", [float(getattr(one, field)) for one in kept])
    return shown, {"axis": axes, "contrast_axis": ("contrast", axis.astype(str))}


def _accuracies(models: Sequence[RewardModel], pairs: Sequence[Pair], level: float, batch_size: Any
                ) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    margin = np.stack([rm.score(list(pairs), batch_size=batch_size).margin for rm in models])
    finite = np.isfinite(margin).all(0)
    won = np.where(finite, wins(margin), np.nan)
    clusters, subsets = prompt_keys(pairs), np.array([pair.subset for pair in pairs], dtype=object)
    splits = [*(name for name in dict.fromkeys(subsets) if name), "all"]
    inside = [np.ones(len(pairs), bool) if name == "all" else subsets == name for name in splits]
    shares = [[share_interval(row[on], clusters[on], level=level) for row in won] for on in inside]
    changes = [change_interval(won[0, on], won[1, on], clusters[on], level=level) for on in inside]
    same = correlation_interval(margin[0], margin[1], clusters, level=level)
    shown: dict[str, Any] = {"margin": (("model", "pair"), margin), "pairs": ("split", [one.n for one in changes])}
    for end, field in zip(ENDS, ("estimate", "low", "high"), strict=True):
        shown[f"accuracy{end}"] = (("model", "split"), [[float(getattr(one[m], field)) for one in shares] for m in range(2)])
        shown[f"change{end}"] = ("split", [float(getattr(one, field)) for one in changes])
        shown[f"same{end}"] = float(getattr(same, field))
    return shown, {"split": splits}, set_apart(finite)
