"""How good are estimates of effects? Measured on cells whose exact effect was computed as well.

In: per pair, estimates with exact effects, some of the largest estimates and some of a random sample. Out: agreement on the
sample with intervals, and what the screen may have missed. Ignorant of how either number was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rewarden.options import EstimateOptions
from rewarden.patching.summary import Variables
from rewarden.statistics import Interval, bootstrap_interval, spearman, wilson


@dataclass(frozen=True, eq=False)
class Verified:
    """The cells of one pair that were computed exactly.

    Attributes:
        rows: int64 [v], number of each cell in the pair's sweep, increasing.
        estimate: float64 [v].
        exact: float64 [v].
        random: bool [v]; True where the cell was drawn at random from those outside the top.
        rest: cells outside the top that may change the read-out, drawn or not.
    """

    rows: np.ndarray
    estimate: np.ndarray
    exact: np.ndarray
    random: np.ndarray
    rest: int


def draw(estimate: np.ndarray, live: np.ndarray, top: int, sample: int, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which cells to compute exactly: rows of the largest estimates, and rows of a random sample of the other live ones.

    Args:
        estimate: float64 [n].
        live: int64 [m], rows that may change the read-out.
        top, sample: how many.
        seed: of the draw.

    Example:
        >>> [rows.tolist() for rows in draw(np.array([1.0, -3.0, 0.0, 2.0]), np.array([0, 1, 3]), top=2, sample=9, seed=[0])]
        [[1, 3], [0]]
    """
    size = np.nan_to_num(np.abs(estimate[live]), nan=np.inf)  # an estimate that is not a number must be looked at
    order = live[np.argsort(-size, kind="stable")]
    rest = np.sort(order[top:])
    drawn = np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False)
    return np.sort(order[:top]), np.sort(drawn)


def measured(pairs: Sequence[Verified], noise_floor: float, options: EstimateOptions) -> Variables:
    """Agreement of estimate and exact effect on the random sample of all pairs together.

    The sample is drawn from outside the top, where effects are smaller: over all cells agreement is usually better.
    Intervals say what another draw of cells from these pairs could have given, not what other pairs would.

    Returns:
        Without axes, each with `_low` and `_high`: `rank_correlation` (Spearman, BCa bootstrap); `sign_agreement` (share of
        those whose exact effect is above the noise floor, Wilson); `error` (mean |estimate − exact| ÷ mean |exact|, BCa
        bootstrap); `missed_mass` (share of the summed |effect| of all cells that lies outside the top; each drawn cell
        stands for as many as it was drawn from: an estimate, not a bound; BCa bootstrap). `sampled` (count).
        With the pair: `rest` (cells outside the top), `rest_sampled`, `largest_sampled` (|exact|), `share_larger`: with
        confidence `level`, at most this share of `rest` has an effect larger than `largest_sampled`.
    """
    drawn = [(one.estimate[one.random], one.exact[one.random]) for one in pairs]
    estimate, exact = (np.concatenate([both[i] for both in drawn]) for i in (0, 1))
    stands = np.concatenate([np.full(len(x), one.rest / max(1, len(x))) for one, (_, x) in zip(pairs, drawn, strict=True)])
    finite = np.isfinite(estimate) & np.isfinite(exact)
    estimate, exact, stands = estimate[finite], exact[finite], stands[finite]
    top = float(sum(np.nansum(np.abs(one.exact[~one.random])) for one in pairs))
    rest = sum(one.rest for one in pairs)

    def relative_error(rows: np.ndarray) -> float:
        return _ratio(np.abs(estimate - exact)[rows].mean(), np.abs(exact)[rows].mean())

    def missed(rows: np.ndarray) -> float:
        outside = rest * (stands * np.abs(exact))[rows].sum() / stands[rows].sum()
        return _ratio(outside, outside + top)

    signed = np.abs(exact) > noise_floor
    same = (np.sign(estimate) == np.sign(exact))[signed]
    spread = {"level": options.level, "n_resamples": options.resamples, "seed": options.seed}
    found: Variables = {"sampled": ((), np.asarray(len(exact)))}
    for name, interval in (("rank_correlation", spearman(estimate, exact, **spread) if len(exact) > 1 else None),
                           ("sign_agreement", wilson(same.sum(), len(same), options.level) if len(same) else None),
                           ("error", _interval(relative_error, len(exact), options)),
                           ("missed_mass", _interval(missed, len(exact), options))):
        for field, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            found[f"{name}{suffix}"] = ((), np.asarray(np.nan if interval is None else getattr(interval, field), dtype=float))
    return found | _per_pair(pairs, options.level)


def _per_pair(pairs: Sequence[Verified], level: float) -> Variables:
    drawn = np.asarray([one.random.sum() for one in pairs])
    rest = np.asarray([one.rest for one in pairs])
    largest = [np.abs(one.exact[one.random]).max(initial=0.0) if one.random.any() else np.nan for one in pairs]
    with np.errstate(divide="ignore"):
        # all of m independent draws miss a share s with probability (1 − s)^m; without replacement even less
        share = np.where(drawn == rest, 0.0, 1 - (1 - level) ** (1 / drawn))
    return {"rest": (("pair",), rest), "rest_sampled": (("pair",), drawn), "largest_sampled": (("pair",), np.asarray(largest)),
            "share_larger": (("pair",), share)}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _interval(statistic: Callable[[np.ndarray], float], n: int, options: EstimateOptions) -> Interval | None:
    """Bootstrap interval of a statistic of several numbers a cell: it is given the rows drawn."""
    if not n:
        return None
    return bootstrap_interval(np.arange(n), statistic=lambda rows, axis: statistic(rows.ravel().astype(np.int64)),
                              level=options.level, n_resamples=options.resamples, seed=options.seed)
