"""Who is compared: reward models, single scalars of them, or scores that were computed before.

In: models and score Results. Out: `Member`s with one reward for each side of every pair. A model that stands for several
members runs once. Ignorant of what is compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.scores import pair_coordinates

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


@dataclass(frozen=True, eq=False)
class Member:
    """One reward of one model.

    Attributes:
        name: distinct among the members.
        reward: float64 [pair, side]; NaN where a side's reward is not finite.
        floor: differences up to this are rounding, reward units.
        facts: provenance.
        rm: the model with this scalar as its reward; None where nothing inside is known (a score Result, an ensemble).
        scorer: what gives rewards of further texts: the model, or the ensemble; None of a score Result.
    """

    name: str
    reward: np.ndarray
    floor: float
    facts: dict[str, str | int | float | bool]
    rm: RewardModel | None
    scorer: Any = None

    @property
    def margin(self) -> np.ndarray:
        """Chosen minus rejected, float64 [pair]; NaN where either is not finite."""
        return self.reward[:, 0] - self.reward[:, 1]

    @property
    def spread(self) -> float:
        """Standard deviation of all finite rewards, the unit in which models are compared; NaN below two."""
        finite = self.reward[np.isfinite(self.reward)]
        return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")


def scalars(rm: RewardModel) -> list[RewardModel]:
    """Each scalar of a model as the reward of a model of its own; weights, tokenizer and runs are shared.

    Args:
        rm: with one scalar or several.

    Returns:
        One reward model for each name of `rm.names`, in that order.

    Example:
        >>> import rewarden as rw
        >>> [view.main for view in scalars(rw.load())]
        [0]
    """
    views = []
    for main, scalar in enumerate(rm.names):
        view = copy.copy(rm)
        view.main = main
        view.name = f"{rm.name}: {scalar}" if len(rm.names) > 1 else rm.name
        views.append(view)
    return views


def members_of(models: Sequence[RewardModel | Result], pairs: Sequence[Pair], names: Sequence[str] | None, *,
               each_scalar: bool, scores: Sequence[Result | None] | None = None, batch_size: Any = "auto",
               progress: Callable[[int], None] | None = None) -> list[Member]:
    """The members of a comparison, scored.

    Args:
        models: reward models, ensembles, or score Results of the same pairs.
        pairs: the pairs.
        names: one per member; by default the models' own, numbered where several are equal.
        each_scalar: every scalar is a member.
        scores: one for each model that was scored on these pairs before, None for the others.
        batch_size: rows per forward, or "auto".
        progress: called with the number of conversations done.

    Raises:
        RewardenError: fewer than two members, scores of other pairs, or names that do not fit.
    """
    scored: dict[tuple[int, int], Result] = {}
    found: list[Member] = []
    if scores is not None and len(scores) != len(models):
        raise RewardenError(f"{len(scores)} scores for {len(models)} models", where="compare(scores=)",
                            fix="give one score Result or None for each model")
    for place, model in enumerate(models):
        if isinstance(model, Result):
            _check_scores(model, pairs)
            found += _of_scores(model, str(model.provenance.get("model", "scores")), None, each_scalar)
            continue
        key = (id(getattr(model, "model", model)), id(getattr(model, "readout", model)))
        given = None if scores is None else scores[place]
        if given is not None:
            _check_scores(given, pairs)
            scored[key] = given
        if key not in scored:
            scored[key] = model.score(list(pairs), batch_size=batch_size, progress=progress)
        views = scalars(model) if each_scalar and hasattr(model, "architecture") else [model]
        for view in views:
            found += _of_scores(scored[key], view.name, view, False)
    if len(found) < 2:
        raise RewardenError(f"{len(found)} model to compare", where="compare(models=)",
                            why="a comparison needs two rewards", fix="pass two or more models, or scalars=True for the "
                            "scalars of one model with several outputs")
    return _named(found, names)


def _of_scores(score: Result, name: str, rm: Any, each: bool) -> list[Member]:
    """Members of a score Result: its main scalar (that of `rm` where there is one), or each of them."""
    data = score.data["reward"]
    reward = np.where(np.isfinite(data.values), data.values, np.nan).astype(np.float64)  # [pair, side, scalar]
    labels = [str(label) for label in data["scalar"].values]
    output = str(score.provenance.get("output", ""))
    main = getattr(rm, "main", labels.index(output) if output in labels else 0)
    chosen = range(len(labels)) if each else [main]
    inside = rm if hasattr(rm, "architecture") else None  # an ensemble has no single residual stream
    facts = dict(score.provenance)
    return [Member(f"{name}: {labels[column]}" if each and len(labels) > 1 else name, reward[:, :, column],
                   float(score.noise_floor or 0.0), {**facts, "output": labels[column]}, inside, rm) for column in chosen]


def _check_scores(score: Result, pairs: Sequence[Pair]) -> None:
    data = score.data
    wanted = pair_coordinates(pairs)["pair"]
    held = [str(name) for name in data["pair"].values] if "pair" in data.coords else []
    if "reward" not in data or not {"pair", "side", "scalar"} <= set(data["reward"].dims) or held != wanted:
        raise RewardenError("these scores are not of these pairs", where="compare(models=)",
                            why=f"the {score.kind} result holds {len(held)} pairs, {len(wanted)} were given, and ids or layout "
                            "differ", fix="pass rm.score(pairs) of the same pairs in the same order")


def _named(found: list[Member], names: Sequence[str] | None) -> list[Member]:
    """The members under distinct names."""
    if names is not None and (len(names) != len(found) or len(set(names)) < len(found)):
        raise RewardenError(f"{len(names)} names for {len(found)} members", where="compare(names=)",
                            why="every member needs a name of its own", fix="give one distinct name each, or none")
    seen: dict[str, int] = {}
    given = []
    for place, member in enumerate(found):
        name = member.name if names is None else str(names[place])
        seen[name] = seen.get(name, 0) + 1
        given.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return [Member(name, one.reward, one.floor, one.facts, one.rm, one.scorer) for name, one in zip(given, found, strict=True)]
