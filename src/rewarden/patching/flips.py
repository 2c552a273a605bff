"""Minimal preference flips: which few activations carry the preference?

In: a reward model and pairs. Out: a `flip` Result: for each pair a small set of edits that turns the sign of the margin, and
what knocking the set out, restoring it, and random sets of its size do. Source of the controls: Heimersheim & Nanda, arXiv
2404.15255 (what noising shows and what denoising shows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.edits import backend_of
from rewarden.options import FlipOptions, resolve
from rewarden.patching.pair_flips import Flips, PairFlip
from rewarden.patching.sources import require_one_model
from rewarden.patching.summary import Variables, prompt_clusters
from rewarden.patching.sweep import require_sites
from rewarden.result import Result
from rewarden.scores import as_pairs, pair_coordinates
from rewarden.statistics import bootstrap_interval, wilson

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

CONTROLS = ("knockout", "rescue", "knockout_random", "rescue_random")


def flip(rm: RewardModel, pairs: Pair | Sequence[Pair], *, progress: Callable[[int], object] | None = None,
         options: FlipOptions | None = None, **overrides: Any) -> Result:
    """What is the smallest set of activations that turns the preference round?

    Edits act on the chosen run: an activation becomes what the rejected run holds there (mode "noising") or zero. The rejected
    reward stays. The pair is flipped when (edited chosen reward − rejected reward) has the other sign than the margin, by
    more than the noise; where the model prefers the rejected response, that means that the edited chosen one wins.

    **How small is "smallest"?** Sizes up to `exhaustive` (1 unless asked for more) are exact: no smaller set of the candidates
    flips the pair. A larger size is that of a greedy search and an upper bound. At each step all remaining candidates are
    evaluated together with those taken, exactly, never added up from single effects; the set is then pruned until no
    single edit can be left out. Two edits that only work together are missed by the greedy search, and a first edit that
    takes up most of the state can lead it astray; `exhaustive=2` tries all pairs of edits. Patching all of the difference gives
    the rejected reward, a margin of 0 and no flip: a set flips only by leaving alone what speaks for the rejected response.
    The residual that is read is therefore no candidate.

    **Controls** of a set that flips: knock-out, the set patched in the chosen run; rescue, the set restored from the chosen run
    inside the rejected run; both also for random sets of the same size out of the other candidates. A set that is necessary
    but not sufficient has a large knock-out and a small rescue.

    Args:
        rm: the reward model.
        pairs: one pair or several.
        progress: called with the number of pairs finished.
        options: `FlipOptions`; single fields may be given as keywords (mode=, sites=, positions=, max_size=, exhaustive=, ...).

    Returns:
        Result of kind "flip".
        `size` (pair): edits in the set; NaN where no set was found. `status` (pair): "flipped", or why not; pairs with a margin
        within the noise are skipped. `site` (pair, step): the edits in the order they were taken, such as "head.3.5", "mlp.3",
        "resid_post.3@-2" (that token from the end), "" after the last; of pairs that did not flip, how far the search came.
        `margin_after` (pair, step): edited chosen reward − rejected reward after the first edits. `pruned` (pair): edits that
        the greedy search took and that turned out not to be needed. `candidates` (pair).
        `knockout` (pair): chosen reward − reward of the knocked out run; `rescue` (pair): reward of the rescued run − rejected
        reward; `knockout_random`, `rescue_random` (pair, draw), and their mean over draws with a bootstrap interval:
        `knockout_random_mean`, `_low`, `_high`, the same of rescue (pair); `random_flips` (pair): share of the random sets
        that flip the pair. NaN where no set was found, or too few candidates remain to draw from.
        `summary` (quantity, statistic) mean, low, high over flipped pairs, bootstrap clustered by prompt, of `size`, and of the
        margin and the controls times the sign of the margin (so that a knock-out that flips is larger than the margin);
        `n` (quantity). `flipped` (statistic): share of the pairs searched, with Wilson's interval. `margin`, `reward`
        (pair, side).

    Raises:
        RewardenError: options that are not allowed, a site this model lacks, no pairs, more sets than can be tried.

    Example:
        >>> import rewarden as rw
        >>> pair = rw.Pair("How are you?", "Fine, thank you for asking.", "Bad.")
        >>> found = rw.flip(rw.load(), pair, max_size=4)
        >>> after = found.margin_after[0][np.isfinite(found.margin_after[0])]
        >>> found.status[0] == "flipped", bool(found.margin[0] * after[-1] < 0)
        (True, True)
    """
    require_one_model(rm)
    chosen = resolve(FlipOptions, options, overrides)
    heads = "mlp_out" if "heads" in rm.architecture.gaps else "z"
    default = ("resid_post",) if chosen.positions == "each" else tuple(dict.fromkeys((heads, "mlp_out")))
    flips = Flips(rm, as_pairs(pairs), chosen, chosen.sites or default)
    require_sites(rm, flips.sites)
    found = []
    for index in range(len(flips.pairs)):
        found.append(flips.run(index))
        if progress:
            progress(1)
    return assemble(flips, found)


def assemble(flips: Flips, found: Sequence[PairFlip]) -> Result:
    """The `flip` Result of all pairs."""
    rm, options = flips.rm, flips.options
    data = _sets(found, options.max_size) | _controls(flips, found)
    data |= _summary(data, flips, np.asarray([not flip.skipped for flip in found]))
    coordinates = {**pair_coordinates(flips.pairs), "step": np.arange(1, options.max_size + 1),
                   "draw": np.arange(options.draws), "quantity": ["size", "margin", *CONTROLS],
                   "statistic": ["mean", "low", "high"]}
    cost = {"backend": backend_of(rm).name, "forwards": round(sum(flip.forwards for flip in found), 6),
            "edits": sum(flip.edits for flip in found)}
    floor = max(rm.noise_floor, *(flip.noise_floor for flip in found))
    skipped = [flip.skipped for flip in found if flip.skipped]
    warnings = tuple(f"{skipped.count(why)} of {len(found)} pairs are skipped: {why}" for why in dict.fromkeys(skipped))
    return Result("flip", xr.Dataset(data, coords=coordinates),
                  {**rm.provenance(), **asdict(options), "sites": ", ".join(flips.sites), **cost}, noise_floor=floor,
                  warnings=warnings)


def _sets(found: Sequence[PairFlip], max_size: int) -> Variables:
    """The sets themselves."""
    site, after = np.full((len(found), max_size), "", dtype=object), np.full((len(found), max_size), np.nan)
    for row, flip in enumerate(found):
        site[row, :len(flip.names)] = flip.names
        after[row, :len(flip.names)] = np.sign(flip.margin) * np.asarray(flip.found.values)
    status = ["flipped" if flip.found.reached else flip.skipped or flip.found.reason for flip in found]
    return {"site": (("pair", "step"), site.astype(str)), "margin_after": (("pair", "step"), after),
            "size": (("pair",), np.asarray([len(flip.names) if flip.found.reached else np.nan for flip in found])),
            "status": (("pair",), np.asarray(status)), "pruned": (("pair",), np.asarray([flip.found.pruned for flip in found])),
            "candidates": (("pair",), np.asarray([flip.candidates for flip in found])),
            "margin": (("pair",), np.asarray([flip.margin for flip in found])),
            "reward": (("pair", "side"), np.asarray([flip.reward for flip in found]))}


def _controls(flips: Flips, found: Sequence[PairFlip]) -> Variables:
    """Knock-out and rescue as effects, of the sets and of random ones."""
    chosen, rejected = np.asarray([flip.reward for flip in found]).T
    drawn = {name: np.stack([getattr(flip, name) for flip in found]) for name in CONTROLS[2:]}  # [pair, draw]
    with np.errstate(invalid="ignore"):  # rewards that are not finite stay NaN
        effects = {"knockout_random": chosen[:, None] - drawn["knockout_random"],
                   "rescue_random": drawn["rescue_random"] - rejected[:, None]}
        sign = np.sign(chosen - rejected)[:, None]
    data: Variables = {"knockout": (("pair",), chosen - [flip.knockout for flip in found]),
                       "rescue": (("pair",), [flip.rescue for flip in found] - rejected)}
    options = flips.options
    for name, values in effects.items():
        spread = bootstrap_interval(values.T, level=options.level, n_resamples=options.resamples, seed=options.seed)
        data[name] = (("pair", "draw"), values)
        for end, value in (("mean", spread.estimate), ("low", spread.low), ("high", spread.high)):
            data[f"{name}_{end}"] = (("pair",), np.asarray(value))
    noise = np.asarray([flip.noise for flip in found])
    turned = sign * (drawn["knockout_random"] - rejected[:, None]) < -noise[:, None]
    tried = np.isfinite(drawn["knockout_random"]).any(1)
    return data | {"random_flips": (("pair",), np.where(tried, turned.mean(1), np.nan))}


def _summary(data: Variables, flips: Flips, searched: np.ndarray) -> Variables:
    """Means over the pairs that flip, and the share that does."""
    size, options = data["size"][1], flips.options
    sign = np.where(np.isfinite(size), np.sign(data["margin"][1]), np.nan)
    names = ("margin", *(f"{name}_mean" if name.endswith("random") else name for name in CONTROLS))
    columns = [size, *(sign * data[name][1] for name in names)]
    spread = bootstrap_interval(np.stack(columns, 1), clusters=prompt_clusters(flips.pairs), level=options.level,
                                n_resamples=options.resamples, seed=options.seed)
    share = wilson(np.isfinite(size).sum(), searched.sum(), options.level)
    return {"summary": (("quantity", "statistic"), np.stack([spread.estimate, spread.low, spread.high], 1)),
            "n": (("quantity",), np.asarray(spread.n)),
            "flipped": (("statistic",), np.asarray([share.estimate, share.low, share.high], dtype=float))}
