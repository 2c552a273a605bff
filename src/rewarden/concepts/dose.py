"""Does the reward follow a concept when texts are moved along it, and more than along any other direction?

In: a model, a `Direction`, texts, doses. Out: a Result with each text's change of reward at each dose, the slope, and slopes of
random directions of the same length. The edit engine computes every counterfactual. Ignorant of how the direction was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from rewarden.concepts.directions import Corpus, Direction, check_width, corpus_rows
from rewarden.concepts.places import Place, activations
from rewarden.edits.edit import Edit, EditBatch, Site
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.concepts import DoseOptions
from rewarden.result import Result
from rewarden.statistics.clustered import mean_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def dose_response(rm: RewardModel, concept: Direction, texts: Corpus, *, progress: Callable[[int], None] | None = None,
                  options: DoseOptions | None = None, **overrides: Any) -> Result:
    """What happens to the reward when activations are moved along a concept?

    One dose is the mean distance between texts with and without the concept, so that dose 1 is "as much of it as texts that
    have it". At "read" the head sees the moved state; at any other site all later layers are computed anew, exactly.

    Args:
        rm: the reward model.
        concept: the direction, at a site that can be edited.
        texts: conversations, pairs or contrasts (all their texts).
        progress: called with 1 after each text.
        options: `DoseOptions`; single fields may be given as keywords.

    Returns:
        Result "dose_response": `reward` (text), unmoved; `change` (text, dose), NaN where not finite; `slope` (text), least
        squares through 0, reward units a dose; `slope_mean` with `slope_low`, `slope_high` (t over prompts or seeds);
        `change_mean`, `change_low`, `change_high` (dose); `random_slope` (random), mean slopes along random directions of the
        same length, from the smallest dose each way, and `concept_slope`, the concept's from the same doses; `p` that a
        random direction is as steep (t with as many degrees of freedom as random directions: their slopes are normal, being
        sums over many coordinates); `ratio` of the two; `linear`, R² of the line through 0 over texts and doses; `above_noise`,
        whether the largest mean change is more than rounding.

    Raises:
        RewardenError: no texts, or a direction of another model's width.

    Example:
        >>> import rewarden as rw
        >>> from rewarden.concepts import direction
        >>> rm, pairs = rw.load(), [rw.Pair(f"Name {n} things.", f"**{n}** things!", f"{n} things.") for n in range(20, 32)]
        >>> bold = direction(rm, pairs, site="resid_post.4", controls=0)
        >>> found = dose_response(rm, bold, pairs[:2], doses=(-1, 1), randoms=5)
        >>> found.change.shape, found.random_slope.shape
        ((4, 2), (5,))
    """
    chosen = resolve(DoseOptions, options, overrides)
    rows, clusters = corpus_rows(rm, texts)
    check_width(concept, activations(rm, rows[:1], concept.place))
    vector = torch.as_tensor(concept.vector, dtype=torch.float32, device=rm.device)
    doses = np.asarray(chosen.doses)
    least = float(np.abs(doses).min())
    random = torch.as_tensor(random_directions(len(vector), chosen.randoms, chosen.seed), dtype=torch.float32, device=rm.device)
    moves = torch.cat([torch.as_tensor(doses, dtype=torch.float32, device=rm.device)[:, None] * vector,
                       least * vector[None], -least * vector[None], least * random, -least * random]) * concept.gap
    where = concept.place.positions if chosen.where == "same" else chosen.where
    rewards, changes, floors = [], [], [rm.noise_floor]
    for row in rows:
        base, moved, floor = _moved(rm, row, concept.place, moves, where)
        rewards.append(base)
        changes.append(moved - base)
        floors.append(floor)
        if progress:
            progress(1)
    change = np.where(np.isfinite(changes), changes, np.nan)  # [text, move]
    data = _described(np.asarray(rewards), change, clusters, doses, least, chosen, max(floors))
    asked = {"concept": concept.name, "site": str(concept.place), "texts": len(rows), "unit": concept.gap,
             **asdict(chosen), "doses": " ".join(f"{dose:g}" for dose in doses), "where": where}
    lost = int((~np.isfinite(change)).any(1).sum())
    warnings = (f"{lost} of {len(rows)} texts have a reward that is not finite when moved; they are set apart",) if lost else ()
    return Result("dose_response", data, {**rm.provenance(), **asked}, True, max(floors), warnings)


def random_directions(width: int, count: int, seed: int) -> np.ndarray:
    """Unit vectors drawn alike in all directions, float64 [count, width]."""
    found = np.random.default_rng((seed, 6)).standard_normal((count, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _moved(rm: RewardModel, row: Encoded, place: Place, moves: Tensor, where: str) -> tuple[float, np.ndarray, float]:
    """The reward of one text, its rewards after each move [m], and the size of rounding."""
    if place.normed:
        if where != "read":
            raise RewardenError("what the head sees stands where it reads only", where="where='response'",
                                fix="pass where='read', or find the direction at a site such as 'resid_post.3'")
        return _at_head(rm, row, moves)
    kind, layer = place.site.kind, place.site.layer
    base = rm.base(row, () if kind in ("resid_post", "resid_pre") else (kind,))
    values = moves
    if kind == "z" and place.site.head is None:  # the engine edits heads; several edits of one row act together
        heads = moves.unflatten(-1, (rm.architecture.n_heads, -1))
        at = _positions(rm, row, where)
        edits: Any = [[Edit(Site(kind, layer, at, h), move[h], "add") for h in range(len(move))] for move in heads]
    elif where == "read":
        spot = int(rm.readout.read(row).positions[-1])
        heads = None if place.site.head is None else np.full(len(moves), place.site.head)
        edits = EditBatch(Site(kind, layer, spot), values, "add", np.full(len(moves), spot), heads)
    else:
        at = _positions(rm, row, where)
        edits = [Edit(Site(kind, layer, at, place.site.head), value, "add") for value in values]
    found = rm.plan(base, edits).run()
    return base.reward, found.values[:, rm.main].double().cpu().numpy(), found.noise_floor


def _positions(rm: RewardModel, row: Encoded, where: str) -> tuple[int, ...]:
    found = np.flatnonzero(row.spans == RESPONSE) if where == "response" else rm.readout.read(row).positions[-1:]
    return tuple(int(position) for position in found)


def _at_head(rm: RewardModel, row: Encoded, moves: Tensor) -> tuple[float, np.ndarray, float]:
    """The same where the head sees the moved state itself: no layer is left to compute."""
    reading = rm.readout.read(row)
    trace = rm.trace(row, ["resid_post"], reading.positions)
    with torch.no_grad():
        normed = rm.readout.norm(trace["resid_post"][rm.read_layer].float())  # [R, d]
        moved = normed.repeat(len(moves), 1, 1)
        moved[:, -1] += moves
        base = rm.readout.apply_normed(normed, reading)[rm.main]
        found = rm.readout.apply_normed(moved, reading)[:, rm.main]
    return float(base), found.double().cpu().numpy(), 0.0


def _described(rewards: np.ndarray, change: np.ndarray, clusters: np.ndarray, doses: np.ndarray, least: float,
               options: DoseOptions, floor: float) -> xr.Dataset:
    """The arrays of the Result from changes [text, doses + 2 + 2·randoms]."""
    count = len(doses)
    own, (up, down) = change[:, :count], change[:, count:count + 2].T
    rest = change[:, count + 2:]
    slope = own @ doses / (doses @ doses)
    mean = mean_interval(slope, clusters, level=options.level)
    at = [mean_interval(column, clusters, level=options.level) for column in own.T]
    random = np.nanmean((rest[:, :options.randoms] - rest[:, options.randoms:]) / (2 * least), axis=0)
    concept = float(np.nanmean((up - down) / (2 * least)))
    size = float(np.sqrt((random**2).mean()))
    ratio = concept / size if size else np.nan
    left, total = np.nansum((own - slope[:, None] * doses) ** 2), np.nansum(own**2)
    largest = max(abs(float(one.estimate)) for one in at)
    return xr.Dataset({
        "reward": ("text", rewards), "change": (("text", "dose"), own), "slope": ("text", slope),
        "cluster": ("text", clusters),
        "slope_mean": float(mean.estimate), "slope_low": float(mean.low), "slope_high": float(mean.high),
        **{f"change_{name}": ("dose", np.array([float(getattr(one, field)) for one in at]))
           for name, field in (("mean", "estimate"), ("low", "low"), ("high", "high"))},
        "random_slope": ("random", random), "concept_slope": concept, "ratio": ratio,
        "p": float(2 * stats.t.sf(abs(ratio), options.randoms)) if np.isfinite(ratio) else np.nan,
        "linear": 1 - left / total if total else np.nan, "above_noise": largest > floor,
        "n_clusters": len(np.unique(clusters))}, coords={"dose": doses})
