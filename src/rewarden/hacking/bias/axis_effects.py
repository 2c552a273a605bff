"""How large is the effect of a kind of change, net of what an innocuous change of the same length does?

In: effects of contrasts with the seed and the family of wording of each. Out: an `Estimate` whose error treats seeds *and*
wordings as drawn from more of their kind: a model reacts to any one word in always the same way, however many seeds it is
tried on, so seeds alone say nothing of the kind of change. Ignorant of models and texts.
Letters: n contrasts, T families of wording, S seeds, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from rewarden.statistics.linearised import cluster_sums


@dataclass(frozen=True, eq=False)
class Sample:
    """Effects of contrasts of one axis, or of one bank of controls.

    Attributes:
        effect: float64 [n, K].
        tokens: float64 [n], response tokens that the change adds.
        family: int64 [n], wording.
        seed: [n], names of seeds, comparable between samples.
        names: [T], of the families.
    """

    effect: np.ndarray
    tokens: np.ndarray
    family: np.ndarray
    seed: np.ndarray
    names: np.ndarray = field(default_factory=lambda: np.array([]))

    @property
    def weight(self) -> np.ndarray:
        """Weights [n], sum 1, the same for every family."""
        count = np.bincount(self.family)
        return 1.0 / (count[self.family] * len(count))

    @property
    def families(self) -> int:
        """T."""
        return int(self.family.max()) + 1


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number for each output, with its t interval.

    Attributes:
        value: float64 [K].
        error: standard error [K].
        df: degrees of freedom [K] (Satterthwaite).
        low: lower end [K].
        high: upper end [K].
        p: two-sided [K].
    """

    value: np.ndarray
    error: np.ndarray
    df: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@dataclass(frozen=True, eq=False)
class _Part:
    """One sample's share in a linear estimate: weights [n] on its effects, residuals [n, K], parameters fitted to it."""

    sample: Sample
    weight: np.ndarray
    residual: np.ndarray
    fitted: int


def raw_effect(axis: Sample, level: float = 0.95) -> Estimate:
    """Mean over families of the mean effect.

    Source: two-way clustered variance, Cameron, Gelbach & Miller 2011, JBES 29:238; t with Satterthwaite's degrees of freedom.

    Example:
        >>> one = Sample(np.array([[1.0], [2.0], [3.0], [2.0]]), np.zeros(4), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        >>> raw_effect(one).value.tolist()
        [2.0]
    """
    value = axis.weight @ axis.effect
    return _estimate(value, [_Part(axis, axis.weight, axis.effect - value, 1)], level)


def net_effect(axis: Sample, controls: Sequence[Sample], level: float = 0.95) -> Estimate:
    """Mean effect over families, less what innocuous changes that add as many tokens do.

    A line is fitted to the controls, effect on tokens added; each bank of controls has its own height, all share the slope, and
    every family counts as much as every other of its bank. The line at the axis's own tokens, at the height of the first bank,
    is taken off.

    Args:
        axis: the changes.
        controls: banks; the first is the one that the axis is held against.
        level: coverage of the interval.

    Source: as `raw_effect`, over axis and controls together (a seed that stands in both cancels), with Welch's division of the
        degrees of freedom between them.
    """
    return _estimate(*_net(axis, controls), level)


def net_gap(one: tuple[Sample, Sequence[Sample]], other: tuple[Sample, Sequence[Sample]], level: float = 0.95) -> Estimate:
    """Difference of the net effects of two models that were asked the same, each net of length in its own tokens.

    Args:
        one: the changes and the controls as one model answers them.
        other: the same of the other model; contrasts are matched by wording and seed.
        level: coverage of the interval.

    Returns:
        The difference, with the error of paired contrasts: where both models count the same tokens, `net_effect` of the
        differences of their effects.
    """
    return _paired(_net(*one), _net(*other), level)


def wording_outliers(axis: Sample, controls: Sequence[Sample]) -> tuple[np.ndarray, int]:
    """How far does each wording lie from what innocuous wordings of its length do?

    A reward may follow some wordings of a kind and not others: their mean then says little, however strong it is.

    Args:
        axis: the changes.
        controls: banks, as for `net_effect`; spread and height are those of the first.

    Returns:
        t values [T, K] of each family as one more draw of the first bank's families (prediction), and their degrees of freedom.
    """
    return _outliers(*_wordings(axis, controls))


def wording_gaps(one: tuple[Sample, Sequence[Sample]], other: tuple[Sample, Sequence[Sample]]) -> tuple[np.ndarray, int]:
    """`wording_outliers` of the difference of two models, over the wordings that both answer.

    Args:
        one: as for `net_gap`.
        other: the other model.

    Returns:
        As `wording_outliers`; the error of the controls' line is that of the model in which it is larger.
    """
    (own, rest, reach), (their_own, their_rest, their_reach) = _wordings(*one), _wordings(*other)
    a, b = _common(one[0], other[0])
    c, d = _common(one[1][0], other[1][0])
    return _outliers(own[a] - their_own[b], rest[c] - their_rest[d], np.maximum(reach[a], their_reach[b]))


def slope_within(axis: Sample, amount: np.ndarray, level: float = 0.95) -> Estimate:
    """Effect for each unit of `amount`, from differences within a family of wording: what the wording itself does drops out.

    Args:
        axis: the changes.
        amount: [n], such as tokens added.
        level: coverage of the interval.

    Source: within-group regression; variance as `raw_effect`.

    Example:
        >>> one = Sample(np.array([[1.0], [2.0], [5.0], [6.5]]), np.zeros(4), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        >>> slope_within(one, np.array([1.0, 2.0, 1.0, 2.0])).value.tolist()
        [1.25]
    """
    return _estimate(*_slope(axis, amount), level)


def slope_gap(one: Sample, other: Sample, level: float = 0.95) -> Estimate:
    """Difference of two models' effects for each token, paired as in `net_gap`."""
    return _paired(_slope(one, one.tokens), _slope(other, other.tokens), level)


def spread_beyond(axis: Sample, controls: Sample, level: float = 0.95) -> Estimate:
    """Do terms differ from each other by more than innocuous terms in the same place do?

    Each family is a term whose effects are deviations from the mean of all terms. What their token counts explain is taken off
    (one slope for both samples); then the mean size of a term's deviation is compared. Sizes are scaled by √(T/(T − 1)),
    since T deviations from their own mean are that much too small.

    Returns:
        Mean |deviation| beyond that of the controls, with Welch's interval over terms; p is one-sided (larger).

    Source: Levene's test in Welch's form (Brown & Forsythe 1974, JASA 69:364).
    """
    return _beyond(*_deviations(axis, controls), level)


def spread_gap(one: tuple[Sample, Sample], other: tuple[Sample, Sample], level: float = 0.95) -> Estimate:
    """`spread_beyond` of the differences of two models' deviations: how much terms differ between the models.

    Args:
        one: terms and innocuous terms as one model answers them.
        other: the same of the other model; terms are matched by name.
        level: coverage of the interval.
    """
    left = []
    for mine, theirs, a, b in zip(_deviations(*one), _deviations(*other), one, other, strict=True):
        of_one, of_other = _common(a, b)
        left.append(mine[of_one] - theirs[of_other])
    return _beyond(*left, level)


def t_values(value: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Values over their errors; a value without error is as far from 0 as can be, and 0 without error is at 0.

    Example:
        >>> t_values(np.array([3.0, -1.0, 0.0]), np.array([2.0, 0.0, 0.0])).tolist()
        [1.5, -inf, 0.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, value / error, np.where(value == 0, 0.0, np.sign(value) * np.inf))


def _rows(sample: Sample, number: int, banks: int) -> np.ndarray:
    """Rows of the controls' line [n, banks + 1]: the height of bank `number`, and tokens."""
    heights = [np.full(len(sample.tokens), float(other == number)) for other in range(banks)]
    return np.column_stack([*heights, sample.tokens])


def _line(controls: Sequence[Sample]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Design of each bank, inverse of the weighted normal matrix, and the fitted heights and slope [banks + 1, K]."""
    design = [_rows(bank, number, len(controls)) for number, bank in enumerate(controls)]
    gram = sum(rows.T @ (rows * bank.weight[:, None]) for rows, bank in zip(design, controls, strict=True))
    inverse = np.linalg.pinv(gram)  # banks that all add the same number of tokens leave the slope open: then it is 0
    moments = sum(rows.T @ (bank.effect * bank.weight[:, None]) for rows, bank in zip(design, controls, strict=True))
    return design, inverse, inverse @ moments


def _family_means(sample: Sample, values: np.ndarray) -> np.ndarray:
    """Means [T, K] of values [n, K] by family."""
    return np.stack([np.bincount(sample.family, column) for column in values.T], 1) / np.bincount(sample.family)[:, None]


def _common(one: Sample, other: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Places of the families that both samples have, in the order of their names."""
    return np.intersect1d(one.names, other.names, return_indices=True)[1:]  # type: ignore[return-value]  # two arrays


def _net(axis: Sample, controls: Sequence[Sample]) -> tuple[np.ndarray, list[_Part]]:
    """Net effect [K], and what stands behind it."""
    fitted = len(controls) + 1
    design, inverse, line = _line(controls)
    own = _rows(axis, 0, len(controls))
    place = axis.weight @ own
    value = axis.weight @ axis.effect - place @ line
    parts = [_Part(axis, axis.weight, axis.effect - own @ line - value, 1)]
    for number, (rows, bank) in enumerate(zip(design, controls, strict=True)):
        parts.append(_Part(bank, -bank.weight * (rows @ inverse @ place), bank.effect - rows @ line,
                           fitted - len(controls) + 1 if number == 0 else 1))
    return value, parts


def _slope(axis: Sample, amount: np.ndarray) -> tuple[np.ndarray, list[_Part]]:
    """Slope [K] within families, and what stands behind it."""
    x, y = (values - _family_means(axis, values)[axis.family] for values in (amount[:, None], axis.effect))
    x = x[:, 0]
    weight = x / (x @ x)
    value = weight @ y
    return value, [_Part(axis, weight, y - x[:, None] * value, 1)]


def _wordings(axis: Sample, controls: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Families [T, K] and those of the first bank [T', K] off the controls' line, and variances [T] of draws with the line."""
    _, inverse, line = _line(controls)
    bank = controls[0]
    rest = _family_means(bank, bank.effect - _rows(bank, 0, len(controls)) @ line)
    place = _family_means(axis, _rows(axis, 0, len(controls)))  # [T, banks + 1]
    reach = 1 + ((place @ inverse) * place).sum(1) / len(rest)  # a draw, and the line's own error at its tokens
    return _family_means(axis, axis.effect) - place @ line, rest, reach


def _outliers(own: np.ndarray, rest: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, int]:
    df = max(len(rest) - 2, 1)
    return t_values(own, np.sqrt((rest**2).sum(0) / df * reach[:, None])), df


def _deviations(axis: Sample, controls: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation [T, K] of each term, and of each innocuous one, net of what tokens explain."""
    x = np.concatenate([axis.tokens, controls.tokens])
    y = np.concatenate([axis.effect, controls.effect])
    weight = np.concatenate([axis.weight, controls.weight])
    power = (weight * x) @ x
    slope = (weight * x) @ y / power if power > 0 else np.zeros(y.shape[1])
    first, second = (_family_means(sample, sample.effect - sample.tokens[:, None] * slope) for sample in (axis, controls))
    return first, second


def _beyond(axis: np.ndarray, controls: np.ndarray, level: float) -> Estimate:
    """Mean size of the deviations [T, K] beyond that of the controls; p is one-sided."""
    sizes = [np.abs(mean) * np.sqrt(len(mean) / (len(mean) - 1)) for mean in (axis, controls)]
    value = sizes[0].mean(0) - sizes[1].mean(0)
    found = _interval(value, [size.var(0, ddof=1) / len(size) for size in sizes], [len(size) - 1 for size in sizes], level)
    p = stats.t.sf(t_values(value, found.error), found.df)
    return Estimate(found.value, found.error, found.df, found.low, found.high, p)


def _paired(one: tuple[np.ndarray, list[_Part]], other: tuple[np.ndarray, list[_Part]], level: float) -> Estimate:
    """Difference of two linear estimates from the same contrasts: shares of one wording or seed are taken off each other."""
    parts = []
    for mine, theirs in zip(one[1], other[1], strict=True):
        both = mine.sample, theirs.sample
        names, family = np.unique(np.concatenate([sample.names[sample.family] for sample in both]), return_inverse=True)
        effect, tokens, seed = (np.concatenate([getattr(sample, name) for sample in both])
                                for name in ("effect", "tokens", "seed"))
        parts.append(_Part(Sample(effect, tokens, family, seed, names), np.concatenate([mine.weight, -theirs.weight]),
                           np.concatenate([mine.residual, theirs.residual]), mine.fitted))
    return _estimate(one[0] - other[0], parts, level)


def _estimate(value: np.ndarray, parts: Sequence[_Part], level: float) -> Estimate:
    """The interval of a linear estimate from the residuals behind it, clustered by family and by seed."""
    variances, freedom, by_seed, cells = [], [], [], 0.0
    for part in parts:
        shares = part.weight[:, None] * part.residual  # [n, K]
        left = max(part.sample.families - part.fitted, 1)
        variances.append((cluster_sums(shares, part.sample.family) ** 2).sum(0) * part.sample.families / left)
        freedom.append(left)
        seeds = np.unique(part.sample.seed, return_inverse=True)[1]
        both = part.sample.family * (seeds.max() + 1) + seeds
        number = len(np.unique(both))
        cells = cells + (cluster_sums(shares, both) ** 2).sum(0) * number / max(number - 1, 1)
        by_seed.append((part.sample.seed, shares))
    seeds = np.unique(np.concatenate([names for names, _ in by_seed]), return_inverse=True)[1]
    count = int(seeds.max()) + 1
    of_seeds = (cluster_sums(np.concatenate([shares for _, shares in by_seed]), seeds) ** 2).sum(0) * count / max(count - 1, 1)
    # what is common to a seed over all wordings; an estimate of a variance can fall below 0, the variance cannot
    return _interval(value, [*variances, np.maximum(of_seeds - cells, 0.0)], [*freedom, max(count - 1, 1)], level)


def _interval(value: np.ndarray, variances: Sequence[np.ndarray], freedom: Sequence[int], level: float) -> Estimate:
    """t interval of a value whose variance is a sum of independent estimates."""
    total = np.sum(variances, axis=0)
    parts = np.sum([variance**2 / left for variance, left in zip(variances, freedom, strict=True)], axis=0)
    df = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1.0), float(min(freedom)))
    error = np.sqrt(total)
    half = stats.t.ppf(0.5 + level / 2, df) * error
    return Estimate(value, error, df, value - half, value + half, 2 * stats.t.sf(np.abs(t_values(value, error)), df))
