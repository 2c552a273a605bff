"""Does what a component writes into the reward tell what happens to the reward without it?

In: a reward model and pairs. Out: an `agreement` Result: attribution, direct effect and total effect of every component, and
their rank correlations pair by pair; beside them the published convention, so that a reader sees what it does. Source:
reward-lens 1.0.0, arXiv 2604.26130 (the convention and the claim). Ignorant of plots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.edits import BaseRun, EditBatch, Site, backend_of
from rewarden.encoding import Encoded
from rewarden.options import AgreementOptions, resolve
from rewarden.patching.cells import cells_of
from rewarden.patching.components import Layout, contributions, frozen_direction, raw_direction
from rewarden.patching.edges import Node, write_differences
from rewarden.patching.pair import NOT_FINITE
from rewarden.patching.ranks import permutation_p, unit_ranks
from rewarden.patching.sources import Source, counterparts, require_one_model
from rewarden.patching.summary import Variables, prompt_clusters
from rewarden.patching.sweep import warnings_of
from rewarden.result import Result
from rewarden.scores import as_pairs, encode_pairs, pair_coordinates
from rewarden.statistics import bootstrap_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

TYPES = {"block": ("attn", "mlp"), "attn": ("attn",), "mlp": ("mlp",), "head": ("head",)}
"""Sets of components that are ranked together → their kinds; "block" is the set of the published numbers."""

OURS, PUBLISHED = ("attribution", "direct", "total", "total_all"), ("attribution_raw", "total_left")
QUANTITIES = (*OURS, *PUBLISHED)

COMPARISONS = (
    ("attribution", "direct", "aligned"), ("attribution", "total", "aligned"), ("direct", "total", "aligned"),
    ("attribution", "total_all", "aligned"), ("attribution_raw", "total_left", "published"),
    ("attribution_raw", "total_all", "mixed"), ("attribution_raw", "total", "mixed"), ("attribution", "total_left", "mixed"))
"""What is ranked against what, and by whose convention; the mixed ones change one part of the published one at a time."""

RELATIONS = {"rejected shorter": 1, "equal": 0, "rejected longer": -1}
"""How the lengths of a pair relate → `shorter`."""


def agreement(rm: RewardModel, pairs: Pair | Sequence[Pair], *, progress: Callable[[int], object] | None = None,
              options: AgreementOptions | None = None, **overrides: Any) -> Result:
    """Does attribution predict causal effects, and what does the published convention do to the answer?

    The published convention (reward-lens 1.0.0; the rule of alignment is the same up to 3.1.0) projects each write on the raw
    reward direction, without the final norm, and replaces the first min(T+, T−) positions of the chosen run by those with the
    same index in the rejected run. That is confounded by length. Where the rejected response is the shorter one, the position
    that the reward is read at is never patched: **every effect in the last layer is exactly 0**, whatever the component does,
    and that of earlier layers comes through attention to patched tokens only. Where it is the longer one, the read-out is given
    the state of a token in the middle of the rejected response. Only at equal length does the read-out meet the read-out. Our
    quantities always align it with itself.

    Args:
        rm: the reward model.
        pairs: one pair or several. Both sides are run once; everything causal of a pair is one plan on the chosen run.
        progress: called with the number of pairs finished.
        options: `AgreementOptions`; single fields may be given as keywords (heads=, sequences=, apart=, seed=, ...).

    Returns:
        Result of kind "agreement". Components are `head.l.h`, `attn.l`, `mlp.l` (coordinates `kind`, `layer`, `head`).

        By (pair, component), in units of the reward, NaN where not computed or not finite. `attribution`: chosen −
        rejected of `rewarden.attribute`, the final norm folded in. `direct`: reward lost when the component writes at the
        read-out what it writes in the rejected run, seen by the read-out only; all later layers hold, the norm moves.
        `total`: the same with all later layers moving (`rewarden.patch`, noising). `total_all`: every position with a
        counterpart replaced, matched by `alignment` (by default the shared beginning with itself, the rest from the end).
        Published: `attribution_raw` (not in units of the reward: no norm) and `total_left`. `below_noise`: |total| within
        the noise floor.

        `rho` (pair, comparison, type): Spearman's correlation over a pair's components, NaN where one side is constant. In
        our quantities, values within the noise count as equal. Coordinates `first`, `second`, `convention` (comparison):
        "aligned", "published", or "mixed", which changes one part of the published convention at a time. Types: `block`
        (attention blocks and MLPs together, as published), `attn`, `mlp`, `head`. By (comparison, type): `rho_mean`,
        `rho_low`, `rho_high` (bootstrap over prompts), `n` (pairs that have a rho), `p` (two-sided; components shuffled
        within each pair by itself), `p_pattern` (one shuffle for all pairs). Pairs of one model share a pattern, and two
        patterns over few components can agree by chance in all pairs at once: `p` cannot see that, `p_pattern` does.
        Neither is adjusted for the number of comparisons. `rho_by_length`, `low_by_length`, `high_by_length`,
        `n_by_length`, `p_by_length`, `p_pattern_by_length` (length, comparison, type): the same for pairs whose rejected
        side is shorter by `apart` tokens or more, equal, or longer.

        `length_difference` (pair): tokens chosen − rejected; `shorter` (pair): 1 rejected shorter, 0 equal, −1 longer, NaN
        where they differ by less than `apart`; `read_out_source` (pair): what the published rule puts at the last position
        that is read, as a position of the rejected run counted from its end (−1 is its last token), 0 where it puts nothing;
        `tokens`, `reward` (pair, side), `margin` (pair).

    Raises:
        RewardenError: a model whose residual stream is not a sum of writes, no pairs, unknown options.

    Example:
        >>> import rewarden as rw
        >>> pair = rw.Pair("How are you?", "Fine, thank you for asking.", "Bad.")  # the rejected side is shorter
        >>> last = rw.agreement(rw.load(), pair, heads=False).data.sel(component="mlp.5")
        >>> float(last["total_left"][0]), bool(abs(last["total"][0]) > 0.1)
        (0.0, True)
    """
    require_one_model(rm)
    chosen = resolve(AgreementOptions, options, overrides)
    rm.architecture.require("writes", "agreement")
    pairs = as_pairs(pairs)
    layout = Layout.of(rm, heads=chosen.heads)
    measured = []
    for rows in encode_pairs(rm, pairs):
        measured.append(_measure(rm, rows, layout, chosen))
        if progress:
            progress(1)
    return _result(rm, pairs, layout, measured, chosen)


@dataclass(frozen=True, eq=False)
class _Measured:
    """One pair: quantity → [component], and what it took."""

    values: dict[str, np.ndarray]
    reward: tuple[float, float]
    tokens: tuple[int, int]
    read_out_source: int
    never_read: bool
    noise_floor: float = 0.0
    forwards: float = 2.0
    edits: int = 0
    lost: int = 0


def _measure(rm: RewardModel, rows: tuple[Encoded, Encoded], layout: Layout, options: AgreementOptions) -> _Measured:
    """Both runs, and one plan on the chosen one."""
    base, other = rm.bases(rows, layout.sites)
    read = int(base.reading.positions[-1])
    facts = ((base.reward, other.reward), (base.length, other.length), read - other.length if read < other.length else 0,
             bool((base.reading.positions >= other.length).all()))
    values = {name: np.full(len(layout.kinds), np.nan) for name in QUANTITIES}
    if not np.isfinite([base.reward, other.reward]).all():
        return _Measured(values, *facts)
    for name, direction in (("attribution", frozen_direction), ("attribution_raw", raw_direction)):
        values[name] = contributions(base, direction(base), layout) - contributions(other, direction(other), layout)
    aligned = Source(base, counterparts(base.encoded, other.encoded, base.reading, other.reading, "suffix"), other)
    sweeps = {"total": cells_of(aligned, layout.sites, "read_out")}
    if options.sequences:
        sites = layout.sites if options.sequence_heads else ("attn_out", "mlp_out")
        left = _left_aligned(base, other)
        places = counterparts(base.encoded, other.encoded, base.reading, other.reading, options.alignment)
        sweeps |= {"total_all": cells_of(Source(base, places, other), sites, "all"), "total_left": cells_of(left, sites, "all")}
    direct = _direct_edits(aligned, layout)
    plan = rm.plan(base, [direct, *(edit for sweep in sweeps.values() for edit in sweep.edits)])
    edited = plan.run()
    rewards = edited.values[:, rm.main].double().cpu().numpy()
    rewards[~np.isfinite(rewards)] = np.nan
    values["direct"] = base.reward - rewards[:len(direct)]
    start = len(direct)
    for name, sweep in sweeps.items():
        stop = start + sum(len(edit) for edit in sweep.edits)
        if sweep.edits:  # equal sides need none
            sweep.take(rewards[start:stop])
        values[name] = base.reward - layout.flat(*sweep.rewards[""], sweep.rewards.get("_heads"))
        start = stop
    return _Measured(values, *facts, edited.noise_floor, 2 + plan.forwards, plan.n, int(np.isnan(rewards).sum()))


def _direct_edits(source: Source, layout: Layout) -> EditBatch:
    """Each component's change of write, added to the residual that is read and seen by nothing else: one row per component."""
    read = source.base.reading.positions
    where = read[source.usable[read]]
    nodes = [Node(str(kind), int(layer), int(head))
             for kind, layer, head in zip(layout.kinds, layout.layers, layout.heads, strict=True)]
    site = Site("resid_post", layout.depth - 1, tuple(where.tolist()))
    return EditBatch(site, write_differences(source, nodes, where), "add")


def _left_aligned(base: BaseRun, other: BaseRun) -> Source:
    """The published rule: the first min(T+, T−) positions index by index, wherever the read-out is."""
    index = np.arange(base.length)
    return Source(base, np.where(index < other.length, index, -1), other)


def _result(rm: RewardModel, pairs: list[Pair], layout: Layout, measured: list[_Measured], options: AgreementOptions) -> Result:
    values = {name: np.stack([pair.values[name] for pair in measured]) for name in QUANTITIES}
    reward, tokens = (np.asarray([getattr(pair, name) for pair in measured]) for name in ("reward", "tokens"))
    floor = max(rm.noise_floor, *(pair.noise_floor for pair in measured))
    difference = (tokens[:, 0] - tokens[:, 1]).astype(float)
    shorter = np.where((difference == 0) | (np.abs(difference) >= options.apart), np.sign(difference), np.nan)
    with np.errstate(invalid="ignore"):
        margin, below = reward[:, 0] - reward[:, 1], np.abs(values["total"]) <= floor
    data = xr.Dataset({
        **{name: (("pair", "component"), value) for name, value in values.items()},
        "below_noise": (("pair", "component"), below),
        **_correlations(values, layout, shorter, prompt_clusters(pairs), floor, options),
        "length_difference": ("pair", difference), "shorter": ("pair", shorter),
        "read_out_source": ("pair", np.asarray([pair.read_out_source for pair in measured])),
        "tokens": (("pair", "side"), tokens), "reward": (("pair", "side"), reward), "margin": ("pair", margin),
    }, coords={**pair_coordinates(pairs), **layout.coordinates(), "length": list(RELATIONS), "type": list(TYPES),
               "comparison": [f"{first} vs {second}" for first, second, _ in COMPARISONS],
               **{name: ("comparison", [row[place] for row in COMPARISONS])
                  for place, name in enumerate(("first", "second", "convention"))}})
    provenance = {**rm.provenance(), "mode": "noising", "alignment": options.alignment, "apart": options.apart,
                  "seed": options.seed, "permutations": options.permutations, "backend": backend_of(rm).name,
                  "forwards": sum(pair.forwards for pair in measured), "edits": sum(pair.edits for pair in measured)}
    apart = ["" if np.isfinite(pair.reward).all() else NOT_FINITE for pair in measured]
    warnings = [*warnings_of(apart, sum(pair.lost for pair in measured))]
    unpatched = sum(pair.never_read for pair in measured)
    if unpatched and options.sequences:
        warnings.append(f"published convention: in {unpatched} of {len(pairs)} pairs it never patches the read-out, and every "
                        "effect in the last layer is exactly 0 there; read its correlations by length")
    return Result("agreement", data, provenance, exact=True, noise_floor=floor, warnings=tuple(warnings))


def _correlations(values: dict[str, np.ndarray], layout: Layout, shorter: np.ndarray, clusters: np.ndarray, floor: float,
                  options: AgreementOptions) -> Variables:
    """Every variable that starts with rho, low, high, n or p."""
    groups = np.stack([np.full(len(shorter), True), *(shorter == sign for sign in RELATIONS.values())])
    with np.errstate(invalid="ignore"):
        ranked = {name: np.where(np.abs(value) <= floor, 0.0, value) if name in OURS else value
                  for name, value in values.items()}
    shape = (len(COMPARISONS), len(TYPES))
    rho = np.full((len(shorter), *shape), np.nan)
    parts = {name: np.full((len(groups), *shape), np.nan) for name in ("rho", "low", "high", "n", "p", "p_pattern")}
    for number, kinds in enumerate(TYPES.values()):
        ranks = {name: unit_ranks(value[:, np.isin(layout.kinds, kinds)]) for name, value in ranked.items()}
        first, second = (np.stack([ranks[row[side]] for row in COMPARISONS]) for side in (0, 1))
        rho[..., number] = np.where(np.isfinite(first + second).all(-1), (first * second).sum(-1), np.nan).T
        for name, together in (("p", False), ("p_pattern", True)):
            parts[name][..., number] = permutation_p(first, second, groups, together=together, seed=options.seed,
                                                     permutations=options.permutations)
    for number, group in enumerate(groups):
        if group.any():
            mean = bootstrap_interval(rho[group], clusters=clusters[group], level=options.level, n_resamples=options.resamples,
                                      seed=options.seed)
            for name, value in (("rho", mean.estimate), ("low", mean.low), ("high", mean.high), ("n", mean.n)):
                parts[name][number] = value
    parts["n"] = np.nan_to_num(parts["n"]).astype(np.int64)
    whole = {"rho": "rho_mean", "low": "rho_low", "high": "rho_high"}
    axes = ("comparison", "type")
    return {"rho": (("pair", *axes), rho),
            **{whole.get(name, name): (axes, value[0]) for name, value in parts.items()},
            **{f"{name}_by_length": (("length", *axes), value[1:]) for name, value in parts.items()}}
