"""Effects of patching estimated from gradients, and what the estimates are worth: a screen with exact verification.

In: a reward model, pairs, a budget. Out: an `estimate` Result. The counterfactuals are those of `patch`, made by the same code;
where they fit the budget they are computed, else estimated, and some of them are computed to measure the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.edits import backend_of
from rewarden.options import EstimateOptions, resolve
from rewarden.patching.cells import PER_HEAD
from rewarden.patching.pair import PairSweep
from rewarden.patching.screen import Screen
from rewarden.patching.sources import require_one_model
from rewarden.patching.summary import Variables
from rewarden.patching.sweep import assemble, axes_of, coordinates_of, longest, require_sites, stacked, warnings_of
from rewarden.patching.verification import Verified, measured
from rewarden.result import Result
from rewarden.scores import as_pairs

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

FEW = 20
"""Drawn cells below which agreement says little."""


def estimate_effects(rm: RewardModel, pairs: Pair | Sequence[Pair], sites: Sequence[str] | str | None = None,
                     mode: str | None = None, positions: str | None = None, alignment: str | None = None, *,
                     progress: Callable[[int], object] | None = None, options: EstimateOptions | None = None,
                     **overrides: Any) -> Result:
    """What does each activation do to the reward, roughly, and how roughly?

    With d = source − base at a site, and g the gradient of the reward:

    - method "attribution": d·g at the base run. 2 forwards a pair: a backward counts as one, for no weight gets a gradient.
      (Measured on a CPU: the time of 2.5 forwards.)
    - "integrated": d times the mean of g along the straight line from the base run's layer 0 input to the same with the
      source's rows (or zeros, or means) at every position with a counterpart, whatever `positions` asks for. So it is defined
      for unequal lengths, and over resid_pre of layer 0 it sums, as `steps` grows, to the effect of patching that site at all
      those positions: with equal lengths the margin. 2·steps forwards.
    - "atp_star": the two corrections of AtP*. QK fix: for q and k the new softmax is computed, and only what attention returns
      enters to first order. GradDrop: the size is the mean over layers of |d·g| with g kept from flowing through what that
      layer writes, over L − 1 layers for sites inside a layer, for which its own layer has none, over L for the residual stream
      (which the paper does not treat); the sign, which the paper leaves out, is that of d·g. z, v, attn_out, mlp_out and the
      residual stream have no fix besides GradDrop; neurons are not treated. L + 2 forwards.

    Args:
        rm: the reward model.
        pairs: one pair or several.
        sites, mode, positions, alignment: as for `patch`.
        progress: called with the number of pairs finished.
        options: `EstimateOptions`; single fields may be given as keywords (method=, budget=, top=, sample=, steps=, ...).

    Returns:
        Result of kind "estimate". Where the exact sweep of every pair fits the budget: exact=True, and all of `patch`.
        Else exact=False: `effect`, `effect_heads`, ... with the axes and coordinates of `patch`, estimates but in the pairs
        where `screened` (pair) is False, also at verified cells, so that all of them compare; `mean` (`mean_heads`, ...)
        over pairs. `verified` (`verified_heads`, ...): the exact effect of this cell is known; `below_noise` and
        `above_noise` say what it is next to the noise floor, and both are False for estimates. `exact_effect`, `estimate`,
        `drawn` ("top" or "random") of the verified cells of screened pairs (cell); their place is in `cell_pair`,
        `cell_variable`, `cell_site`, `cell_layer`, `cell_head` (−1: none) and `cell_position` (0: the positions asked for,
        together). Agreement: see `rewarden.patching.verification.measured`.
        `margin`, `reward_base`, `reward_source` (pair). Provenance: `forwards` spent, and `forwards_exact` needed for all.

    Raises:
        RewardenError: as for `patch`.

    Source: attribution patching, Nanda 2023; Syed et al. 2023 (arXiv 2310.10348). Integrated gradients: Hanna et al. 2024
    (arXiv 2403.17806). AtP*: Kramár et al. 2024 (arXiv 2403.00745).

    Example:
        >>> import rewarden as rw
        >>> rm, pair = rw.load(), rw.Pair("Hi", "Hello!", "Go away.")
        >>> rw.estimate_effects(rm, pair).exact, rw.estimate_effects(rm, pair, budget=0, resamples=200).exact
        (True, False)
    """
    require_one_model(rm)
    given = {"sites": sites, "mode": mode, "positions": positions, "alignment": alignment}
    chosen = resolve(EstimateOptions, options, {**{k: v for k, v in given.items() if v is not None}, **overrides})
    require_sites(rm, chosen.sites)
    screen = Screen(rm, as_pairs(pairs), chosen)
    sweeps = []
    for index in range(len(screen.pairs)):
        sweeps.append(screen.run(index))
        if progress:
            progress(1)
    if screen.screened:
        return _estimated(screen, sweeps)
    exact = assemble(screen, sweeps)
    return replace(exact, kind="estimate", provenance={**exact.provenance, "forwards_exact": exact.provenance["forwards"]})


def _estimated(screen: Screen, sweeps: Sequence[PairSweep]) -> Result:
    """The Result of sweeps some of which are estimates."""
    options, rm, n = screen.options, screen.rm, len(sweeps)
    floor = max(rm.noise_floor, *(sweep.noise_floor for sweep in sweeps))
    width = longest(screen)
    data: Variables = {"screened": (("pair",), np.isin(np.arange(n), list(screen.screened)))}
    sizes: dict[str, int] = {}
    for suffix in sweeps[0].effects:
        axes = axes_of(suffix, options.positions)
        found = [sweep.effects[suffix] for sweep in sweeps]
        known = [screen.screened[i].known(suffix, one) if i in screen.screened else one for i, one in enumerate(found)]
        effect, exact = (stacked(values, width if options.positions == "each" else None) for values in (found, known))
        sizes |= dict(zip(axes, effect.shape, strict=True))
        count = np.isfinite(effect).sum(0)
        mean = np.where(count > 0, np.nansum(effect, 0) / np.maximum(count, 1), np.nan)
        data |= {f"effect{suffix}": (axes, effect), f"mean{suffix}": (axes[1:], mean),
                 f"verified{suffix}": (axes, np.isfinite(exact)), f"below_noise{suffix}": (axes, np.abs(exact) <= floor),
                 f"above_noise{suffix}": (axes, np.abs(exact) > floor)}
    for name in ("margin", "reward_base", "reward_source"):
        data[name] = (("pair",), np.asarray([getattr(sweep, name) for sweep in sweeps]))
    nothing = Verified(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, bool), 0)
    data |= measured([screen.screened[i].verified if i in screen.screened else nothing for i in range(n)], floor, options)
    coordinates = coordinates_of(screen, sizes)
    table = _cell_table(screen, coordinates["pair"])
    spent = sum(sweep.forwards for sweep in sweeps)
    asked = {**asdict(options), "sites": ", ".join(options.sites), "backend": backend_of(rm).name, "forwards": round(spent, 6),
             "forwards_exact": round(spent + sum(one.saved for one in screen.screened.values()), 6),
             "edits": sum(sweep.edits for sweep in sweeps)}
    warnings = (*warnings_of([sweep.apart for sweep in sweeps], sum(sweep.lost for sweep in sweeps)),
                *_cautions(screen, int(data["sampled"][1])))
    return Result("estimate", xr.Dataset(data, coords=coordinates).merge(table), {**rm.provenance(), **asked}, exact=False,
                  noise_floor=floor, warnings=warnings)


def _cautions(screen: Screen, sampled: int) -> tuple[str, ...]:
    """What the reader of estimates must know."""
    n, some = len(screen.pairs), len(screen.screened)
    found = (f"effects of {some} of {n} pairs are estimates; exact_effect holds the exact ones of the verified cells",)
    if sampled < FEW:
        found += (f"agreement is measured on {sampled} drawn cells only; raise sample= to know it better",)
    if (saved := sum(one.saved for one in screen.screened.values())) <= 0:
        found += (f"the exact effects would have cost {-saved:.3g} forwards less than these estimates; raise budget=",)
    return found


def _cell_table(screen: Screen, names: Sequence[str]) -> xr.Dataset:
    """The cells that were verified: estimate, exact effect, how each was drawn, and where it is."""
    columns: dict[str, list[Any]] = {name: [] for name in (
        "exact_effect", "estimate", "drawn", "cell_pair", "cell_variable", "cell_site", "cell_layer", "cell_head",
        "cell_position")}
    whole = [kind for kind in screen.options.sites if kind not in PER_HEAD]
    kind_of = {suffix: kind for kind, suffix in PER_HEAD.items()}
    for index, one in screen.screened.items():
        verified, length = one.verified, screen.base_row(index).length
        for suffix, place in one.places.items():
            for cell in np.argwhere(np.isin(place, verified.rows)):
                row = int(np.searchsorted(verified.rows, place[tuple(cell)]))
                first, second, *position = (int(i) for i in cell)
                drawn = "random" if verified.random[row] else "top"
                place_of = (kind_of[suffix], first, second) if suffix else (whole[first], second, -1)
                values = (verified.exact[row], verified.estimate[row], drawn, names[index], f"effect{suffix}", *place_of,
                          position[0] - length if position else 0)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    data = {name: ("cell", np.asarray(columns.pop(name))) for name in ("exact_effect", "estimate", "drawn")}
    return xr.Dataset(data, coords={name: ("cell", np.asarray(values)) for name, values in columns.items()})
