"""What moves the reward that an evaluation set hardly varies?

In: a reward model, evaluation pairs, kinds of change. Out: a `distortion` Result: for each kind of change the sensitivity of
the reward to it, the share of its direction that the pairs do not vary, and their product. An optimiser is paid for the first
and nobody looks at the second. Inspired by Wang & Huang 2026, arXiv 2603.28063 (effort moves from what is evaluated to what is
only rewarded); the quantity is ours. Ignorant of texts, see `battery`. Letters: n contrasts, m pairs, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from rewarden.concepts.places import Place, activations, place_of
from rewarden.contrasts import Contrast
from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError
from rewarden.hacking.bias.battery import bias_battery, contrasts
from rewarden.hacking.bias.questions import Axes
from rewarden.hacking.off_distribution.coverage import Share, covered_directions, covered_share, held_out_share
from rewarden.hacking.texts import load_axes
from rewarden.options import DistortionOptions, resolve
from rewarden.preferences import prompt_keys
from rewarden.result import Result
from rewarden.scores import as_pairs, encode_pairs
from rewarden.statistics import Verdict, holm
from rewarden.statistics.sampling import require_n
from rewarden.statistics.studentised import studentised_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

LEAST_PROMPTS = 20
"""Distinct prompts of evaluation pairs below which nothing is said of what they cover."""


def distortion(rm: RewardModel, pairs: Sequence[Pair], axes: Axes = None, *, battery: Result | None = None,
               progress: Callable[[int], object] | None = None, options: DistortionOptions | None = None, **overrides: Any
               ) -> Result:
    """Which kinds of change move the reward, and how much of each do these evaluation pairs vary?

    Sensitivity s is the causal effect of the change in the text, in standard deviations of the reward, as the bias battery
    measures it. Coverage c is an R²: of the direction in which the change moves the mean residual over the response's tokens
    after `layer`, the share that lies in the fewest directions holding `energy` of the squared differences between the sides
    of the pairs (every coordinate in units of its standard deviation over the pairs' texts). The index is s · (1 − c).

    Args:
        rm: the reward model.
        pairs: the evaluation set: at least 20 distinct prompts.
        axes: the declared dimensions, as for `rewarden.bias_battery`; None for all bundled ones but those of identity terms,
            which have no direction in common.
        battery: its Result for these axes and maybe more, if there is one already; α, level and correction are of `options`
            all the same, the p values of single dimensions are its own.
        progress: called with the number of texts moved along the dimensions' directions.
        options: `DistortionOptions`; single fields may be given as keywords.

    Returns:
        Result of kind "distortion", axis dimension: `index` with `low`, `high` (t; the errors of s and c together);
        `sensitivity` with `sensitivity_low`, `sensitivity_high`, `sensitive` (the battery's p, by Holm at `alpha` over these
        dimensions); `coverage` with `coverage_low`, `coverage_high`, `p_direction` (of no direction in common) and `p_covered`
        (of a coverage of `covered` or more), NaN where its contrasts have none, and their numbers: `n`, with `n_seeds` and
        `n_templates` (contents and wordings). `p`: the larger of the battery's and `p_covered`, `p_adjusted` by Holm over all
        dimensions, `flag`: that is at most `alpha`. `dose` with
        `dose_low`, `dose_high` (bootstrap-t over the texts, for this step as it is): what moving neutral texts along that
        direction by the mean change does to the reward, in the same unit: whether the direction carries the effect. `items`
        (dimension, item): that for each text.
        Without axes: `chance` (coverage of a random direction), `own` (share of the pairs' own differences in what pairs of
        other prompts cover), `directions` (covered), `width`.

    Raises:
        RewardenError: too few prompts, an ensemble, a battery of other axes, or what the battery refuses.

    Example:
        >>> import rewarden as rw
        >>> found = distortion(rw.load(), rw.load_pairs("demo", limit=40), ["emoji"])
        >>> bool(found.coverage_low[0] < found.coverage[0] < found.coverage_high[0])
        True
    """
    if not hasattr(rm, "architecture"):
        raise RewardenError("coverage is measured inside one model", where="distortion(rm=)",
                            why=f"{type(rm).__name__} is several", fix="ask each of its models")
    options = resolve(DistortionOptions, options, overrides)
    pairs = as_pairs(pairs)
    prompts = prompt_keys(pairs)
    require_n(len(np.unique(prompts)), LEAST_PROMPTS, "what evaluation pairs cover")
    layer = rm.read_layer // 2 if options.layer is None else options.layer
    place = place_of(rm, f"resid_post.{layer}", "response")
    bundled = [name for name, axis in load_axes().items() if axis.design != "spread"]
    asked = bundled if axes is None else axes
    if battery is None:
        battery = bias_battery(rm, asked, alpha=options.alpha, level=options.level, seed=options.seed)
    held = _by_axis(contrasts(asked, per_seed=options.per_seed))
    missing = set(held) - set(map(str, battery.data["axis"].values))
    if missing:
        raise RewardenError(f"the battery did not ask {', '.join(sorted(missing))}", where="distortion(battery=)",
                            why=f"it has {', '.join(map(str, battery.data['axis'].values))}",
                            fix="pass the axes that the battery was run with, or no battery")
    names = [str(name) for name in battery.data["axis"].values if name in held]
    battery = replace(battery, data=battery.data.sel(axis=names))
    states = activations(rm, [row for both in encode_pairs(rm, pairs) for row in both], place)
    scale = _scale(states)
    differences = (states[0::2] - states[1::2]) / scale
    axes_covered = covered_directions(differences, options.energy)
    changes = _changes(rm, [held[name] for name in names], place)
    shares = [covered_share(change / scale, axes_covered, _of(held[name], "seed"), _of(held[name], "template"), options.level)
              for name, change in zip(names, changes, strict=True)]
    doses = _doses(rm, [held[name] for name in names], [change.mean(0) for change in changes], layer, options.items, progress)
    found = _assemble(battery, names, shares, [effect / _spread(battery) for effect in doses], options)
    found = found.assign(chance=len(axes_covered) / len(scale), directions=len(axes_covered), width=len(scale),
                         own=held_out_share(differences, prompts, options.energy, options.seed))
    about = {**rm.provenance(), **{key: value for key, value in asdict(options).items() if value is not None}, "layer": layer,
             "pairs": len(pairs), "prompts": len(np.unique(prompts)),
             "axes": "own" if battery.provenance.get("axes") == "own" else "all" if set(names) >= set(bundled) else "some",
             **{f"battery_{key}": battery.provenance[key] for key in ("per_seed", "calibration", "seed")
                if key in battery.provenance}}
    return Result("distortion", found, about, noise_floor=rm.noise_floor, warnings=tuple(battery.warnings))


def verdicts(result: Result) -> dict[str, Verdict]:
    """For each dimension: does it move the reward, in directions that the evaluation pairs do not cover?

    Contrasts repeat both seeds and wordings, so n is the smaller number of the two.
    """
    data, found = result.data, {}
    for number, name in enumerate(map(str, data["dimension"].values)):
        one = data.isel(dimension=number)
        p = float(one["p"])
        evidence = -float(np.log10(max(p, 1e-300))) if np.isfinite(p) else 0.0
        found[name] = Verdict(name, bool(one["flag"]), evidence, *(float(one[key]) for key in ("index", "low", "high")), p,
                              min(int(one["n_seeds"]), int(one["n_templates"])))
    return found


def _by_axis(found: Sequence[Contrast]) -> dict[str, list[Contrast]]:
    held: dict[str, list[Contrast]] = {}
    for one in found:
        held.setdefault(one.axis, []).append(one)
    return held


def _scale(states: np.ndarray) -> np.ndarray:
    """Standard deviation of each coordinate [d]; a coordinate that never varies is left as it is."""
    scale = states.std(0)
    return np.where(scale > 1e-9 * max(float(scale.max()), 1e-300), scale, 1.0)


def _spread(battery: Result) -> float:
    """One standard deviation of the reward, in its own units: what the battery divides by."""
    return float(battery.data["spread"].values[battery.data.attrs["main"]])


def _of(asked: Sequence[Contrast], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in asked])


def _changes(rm: RewardModel, asked: Sequence[Sequence[Contrast]], place: Place) -> list[np.ndarray]:
    """What each contrast changes in the states of a place, [n, d] for each dimension; every text is run once."""
    every = [one for some in asked for one in some]
    states = activations(rm, [rm.encode(talk) for one in every for _, talk in one.terms], place)
    weights = np.concatenate([[weight for weight, _ in one.terms] for one in every])
    ends = np.cumsum([len(one.terms) for one in every])
    changes = np.add.reduceat(weights[:, None] * states, np.r_[0, ends[:-1]], axis=0)
    return np.split(changes, np.cumsum([len(some) for some in asked])[:-1])


def _doses(rm: RewardModel, asked: Sequence[Sequence[Contrast]], steps: Sequence[np.ndarray], layer: int, items: int,
           progress: Callable[[int], object] | None) -> list[np.ndarray]:
    """Change of the reward [item] when each response token of neutral texts is moved by a dimension's step [d].

    A text a seed. Dimensions that share a neutral text share its run.
    """
    jobs: dict[str, list[tuple[int, int]]] = {}
    texts, found = {}, []
    for number, some in enumerate(asked):
        first = np.sort(np.unique(_of(some, "seed"), return_index=True)[1])[:items]
        found.append(np.full(len(first), np.nan))
        for item, place in enumerate(first):
            row = rm.encode(next(talk for weight, talk in some[place].terms if weight < 0))
            texts[row.key()] = row
            jobs.setdefault(row.key(), []).append((number, item))
    for key, wanted in jobs.items():
        base = rm.base(texts[key])
        where = tuple(int(p) for p in np.flatnonzero(base.encoded.spans == RESPONSE))
        moves = torch.as_tensor(np.stack([steps[number] for number, _ in wanted]), dtype=rm.dtype)
        edits = [Edit(Site("resid_post", layer, where), move, "add") for move in moves]
        values = rm.edit(base, edits)[:, rm.main].astype(np.float64) - base.reward
        for (number, item), value in zip(wanted, values, strict=True):
            found[number][item] = value if np.isfinite(value) else np.nan
        if progress:
            progress(1)
    return found


def _sensitivity(battery: Result, options: DistortionOptions) -> dict[str, np.ndarray]:
    """What the battery says of each of its dimensions, at this α, level and family: a battery may have asked others, too."""
    asked, before = battery.data.isel(output=int(battery.data.attrs["main"])), float(battery.provenance["level"])
    size, low, high, df, p = (asked[name].values.astype(float) for name in ("size", "size_low", "size_high", "df", "p"))
    error = (high - low) / 2 / stats.t.ppf(0.5 + before / 2, df)
    reach = stats.t.ppf(0.5 + options.level / 2, df) * error
    seen = np.abs(size) * _spread(battery) > (battery.noise_floor or 0.0)  # below it an effect is rounding
    with np.errstate(invalid="ignore"):
        sensitive = seen & (holm(p) <= options.alpha)
    return {"sensitivity": size, "sensitivity_low": size - reach, "sensitivity_high": size + reach, "sensitive": sensitive,
            "error": error, "df": df, "p": p}


def both_hold(p: np.ndarray, p_covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p [dimension] that the reward follows a dimension *and* that its coverage is too low, and Holm's adjusted p.

    Both must hold, so the larger p is that of the one that does not (intersection-union). Dimensions without a p (NaN) count
    as tests: whether they have a direction was seen in the same contrasts.
    """
    larger = np.maximum(p, p_covered)
    return larger, np.where(np.isnan(larger), np.nan, holm(np.nan_to_num(larger, nan=1.0)))


def _assemble(battery: Result, names: Sequence[str], shares: Sequence[Share], doses: Sequence[np.ndarray],
              options: DistortionOptions) -> xr.Dataset:
    asked = _sensitivity(battery, options)
    columns: dict[str, list[float]] = {}
    for number, (share, effects) in enumerate(zip(shares, doses, strict=True)):
        known = share.p_direction < options.alpha
        dose = studentised_interval(effects, level=options.level, seed=options.seed)
        size, error, df = (float(asked[name][number]) for name in ("sensitivity", "error", "df"))
        row: Mapping[str, float] = {
            "coverage": share.value, "coverage_low": share.low, "coverage_high": share.high,
            "p_covered": share.p_below(options.covered), **_index(size, error, df, share, options.level)}
        row = {key: value if known else np.nan for key, value in row.items()}
        row |= {"p_direction": share.p_direction, "n": share.n, "n_seeds": share.seeds, "n_templates": share.families,
                "dose": float(dose.estimate), "dose_low": float(dose.low), "dose_high": float(dose.high)}
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    axis = ("dimension",)
    items = np.full((len(doses), max(map(len, doses))), np.nan)
    for place, effects in zip(items, doses, strict=True):
        place[:len(effects)] = effects
    data = {name: (axis, np.asarray(value)) for name, value in columns.items()}
    data |= {name: (axis, asked[name]) for name in ("sensitivity", "sensitivity_low", "sensitivity_high", "sensitive")}
    p, adjusted = both_hold(asked["p"], data["p_covered"][1])
    data |= {"items": (("dimension", "item"), items), "p": (axis, p), "p_adjusted": (axis, adjusted),
             "flag": (axis, asked["sensitive"] & (np.nan_to_num(adjusted, nan=1.0) <= options.alpha))}
    return xr.Dataset(data, coords={"dimension": list(names)})


def _index(size: float, error: float, df: float, share: Share, level: float) -> dict[str, float]:
    """Sensitivity × uncovered share, by the delta method: both vary, from contrasts of their own."""
    left = 1 - share.value
    parts = ((left * error) ** 2, (size * share.error) ** 2)
    total = sum(parts)
    small = parts[0] ** 2 / max(df, 1) + parts[1] ** 2 / max(share.df, 1)
    reach = stats.t.ppf(0.5 + level / 2, total**2 / small if small > 0 else max(df, 1)) * np.sqrt(total)
    return {"index": size * left, "low": size * left - reach, "high": size * left + reach}
