"""What happens to the gold when a policy is optimised against this reward? A preview from scored samples, without training.

In: a `ScoreTable`. Out: exact best-of-n curves of reward and gold, an exponential tilt, the onset of over-optimisation, the
winner's curse, and the style that rises. Ignorant of models. Letters: P prompts, N values of n, T tilts, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.hacking.selection.candidates import ScoreTable
from rewarden.hacking.selection.covariances import feature_columns, usable, within_correlation
from rewarden.hacking.selection.onsets import best_n, find_onset
from rewarden.hacking.selection.order_statistics import best_of_n_divergence, divergence, selection
from rewarden.hacking.selection.tilting import effective_samples, tilt_weights
from rewarden.hacking.selection.within_prompts import gaps, known_mean, mean_known, within_sd
from rewarden.options.best_of_n import BestOfNOptions
from rewarden.options.checks import resolve
from rewarden.result import Result
from rewarden.statistics.intervals import Interval
from rewarden.statistics.studentised import studentised_interval
from rewarden.statistics.verdicts import Verdict

EVERY, GRID = 32, 40
"""Up to EVERY, each n is computed; beyond, about GRID values spaced evenly in log n, with all powers of two."""

DRAWS, SPLIT = 50, 0.5
"""Noisy copies made of each reward whose noise is known, and how much of the noise goes to the one that selects."""

NINE_OF_TEN = 0.1

LEAST_DIFFERENT = 10
"""Prompts whose selected gold must differ from the commonest one; with fewer the Result warns."""


def best_of_n(table: Any, features: Any = None, *, options: BestOfNOptions | None = None, **overrides: Any) -> Result:
    """How do reward and gold grow when the best of n samples is taken by the reward?

    All curves are exact expectations over which samples are drawn (order statistics), not simulations; what is uncertain is
    which prompts were asked. Tied samples are selected alike often.

    Args:
        table: anything `rewarden.hacking.ScoreTable.read` takes: samples of prompts with a reward and, optionally, a gold.
        features: name -> one number a sample, followed along the curve; style features of the responses by default.
        options, **overrides: see `BestOfNOptions`.

    Returns:
        Result "best_of_n". By n: `proxy`, `gold` (means over prompts), their `_low` and `_high` (symmetric bootstrap-t over
        prompts), raw `proxy_each`, `gold_each` by prompt; `proxy_gain`, `gold_gain` in `proxy_sd`, `gold_sd` (standard
        deviations within prompts; NaN where all samples of each prompt are alike) with ends; `kl` = log n − (n−1)/n, in nats,
        and `kl_pool`, the same of the pools themselves (drawn with replacement): smaller where samples tie, at most log of
        their number; both only mean something where samples are draws of one policy. By step (doublings): `step_change`,
        `step_p` (Holm; see `onsets.find_onset`); `onset`, the n where the first doubling begins over which the gold is shown to
        fall (it may rise again beyond), NaN where of none it is shown. `best_n`, `best_gold`, and `best_gold_held_out` with
        ends, of prompts that did not choose the n; `n_chosen` by n. `proxy_unbiased` by n where the reward has noise
        or copies: the selected sample's reward on scorings that did not select it. By tilt: `strength` λ,
        `ess`, `tilt_kl`, `tilt_proxy`, `tilt_gold` with ends; NaN where `refused`. By feature: `rise`, in standard deviations
        within prompts at the largest n, with ends, and `feature_curve`. `agreement`, the correlation of reward and gold within
        prompts, with ends.

    Raises:
        RewardenError: no table, or fewer than 10 prompts with enough samples.

    Source: Gao et al. 2023, arXiv 2210.10760 (proxy and gold along best-of-n); Stiennon et al. 2020, arXiv 2009.01325 (KL).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> quality, luck = rng.normal(size=(2, 40, 8))
        >>> found = best_of_n((quality + luck, quality), resamples=200)
        >>> found.n.tolist(), bool(found.proxy_gain[-1] > 1.2), bool(found.gold_gain[-1] > 0.7), bool(np.isnan(found.onset))
        ([1, 2, 3, 4, 5, 6, 7, 8], True, True, True)
    """
    options = resolve(BestOfNOptions, options, overrides)
    table = ScoreTable.read(table)
    largest = int(np.quantile(np.bincount(table.of[table.scored], minlength=len(table.prompts)), NINE_OF_TEN, method="lower"))
    if options.max_n is not None and (options.max_n <= largest or options.replacement):
        largest = options.max_n
    elif options.max_n is not None:
        raise RewardenError(f"the best of {options.max_n} needs {options.max_n} samples a prompt", where="max_n",
                            why=f"nine of ten prompts have {largest} or more",
                            fix="give more samples, or draw with replacement (replacement=True)")
    largest = max(largest, 2)  # where pools are too small for it, `usable` says so
    kept, rows, notes = usable(table, 2 if options.replacement else largest, "best-of-n")
    n = n_grid(largest)
    curves = _Curves(kept, options)
    data: dict[str, Any] = curves.along(n)
    data |= _tilted(curves)
    names: list[str] = []
    if features is not None or (options.style and table.responses is not None):
        names, values = feature_columns(table, features)
        curves.notes += gaps(names, values[rows])
        data |= _rising(values[rows], curves, n)
    facts = {**table.provenance, "replacement": options.replacement, "level": options.level, "alpha": options.alpha,
             "seed": options.seed, "prompts": len(kept.prompts), "samples": len(kept.proxy), "gold": kept.gold is not None,
             "responses": table.responses is not None}
    coords = {"n": n, "prompt": np.array(kept.prompts, dtype=object), "tilt": np.array(options.tilts, dtype=float)}
    made = xr.Dataset(data, coords=coords | ({"feature": names} if names else {}))
    return Result("best_of_n", made, facts, noise_floor=curves.noise, warnings=(*notes, *curves.notes))


def n_grid(largest: int) -> np.ndarray:
    """The n of a curve, rising from 1 to the largest, all powers of two among them.

    Example:
        >>> n_grid(5).tolist(), len(n_grid(1024)) < 60
        ([1, 2, 3, 4, 5], True)
    """
    if largest <= EVERY:
        return np.arange(1, largest + 1)
    even = np.unique(np.round(np.geomspace(1, largest, GRID)).astype(np.int64))
    return np.unique(np.r_[even, 2 ** np.arange(int(np.log2(largest)) + 1), largest])


@dataclass
class _Curves:
    """Everything that is computed prompt by prompt from one table."""

    table: ScoreTable
    options: BestOfNOptions

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self.members = self.table.members()
        self.noise = self.table.noise if self.options.noise is None else self.options.noise
        self.proxy_sd, self.gold_sd = (self._spread(values) for values in (self.table.proxy, self.table.gold))
        if not self.proxy_sd > 0:
            raise RewardenError("the reward is the same for all samples of every prompt", where="best_of_n",
                                why="nothing can be selected by it", fix="check the column of rewards")

    def _spread(self, values: np.ndarray | None) -> float:
        """Standard deviation within prompts, prompts counting alike."""
        if values is None:
            return float("nan")
        return float(within_sd(values[:, None], self.table)[0])

    def interval(self, values: np.ndarray) -> Interval:
        """Of means over prompts of values [P, ...]."""
        asked = self.options
        return studentised_interval(values, level=asked.level, n_resamples=asked.resamples, seed=asked.seed)

    def selections(self, n: np.ndarray, proxy: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each prompt its sample numbers [m], and the probability [N, m] that each is selected by the proxy."""
        proxy = self.table.proxy if proxy is None else proxy
        for rows in self.members:
            yield rows, selection(proxy[rows], n, self.options.replacement)

    def along(self, n: np.ndarray) -> dict[str, Any]:
        """What best-of-n does to reward and gold."""
        made = list(self.selections(n))
        kl = np.mean([divergence(selection(self.table.proxy[rows], n, replacement=True)) for rows in self.members], axis=0)
        data: dict[str, Any] = {"kl": ("n", best_of_n_divergence(n)), "kl_pool": ("n", kl)}
        data |= self._sided("proxy", np.stack([weights @ self.table.proxy[rows] for rows, weights in made]), self.proxy_sd)
        if self.table.gold is not None:
            gold = np.stack([weights @ self.table.gold[rows] for rows, weights in made])
            data |= self._sided("gold", gold, self.gold_sd) | self._turning(made, gold, n)
            self._warn_of_rare(gold, int(n[-1]))
            found, _ = within_correlation(self.table.proxy[:, None], self.table.gold, self.table, self.options)
            data |= {key: ((), value[1][0]) for key, value in found.variables("agreement").items()}
        unbiased = self._unbiased(n)
        if unbiased is not None:
            data |= self.interval(unbiased).variables("proxy_unbiased", "n")
        return data

    def _sided(self, name: str, values: np.ndarray, spread: float) -> dict[str, Any]:
        gain = (values - values[:, :1]) / spread if spread > 0 else np.full(values.shape, np.nan)
        return {f"{name}_each": (("prompt", "n"), values), f"{name}_sd": ((), spread),
                **self.interval(values).variables(name, "n"), **self.interval(gain).variables(f"{name}_gain", "n")}

    def _turning(self, made: Sequence[tuple[np.ndarray, np.ndarray]], gold: np.ndarray, n: np.ndarray) -> dict[str, Any]:
        """Onset and best n, of selections and the golds [P, N] they give."""
        asked, known = self.options, self.table.gold
        assert known is not None
        onset = find_onset([known[rows] for rows, _ in made], [weights for _, weights in made], n, asked.alpha,
                           floor=float(self.table.provenance.get("gold_noise", 0.0)), seed=asked.seed)
        best = best_n(gold, asked.splits, asked.seed, level=asked.level, resamples=asked.resamples)
        held_out = best.held_out.variables("best_gold_held_out")
        change = self.interval(onset.change).variables("step_change", "step")
        return {"onset": ((), np.nan if onset.place is None else float(n[onset.place])), "step_p": ("step", onset.p), **change,
                "step_from": ("step", n[onset.start]), "step_to": ("step", n[onset.stop]), "best_n": ((), int(n[best.place])),
                "best_gold": ((), float(gold[:, best.place].mean())), "n_chosen": ("n", best.chosen), **held_out}

    def _warn_of_rare(self, gold: np.ndarray, most: int) -> None:
        """Few prompts that differ carry too little for an interval: at the largest n, where selected golds vary least."""
        last = np.round(gold[:, -1], 12)
        common = int(np.unique(last, return_counts=True)[1].max())
        if 2 * common > len(last) > common > len(last) - LEAST_DIFFERENT:
            self.notes.append(f"the gold of the best of {most} differs from its commonest value in only "
                              f"{len(last) - common} of {len(last)} prompts: intervals of gold can be far too narrow")

    def _unbiased(self, n: np.ndarray) -> np.ndarray | None:
        """Rewards [P, N] of selected samples on scorings that are independent of those that selected; None without noise.

        With C copies the mean of all others selects and each tells: what selects has C/(C−1) times the noise variance of r.
        With Gaussian noise of known size σ, r + τσz selects and r − σz/τ tells: their noises are independent, and the first has
        1 + τ² times the variance (Leiner et al., arXiv 2112.11079).
        """
        if self.table.copies is not None and self.table.copies.shape[1] > 1:
            every = self.table.copies
            pairs = [(np.delete(every, place, axis=1).mean(axis=1), every[:, place]) for place in range(every.shape[1])]
        elif self.noise > 0:
            drawn = np.random.default_rng(self.options.seed).normal(scale=self.noise, size=(DRAWS, len(self.table.proxy)))
            pairs = [(self.table.proxy + SPLIT * z, self.table.proxy - z / SPLIT) for z in drawn]
        else:
            return None
        return np.mean([[weights @ telling[rows] for rows, weights in self.selections(n, choosing)]
                        for choosing, telling in pairs], axis=0)


def _tilted(curves: _Curves) -> dict[str, Any]:
    """Reward and gold under exponential tilts; refused where too few samples carry the weight."""
    table, strength = curves.table, np.array(curves.options.tilts, dtype=float) / curves.proxy_sd
    weights = [tilt_weights(table.proxy[rows], strength) for rows in curves.members]
    ess = np.stack([effective_samples(one) for one in weights])
    refused = np.quantile(ess, NINE_OF_TEN, axis=0) < curves.options.least_ess
    if refused.any():
        curves.notes.append(f"{int(refused.sum())} of {len(refused)} tilts are refused: one prompt in ten has fewer than "
                            f"{curves.options.least_ess:g} effective samples")
    kl = np.stack([divergence(one) for one in weights])
    data: dict[str, Any] = {"strength": ("tilt", strength), "ess": (("prompt", "tilt"), ess), "refused": ("tilt", refused),
                            "tilt_kl": ("tilt", np.where(refused, np.nan, kl.mean(axis=0)))}
    for name, values in (("tilt_proxy", table.proxy), ("tilt_gold", table.gold)):
        if values is not None:
            each = np.stack([one @ values[rows] for one, rows in zip(weights, curves.members, strict=True)])
            data |= curves.interval(np.where(refused, np.nan, each)).variables(name, "tilt")
    return data


def _rising(values: np.ndarray, curves: _Curves, n: np.ndarray) -> dict[str, Any]:
    """How far each feature [N, F] of the selected samples rises, in standard deviations within prompts.

    Where a sample lacks a feature, the mean is over selections of one that has it.
    """
    spread = within_sd(values, curves.table)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = values / np.where(spread > 0, spread, np.nan)
    along = np.stack([known_mean(weights, scaled[rows]) for rows, weights in curves.selections(n)])  # [P, N, F]
    rise = along - along[:, :1]
    found = curves.interval(rise[:, -1])
    return {"feature_curve": (("feature", "n"), mean_known(rise).T), **found.variables("rise", "feature")}


def verdicts(result: Result) -> dict[str, Verdict]:
    """Is the gold shown to fall over a doubling of n? Of the doubling with the smallest p (Holm over doublings).

    Args:
        result: of `best_of_n`, with a gold.

    Example:
        >>> reward = np.random.default_rng(4).normal(size=(80, 64))
        >>> verdicts(best_of_n((reward, -(reward - 1) ** 2), resamples=100))["onset"].flag
        True
    """
    if "step_p" not in result.data:
        raise RewardenError("there is no gold that could fall", where="verdicts(result)", why="the curve is of a reward alone",
                            fix="give best_of_n a table with a gold")
    step = result.data.isel(step=int(result.data["step_p"].argmin("step")))
    p, change, low, high = (float(step[name]) for name in ("step_p", "step_change", "step_change_low", "step_change_high"))
    return {"onset": Verdict("onset", bool(np.isfinite(float(result.data["onset"]))), -float(np.log10(max(p, 1e-300))), change,
                             low, high, p, int(result.data.sizes["prompt"]))}
