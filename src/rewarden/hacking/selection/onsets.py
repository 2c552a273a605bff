"""Over which doubling of n does the gold fall first, and what is the best n worth once it has been chosen?

In: golds of each prompt's samples and how likely each is selected. Out: the onset of over-optimisation, tested; the best n, and
its value on prompts that did not choose it. Ignorant of how the values were made. Letters: P prompts, N values of n, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewarden.hacking.selection.within_prompts import ROUNDING
from rewarden.statistics import Interval, holm
from rewarden.statistics.studentised import mean_above

TAKEN = 0.99
"""Share of the selections, by the smaller n of a step, that permuted samples hold."""

RESAMPLED = 40
"""Halvings through which resamples of prompts go."""


@dataclass(frozen=True, eq=False)
class Onset:
    """Where the gold turns.

    Attributes:
        start, stop: places of the n between which each step lies, int64 [S].
        change: float64 [P, S], change of the gold over each step.
        p: one-sided, that gold does not fall (see `find_onset`), adjusted by Holm for the number of steps, [S].
        place: place of the n where the first step that falls begins; None where no step is shown to fall.
    """

    start: np.ndarray
    stop: np.ndarray
    change: np.ndarray
    p: np.ndarray
    place: int | None


def doublings(n: np.ndarray) -> np.ndarray:
    """Places of 1, 2, 4, … and of the last value in rising whole numbers n that hold them.

    Example:
        >>> doublings(np.array([1, 2, 3, 4, 5, 6])).tolist()
        [0, 1, 3, 5]
    """
    powers = 2 ** np.arange(int(np.log2(n[-1])) + 1)
    return np.flatnonzero(np.isin(n, powers) | (n == n[-1]))


def find_onset(gold: Sequence[np.ndarray], weights: Sequence[np.ndarray], n: np.ndarray, alpha: float, *, floor: float = 0.0,
               draws: int = 999, seed: int = 0) -> Onset:
    """The first doubling of n over which the gold is shown to fall.

    Of each step p is the larger of two: the rank of Σx / √Σx² (of changes x by prompt) among golds permuted within prompts,
    over the samples that best of the smaller n takes; and Student's t over prompts. The first holds alpha however rare gold is,
    where gold has nothing to do with the reward among these samples; the second holds for many prompts whatever gold does.

    Args:
        gold: float64 [m] of each of P prompts' samples.
        weights: float64 [N, m] of each prompt: the probability that each sample is the one selected (`selection`).
        n: int64 [N], rising, with 1, 2, 4, … among them.
        alpha: error rate over all steps.
        floor: falls of the mean gold up to this size are rounding or noise, in units of the gold.
        draws: permutations; p is no smaller than 1 / (draws + 1).
        seed: of the permutations.

    Example:
        >>> from rewarden.hacking.selection.order_statistics import selection
        >>> proxy = np.random.default_rng(0).normal(size=(40, 8))
        >>> n = np.arange(1, 9)
        >>> find_onset(list(-(proxy - 0.5) ** 2), [selection(one, n) for one in proxy], n, 0.05).place
        3
    """
    steps = doublings(n)
    start, stop = steps[:-1], steps[1:]
    change = np.stack([(made[stop] - made[start]) @ one for made, one in zip(weights, gold, strict=True)])
    floor = max(floor, ROUNDING * max(float(np.abs(one).max()) for one in gold))
    rng, p = np.random.default_rng(seed), np.ones(len(start))
    for step in np.flatnonzero(change.mean(axis=0) < -floor):
        pairs = [(made[start[step]], made[stop[step]]) for made in weights]
        p[step] = max(_permuted(gold, pairs, change[:, step], draws, rng), float(mean_above(-change[:, step])))
    p = holm(p) if len(p) else p
    falls = np.flatnonzero(p <= alpha)
    return Onset(start, stop, change, p, int(start[falls[0]]) if len(falls) else None)


def _permuted(gold: Sequence[np.ndarray], pairs: Sequence[tuple[np.ndarray, np.ndarray]], change: np.ndarray, draws: int,
              rng: np.random.Generator) -> float:
    """p of changes [P] this far below 0, by permutation of the golds of the samples that best of the smaller n takes."""
    total, square = np.zeros(draws), np.zeros(draws)
    for one, (before, after) in zip(gold, pairs, strict=True):
        order = np.lexsort((-before, -after))  # by the reward, the best first; many have no chance at the larger n
        last = order[min(np.searchsorted(before[order].cumsum(), TAKEN - 1e-9), len(order) - 1)]
        taken = (after > after[last]) | ((after == after[last]) & (before >= before[last]))
        slope = after - before
        drawn = rng.permuted(np.broadcast_to(one[taken], (draws, int(taken.sum()))), axis=1) @ slope[taken]
        drawn += one[~taken] @ slope[~taken]
        total += drawn
        square += drawn**2
    # rises with Student's t, and needs no difference of large sums
    null = np.where(square > 0, total / np.sqrt(np.where(square > 0, square, 1.0)), 0.0)
    return float((1 + (null <= change.sum() / np.sqrt((change**2).sum()) + 1e-9).sum()) / (1 + draws))


@dataclass(frozen=True, eq=False)
class BestN:
    """The n with the best gold.

    Attributes:
        place: of the n with the largest mean gold over all prompts.
        chosen: float64 [N], share of random halves of the prompts in which each n has the largest mean gold.
        held_out: mean gold at the n that the other half of the prompts chose, over halves and prompts, with its interval.
    """

    place: int
    chosen: np.ndarray
    held_out: Interval


def best_n(gold: np.ndarray, splits: int, seed: int, *, level: float = 0.95, resamples: int = 2000) -> BestN:
    """Which n is best, and what is it worth on prompts that had no part in choosing it?

    The mean gold at the n where it is largest is too high on average, since luck helps an n to be chosen. Half of the prompts
    choose, the other half tells; halves change roles. Prompts share the n that others chose for them, so they are no
    independent units: the interval is ± the quantile of |T* − T| where choosing and telling T is repeated on resampled prompts.

    Args:
        gold: float64 [P, N].
        splits: random halvings; the resamples go through up to 40 of them.
        seed: of these and of the resamples.
        level: coverage of the interval.
        resamples: of prompts.

    Example:
        >>> gold = np.random.default_rng(0).normal(size=(40, 8))
        >>> found = best_n(gold, 50, 0)
        >>> bool(found.held_out.estimate < gold.mean(axis=0).max()), bool(found.held_out.low < 0 < found.held_out.high)
        (True, True)
    """
    rng, prompts = np.random.default_rng(seed), len(gold)
    halves = np.zeros((splits, prompts), dtype=bool)
    for half in halves:
        half[rng.permutation(prompts)[: prompts // 2]] = True
    votes = np.concatenate([halves, ~halves]).astype(np.float64) @ gold
    chosen = np.bincount(votes.argmax(axis=1), minlength=gold.shape[1]) / len(votes)
    told = _told(gold, np.ones((1, prompts)), halves)[0]
    few = halves[:RESAMPLED]
    times = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    half_width = np.quantile(np.abs(_told(gold, times, few) - _told(gold, np.ones((1, prompts)), few)), level)
    held_out = Interval(estimate=told, low=told - half_width, high=told + half_width, n=prompts, n_clusters=prompts, missing=0,
                        level=level, method="symmetric bootstrap of choosing and telling")
    return BestN(int(gold.mean(axis=0).argmax()), chosen, held_out)


def _told(gold: np.ndarray, times: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Mean gold [B] at the n that the other half chose, of prompts that count `times` [B, P] often; halves bool [S, P]."""
    every, rows, total = times @ gold, np.arange(len(times)), np.zeros(len(times))
    for half in halves:
        one = (times * half) @ gold
        other = every - one
        total += other[rows, one.argmax(axis=1)] + one[rows, other.argmax(axis=1)]
    return total / len(halves) / times.sum(axis=1)
