"""Do two quantities pull in opposite directions, more than chance would have it in the same space?

In: differences between responses to the same prompt: of states, and of objectives with their weights; the objectives' rows.
Out: correlations with intervals over prompts, bootstrap signs, p against random directions. Ignorant of models.
Letters: n differences, d width, r rank, K objectives, P pairs of objectives, C prompts, B resamples or draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rewarden.statistics import holm, monte_carlo_p
from rewarden.statistics.jackknife import jackknife_ends

BLOCK = 4_000_000
"""Numbers held at once of random projections (32 MB)."""


@dataclass(frozen=True, eq=False)
class Opposition:
    """Pairs of objectives, in the order of `np.triu_indices(K, 1)`; arrays float64 [P].

    Attributes:
        rho: Σ aᵢaⱼ / √(Σ aᵢ² Σ aⱼ²) over differences a between responses: no mean is taken out, so that which response comes
            first does not matter.
        low: lower end of its interval over prompts.
        high: upper end.
        negative: share of resamples of prompts in which rho is below 0.
    """

    rho: np.ndarray
    low: np.ndarray
    high: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True, eq=False)
class Chance:
    """How often chance opposes two directions as much, float64 [P] each.

    Attributes:
        p: one-sided, unadjusted.
        adjusted: after Holm.
        cosine: of the rows, with the signs of their weights.
        random_sd: standard deviation of rho between pairs of random directions; NaN for terms.
        opposed: for terms, Σ aᵢaⱼ over Σ (difference in reward)²; NaN for heads.
    """

    p: np.ndarray
    adjusted: np.ndarray
    cosine: np.ndarray
    random_sd: np.ndarray
    opposed: np.ndarray


def frame_correlation(values: np.ndarray) -> np.ndarray:
    """Correlations [P] of the columns of differences [n, K] about 0; NaN where a column is 0 throughout.

    Of linear objectives it is their cosine in the frame of the second moments of the states' differences.

    Example:
        >>> frame_correlation(np.array([[1.0, -2.0], [2.0, -4.0], [-1.0, 2.0]])).tolist()
        [-1.0]
    """
    first, second = np.triu_indices(values.shape[1], 1)
    square = (values**2).sum(axis=0)
    return _ratio((values[:, first] * values[:, second]).sum(axis=0), square[first], square[second])


def opposition(values: np.ndarray, clusters: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
               ) -> Opposition:
    """How opposed are objectives over differences between responses?

    Args:
        values: float64 [n, K], what each objective says (or adds to the reward) of each difference.
        clusters: [n], prompt of each difference.
        level: nominal coverage; intervals are jackknifed over prompts, on Fisher's scale (`statistics.jackknife`).
        resamples: of prompts, for the share of negative signs.
        seed: of these resamples.
    """
    first, second = np.triu_indices(values.shape[1], 1)
    codes = np.unique(clusters, return_inverse=True)[1].ravel()
    count = int(codes.max()) + 1
    products, squares = np.zeros((count, len(first))), np.zeros((count, values.shape[1]))  # sums over each prompt
    np.add.at(products, codes, values[:, first] * values[:, second])
    np.add.at(squares, codes, values**2)
    total, size = products.sum(axis=0), squares.sum(axis=0)
    rho = _ratio(total, size[first], size[second])
    left, rest = total - products, size - squares
    low, high = jackknife_ends(rho, _ratio(left, rest[:, first], rest[:, second]), level, correlation=True)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = times @ products
    return Opposition(rho, low, high, ((drawn < 0).sum(axis=0) + 0.5 * (drawn == 0).sum(axis=0)) / resamples)


def signed_cosines(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cosines [P] of rows [K, d], with the sign of the mean weights [n, K] of both."""
    first, second = np.triu_indices(len(rows), 1)
    unit, sign = rows / np.linalg.norm(rows, axis=1, keepdims=True), np.sign(weights.mean(axis=0))
    return (unit @ unit.T)[first, second] * sign[first] * sign[second]


def chance_of_heads(states: np.ndarray, rows: np.ndarray, weights: np.ndarray, rho: np.ndarray, draws: int,
                    seed: int) -> Chance:
    """Are rows more opposed than rows drawn alike in every direction of the space that a head reads?

    By rho, with the weights that the two objectives have; and by cosine: √(d − 1)·c / √(1 − c²) of two such rows has Student's
    distribution with d − 1 degrees of freedom. The smaller p is doubled. Of a head with random weights both are exact.

    Args:
        states: float64 [n, d], differences of states.
        rows: float64 [K, d].
        weights: float64 [n, K].
        rho: float64 [P], of the objectives.
        draws: pairs of random rows.
        seed: of the draws.
    """
    project = _held(states)  # of a random row, only what the differences hold can matter
    first, second = _pair_weights(weights)
    rng = np.random.default_rng(seed)
    step, null = max(1, BLOCK // max(project.shape)), []
    for start in range(0, draws, step):
        one, two = (project @ rng.normal(size=(project.shape[1], min(step, draws - start))) for _ in range(2))  # [n, b]
        null.append(_ratio((first * second) @ (one * two), first**2 @ one**2, second**2 @ two**2).T)
    held = np.concatenate(null)  # [B, P], or [B, 1]
    cosine = signed_cosines(rows, weights)
    clipped, free = np.clip(cosine, -1 + 1e-12, 1 - 1e-12), rows.shape[1] - 1
    by_cosine = stats.t.cdf(clipped * np.sqrt(free / (1 - clipped**2)), free)
    p = np.minimum(2 * np.minimum(monte_carlo_p(held, rho, alternative="less"), by_cosine), 1.0)
    return Chance(p, holm(p), cosine, np.broadcast_to(held.std(axis=0), rho.shape).copy(), np.full(rho.shape, np.nan))


def _pair_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of both sides of each pair [P, n]; one row of ones where no weight changes with the input.

    A constant weight cancels but for its sign, and rho of random directions is as often negative as positive.
    """
    if np.ptp(weights, axis=0).max(initial=0.0) <= 1e-6 * np.abs(weights).max(initial=0.0):
        return np.ones((1, len(weights))), np.ones((1, len(weights)))
    places = np.triu_indices(weights.shape[1], 1)
    return weights.T[places[0]], weights.T[places[1]]


def chance_of_terms(states: np.ndarray, rows: np.ndarray, weights: np.ndarray, reward: np.ndarray, draws: int,
                    seed: int) -> Chance:
    """Does the reward read two given directions against each other more than a random reward would?

    The directions are the user's and go together as they do; what could be chance is how the reward weighs them. opposed =
    Σ aᵢaⱼ / Σ r², with a what the directions add and r the whole difference in reward, for the reward and for rows drawn alike
    in every direction. Of a linear head with random weights p is exact.

    Args:
        states: float64 [n, d], differences of states.
        rows: float64 [K, d], unit directions.
        weights: float64 [n, K], what the reward reads of each.
        reward: float64 [n], differences in reward.
        draws: random rewards.
        seed: of the draws.
    """
    first, second = np.triu_indices(len(rows), 1)
    values = states @ rows.T
    added = weights * values
    with np.errstate(divide="ignore", invalid="ignore"):
        opposed = (added[:, first] * added[:, second]).sum(axis=0) / (reward**2).sum()
    together = (values[:, first] * values[:, second]).sum(axis=0)
    project, rng = _held(np.concatenate([rows, states])), np.random.default_rng(seed)
    step, null = max(1, BLOCK // max(project.shape)), []
    for start in range(0, draws, step):
        read = project @ rng.normal(size=(project.shape[1], min(step, draws - start)))  # [K + n, b]
        null.append((read[first] * read[second] * together[:, None] / (read[len(rows):]**2).sum(axis=0)).T)
    p = monte_carlo_p(np.concatenate(null), opposed, alternative="less")
    return Chance(p, holm(p), signed_cosines(rows, weights), np.full(opposed.shape, np.nan), opposed)


def _held(states: np.ndarray) -> np.ndarray:
    """Coordinates [n, r] of vectors in the space they span; signs of its axes do not depend on signs of the vectors."""
    left, sizes, right = np.linalg.svd(states, full_matrices=False)
    largest = np.abs(right).argmax(axis=1)
    return left * sizes * np.sign(right[np.arange(len(right)), largest])


def _ratio(product: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left * right > 0, product / np.sqrt(left * right), np.nan)
