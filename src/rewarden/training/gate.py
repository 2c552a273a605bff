"""Does a feature read the outcome, or only the style and length that go with it?

In: values of features over rollouts, outcomes, styles, lengths, prompts. Out: a Result with AUCs over all rollouts and within
strata of style and length, and what each feature passes as. Ignorant of models, and of how the features were found: gate on
rollouts that did not choose them. Letters: n rollouts, F features, S strata, K prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from rewarden.concepts.probes import logistic
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.training import GateOptions
from rewarden.result import Result
from rewarden.statistics.intervals import Interval
from rewarden.statistics.significance import holm
from rewarden.statistics.verdicts import Verdict
from rewarden.training.strata import Outcomes, Strata, auc_p, stratified_auc, weights_sha256

SCORE = "score"
"""Name of the row that is the weighted sum of all features."""

BASELINES = ("length", "style", "text")
"""Length alone; the style's share of right outcomes; and both in a ridge logistic regression, from the text alone."""

APART = 0.2
"""Share of rollouts in strata set apart above which a warning says so."""


def gate_features(values: Any, labels: Any, *, styles: Any, lengths: Any, clusters: Any = None,
                  names: Sequence[str] | None = None, weights: Any = None, options: GateOptions | None = None,
                  **overrides: Any) -> Result:
    """Is a feature's association with the outcome there within strata of style and length too?

    A feature that says "worked out, step by step" has a high AUC for being right wherever worked answers are right more
    often, and rewarding it teaches the style. So rollouts are compared within strata only: one style, and one of
    `length_bins` parts of it by length; and once more among the about `matched` rollouts of one style and nearest length, as
    within a stratum length still differs.

    Args:
        values: [n, F], one aggregated value a rollout, finite.
        labels: [n], truth values: the outcome (1 right).
        styles: [n] of any values: the form of the answer, such as worked or direct; None where there is one form only.
        lengths: [n], tokens of each completion.
        clusters: [n] of any values: the prompt; by default every rollout is one.
        names: of the features.
        weights: [F]; with them, rows are judged in the direction of their weight's sign, and "score" is one more row: the
            weighted sum. Without, more of a feature must go with the outcome.
        options, **overrides: see `GateOptions`.

    Returns:
        Result "gate". By feature: `plain`, `within`, `matched` (AUCs over all rollouts, within strata, among nearest lengths)
        with `_low`, `_high` and `_p`; all three are of value × sign of the weight. p is two-sided, of AUC = ½: Student's t
        over prompts on the logit scale with the cluster-DeLong error (`strata.stratified_auc`), the test that the intervals
        invert. `p` is the larger of `within_p` and `matched_p`, `p_holm` adjusted over the features ("score" is one question
        by itself); so is `plain_p_holm`. `passed`: p_holm < alpha, and both AUCs at least `least_auc`. `style_only`: an
        association over all rollouts (plain_p_holm < alpha, AUC outside 1 − least_auc to least_auc) of which one as large is
        not found within strata or among nearest lengths. `finding`: "passed", "style only", "against" (the same in the wrong
        direction), or "not shown": too little either way. By stratum: `style`, `shortest`, `longest`, `right`, `wrong`,
        `used`; `stratum_auc`, `_low`, `_high` by feature. By baseline (text alone; cross-fitted over prompts):
        `baseline_auc`, `baseline_low`, `baseline_high`.

    Raises:
        RewardenError: values that are not finite or of another shape; one outcome only; too few prompts; fewer than two strata
            with enough of either outcome, as style and length then cannot be held apart from the outcome.

    Source: van Elteren 1960, Bull. Int. Stat. Inst. 37:351, for comparisons within strata; DeLong et al. 1988 and Obuchowski
    1997 for their error.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> worked = rng.random(600) < 0.5
        >>> right = rng.random(600) < np.where(worked, 0.8, 0.35)
        >>> values = np.column_stack([worked + rng.normal(0, 0.3, 600), right + rng.normal(size=600)])
        >>> gate = gate_features(values, right, styles=worked, lengths=rng.integers(5, 30, 600), names=["style", "insight"])
        >>> gate.finding.tolist()
        ['style only', 'passed']
    """
    chosen = resolve(GateOptions, options, overrides)
    values, names = feature_matrix(values, names)
    known = Outcomes.read(len(values), labels, styles, lengths, clusters, least_clusters=chosen.least_clusters)
    strata = Strata.of(known, chosen.length_bins, chosen.least_each)
    _require_strata(strata, chosen)
    rows, signs, labelled = values, np.ones(len(names)), list(names)
    if weights is not None:
        weights = _checked_weights(weights, len(names))
        signs = np.where(weights < 0, -1.0, 1.0)
        rows, labelled = np.column_stack([values * signs, values @ weights]), [*names, SCORE]
    near = Strata.of(known, size=chosen.matched)
    data: dict[str, Any] = {"sign": ("feature", np.append(signs, [1.0] * (len(labelled) - len(names))))}
    tested: dict[str, np.ndarray] = {}
    for name, folds in (("plain", None), ("within", strata), ("matched", near)):
        found = [_compared(column, known, folds, strata.rows, chosen.level) for column in rows.T]
        data |= _by_feature(name, found)
        tested[name] = np.array([auc_p(one) for one in found])
        data[f"{name}_p"] = ("feature", tested[name])
    tested["p"] = np.fmax(tested["within"], tested["matched"])
    adjusted = {name: np.append(holm(tested[name][:len(names)]), tested[name][len(names):]) for name in ("p", "plain")}
    data |= {"p": ("feature", tested["p"]), "p_holm": ("feature", adjusted["p"]),
             "plain_p_holm": ("feature", adjusted["plain"])}
    finding = _findings({name: data[name][1] for name in ("plain", "within", "matched")}, adjusted, chosen)
    data |= {"finding": ("feature", finding), "passed": ("feature", finding == "passed"),
             "style_only": ("feature", finding == "style only"), **_by_stratum(rows, known, strata, chosen.level),
             **_baselines(known, chosen)}
    provenance: dict[str, Any] = {
        "n": len(values), "clusters": int(known.clusters.max()) + 1, "apart": int((~strata.rows).sum()),
        "strata_apart": int((~strata.used).sum()), "data_sha256": known.sha256(rows), "rollouts_sha256": known.sha256(),
        "alpha": chosen.alpha, "level": chosen.level, "least_auc": chosen.least_auc, "least_each": chosen.least_each,
        "seed": chosen.seed}
    if weights is not None:
        provenance["weights_sha256"] = weights_sha256(weights)
    return Result("gate", xr.Dataset(data, coords={"feature": labelled, "baseline": list(BASELINES)}), provenance,
                  warnings=_warnings(strata, len(values)))


def verdicts(result: Result) -> dict[str, Verdict]:
    """What the gate says of each feature: `flag` where it passed.

    Args:
        result: of `gate_features`.

    Returns:
        By name; `evidence` is −log10 p with the sign of the association within strata, `estimate` the AUC within strata, `n`
        the number of prompts.
    """
    out = {}
    for name in result.data["feature"].values.tolist():
        row = result.data.sel(feature=name)
        within, p = float(row["within"]), float(row["p"])
        evidence = -np.log10(max(p, 1e-300)) * (1 if within >= 0.5 else -1)
        out[name] = Verdict(name, bool(row["passed"]), float(evidence), within, float(row["within_low"]),
                            float(row["within_high"]), p, int(result.provenance["clusters"]))
    return out


def feature_matrix(values: Any, names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Finite float64 [n, F] with distinct names."""
    values = np.asarray(values)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise RewardenError(f"values of shape {values.shape} and type {values.dtype}", where="values",
                            fix="pass numbers [n, F]: one row a rollout, one column a feature")
    values = values.astype(np.float64)
    names = [f"feature {f}" for f in range(values.shape[1])] if names is None else [str(name) for name in names]
    if len(names) != values.shape[1] or len(set(names)) < len(names) or SCORE in names:
        raise RewardenError(f"{len(names)} names for {values.shape[1]} features", where="names",
                            why=f"each needs one of its own, other than {SCORE!r}", fix="name every column")
    lacking = ~np.isfinite(values)
    if lacking.any():
        rollout, feature = (int(place) for place in np.argwhere(lacking)[0])
        raise RewardenError(f"{int(lacking.sum())} values are not finite",
                            where=f"values[{rollout}, {feature}] ({names[feature]})",
                            why="a completion without tokens has no value", fix="leave these rollouts out, and say how many")
    return values, names


def _checked_weights(weights: Any, count: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (count,) or not np.isfinite(weights).all() or not weights.any():
        raise RewardenError(f"weights of shape {weights.shape}", where="weights",
                            why=f"{count} finite ones, not all 0, are needed", fix="pass one a feature: pack.weights")
    return weights


def _require_strata(strata: Strata, chosen: GateOptions) -> None:
    if strata.used.sum() < 2:
        raise RewardenError("style and length cannot be held apart from the outcome", where="styles, lengths",
                            why=f"{int(strata.used.sum())} of {len(strata.used)} strata hold {chosen.least_each} rollouts of "
                            "either outcome; two are needed", fix="add rollouts of styles and lengths that are both right and "
                            "wrong at times, or lower least_each= or length_bins=")


def _compared(column: np.ndarray, known: Outcomes, folds: Strata | None, rows: np.ndarray, level: float) -> Interval:
    """One AUC: over all rollouts, or within strata, of those in strata that are not set apart."""
    if folds is None:
        return stratified_auc(column, known.labels, known.clusters, np.zeros(len(column), np.int64), level=level)
    return stratified_auc(column[rows], known.labels[rows], known.clusters[rows], folds.codes[rows], level=level)


def _by_feature(name: str, found: Sequence[Interval]) -> dict[str, Any]:
    return {f"{name}{end}": ("feature", np.array([float(getattr(one, field)) for one in found]))
            for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))}


def _findings(auc: dict[str, np.ndarray], adjusted: dict[str, np.ndarray], chosen: GateOptions) -> np.ndarray:
    """What each feature passes as [F]; see `gate_features`."""
    margin = chosen.least_auc - 0.5
    shown = adjusted["p"] < chosen.alpha
    passed = shown & (auc["within"] - 0.5 >= margin) & (auc["matched"] - 0.5 >= margin)
    against = shown & (0.5 - auc["within"] >= margin) & (0.5 - auc["matched"] >= margin)
    plain = (adjusted["plain"] < chosen.alpha) & (np.abs(auc["plain"] - 0.5) >= margin)
    inside = np.fmin(np.abs(auc["within"] - 0.5), np.abs(auc["matched"] - 0.5))
    return np.select([passed, against, plain & (inside < margin)], ["passed", "against", "style only"], "not shown")


def _by_stratum(rows: np.ndarray, known: Outcomes, strata: Strata, level: float) -> dict[str, Any]:
    """What is in each stratum, and the AUC of each feature there; NaN in those set apart."""
    ends = np.full((3, rows.shape[1], len(strata.used)), np.nan)
    for stratum in np.flatnonzero(strata.used):
        inside = strata.codes == stratum
        for feature, column in enumerate(rows[inside].T):
            found = stratified_auc(column, known.labels[inside], known.clusters[inside], strata.codes[inside], level=level)
            ends[:, feature, stratum] = found.estimate, found.low, found.high
    about = {name: ("stratum", getattr(strata, name)) for name in ("shortest", "longest", "right", "wrong", "used")}
    return {"style": ("stratum", strata.style.astype(str)), **about,
            **{name: (("feature", "stratum"), one) for name, one in zip(("stratum_auc", "stratum_low", "stratum_high"), ends,
                                                                        strict=True)}}


def _baselines(known: Outcomes, chosen: GateOptions) -> dict[str, Any]:
    """AUCs of what the text alone says of the outcome: what a feature has to be seen against."""
    names = sorted(set(known.styles))
    style = (known.styles[:, None] == np.array(names, dtype=object)).astype(np.float64)
    length = np.column_stack([known.lengths, known.lengths**2])
    count = int(known.clusters.max()) + 1
    folds = (np.random.default_rng(chosen.seed).permutation(count) % min(chosen.folds, count))[known.clusters]
    found = [stratified_auc(known.lengths, known.labels, known.clusters, np.zeros(len(folds), np.int64), level=chosen.level)]
    for columns in (style, np.column_stack([style, length])):
        scores = np.zeros(len(known.labels))
        for fold in np.unique(folds):
            rest = folds != fold
            if len(set(known.labels[rest])) == 2:
                scores[~rest] = columns[~rest] @ logistic(columns[rest], known.labels[rest], 1.0)
        found.append(stratified_auc(np.round(scores, 9), known.labels, known.clusters, folds, level=chosen.level))
    return {f"baseline{end}": ("baseline", [float(getattr(one, field)) for one in found])
            for end, field in (("_auc", "estimate"), ("_low", "low"), ("_high", "high"))}


def _warnings(strata: Strata, n: int) -> tuple[str, ...]:
    apart = int((~strata.rows).sum())
    notes = []
    if apart > APART * n:
        notes.append(f"{apart} of {n} rollouts lie in {int((~strata.used).sum())} strata with too few of either outcome: "
                     "nothing was compared there")
    if len(set(strata.style)) == 1:
        notes.append("all rollouts are of one style: only length was held fixed")
    return tuple(notes)
