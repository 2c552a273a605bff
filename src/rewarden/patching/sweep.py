"""Activation patching: what would the reward be if these activations were those of another run?

In: a reward model and pairs. Out: a `patch` Result, one exact effect per site, layer, head and position. One recorded run per
conversation and one plan of the edit engine per pair. Source: reward-lens, arXiv 2604.26130, whose alignment is from the left;
here every position has an explicit counterpart or none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.edits import backend_of
from rewarden.edits.backend import CONE
from rewarden.errors import RewardenError
from rewarden.options import PatchOptions, resolve
from rewarden.patching.cells import PER_HEAD
from rewarden.patching.kept import Kept
from rewarden.patching.pair import NOT_FINITE, UNEQUAL, PairSweep, Sweeper
from rewarden.patching.sources import require_one_model
from rewarden.patching.summary import Variables, prompt_clusters, summarise
from rewarden.result import Result
from rewarden.scores import as_pairs, pair_coordinates, set_apart

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def patch(rm: RewardModel, pairs: Pair | Sequence[Pair], sites: Sequence[str] | str | None = None, mode: str | None = None,
          positions: str | None = None, alignment: str | None = None, *, folder: str | os.PathLike[str] | None = None,
          progress: Callable[[int], object] | None = None, options: PatchOptions | None = None, **overrides: Any) -> Result:
    """What does each activation do to the reward?

    Args:
        rm: the reward model.
        pairs: one pair or several.
        sites, mode, positions, alignment: as the fields of `PatchOptions`, whose defaults hold where they are not given.
        folder: where finished pairs are kept; the same call with this folder goes on where a killed one stopped.
        progress: called with the number of pairs finished.
        options: `PatchOptions`; single fields may be given as keywords (alpha=, level=, resamples=, seed=).

    Returns:
        Result of kind "patch". The base run is that of the chosen response (mode "denoising": of the rejected one).
        `effect` (pair, site, layer): reward of the base run − reward when the site holds what it held in the source
        (denoising: the reverse), for sites that are whole vectors; `effect_heads` (pair, layer, head) for z, `effect_q`
        (pair, layer, head), `effect_k`, `effect_v` (pair, layer, kv_head). With positions="each" all have `position` as
        last axis, counted from the end: −1 is the last token of every pair. NaN where a position has no counterpart, or the
        counterfactual reward is not finite (these are counted in `warnings`).
        `normalized` (and `normalized_heads`, ...): the effect ÷ `margin`, NaN where the margin is within the noise.
        `mean`, `low`, `high`, `n`, `p`, `p_adjusted`, `marked`, `below_noise` of each, and `tests`, the number of cells
        tested together (not those that are exactly 0 in every pair): see `rewarden.patching.summary`.
        `reward_base`, `reward_source` (NaN without a source run), `margin` (pair). Coordinates `token`, `span` (−1 outside,
        0 template, 1 prompt, 2 response) and `aligned` (pair, position): where the source's counterpart stands, counted
        from the end of the source, 0 where there is none.

    Raises:
        RewardenError: options that are not allowed (all listed), a site this model lacks, no pairs, or none of equal
            length with alignment="equal_only".

    Example:
        >>> import rewarden as rw
        >>> rm, pair = rw.load(), rw.Pair("Hi", "Hello!", "Go away.")
        >>> last = rw.patch(rm, pair, sites=("resid_post",)).data["effect"].isel(layer=-1).item()
        >>> bool(np.isclose(last, rm.score(pair).margin[0], atol=1e-5))  # there the rejected reward is read
        True
    """
    require_one_model(rm)
    given = {"sites": sites, "mode": mode, "positions": positions, "alignment": alignment}
    chosen = resolve(PatchOptions, options, {**{k: v for k, v in given.items() if v is not None}, **overrides})
    require_sites(rm, chosen.sites)
    sweeper = Sweeper(rm, as_pairs(pairs), chosen)
    donors = None if sweeper.donors is None else [sweeper.pairs[i] for i in sweeper.donors]
    kept = Kept(folder, rm, sweeper.pairs, chosen, donors)
    known = [kept.load(index) for index in range(len(sweeper.pairs))]
    if progress and any(known):
        progress(sum(sweep is not None for sweep in known))
    sweeps = []
    for index, found in enumerate(known):
        sweep = found
        if sweep is None:
            sweep = sweeper.run(index)
            kept.save(index, sweep)
            if progress:
                progress(1)
        sweeps.append(sweep)
    return assemble(sweeper, sweeps)


def require_sites(rm: RewardModel, sites: Sequence[str]) -> None:
    """Refuse sites that this model does not have.

    Raises:
        RewardenError: names the site, and why the model lacks it.
    """
    for kind in sites:
        if kind in ("attn_out", "mlp_out"):
            rm.architecture.require("writes", f"patching {kind}")
        if kind == "z":
            rm.architecture.require("heads", "patching z")
        if kind in ("q", "k", "v") and backend_of(rm).name != CONE:
            raise RewardenError(f"patching {kind} is not defined for this model", where=type(rm.architecture.trunk).__name__,
                                why=f"queries, keys and values are edited by the {CONE} engine only: {backend_of(rm).reason}",
                                fix="patch z or attn_out")


def assemble(sweeper: Sweeper, sweeps: Sequence[PairSweep]) -> Result:
    """The `patch` Result of all pairs' sweeps."""
    rm, options = sweeper.rm, sweeper.options
    width = longest(sweeper)
    floor = max(rm.noise_floor, *(sweep.noise_floor for sweep in sweeps))
    margin = np.asarray([sweep.margin for sweep in sweeps])
    with np.errstate(invalid="ignore"):
        divisor = np.where(np.abs(margin) > floor, margin, np.nan)
    effects: Variables = {}
    data: Variables = {}
    for suffix in sweeps[0].effects:
        values = stacked([sweep.effects[suffix] for sweep in sweeps], width if options.positions == "each" else None)
        effects[suffix] = (axes_of(suffix, options.positions), values)
        data[f"effect{suffix}"] = effects[suffix]
        data[f"normalized{suffix}"] = (effects[suffix][0], values / divisor.reshape(-1, *[1] * (values.ndim - 1)))
    data |= summarise(effects, prompt_clusters(sweeper.pairs), options, floor)
    data["margin"] = (("pair",), margin)
    for name in ("reward_base", "reward_source"):
        data[name] = (("pair",), np.asarray([getattr(sweep, name) for sweep in sweeps]))
    sizes = {axis: size for axes, values in effects.values() for axis, size in zip(axes, values.shape, strict=True)}
    found = xr.Dataset(data, coords=coordinates_of(sweeper, sizes))
    asked = {**asdict(options), "sites": ", ".join(options.sites), "backend": backend_of(rm).name,
             "forwards": round(sum(sweep.forwards for sweep in sweeps), 6), "edits": sum(sweep.edits for sweep in sweeps)}
    warnings = warnings_of([sweep.apart for sweep in sweeps], sum(sweep.lost for sweep in sweeps))
    return Result("patch", found, {**rm.provenance(), **asked}, noise_floor=floor, warnings=warnings)


def axes_of(suffix: str, positions: str) -> tuple[str, ...]:
    """Axes of the effects called `effect` + suffix."""
    inner = {"": ("site", "layer"), "_k": ("layer", "kv_head"), "_v": ("layer", "kv_head")}.get(suffix, ("layer", "head"))
    return ("pair", *inner, "position") if positions == "each" else ("pair", *inner)


def stacked(values: Sequence[np.ndarray], width: int | None) -> np.ndarray:
    """Arrays of all pairs as one [pair, ...]; with a width, the last axis is positions and filled up with NaN at its start."""
    if width is None:
        return np.stack(values)
    out = np.full((len(values), *values[0].shape[:-1], width), np.nan)
    for row, value in zip(out, values, strict=True):
        row[..., width - value.shape[-1]:] = value
    return out


def longest(sweeper: Sweeper) -> int:
    """Tokens of the longest base run: the size of the axis `position`."""
    return max(sweeper.base_row(index).length for index in range(len(sweeper.pairs)))


def coordinates_of(sweeper: Sweeper, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Coordinates of a sweep: its pairs, those of the axes site, layer, head, kv_head that it has, and its tokens.

    Args:
        sweeper: of the sweep.
        sizes: axis → size, of all effects together.
    """
    named = {"site": [kind for kind in sweeper.options.sites if kind not in PER_HEAD],
             **{axis: np.arange(sizes.get(axis, 0)) for axis in ("layer", "head", "kv_head")}}
    return {**pairs_alone(sweeper.pairs), **{axis: values for axis, values in named.items() if axis in sizes},
            **token_coordinates(sweeper)}


def pairs_alone(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Coordinates of the axis `pair`, without those of the two sides: an effect is of both."""
    return {name: value for name, value in pair_coordinates(pairs).items() if name != "side"}


def token_coordinates(sweeper: Sweeper) -> dict[str, Any]:
    """Text, span and counterpart of every token of the base runs, (pair, position) counted from the end."""
    n, width = len(sweeper.pairs), longest(sweeper)
    token = np.full((n, width), "", dtype=object)
    span, aligned = np.full((n, width), -1, dtype=np.int8), np.zeros((n, width), dtype=np.int64)
    for index, found in enumerate(sweeper.positions_of):
        row, source = sweeper.base_row(index), sweeper.source_row(index)
        own = slice(width - row.length, None)
        token[index, own], span[index, own] = row.tokens, row.spans
        if source is not None:
            aligned[index, own] = np.where(found < 0, 0, found - source.length)
    axes = ("pair", "position")
    return {"position": np.arange(-width, 0), "token": (axes, token.astype(str)), "span": (axes, span),
            "aligned": (axes, aligned)}


def warnings_of(apart: Sequence[str], lost: int) -> tuple[str, ...]:
    """What a reader of effects must know: pairs and cells without any.

    Args:
        apart: of each pair why it has no effects, or "".
        lost: counterfactuals whose reward is not finite.

    Example:
        >>> warnings_of(["", ""], lost=2)
        ('2 counterfactuals have a reward that is not finite; their effects are missing',)
    """
    told = set_apart(np.asarray([why != NOT_FINITE for why in apart]))
    if UNEQUAL in apart:
        told += (f"{list(apart).count(UNEQUAL)} of {len(apart)} pairs have runs of unequal length, which "
                 "alignment='equal_only' leaves out; their effects are missing",)
    if lost:
        told += (f"{lost} counterfactuals have a reward that is not finite; their effects are missing",)
    return told
