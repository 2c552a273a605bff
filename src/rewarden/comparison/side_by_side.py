"""Two or more reward models on the same pairs: one Result that holds all that is compared.

In: reward models (or scores that were computed before) and pairs. Out: a `comparison` Result. Each part is its own module:
`rewards`, `depth`, `profiles`, `frames`, `similarity`, `batteries`. Ignorant of reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.comparison.depth import compare_depth
from rewarden.comparison.frames import compare_directions
from rewarden.comparison.inside import Inside, look_inside
from rewarden.comparison.members import Member, members_of
from rewarden.comparison.profiles import compare_profiles
from rewarden.comparison.rewards import compare_rewards
from rewarden.comparison.similarity import compare_states
from rewarden.conversation import Pair
from rewarden.options import CompareOptions, resolve
from rewarden.preferences import prompt_keys
from rewarden.result import Result
from rewarden.scores import as_pairs, pair_coordinates

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def compare(models: Sequence[RewardModel | Result], pairs: Pair | Sequence[Pair], *, names: Sequence[str] | None = None,
            scores: Sequence[Result | None] | None = None, batch_size: Any = "auto",
            progress: Callable[[int], None] | None = None, options: CompareOptions | None = None, **overrides: Any) -> Result:
    """Where do reward models agree, where do they part, and what do they share inside?

    Args:
        models: two or more reward models (ensembles too), or score Results of the same pairs, of which only rewards are
            compared. With `scalars=True` every scalar of a model with several outputs counts as one.
        pairs: one pair or several.
        names: one for each member; by default the models' own.
        scores: for each model its score Result of these pairs where it was scored before, else None.
        batch_size: rows per forward, or "auto".
        progress: called with the number of conversations done.
        options: `CompareOptions`; single fields may be given as keywords.

    Returns:
        Result of kind "comparison"; axes model, other (the same models), pair, side, inside (the pairs whose activations are
        compared). Intervals end in _low and _high; their units are prompts.

        *Rewards.* `reward` (model, pair, side), `margin` (model, pair), `spread` and `floor` (model: SD of rewards, rounding),
        `accuracy` and `n` (model), `accuracy_gap` (model, other; paired difference), `agreement` (share of pairs judged alike,
        a tie one half), `agreement_chance` (if mistakes were unrelated), `kappa`, `n_both`; `spearman`, `kendall` (quantity,
        model, other) over all responses and over margins.

        *Depth* (0 embedding, 1 where the reward is read). `lens_margin` (model, inside, depth) in reward units, `lens`
        (model, depth) its mean in SD of rewards, `lens_accuracy` (a tie one half), `lens_agreement` (model, other,
        depth; Spearman's ρ of lens margins), `crystallization` (model, rule) as a share of depth with `crystallization_n`
        pairs.

        *Parts.* `contribution` (model, inside, component) to the margin in SD of rewards; `share` (model, component) of the
        margin's mean square that a part writes, Σ d·margin / Σ margin², which sums to 1; `profile` (model, other), correlation
        of both models' shares over components; `shared_count`, `shared_jaccard` of the `top` largest, beside
        `shared_expected`, `shared_p` (hypergeometric) and the same `_by_kind` within kind and layer. Components are matched
        by name, or by kind and depth where models are built differently (`matched_by_name`).

        *Directions.* `frame_cosine` (quantity, model, other): the cosine of both reward directions in the frame of model's
        states, which is the correlation of both heads on those states; `frame_null`: what random directions stay below in 95
        of 100 draws; `raw_cosine`; `no_frame`: why there is no frame, "" where there is one.

        *States.* `cka` (model, other, layer, other_layer) where the reward is read, `cka_null` (95 % quantile over shuffled
        prompts), `cka_n` prompts. Its intervals hold the truth in 93 to 97 of 100 samples, near 0 in up to 99.

        With `bias`, `bias_*` (model or model and other, axis): the battery of each model, asked as `bias_battery` asks it alone
        (`bias_calibration`, `bias_factor`: with its own tokenizer), and differences; gaps for each token are NaN between models
        that count different tokens. With `vocabulary`, `vocabulary_tau` and `vocabulary_spearman` (prompt, model, other) over
        the tokens all models have.

    Raises:
        RewardenError: fewer than two members, scores of other pairs, a pair that a model cannot encode, unknown options.

    Source: CKA and frames as in `rewarden.comparison.cka` and `frame_cosine`; the lens as in `rewarden.reward_lens`.

    Example:
        >>> import rewarden as rw
        >>> pairs = rw.load_pairs("demo", limit=8)
        >>> found = rw.compare([rw.load(), rw.load("demo:reward_model_b")], pairs, resamples=100)
        >>> found.data["cka"].dims, str(found.data["no_frame"].values[0, 1])
        (('model', 'other', 'layer', 'other_layer'), '')
    """
    chosen = resolve(CompareOptions, options, overrides)
    pairs = as_pairs(pairs)
    members = members_of(models, pairs, names, each_scalar=chosen.scalars, scores=scores, batch_size=batch_size,
                         progress=progress)
    clusters = prompt_keys(pairs)
    data, warnings = compare_rewards(members, clusters, chosen), _set_apart(members)
    if any(member.rm is not None for member in members) and chosen.inside_pairs:
        inside, notes = _compare_inside(members, pairs, clusters, chosen)
        data, warnings = data.merge(inside), [*warnings, *notes]
    if chosen.vocabulary:
        from rewarden.comparison.vocabularies import compare_vocabularies

        data = data.merge(compare_vocabularies(members, chosen))
    if chosen.bias:
        from rewarden.comparison.batteries import compare_batteries

        batteries, notes = compare_batteries(members, chosen)
        data, warnings = data.merge(batteries), [*warnings, *notes]
    labels = [member.name for member in members]
    data = data.assign_coords(model=labels, other=labels, **{
        name: value for name, value in pair_coordinates(pairs).items() if name != "side"}, side=["chosen", "rejected"])
    return Result("comparison", data, _provenance(members, chosen), exact=True,
                  noise_floor=max(member.floor for member in members), warnings=tuple(warnings))


def _set_apart(members: Sequence[Member]) -> list[str]:
    """Pairs with a reward that is not finite, by model."""
    finite = {member.name: np.isfinite(member.margin) for member in members}
    apart = [f"{int((~known).sum())} of {len(known)} pairs have a non-finite reward of {name}; they are set apart where it is "
             "compared" for name, known in finite.items() if not known.all()]
    return apart + [f"no pair has a finite reward of both {one} and {other}: they are not compared"
                    for one, other in combinations(finite, 2) if not (finite[one] & finite[other]).any()]


def _compare_inside(members: Sequence[Member], pairs: Sequence[Pair], clusters: np.ndarray, options: CompareOptions
                    ) -> tuple[xr.Dataset, list[str]]:
    """The parts that look into models, on a sample of the pairs."""
    finite = np.flatnonzero(np.all([np.isfinite(member.margin) for member in members], axis=0))
    if len(finite) == 0:
        return xr.Dataset(), ["no pair has a finite reward of every model: nothing inside the models is compared"]
    drawn = np.random.default_rng(options.seed).permutation(finite)[:options.inside_pairs]
    rows = np.sort(drawn)
    found = look_inside(members, [pairs[row] for row in rows], options)
    spread, floor = (np.asarray([getattr(member, name) for member in members]) for name in ("spread", "floor"))
    where = clusters[rows]
    data = compare_depth(found, spread, floor, where, options).merge(compare_states(found, where, options))
    data = data.merge(compare_directions(members, found, where, options))
    if any(inside is not None and inside.ledger is not None for inside in found):
        data = data.merge(compare_profiles(found, spread, where, options))
    return data.assign_coords(inside=rows), _notes(members, found, data)


def _notes(members: Sequence[Member], found: Sequence[Inside | None], data: xr.Dataset) -> list[str]:
    """What could not be compared, and why."""
    names = [member.name for member in members]
    notes = [f"only scores are compared of {name}" for name, inside in zip(names, found, strict=True) if inside is None]
    notes += [f"{name} has no ledger of its parts: {inside.no_ledger}" for name, inside in zip(names, found, strict=True)
              if inside is not None and inside.no_ledger]
    reasons = dict.fromkeys(str(reason) for reason in data["no_frame"].values[np.triu_indices(len(names), 1)] if reason)
    if "matched_by_name" in data and not bool(data["matched_by_name"]):
        notes.append("the models are built differently: parts are matched by kind and depth, not by name")
    return [*notes, *(f"reward directions are not compared: {reason}" for reason in reasons if "only scores" not in reason)]


def _provenance(members: Sequence[Member], options: CompareOptions) -> dict[str, str | int | float | bool]:
    names = [member.name for member in members]
    own = {f"{place}.{key}": value for place, member in enumerate(members) for key, value in member.facts.items()}
    return {"model": " and ".join(names), "models": json.dumps(names), **asdict(options), **own}
