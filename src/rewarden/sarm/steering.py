"""Turning single reasons of a reward up or down: edits of feature weights, undone by keeping the model one had.

In: a sparse reward model and edits. Out: another one that shares all but the weights, and a report of what changed where. An
input in which none of the edited latents fires keeps its reward exactly. Ignorant of how edits are found (see `contrast`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from rewarden.conversation import Conversation, Pair
from rewarden.dictionaries.prompts import prompts_of
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.sarm import SteeringOptions
from rewarden.result import Result
from rewarden.reward_model import RewardModel
from rewarden.sarm.features import as_items, chosen_side, feature_matrix
from rewarden.sarm.head import SparseHead, Steering, sparse_head
from rewarden.sarm.model import with_head
from rewarden.scores import as_pairs
from rewarden.statistics.intervals import bootstrap_interval
from rewarden.statistics.shares import share_interval

Edits = Mapping[int, tuple[str, float]] | Result
"""latent → ("*", factor) or ("+", addition to its weight); or what `find_steering` returned."""


def steer(model: RewardModel, edits: Edits, *, name: str | None = None) -> RewardModel:
    """The same model with some feature weights changed; `model` stays as it is.

    "*" multiplies a latent's weight in the reward, "+" adds to it. (The released code's "+" adds to the latent's value, and so
    to the reward of every input; here an input without the latent never changes.)

    Args:
        model: a sparse reward model.
        edits: latent → ("*", factor) or ("+", addition); or the Result of `find_steering`.
        name: what reports call the new model.

    Raises:
        RewardenError: another kind of model, a latent that is not there, another operation, or a number that is not finite.

    Source: SARM, arXiv 2508.08746, §5.

    Example:
        >>> import rewarden as rw, torch
        >>> from rewarden.dictionaries.dictionary import Dictionary
        >>> from rewarden.sarm.model import build
        >>> rm, atoms = rw.load(), torch.eye(192)
        >>> basis = Dictionary(atoms, torch.zeros(192), atoms, torch.zeros(192), k=3, site=rw.Site("resid_post", 1))
        >>> sarm = build(rm, basis, weights=torch.ones(192), check=False)
        >>> steer(sarm, {7: ("*", 2.0)}).readout.weights[0, 7].item()
        2.0
    """
    head = sparse_head(model, "sarm.steer")
    made = as_edits(edits, head.dictionary.d_sae)
    weights = head.weights.clone()
    for latent, operation, value in made:
        old = weights[model.main, latent]
        weights[model.main, latent] = old * value if operation == "*" else old + value
    before = (head.weights, head.steering) if head.before is None else head.before
    return with_head(model, replace(head, weights=weights, steering=(*head.steering, *made), before=before), name=name)


def unsteer(model: RewardModel) -> RewardModel:
    """The model before every steering since it was made or loaded; one that was never steered comes back as it is.

    A model that was steered, saved and loaded is what later steering starts from: it comes back with the steering it had.

    Raises:
        RewardenError: the weights before are not known, because the model was saved and loaded since it was steered.
    """
    head = sparse_head(model, "sarm.unsteer")
    if not head.steering:
        return model
    if head.before is None:
        raise RewardenError("the weights before steering are not known", where="sarm.unsteer",
                            why="a checkpoint holds the steered weights only", fix="load the checkpoint it was made from")
    weights, steering = head.before
    return with_head(model, replace(head, weights=weights, steering=steering, before=None))


def as_edits(edits: Any, d_sae: int) -> Steering:
    """Checked edits, in order."""
    if isinstance(edits, Result):
        if edits.kind != "steering_search":
            raise RewardenError(f"a result of kind {edits.kind!r}", where="sarm.steer",
                                fix="pass the result of find_steering, or {latent: ('*', factor)}")
        return tuple((int(i), "*", float(f)) for i, f in zip(edits.feature, edits.factor, strict=True))
    if not isinstance(edits, Mapping) or not edits:
        raise RewardenError("no edits", where="sarm.steer", why=f"got {edits!r:.100}", fix="pass {latent: ('*', factor)}")
    made, wrong = [], []
    for latent, edit in edits.items():
        whole = isinstance(latent, int | np.integer) and not isinstance(latent, bool) and 0 <= latent < d_sae
        pair = isinstance(edit, Sequence) and len(edit) == 2 and edit[0] in ("*", "+")
        if not whole or not pair or not isinstance(edit[1], int | float | np.number) or not np.isfinite(edit[1]):
            wrong.append(f"{latent!r}: {edit!r}"[:80])
        else:
            made.append((int(latent), str(edit[0]), float(edit[1])))
    if wrong:
        raise RewardenError(f"{len(wrong)} edits cannot be made", where="sarm.steer", why="; ".join(wrong[:5]),
                            fix=f"latents are 0 to {d_sae - 1}; edits are ('*', factor) or ('+', addition to the weight)")
    return tuple(made)


Items = Pair | Conversation | Sequence[Pair | Conversation]


def steering_report(model: RewardModel, steered: RewardModel, target: Items, complement: Items, *,
                    pairs: Pair | Sequence[Pair] | None = None, options: SteeringOptions | None = None, **overrides: Any
                    ) -> Result:
    """What did steering do to the answers it is about, to all others, and to pair accuracy?

    Args:
        model: before.
        steered: after.
        target: conversations that steering is about (of pairs, the chosen side).
        complement: others, as far from the target as those the model will meet.
        pairs: for the accuracy; by default the pairs among target and complement.
        options: `SteeringOptions` (level, resamples, seed); single fields may be given as keywords.

    Returns:
        Result of kind "steering" over `item` (group, before, after, shift, active: whether an edited latent fires) and over
        `group` ("target", "complement"): `mean_shift` with `low` and `high` (bootstrap over prompts), `standard_shift` (in
        standard deviations of the group's rewards before), `active_share`, `shift_where_active`, `n`, `n_prompts`; and
        `accuracy` (when: before, after) with `accuracy_low`, `accuracy_high` (over prompts, as `share_interval`) and `n_pairs`,
        where there are pairs.

    Raises:
        RewardenError: a model with another read-out, two models with different dictionaries, or an empty group.
    """
    chosen = resolve(SteeringOptions, options, overrides)
    head, other = sparse_head(model, "steering_report"), sparse_head(steered, "steering_report")
    if head.dictionary.d_sae != other.dictionary.d_sae:
        raise RewardenError("the two models have different dictionaries", where="steering_report",
                            fix="pass a model and what steer(...) made of it")
    about, rest = as_items(target, "target"), as_items(complement, "complement")
    groups = {"target": chosen_side(about), "complement": chosen_side(rest)}
    items = _items(model, steered, groups, _edited(head, other, model.main))
    data = xr.merge([items, _per_group(items, groups, chosen)])
    found = as_pairs(pairs) if pairs is not None else [item for item in (*about, *rest) if isinstance(item, Pair)]
    if found:
        data = xr.merge([data, _accuracies(model, steered, found, chosen)])
    return Result("steering", data, {**steered.provenance(), "level": chosen.level, "seed": chosen.seed}, exact=True,
                  noise_floor=model.noise_floor)


def _edited(head: SparseHead, other: SparseHead, output: int) -> np.ndarray:
    """Latents whose weight differs."""
    return np.flatnonzero((head.weights[output] != other.weights[output]).cpu().numpy())


def _items(model: RewardModel, steered: RewardModel, groups: Mapping[str, list[Conversation]], edited: np.ndarray
           ) -> xr.Dataset:
    rows = [model.encode(conversation) for group in groups.values() for conversation in group]
    before = model.reward_encoded(rows)[:, model.main].astype(np.float64)
    after = steered.reward_encoded(rows)[:, steered.main].astype(np.float64)
    active = np.diff(feature_matrix(model, rows)[:, edited].tocsr().indptr) > 0
    names = [name for name, group in groups.items() for _ in group]
    return xr.Dataset({"before": ("item", before), "after": ("item", after), "shift": ("item", after - before),
                       "active": ("item", active)}, coords={"item_group": ("item", names)})


def _per_group(items: xr.Dataset, groups: Mapping[str, list[Conversation]], options: SteeringOptions) -> xr.Dataset:
    rows: dict[str, list[float]] = {name: [] for name in ("mean_shift", "low", "high", "standard_shift", "active_share",
                                                          "shift_where_active", "n", "n_prompts")}
    for name, group in groups.items():
        here = items.isel(item=np.flatnonzero(items["item_group"].values == name))
        shift, active = here["shift"].values, here["active"].values
        found = bootstrap_interval(shift, clusters=prompts_of(group), level=options.level, n_resamples=options.resamples,
                                   seed=options.seed)
        spread = float(np.nanstd(here["before"].values))
        values = (found.estimate, found.low, found.high, found.estimate / spread if spread else np.nan, active.mean(),
                  shift[active].mean() if active.any() else np.nan, len(group), found.n_clusters)
        for key, value in zip(rows, values, strict=True):
            rows[key].append(float(value))
    return xr.Dataset({key: ("group", values) for key, values in rows.items()}, coords={"group": list(groups)})


def _accuracies(model: RewardModel, steered: RewardModel, pairs: Sequence[Pair], options: SteeringOptions) -> xr.Dataset:
    margins = np.stack([rm.score(pairs).margin for rm in (model, steered)], axis=1)  # [pair, when]
    won = np.where(np.isfinite(margins), (np.sign(margins) + 1) / 2, np.nan)
    found = share_interval(won, prompts_of(pairs), level=options.level, n_resamples=options.resamples, seed=options.seed)
    return xr.Dataset({**found.variables("accuracy", "when"), "n_pairs": ((), len(pairs))},
                      coords={"when": ["before", "after"]})
