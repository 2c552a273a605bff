"""Which rollouts are alike in style and length, and how often does the better score belong to the outcome among these?

In: arrays over n rollouts. Out: their `Strata`; AUCs within them, with interval and p. Ignorant of where scores come from.
Letters: n rollouts, F features, S strata.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from rewarden.errors import RewardenError
from rewarden.statistics.intervals import Interval, wilson
from rewarden.statistics.linearised import cluster_sums, t_interval
from rewarden.statistics.sampling import cluster_codes, require_n


@dataclass(frozen=True)
class Outcomes:
    """What is known of n rollouts beside their features.

    Attributes:
        labels: bool [n], the outcome.
        styles: str [n].
        lengths: float64 [n].
        clusters: int64 [n], the prompt of each, from 0.
    """

    labels: np.ndarray
    styles: np.ndarray
    lengths: np.ndarray
    clusters: np.ndarray

    @classmethod
    def read(cls, n: int, labels: Any, styles: Any, lengths: Any, clusters: Any, *, least_clusters: int = 1) -> Outcomes:
        """Checked arrays.

        Args:
            n: rollouts expected.
            labels: [n], truth values or 0 and 1; both must be there.
            styles: [n] of any values; None: all alike.
            lengths: [n], finite; None: all alike.
            clusters: [n] of any values; None: every rollout is one.
            least_clusters: refused below.

        Raises:
            RewardenError: another shape, another label, a length that is not finite, one outcome alone, or too few clusters.
        """
        given = np.asarray(labels)
        styles = np.zeros(n, np.int64) if styles is None else np.asarray(styles)
        lengths = np.asarray(np.zeros(n) if lengths is None else lengths)
        for name, array in (("labels", given), ("styles", styles), ("lengths", lengths)):
            if array.shape != (n,):
                raise RewardenError(f"{name} of shape {array.shape}", where=name, why=f"there are {n} rollouts",
                                    fix="one entry a rollout")
        if given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
            raise RewardenError("labels that are neither true nor false", where="labels", fix="pass booleans, or 0 and 1")
        if lengths.dtype.kind not in "biuf" or not np.isfinite(lengths).all():
            raise RewardenError("a length that is no finite number", where="lengths", fix="pass the number of tokens of each")
        labels = given.astype(bool)
        if labels.all() or not labels.any():
            raise RewardenError(f"all {n} labels are {bool(labels.all())}", where="labels",
                                why="nothing can be told from an outcome that is always the same",
                                fix="add rollouts with the other outcome, from harder or easier prompts")
        codes = cluster_codes(given, clusters)
        require_n(int(codes.max()) + 1, least_clusters, "an interval over prompts (clusters)")
        return cls(labels, np.array([str(one) for one in styles.tolist()], dtype=object), lengths.astype(np.float64), codes)

    def sha256(self, values: np.ndarray | None = None) -> str:
        """Of these rollouts, or of them and their values: names the data behind evidence."""
        digest = hashlib.sha256()
        codes = np.unique(self.clusters, return_inverse=True)[1].ravel()
        values = np.empty(0) if values is None else values
        for array in (values.astype("<f8"), self.labels.astype("u1"), self.lengths.astype("<f8"), codes.astype("<i8")):
            digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        digest.update("\x00".join(self.styles).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Strata:
    """Rollouts of one style and like length.

    Attributes:
        codes: int64 [n], from 0.
        used: bool [S], whether both outcomes are there often enough.
        rows: bool [n], of used strata.
        style, shortest, longest, right, wrong: [S], what is in it.
    """

    codes: np.ndarray
    used: np.ndarray
    rows: np.ndarray
    style: np.ndarray
    shortest: np.ndarray
    longest: np.ndarray
    right: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, rollouts: Outcomes, bins: int = 1, least_each: int = 1, *, size: int | None = None) -> Strata:
        """Each style in `bins` parts by length, cut at quantiles of that style; equal lengths stay together.

        Args:
            rollouts: with their styles and lengths.
            bins: parts of each style.
            least_each: rollouts of either outcome that make a stratum usable.
            size: in place of `bins`, about so many rollouts in each part.

        Example:
            >>> some = Outcomes.read(4, [0, 1, 0, 1], ["a", "a", "a", "b"], [3, 3, 9, 9], None)
            >>> Strata.of(some, 2).codes.tolist()
            [0, 0, 1, 2]
        """
        codes = np.zeros(len(rollouts.labels), np.int64)
        found = 0
        for style in sorted(set(rollouts.styles)):
            rows = rollouts.styles == style
            lengths = rollouts.lengths[rows]
            # A cut lies at a length that occurs, and that length belongs below it: ties are never parted.
            parts = bins if size is None else max(1, len(lengths) // size)
            cuts = np.quantile(lengths, np.arange(1, parts) / parts, method="inverted_cdf") if parts > 1 else np.empty(0)
            part = np.unique(np.searchsorted(cuts, lengths, side="left"), return_inverse=True)[1]
            codes[rows] = found + part
            found += int(part.max()) + 1
        right = np.bincount(codes, rollouts.labels, found).astype(np.int64)
        wrong = np.bincount(codes, minlength=found) - right
        first = np.unique(codes, return_index=True)[1]
        shortest, longest = np.full(found, np.inf), np.full(found, -np.inf)
        np.minimum.at(shortest, codes, rollouts.lengths)
        np.maximum.at(longest, codes, rollouts.lengths)
        used = (right >= least_each) & (wrong >= least_each)
        return cls(codes, used, used[codes], rollouts.styles[first], shortest, longest, right, wrong)


def weights_sha256(weights: np.ndarray) -> str:
    """Of the weights [F] of a score, so that evidence on one is not taken for evidence on another."""
    return hashlib.sha256(np.asarray(weights).astype("<f8").tobytes()).hexdigest()


def stratified_auc(scores: np.ndarray, labels: np.ndarray, clusters: np.ndarray, strata: np.ndarray, *,
                   level: float = 0.95) -> Interval:
    """How often a right rollout scores above a wrong one of the same stratum (½ for a tie), over all such pairs.

    `auc_interval(folds=)` gives the same number with an error about each stratum's own AUC: in strata of a few rollouts these
    follow the data, and 95 % intervals cover 92 % (sets of 8). Here errors are about the common AUC: 95 to 97 %.

    Args:
        scores: float64 [n].
        labels: bool [n].
        clusters: int64 [n].
        strata: int64 [n].
        level: nominal coverage.

    Returns:
        Interval on the logit scale, variance over clusters; Wilson's over clusters where all pairs agree; NaN without pairs.

    Source: linearised ratio of U-statistics; DeLong et al. 1988; Obuchowski 1997 for clusters.

    Example:
        >>> order = np.arange(6.0)
        >>> found = stratified_auc(order, order % 2 == 1, order, np.array([0, 0, 0, 0, 1, 1]))
        >>> float(found.estimate)
        0.8
    """
    codes = np.unique(clusters, return_inverse=True)[1].ravel()
    count = int(codes.max(initial=-1)) + 1
    won, pairs = _won(scores, labels, strata)
    total = pairs.sum() / 2
    if not total:
        return Interval(np.nan, np.nan, np.nan, level, len(scores), "stratified cluster DeLong", count, 0)
    auc = float(won.sum() / 2 / total)
    if auc in (0.0, 1.0):
        sure = wilson(auc * count, count, level)
        return Interval(auc, float(sure.low), float(sure.high), level, len(scores), "wilson over clusters", count, 0)
    influence = cluster_sums((won - auc * pairs) / total, codes)
    return t_interval(auc, influence, level, len(scores), 0, "stratified cluster DeLong", special.logit, special.expit,
                      1 / (auc * (1 - auc)))


def _won(scores: np.ndarray, labels: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each rollout [n]: in how many of its pairs right beats wrong (½ for a tie), and how many pairs it has; by sorting."""
    order = np.lexsort((scores, strata))
    right = labels[order]
    starts = np.append(True, np.diff(strata[order]) != 0)[:len(order)]
    ties = starts | np.append(True, np.diff(scores[order]) != 0)[:len(order)]
    stratum, tie = np.cumsum(starts) - 1, np.cumsum(ties) - 1  # numbers of the stratum, and of the group of equal scores
    inside = [np.bincount(stratum, rows) for rows in (right, ~right)]
    equal = [np.bincount(tie, rows) for rows in (right, ~right)]
    first = np.flatnonzero(starts[ties])  # the first group of equal scores of each stratum
    below = [np.cumsum(some) - some for some in equal]
    below = [some - some[first][stratum[ties]] for some in below]
    won, pairs = np.empty(len(order)), np.empty(len(order))
    won[order] = np.where(right, below[1][tie] + equal[1][tie] / 2, inside[0][stratum] - below[0][tie] - equal[0][tie] / 2)
    pairs[order] = np.where(right, inside[1][stratum], inside[0][stratum])
    return won, pairs


def auc_p(found: Interval) -> float:
    """p of an AUC of ½, two-sided: from the test whose inversion is the interval of `stratified_auc` or `auc_interval`.

    Student's t over clusters on the logit scale; where every comparison agrees, the score test that Wilson's interval inverts.

    Example:
        >>> from rewarden.statistics.clustered import auc_interval
        >>> found = auc_interval([0.1, 0.4, 0.35, 0.8, 0.2, 0.9], [False, False, True, True, False, True])
        >>> bool((found.low > 0.5) == (auc_p(found) < 0.05))
        True
    """
    if found.method.startswith("wilson"):
        return float(2 * stats.norm.sf(np.sqrt(found.n_clusters)))
    centre, low, high = special.logit([found.estimate, found.low, found.high])
    quantile = stats.t.ppf(0.5 + found.level / 2, found.n_clusters - 1)
    if not np.isfinite(low + high):
        return float("nan")
    error = (high - low) / 2 / quantile
    if error == 0:
        return 1.0 if centre == 0 else 0.0
    return float(2 * stats.t.sf(abs(centre) / error, found.n_clusters - 1))
