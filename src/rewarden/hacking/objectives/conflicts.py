"""Do the objectives of a reward model contradict each other where it matters: between responses to the same prompt?

In: a model with several objectives (a gated head, several outputs, several heads) or terms of the user, and pairs. Out: how
objectives go together over differences between responses, what pushing one does to the others, and which are more opposed than
random directions in the same space. Ignorant of how objectives were trained. Inspired by Kaufmann et al., arXiv 2603.30036
(terms of a training reward in conflict); what is computed is a property of one model's read-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.hacking.objectives.opposition import chance_of_heads, chance_of_terms, frame_correlation, opposition
from rewarden.hacking.objectives.pushes import push_objectives
from rewarden.hacking.objectives.rows import (
    Objectives,
    Weigh,
    head_objectives,
    read_rows,
    reward_row,
    states_of,
    term_objectives,
)
from rewarden.options import ConflictOptions, resolve
from rewarden.preferences import prompt_keys
from rewarden.readout import Reading
from rewarden.result import Result
from rewarden.statistics import Verdict, require_n
from rewarden.statistics.studentised import studentised_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

MINIMUM = 20
"""Prompts below which nothing is computed."""


def conflict(rm: RewardModel, pairs: Sequence[Pair], *, terms: Mapping[str, Any] | None = None,
             options: ConflictOptions | None = None, batch_size: Any = "auto", progress: Callable[[int], None] | None = None,
             **overrides: Any) -> Result:
    """Which objectives of a model pull in opposite directions?

    The frame are differences between the two responses of each pair, because that is what optimisation moves within; which of
    the two was preferred plays no part. With aᵢ what objective i adds to the difference in reward (its gate-weighted row times
    the difference of states; without weights the objective itself), rho = Σ aᵢaⱼ / √(Σ aᵢ² Σ aⱼ²). Random directions in the
    same space correlate, too, the more so the fewer directions the states vary in. Two objectives are flagged if the interval
    of rho lies below 0 and they are more opposed than random rows (`opposition.chance_of_heads`); two terms, if a random reward
    would weigh them less against each other (`opposition.chance_of_terms`). Holm over pairs.

    Args:
        rm: the reward model.
        pairs: at least 20 prompts.
        terms: name → contrasts, pairs (of at least 10 seeds or prompts) or a vector: concept directions in place of the model's
            own objectives; needed for a model with one scalar. Each counts as much as the reward reads of it.
        options: see `ConflictOptions`; single fields may be given by name.
        batch_size: rows per forward, or "auto".
        progress: called with the number of conversations done.

    Returns:
        Result of kind "conflict". Over pairs: `difference` [pair, objective] (reward units, chosen − rejected), `weight`
        [pair, objective], `prompt`. Over objectives: `size` (root mean square difference), `push` (mean of |weight ×
        difference| over prompts) with `_low/_high`, `share` of the sum of pushes; `cancelled`, the share of all pushes that
        others undo, with `_low/_high` (both: symmetric bootstrap-t over prompts). Over pairs of objectives (`couple`):
        `first`, `second`, `rho` with `_low/_high`, `objective_rho` (without weights), `negative` (share of resamples of
        prompts below 0), `cosine` (of rows), `p`, `p_adjusted`, `random_sd` (of rho between random rows), `opposed` (terms),
        `flag`. `slope` [pushed, read] with `_low/_high`: change of one objective when another is pushed, each in its `size`,
        mean over the conversations of `slope_item`. Pairs of two prompts, or with states that are not finite, are left out
        (`left_out`).

    Raises:
        RewardenError: one objective or term, a term of fewer than 10 seeds, fewer than 20 prompts, or a read-out that is
            not linear in one state.

    Example:
        >>> import rewarden as rw
        >>> terms = {"first": np.eye(192)[0], "second": -np.eye(192)[0]}
        >>> found = conflict(rw.load(), rw.load_pairs("demo")[:40], terms=terms, draws=99, pushed=2)
        >>> [str(found.data[name].values[0]) for name in ("first", "second")]
        ['first', 'second']
    """
    options = resolve(ConflictOptions, options, overrides)
    if terms is None:
        objectives = head_objectives(rm, options.objectives)
    else:
        objectives = term_objectives(rm, terms, batch_size=batch_size)
    frame = _Frame.of(rm, pairs, objectives, batch_size, progress)
    data, notes = _measured(frame, objectives, options)
    pushed = push_objectives(read_rows(rm, objectives), [pairs[i] for i in frame.rows], frame.prompts, data["size"].values,
                             rm.noise_floor, options)
    facts = {"instrument": "conflict", "terms": objectives.terms, "weighted": objectives.weigh is not None,
             **{name: getattr(options, name) for name in ("draws", "alpha", "level", "resamples", "seed", "step")},
             "layer": rm.read_layer if options.layer is None else options.layer}
    return Result("conflict", data.merge(pushed), {**rm.provenance(), **facts}, True, rm.noise_floor, notes)


@dataclass(frozen=True, eq=False)
class _Frame:
    """Differences between the responses of pairs.

    Attributes:
        rows: [n], which pairs.
        prompts: [n], number of each pair's prompt.
        states: [n, d].
        values: [n, K], of objectives.
        weights: [n, K], None where the reward is not made of the objectives.
        reward: [n], differences in reward; for terms only.
        left_out: pairs that compare nothing.
    """

    rows: np.ndarray
    prompts: np.ndarray
    states: np.ndarray
    values: np.ndarray
    weights: np.ndarray | None
    reward: np.ndarray | None
    left_out: int

    @classmethod
    def of(cls, rm: RewardModel, pairs: Sequence[Pair], objectives: Objectives, batch_size: Any,
           progress: Callable[[int], None] | None) -> _Frame:
        """Run both responses of each pair; pairs that compare nothing are left out."""
        same = [i for i, pair in enumerate(pairs) if pair.rejected_prompt in (None, pair.prompt)]
        rows = [rm.encode(side) for i in same for side in pairs[i].conversations]
        require_n(len(np.unique(prompt_keys([pairs[i] for i in same]))) if same else 0, MINIMUM,
                  "a conflict between objectives (prompts)")
        count = len(objectives.rows)
        weigh = _with_reward(rm, objectives) if objectives.terms else objectives.weigh
        states, weights = states_of(rm, rows, weigh, batch_size, progress)
        finite = np.isfinite(states).all(axis=1) & np.isfinite(weights).all(axis=1)
        kept = finite.reshape(-1, 2).all(axis=1)
        states, weights = (part.reshape(len(same), 2, -1)[kept] for part in (states, weights))
        moved = states[:, 0] - states[:, 1]
        values = moved @ objectives.rows.double().cpu().numpy().T
        held = weights.mean(axis=1)  # a gate reads the prompt, which the two sides share
        places = np.asarray(same)[kept]
        prompts = prompt_keys([pairs[i] for i in places])
        require_n(len(np.unique(prompts)), MINIMUM, "a conflict between objectives (prompts with finite states)")
        return cls(places, prompts, moved, values, held[:, :count] if weigh is not None else None,
                   weights[:, 0, -1] - weights[:, 1, -1] if objectives.terms else None, len(pairs) - len(places))


def _with_reward(rm: RewardModel, objectives: Objectives) -> Weigh:
    """What the reward reads of each term, and last the reward itself: random rewards are compared with the whole of it."""
    def weigh(normed: torch.Tensor, reading: Reading) -> torch.Tensor:
        row = reward_row(rm, normed, reading)
        return torch.cat([objectives.rows @ row, (row @ normed[-1])[None]])
    return weigh


def _measured(frame: _Frame, objectives: Objectives, options: ConflictOptions) -> tuple[xr.Dataset, tuple[str, ...]]:
    """The data set but for the pushes, and what a reader must know."""
    weights = np.ones_like(frame.values) if frame.weights is None else frame.weights
    added = weights * frame.values
    found = opposition(added, frame.prompts, level=options.level, resamples=options.resamples, seed=options.seed)
    rows = objectives.rows.double().cpu().numpy()
    if frame.reward is None:
        chance = chance_of_heads(frame.states, rows, weights, found.rho, options.draws, options.seed)
    else:
        chance = chance_of_terms(frame.states, rows, weights, frame.reward, options.draws, options.seed)
    names = np.array(objectives.names)
    first, second = np.triu_indices(len(names), 1)
    pushes, undone = _pushes(added, frame.prompts, options)
    couples = {"first": names[first], "second": names[second], "rho": found.rho, "rho_low": found.low, "rho_high": found.high,
               "objective_rho": frame_correlation(frame.values), "negative": found.negative, "cosine": chance.cosine,
               "p": chance.p, "p_adjusted": chance.adjusted, "random_sd": chance.random_sd, "opposed": chance.opposed,
               "flag": (chance.adjusted <= options.alpha) & (found.high < 0)}
    data = xr.Dataset({
        "difference": (("pair", "objective"), frame.values), "weight": (("pair", "objective"), weights),
        "prompt": ("pair", frame.prompts), "size": ("objective", np.sqrt((frame.values**2).mean(axis=0))),
        **{name: ("objective", column) for name, column in pushes.items()}, **undone,
        **{name: ("couple", column) for name, column in couples.items()}, "left_out": frame.left_out},
        coords={"pair": frame.rows, "objective": names})
    notes = [f"{frame.left_out} pairs left out: two prompts, or states that are not finite"] * bool(frame.left_out)
    notes += ["terms are directions measured on their contrasts; intervals count the pairs only"] * objectives.terms
    return data, tuple(notes)


def _pushes(added: np.ndarray, prompts: np.ndarray, options: ConflictOptions) -> tuple[dict[str, Any], dict[str, float]]:
    """Mean sizes of what objectives add to a difference, and the share of it that cancels, prompts counting alike."""
    codes = np.unique(prompts, return_inverse=True)[1].ravel()
    of_prompt = np.zeros((int(codes.max()) + 1, added.shape[1] + 1))
    np.add.at(of_prompt, codes, np.column_stack([np.abs(added), np.abs(added.sum(axis=1))]))
    of_prompt /= np.bincount(codes)[:, None]
    means = studentised_interval(of_prompt[:, :-1], level=options.level, n_resamples=options.resamples, seed=options.seed)
    every = of_prompt[:, :-1].sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        undone = studentised_interval(1 - of_prompt[:, -1] / every, level=options.level, n_resamples=options.resamples,
                                      seed=options.seed)
        share = means.estimate / np.sum(means.estimate)
    return ({"push": means.estimate, "push_low": means.low, "push_high": means.high, "share": share},
            {"cancelled": float(undone.estimate), "cancelled_low": float(undone.low), "cancelled_high": float(undone.high)})


def verdicts(result: Result) -> dict[str, Verdict]:
    """What the instrument says of each pair of objectives, "a|b" in the model's order; a flag says that they conflict.

    Args:
        result: of `conflict`.

    Raises:
        RewardenError: a result of another kind.
    """
    if result.kind != "conflict":
        raise RewardenError(f"a {result.kind} result has no conflicts", where="objectives.verdicts(result)",
                            fix="pass what rewarden.hacking.conflict returned")
    data, found = result.data, {}
    n = len(np.unique(data["prompt"].values))
    for place in range(data.sizes["couple"]):
        row = {name: data[name].values[place] for name in ("first", "second", "flag", "rho", "rho_low", "rho_high", "p")}
        name = f"{row['first']}|{row['second']}"
        evidence = float(stats.norm.isf(np.clip(row["p"], 1e-300, 1 - 1e-9)))
        found[name] = Verdict(name, bool(row["flag"]), evidence if np.isfinite(evidence) else -6.0, float(row["rho"]),
                              float(row["rho_low"]), float(row["rho_high"]), float(row["p"]), n)
    return found
