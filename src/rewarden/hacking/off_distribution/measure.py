"""Which patched activations are farther out than nearly all clean ones, and what is left of the effects without them?

In: a reward model and pairs. Out: a `divergence` Result. Patching asks what would happen in states that the model may never be
in; effects of such states say little of what the model does. Source of the question: Grant, Han, Tartaglini & Potts 2025,
arXiv 2511.04638 (their measure is another one); the p values: Vovk, Gammerman & Shafer 2005, conformal prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.conversation import Conversation, Pair
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.hacking.off_distribution.clean import Clean, Key
from rewarden.hacking.off_distribution.kept import change_without, mean_ends
from rewarden.hacking.off_distribution.patched import FIELDS, WatchedSweeper
from rewarden.options import DivergenceOptions, PatchOptions, resolve
from rewarden.patching.pair import PairSweep
from rewarden.patching.sources import require_one_model
from rewarden.patching.summary import summarise
from rewarden.patching.sweep import require_sites, warnings_of
from rewarden.result import Result
from rewarden.scores import as_pairs, encode_pairs, pair_coordinates
from rewarden.statistics import Verdict, benjamini_hochberg, content_clusters
from rewarden.statistics.shares import share_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def divergence(rm: RewardModel, pairs: Pair | Sequence[Pair], *, clean: Sequence[Pair | Conversation] = (),
               progress: Callable[[int], object] | None = None, options: DivergenceOptions | None = None,
               **overrides: Any) -> Result:
    """Do patched activations leave the range of clean ones, and what are effects without those that do?

    Every component is patched where the reward is read. Its state is the activation put in and the residual stream after its
    layer and after all later layers; the largest standardised distance of these from clean activations is ranked among the
    same quantity of clean runs of other prompts, one of each. In two halves of the prompts, distances of the one are fitted on
    the other, and standardised with the tested state among the clean ones, so that a clean state is called divergent with
    probability α at most, whatever the width and the number of prompts.

    Args:
        rm: the reward model; one that reads one position.
        pairs: those that are patched.
        clean: further pairs or conversations whose clean states are compared with, such as all pairs of which `pairs` are some.
        progress: called with the number of pairs finished.
        options: `DivergenceOptions`; single fields may be given as keywords.

    Returns:
        Result of kind "divergence", axes pair and component (coordinates site, layer, head; −1 where there is no head).
        Per pair: `effect` as of `rewarden.patch`; `p_state` (NaN where nothing was put in), and its parts `p_source` (the
        activation put in) and `p_stream` (the stream from the layer on); `divergent` (p_state ≤ alpha); `worst_layer` of the
        stream. Of the residual that is read: `p_reward` (the part that the reward's frozen direction reads), `p_null` (the
        rest), `null_share` (of the squared change, the share at right angles to that direction), and `null_only`: divergent,
        with p_reward > alpha.
        Per component: `share` of divergent pairs with `share_low`, `share_high`; `share_p` of so many if each were divergent
        with probability α (first pair of each prompt; beta-binomial, as the rank among clean rows is itself an estimate),
        `share_q` (Benjamini-Hochberg), `marked`. `mean`, `low`, `high` (bootstrap-t over prompts), `n`, `effect_p`,
        `effect_marked` of the effects of all pairs, and of those that are not divergent `kept_mean`, `kept_low`, `kept_high`,
        `kept_n`, `kept_p`, `kept_marked`; `shift` with `shift_low`, `shift_high`: mean − kept_mean, of the same pairs.
        `suspect`: marked, and its effect is (effect_marked): an effect, part of which was measured in states farther out than
        1 − α of clean ones, more often than happens to clean runs.
        `clean_rows` (half), `margin`, `reward_base` (pair).

    Raises:
        RewardenError: options that are not allowed, several read positions, a site this model lacks, or too few prompts.

    Example:
        >>> import rewarden as rw
        >>> pairs = rw.load_pairs("demo", limit=60)
        >>> found = divergence(rw.load(), pairs[:6], clean=pairs, sites=("attn_out",), resamples=100)
        >>> found.data["p_state"].dims
        ('pair', 'component')
    """
    require_one_model(rm)
    chosen = resolve(DivergenceOptions, options, overrides)
    require_sites(rm, chosen.sites)
    pairs = as_pairs(pairs)
    rows = [row for both in encode_pairs(rm, pairs) for row in both] + [rm.encode(talk) for talk in _conversations(clean)]
    prompts = content_clusters([repr(talk.prompt) for talk in _conversations([*pairs, *clean])])
    known = _clean(rm, rows, prompts, chosen)
    sweep_options = PatchOptions(sites=chosen.sites, mode=chosen.mode, alpha=chosen.alpha, level=chosen.level,
                                 resamples=chosen.resamples, seed=chosen.seed)
    components = _components(rm, chosen.sites)
    sweeper = WatchedSweeper(rm, pairs, sweep_options, known, prompts[:2 * len(pairs):2], components)
    sweeps = []
    for index in range(len(pairs)):
        sweeps.append(sweeper.run(index))
        if progress:
            progress(1)
    return _assemble(sweeper, sweeps, chosen)


def verdicts(result: Result) -> dict[str, Verdict]:
    """For each component: does it have an effect, and do its patched states leave the clean range more often than clean runs?

    Both must hold. That states are far out is no finding by itself: in random weights too, a write that does not fit the rest
    of the stream is farther out than most clean states. The p is the larger of both.
    """
    data, found = result.data, {}
    for number, name in enumerate(map(str, data["component"].values)):
        one = data.isel(component=number)
        share, low, high = (float(one[key]) for key in ("share", "share_low", "share_high"))
        p = float(np.fmax(np.nan_to_num(one["share_p"], nan=1.0), np.nan_to_num(one["effect_p"], nan=1.0)))
        found[name] = Verdict(name, bool(one["suspect"]), -float(np.log10(max(p, 1e-300))), share, low, high, p,
                              int(one["prompts"]))
    return found


def _conversations(items: Sequence[Pair | Conversation]) -> list[Conversation]:
    return [talk for item in items for talk in (item.conversations if isinstance(item, Pair) else [item])]


def _components(rm: RewardModel, sites: Sequence[str]) -> list[Key]:
    layers = range(rm.read_layer + 1)
    whole = [(site, layer, -1) for site in sites if site != "z" for layer in layers]
    return whole + [("z", layer, head) for layer in layers for head in range(rm.architecture.n_heads) if "z" in sites]


def _clean(rm: RewardModel, rows: Sequence[Encoded], prompts: np.ndarray, options: DivergenceOptions) -> Clean:
    """Clean states, or a refusal that says how many prompts are needed.

    With m clean rows of other prompts the smallest p is 1 ÷ (m + 1).
    """
    needed = 2 * int(np.ceil(1 / options.alpha))
    if len(np.unique(prompts)) >= needed:
        known = Clean.of(rm, rows, prompts, options.sites, method=options.method, components=options.components,
                         limit=options.references, seed=options.seed)
        if known.fewest >= needed // 2:
            return known
    raise RewardenError("too few clean conversations to say what is off their distribution", where="divergence",
                        why=f"{len(np.unique(prompts))} prompts, of which up to {options.references} conversations are used; "
                            f"at alpha={options.alpha:g} at least {needed} prompts are needed",
                        fix="give more of them as clean=, raise references=, or raise alpha=")


def _assemble(sweeper: WatchedSweeper, sweeps: Sequence[PairSweep], options: DivergenceOptions) -> Result:
    rm, components = sweeper.rm, sweeper.components
    floor = max(rm.noise_floor, *(sweep.noise_floor for sweep in sweeps))
    effect = np.stack([_flat(sweep, sweeper, len(components)) for sweep in sweeps])
    fields = {name: np.stack([state[name] for state in sweeper.states]) for name in FIELDS}
    put = np.isfinite(fields["p_state"]) & np.isfinite(effect)
    fields["p_state"] = np.where(put, fields["p_state"], np.nan)
    divergent = put & (fields["p_state"] <= options.alpha)
    both = ("pair", "component")
    data: dict[str, Any] = {"effect": (both, effect), **{name: (both, value) for name, value in fields.items()},
                            "divergent": (both, divergent),
                            "null_only": (both, divergent & (fields["p_reward"] > options.alpha))}
    for prefix, values in (("", np.where(put, effect, np.nan)), ("kept_", np.where(put & ~divergent, effect, np.nan))):
        found = summarise({"": (both, values)}, sweeper.prompts, sweeper.options, floor)
        data |= {f"{prefix}{name}": found[name] for name in ("mean", "n")}
        data |= {f"{prefix or 'effect_'}{name}": found[name] for name in ("p", "marked")}
        ends = mean_ends(values, sweeper.prompts, level=options.level, resamples=options.resamples, seed=options.seed)
        data |= {f"{prefix}{name}": (both[1:], end) for name, end in zip(("low", "high"), ends, strict=True)}
    changes = change_without(np.where(put, effect, np.nan), divergent, sweeper.prompts, options.level)
    data |= {name: (both[1:], values) for name, values in changes.items()}
    data |= _shares(divergent, put, sweeper, options)
    data["suspect"] = (("component",), data["marked"][1] & data["effect_marked"][1])
    for name in ("margin", "reward_base"):
        data[name] = (("pair",), np.asarray([getattr(sweep, name) for sweep in sweeps]))
    data["clean_rows"] = (("half",), np.asarray([len(half.prompts) for half in sweeper.clean.halves]))
    sites, layers, heads = (list(column) for column in zip(*components, strict=True))
    coordinates = {**pair_coordinates(sweeper.pairs), "component": [_name(key) for key in components],
                   "site": ("component", sites), "layer": ("component", layers), "head": ("component", heads)}
    asked = {**asdict(options), "sites": ", ".join(options.sites), "edits": sum(sweep.edits for sweep in sweeps),
             "forwards": round(sum(sweep.forwards for sweep in sweeps), 6)}
    warnings = warnings_of([sweep.apart for sweep in sweeps], sum(sweep.lost for sweep in sweeps))
    return Result("divergence", xr.Dataset(data, coords=coordinates), {**rm.provenance(), **asked}, noise_floor=floor,
                  warnings=warnings)


def _name(key: Key) -> str:
    site, layer, head = key
    return f"{site}.{layer}" if head < 0 else f"{site}.{layer}.{head}"


def _flat(sweep: PairSweep, sweeper: WatchedSweeper, count: int) -> np.ndarray:
    """Effects of one pair in the order of the components, [C]."""
    depth = sweeper.rm.read_layer + 1
    parts = [sweep.effects[name][:, :depth].ravel() if name == "" else sweep.effects[name][:depth].ravel()
             for name in ("", "_heads") if name in sweep.effects]
    found = np.concatenate(parts)
    assert len(found) == count
    return found


def _shares(divergent: np.ndarray, put: np.ndarray, sweeper: WatchedSweeper, options: DivergenceOptions) -> dict[str, Any]:
    """Share of divergent pairs of each component, and whether it is more than that of clean states."""
    share = share_interval(np.where(put, divergent, np.nan), clusters=sweeper.prompts, level=options.level,
                           n_resamples=options.resamples, seed=options.seed)
    first = np.unique(sweeper.prompts, return_index=True)[1]
    p = np.asarray([_excess(divergent[first, c], put[first, c], sweeper, first, options.alpha) for c in range(put.shape[1])])
    q = benjamini_hochberg(p)
    with np.errstate(invalid="ignore"):
        marked = q < options.alpha
    axis = ("component",)
    return {**share.variables("share", axis), "share_p": (axis, p), "share_q": (axis, q), "marked": (axis, marked),
            "prompts": (axis, put[first].sum(0))}


def _excess(divergent: np.ndarray, put: np.ndarray, sweeper: WatchedSweeper, first: np.ndarray, alpha: float) -> float:
    """p of so many divergent states of distinct prompts, if patched states were clean ones.

    Of n clean states, those beyond the threshold that m other clean prompts set are beta-binomial; the halves have thresholds
    of their own. (That each tested state moves its threshold a little, as it is standardised with the clean ones, changes the
    mean of this law not at all and its spread hardly.)
    """
    if not put.any():
        return float("nan")
    distribution = np.ones(1)
    for number, half in enumerate(sweeper.clean.halves):
        mine = np.asarray([sweeper.clean.half_of[int(sweeper.prompts[row])] == number for row in first]) & put
        n, m = int(mine.sum()), len(half.prompts)
        k = alpha * (m + 1)
        distribution = np.convolve(distribution, stats.betabinom.pmf(np.arange(n + 1), n, k, m + 1 - k))
    return float(min(distribution[int(divergent[put].sum()):].sum(), 1.0))
