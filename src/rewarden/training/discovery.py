"""Which features are worth rewarding? Three ways to rank them, each judged on prompts that did not rank.

In: values of features over rollouts with their outcomes, or over tokens with the reasoning words among them. Out: a Result with
ranks from one part of the prompts and evidence from the other. Ignorant of models; what is found goes through
`rewarden.training.gate` with the held-out rollouts, as a rank says nothing about style.
Letters: n rollouts, T tokens, F features, K prompts, R reasoning words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from rewarden.concepts.probes import logistic
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.training import DiscoveryOptions
from rewarden.result import Result
from rewarden.statistics.clustered import mean_interval
from rewarden.statistics.intervals import Interval
from rewarden.statistics.sampling import cluster_codes, require_n
from rewarden.training.gate import feature_matrix
from rewarden.training.strata import Outcomes, Strata, stratified_auc


def contrastive(values: Any, labels: Any, *, styles: Any = None, lengths: Any = None, clusters: Any = None,
                names: Sequence[str] | None = None, options: DiscoveryOptions | None = None, **overrides: Any) -> Result:
    """Rank by the standardised difference of means between right and wrong rollouts.

    Args:
        values: [n, F], finite.
        labels: [n], truth values.
        styles, lengths: [n]; where either is given, differences are within strata of both, weighted by
            right × wrong / (right + wrong), and so is the evidence.
        clusters: [n], the prompt; by default every rollout is one.
        names: of the features.
        options, **overrides: see `DiscoveryOptions`.

    Returns:
        Result "discovery". By feature: `score` (difference in standard deviations within outcomes and strata; 0 where a
        feature does not vary), `rank` from 1 by its size, `chosen` (the first `top` with a score other than 0); `held_auc`,
        its ends and `held_score` of the chosen ones on the held-out part (NaN for others): above ½ where the feature is
        larger in right rollouts. `held_out` [n]: the rollouts that ranked nothing. provenance["chosen_on"]: hash of the
        rollouts that chose.

    Raises:
        RewardenError: as `gate_features`; or a part has too few prompts or one outcome only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> right = rng.random(400) < 0.5
        >>> values = rng.normal(size=(400, 5))
        >>> values[:, 3] += right
        >>> found = contrastive(values, right, top=1)
        >>> found.feature[found.chosen].tolist(), bool(found.held_auc_low[3] > 0.5)
        (['feature 3'], True)
    """
    chosen = resolve(DiscoveryOptions, options, overrides)
    values, names, known, held = _parts(values, labels, styles, lengths, clusters, names, chosen)
    strata = Strata.of(known, chosen.length_bins) if styles is not None or lengths is not None else Strata.of(_alike(known))
    score = _difference(values[~held], known.labels[~held], strata.codes[~held])
    return _result("contrastive", names, score, held, values, known, strata, chosen,
                   _difference(values[held], known.labels[held], strata.codes[held]))


def probe_guided(values: Any, labels: Any, *, styles: Any = None, lengths: Any = None, clusters: Any = None,
                 names: Sequence[str] | None = None, options: DiscoveryOptions | None = None, **overrides: Any) -> Result:
    """Rank by a ridge logistic probe on all features: coefficient × standard deviation, averaged over cross-fits.

    What a feature adds beside the others counts, so of two that say the same each gets half.

    Args:
        values, labels, styles, lengths, clusters, names, options, **overrides: as in `contrastive`; styles and lengths only
            bear on the evidence.

    Returns:
        As `contrastive` but for `held_score`, with `score` in log odds per standard deviation, `score_sd` over the folds, and
        as scalars `probe_cross_auc` (each prompt by a probe of the others, ranking part) and `probe_held_auc` (the mean
        probe, held-out part), with ends.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> right = rng.random(400) < 0.5
        >>> values = rng.normal(size=(400, 5))
        >>> values[:, 3] -= right
        >>> found = probe_guided(values, right, top=1)
        >>> found.feature[found.chosen].tolist(), bool(found.score[3] < 0)
        (['feature 3'], True)
    """
    chosen = resolve(DiscoveryOptions, options, overrides)
    values, names, known, held = _parts(values, labels, styles, lengths, clusters, names, chosen)
    strata = Strata.of(known, chosen.length_bins) if styles is not None or lengths is not None else Strata.of(_alike(known))
    x, right, codes = values[~held], known.labels[~held], np.unique(known.clusters[~held], return_inverse=True)[1]
    folds = (np.random.default_rng(chosen.seed + 1).permutation(int(codes.max()) + 1) % chosen.folds)[codes]
    probes, scores = np.zeros((chosen.folds, x.shape[1])), np.zeros(len(x))
    for fold in range(chosen.folds):
        rest = folds != fold
        if right[rest].all() or not right[rest].any():
            raise RewardenError("a probe needs right and wrong rollouts in every part", where="labels",
                                fix="add prompts, or lower folds=")
        probes[fold] = logistic(x[rest], right[rest], chosen.ridge)
        scores[~rest] = x[~rest] @ probes[fold]
    by_fold = probes * x.std(0)
    made = _result("probe_guided", names, by_fold.mean(0), held, values, known, strata, chosen)
    cross = stratified_auc(scores, right, known.clusters[~held], folds, level=chosen.level)
    whole = stratified_auc(values[held] @ probes.mean(0), known.labels[held], known.clusters[held], strata.codes[held],
                           level=chosen.level)
    data = made.data.assign({"score_sd": ("feature", by_fold.std(0, ddof=1)), **cross.variables("probe_cross_auc"),
                             **whole.variables("probe_held_auc")})
    return Result(made.kind, data, made.provenance)


def reason_score(activations: Any, words: Any, *, clusters: Any, names: Sequence[str] | None = None,
                 options: DiscoveryOptions | None = None, **overrides: Any) -> Result:
    """Rank by ReasonScore: which features are active where a text reasons, and at all of its reasoning words?

    ReasonScore_i = μ_i(D_R) / Σ_j μ_j(D_R) · H_i^α − μ_i(D_¬R) / Σ_j μ_j(D_¬R), where μ_i is the mean activation over tokens,
    D_R the tokens at reasoning words and D_¬R the others, and H_i the entropy of p_i(r) = μ_i(D_r) / Σ_s μ_i(D_s) over the R
    words, divided by log R: 1 for a feature that all words share, 0 for a detector of a single word.

    Args:
        activations: [T, F], of latents: finite and not negative. words: int [T]: the reasoning word that a token belongs to,
        from 0; −1 for other tokens. The published setting takes each
            word with the 2 tokens before and the 3 after it.
        clusters: [T], the text of each token.
        names: of the features.
        options, **overrides: see `DiscoveryOptions` (`entropy` is α).

    Returns:
        Result "discovery" as of `contrastive`, with tokens in place of rollouts and ranks by `score` itself, largest first.
        `entropy` [F]; `held_score` on held-out texts; evidence in place of an AUC: `held_gap`, the difference of means at
        reasoning words and at others within held-out texts that have both, with ends (t over texts).

    Raises:
        RewardenError: negative activations, fewer than two words, no token of either kind in a part, or too few texts.

    Source: Galichin et al. 2025, arXiv 2503.18878 (α = 0.7). It shows where a feature is active, not that answers become right.

    Example:
        >>> words = np.tile([0, -1, 1, -1], 100)
        >>> shared, single = (words >= 0) + 0.1, (words == 0) + 0.1
        >>> latents, texts = np.column_stack([single, shared, np.full(400, 0.5)]), np.arange(400) // 8
        >>> found = reason_score(latents, words, clusters=texts, top=1)
        >>> found.feature[found.chosen].tolist(), [int(one) for one in found.entropy[1:].round()]
        (['feature 1'], [1, 1])
    """
    chosen = resolve(DiscoveryOptions, options, overrides)
    values, names = feature_matrix(activations, names)
    words = np.asarray(words)
    if words.shape != (len(values),) or words.dtype.kind not in "iu" or words.min() < -1:
        raise RewardenError(f"words of shape {words.shape} and type {words.dtype}", where="words",
                            why=f"there are {len(values)} tokens", fix="pass the number of each token's word, or -1")
    count = int(words.max()) + 1
    if (values < 0).any() or count < 2:
        raise RewardenError("ReasonScore is of activations that are not negative, at two or more words",
                            where="activations" if count > 1 else "words", why=f"smallest {values.min():g}; {count} words",
                            fix="pass latents after their activation; number the words from 0")
    codes = cluster_codes(values, clusters)
    held = _split(codes, chosen)
    score, entropy = _reason_score(values[~held], words[~held], count, chosen.entropy)
    again, _ = _reason_score(values[held], words[held], count, chosen.entropy)
    rank = _ranks(-score)
    taken = (rank <= chosen.top) & (score > 0)
    gaps = {feature: _gap(values[held, feature], words[held] >= 0, codes[held], chosen.level)
            for feature in np.flatnonzero(taken)}
    data = {"score": ("feature", score), "rank": ("feature", rank), "chosen": ("feature", taken),
            "entropy": ("feature", entropy), "held_score": ("feature", np.where(taken, again, np.nan)),
            "held_out": ("token", held), **_spread("held_gap", gaps, len(names))}
    return Result("discovery", xr.Dataset(data, coords={"feature": names}), {
        "method": "reason_score", "tokens": len(values), "texts": int(codes.max()) + 1, "words": count, "seed": chosen.seed,
        "level": chosen.level, "entropy_exponent": chosen.entropy})


def _reason_score(values: np.ndarray, words: np.ndarray, count: int, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Score and normalised entropy [F]; a word that does not occur here has no share."""
    reasoning = words >= 0
    if not reasoning.any() or reasoning.all():
        raise RewardenError("a part of the texts has no tokens of one kind", where="words",
                            why=f"{int(reasoning.sum())} of {len(words)} tokens are at reasoning words", fix="add texts")
    total = [values[rows].mean(0) for rows in (reasoning, ~reasoning)]
    inside, outside = (np.divide(mean, mean.sum(), out=np.zeros_like(mean), where=mean.sum() > 0) for mean in total)
    means = np.stack([values[words == word].mean(0) if (words == word).any() else np.zeros(values.shape[1])
                      for word in range(count)])  # [R, F]
    sums = means.sum(0)
    share = np.divide(means, sums, out=np.zeros_like(means), where=sums > 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(0) / np.log(count)
    return inside * entropy**exponent - outside, entropy


def _gap(column: np.ndarray, reasoning: np.ndarray, codes: np.ndarray, level: float) -> Interval:
    """Mean at reasoning words less mean elsewhere, over texts that have both."""
    found = np.unique(codes, return_inverse=True)[1]
    counts = [np.bincount(found[rows], minlength=int(found.max()) + 1) for rows in (reasoning, ~reasoning)]
    sums = [np.bincount(found[rows], column[rows], int(found.max()) + 1) for rows in (reasoning, ~reasoning)]
    both = (counts[0] > 0) & (counts[1] > 0)
    return mean_interval(sums[0][both] / counts[0][both] - sums[1][both] / counts[1][both], level=level)


def _parts(values: Any, labels: Any, styles: Any, lengths: Any, clusters: Any, names: Sequence[str] | None,
           chosen: DiscoveryOptions) -> tuple[np.ndarray, list[str], Outcomes, np.ndarray]:
    """Checked values, names, outcomes, and which rollouts are held out."""
    values, names = feature_matrix(values, names)
    known = Outcomes.read(len(values), labels, styles, lengths, clusters)
    held = _split(known.clusters, chosen)
    for rows, part in ((held, "the held-out part"), (~held, "the ranking part")):
        if known.labels[rows].all() or not known.labels[rows].any():
            raise RewardenError(f"{part} holds one outcome only", where="labels", why=f"{int(rows.sum())} rollouts, seed "
                                f"{chosen.seed}", fix="add rollouts with the rarer outcome, or another seed=")
    return values, names, known, held


def _split(codes: np.ndarray, chosen: DiscoveryOptions) -> np.ndarray:
    """Which rows are held out: whole clusters, bool [n]."""
    count = int(codes.max()) + 1
    apart = round(count * chosen.held_out)
    require_n(min(apart, count - apart), chosen.least_clusters, "ranking on one part of the prompts and judging on the other")
    return (np.random.default_rng(chosen.seed).permutation(count) < apart)[codes]


def _alike(known: Outcomes) -> Outcomes:
    return Outcomes(known.labels, np.full(len(known.labels), "all", object), np.zeros(len(known.labels)), known.clusters)


def _difference(values: np.ndarray, labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Standardised mean difference [F] within strata: the coefficient of the outcome beside strata, in residual sds."""
    gap, weight, square, free = np.zeros(values.shape[1]), 0.0, np.zeros(values.shape[1]), 0
    for stratum in np.unique(codes):
        right, wrong = values[(codes == stratum) & labels], values[(codes == stratum) & ~labels]
        if len(right) and len(wrong):
            share = len(right) * len(wrong) / (len(right) + len(wrong))
            gap += share * (right.mean(0) - wrong.mean(0))
            weight += share
            square += ((right - right.mean(0)) ** 2).sum(0) + ((wrong - wrong.mean(0)) ** 2).sum(0)
            free += len(right) + len(wrong) - 2
    if not weight or free < 1:
        return np.zeros(values.shape[1])
    spread = np.sqrt(square / free)
    floor = 1e-12 * (1 + np.abs(values).max(0))
    return np.divide(gap / weight, spread, out=np.zeros_like(gap), where=spread > floor)


def _ranks(keys: np.ndarray) -> np.ndarray:
    """1 for the smallest key; ties in the order of the columns."""
    rank = np.empty(len(keys), np.int64)
    rank[np.argsort(keys, kind="stable")] = np.arange(1, len(keys) + 1)
    return rank


def _spread(name: str, found: dict[Any, Interval], count: int) -> dict[str, Any]:
    """Intervals of some features as variables over all of them, NaN elsewhere."""
    ends = np.full((3, count), np.nan)
    for feature, one in found.items():
        ends[:, feature] = one.estimate, one.low, one.high
    return {f"{name}{end}": ("feature", column) for end, column in zip(("", "_low", "_high"), ends, strict=True)}


def _result(method: str, names: list[str], score: np.ndarray, held: np.ndarray, values: np.ndarray, known: Outcomes,
            strata: Strata, chosen: DiscoveryOptions, again: np.ndarray | None = None) -> Result:
    """Ranks by the size of a score, and the AUC of the first on the held-out part."""
    rank = _ranks(-np.abs(score))
    taken = (rank <= chosen.top) & (score != 0)
    aucs = {feature: stratified_auc(values[held, feature], known.labels[held], known.clusters[held], strata.codes[held],
                                    level=chosen.level) for feature in np.flatnonzero(taken)}
    data = {"score": ("feature", score), "rank": ("feature", rank), "chosen": ("feature", taken), "held_out": ("rollout", held),
            **_spread("held_auc", aucs, len(names))}
    if again is not None:
        data["held_score"] = ("feature", np.where(taken, again, np.nan))
    ranking = Outcomes(known.labels[~held], known.styles[~held], known.lengths[~held], known.clusters[~held])
    return Result("discovery", xr.Dataset(data, coords={"feature": names}), {
        "method": method, "n": len(values), "clusters": int(known.clusters.max()) + 1, "strata": len(strata.used),
        "chosen_on": ranking.sha256(), "seed": chosen.seed, "level": chosen.level})
