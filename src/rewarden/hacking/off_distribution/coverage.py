"""How much of a kind of change lies in directions that a set of pairs varies?

In: states of pairs and of contrasts. Out: the covered directions, and a `Share` for each kind of change: R² of its direction
from the covered ones, with an interval over seeds and wordings. Ignorant of models and texts.
Letters: m pairs, n contrasts, d width, k directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rewarden.statistics.sampling import cluster_codes


@dataclass(frozen=True)
class Share:
    """Share of a kind of change that lies in covered directions.

    Attributes:
        value: 1 is all of it, 0 none; noise may carry it beyond. NaN where the changes have no direction in common.
        low: lower end of its interval.
        high: upper end.
        error: standard error.
        df: degrees of freedom.
        p_direction: of no direction in common (one-sided).
        n: contrasts.
        seeds: distinct contents among them.
        families: distinct wordings.
    """

    value: float
    low: float
    high: float
    error: float
    df: float
    p_direction: float
    n: int
    seeds: int
    families: int

    def p_below(self, share: float) -> float:
        """p of a share of so much or more, one-sided; NaN where there is no error to go by."""
        return float(stats.t.cdf((self.value - share) / self.error, self.df)) if self.error > 0 else float("nan")


def covered_directions(differences: np.ndarray, energy: float) -> np.ndarray:
    """The fewest orthonormal directions [k, d] that hold a share `energy` of the squares of differences [m, d].

    Example:
        >>> covered_directions(np.array([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]]), 0.9).shape
        (1, 3)
    """
    _, sizes, axes = np.linalg.svd(np.asarray(differences, dtype=np.float64), full_matrices=False)
    held = np.cumsum(sizes**2) / max(float((sizes**2).sum()), np.finfo(np.float64).tiny)
    return axes[:int(np.searchsorted(held, energy - 1e-12)) + 1]


def held_out_share(differences: np.ndarray, prompts: np.ndarray, energy: float, seed: int) -> float:
    """Share of pairs' own squared differences in the directions that pairs of other prompts cover: two halves, mean of both.

    What a set of pairs covers of pairs like its own: a yardstick for other changes.
    """
    codes = cluster_codes(differences, prompts)
    order = np.random.default_rng(seed).permutation(codes.max() + 1)
    half = np.isin(codes, order[::2])
    shares = []
    for mine in (half, ~half):
        axes = covered_directions(differences[~mine], energy)
        shares.append(float(((differences[mine] @ axes.T) ** 2).sum() / (differences[mine] ** 2).sum()))
    return float(np.mean(shares))


def covered_share(changes: np.ndarray, axes: np.ndarray, seeds: np.ndarray, families: np.ndarray, level: float = 0.95) -> Share:
    """R² of a kind of change's common direction from the covered ones.

    A product of the changes of two contrasts that share neither seed nor wording has in expectation nothing but the common
    direction: Σ ⟨Pδᵢ, Pδⱼ⟩ ÷ Σ ⟨δᵢ, δⱼ⟩ over such pairs estimates ‖Pμ‖² ÷ ‖μ‖², each contrast held out from the other.

    Args:
        changes: [n, d].
        axes: [k, d], orthonormal.
        seeds, families: [n], content and wording of each.
        level: coverage of the interval.

    Source: variance of a ratio of U-statistics over wordings and over seeds (Hoeffding 1948; the excess of the plain jackknife:
        Efron & Stein 1981, Ann. Stat. 9:586), added as in two-way clustering (Cameron, Gelbach & Miller 2011, JBES 29:238);
        Satterthwaite's degrees of freedom.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> changes = np.array([3.0, 4.0, 0.0]) + rng.normal(size=(40, 3)) * 0.1
        >>> found = covered_share(changes, np.eye(3)[:1], np.arange(40), np.arange(40) % 8)
        >>> bool(found.low < 0.36 < found.high), round(found.value, 1)
        (True, 0.4)
    """
    changes = np.asarray(changes, dtype=np.float64)
    seed, family = cluster_codes(changes, seeds), cluster_codes(changes, families)
    apart = (seed[:, None] != seed) & (family[:, None] != family)
    covered = changes @ axes.T
    inside, whole = (np.where(apart, rows @ rows.T, 0.0) for rows in (covered, changes))  # [n, n]
    total, size = float(whole.sum()), float(whole.sum()) / max(int(apart.sum()), 1)
    value = float(inside.sum() / total) if total > 0 else np.nan
    freedom = (int(family.max()), int(seed.max()))
    errors = []
    every = (family, seed, np.arange(len(changes)))
    for kernel in ((inside - value * whole) / total if total > 0 else whole, (whole - size * apart) / max(int(apart.sum()), 1)):
        errors.append(_combined([_variance(kernel, apart, codes) for codes in every], freedom))
    (error, df), (size_error, size_df) = errors
    p = float(stats.t.sf(size / size_error, size_df)) if size_error > 0 else float(size <= 0)
    reach = float(stats.t.ppf(0.5 + level / 2, df)) * error
    return Share(value, value - reach, value + reach, error, df, p, len(changes), int(seed.max()) + 1, int(family.max()) + 1)


def _variance(kernel: np.ndarray, paired: np.ndarray, codes: np.ndarray) -> float:
    """Variance of the sum of a kernel [n, n] of pairs, as clusters vary.

    The jackknife counts what a pair of clusters has of its own twice; the excess is taken off, as far as it can be told from
    what each of the two has.
    """
    count = int(codes.max()) + 1
    member = np.eye(count)[codes]  # [n, clusters]
    of_pairs, there = member.T @ kernel @ member, member.T @ paired @ member > 0
    of_each = of_pairs.sum(1)
    plain = 2 * float((of_each**2).sum())
    few = count * (count - 1) / max(count - 2, 1) ** 2  # 0 with a single cluster, which tells nothing of others
    line = of_each / np.maximum(there.sum(1) - 1, 1)
    own = (np.where(there, of_pairs - line[:, None] - line, 0.0) ** 2).sum()
    return float(max(2 * few * plain - 2 * own, plain))


def _combined(variances: list[float], freedom: tuple[int, int]) -> tuple[float, float]:
    """Standard error and degrees of freedom from the variances over families, over seeds, and over single contrasts."""
    parts = (variances[0], max(variances[1] - variances[2], 0.0))
    total = sum(parts)
    small = sum(part**2 / max(left, 1) for part, left in zip(parts, freedom, strict=True))
    return float(np.sqrt(total)), float(total**2 / small if small > 0 else max(freedom[0], 1))
