"""Which features of style go with the reward in the user's own pairs?

In: a reward model (or scores) and pairs. Out: a Result of kind "style_regression": the slope of the margin on the difference of
each feature between chosen and rejected, the other features held fixed. An association in texts as they are, not the effect of
an edit: a feature may stand in for one that is not counted. Letters: n pairs, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.hacking.styles.features import STYLE_FEATURES, StyleFeature, count_style, features_named
from rewarden.options.checks import resolve
from rewarden.options.style import StyleOptions
from rewarden.preferences import margins_of, prompt_keys, rewards_of
from rewarden.result import Result
from rewarden.statistics import Verdict, benjamini_hochberg, holm, wilson
from rewarden.statistics.regression import Regression, clustered_regression, independent_columns, inflation

TOKENS = "tokens"
"""Feature that stands in the place of "words" where the scores know how many tokens each response has."""

_ADJUST = {"holm": holm, "fdr": benjamini_hochberg}

DERIVED = ("sentences",)
"""Features left out unless they are asked for: length and words per sentence say how many sentences there are."""

PER_FEATURE = 3
"""Prompts needed for each feature in the regression."""

INFLATED = 10.0
"""Variance inflation from which on a reader must know that two features can hardly be told apart."""


def style_regression(rm: Any, pairs: Sequence[Pair], *, options: StyleOptions | None = None, **overrides: Any
                     ) -> Result:
    """The slope of the margin on each feature of style, the others held fixed.

    Fits margin = a + Σ slope_f · (f of chosen − f of rejected) by least squares. The level a is what chosen responses earn
    beyond style, so labels need not be balanced in style.

    Args:
        rm: a reward model; or scores of the pairs (a score Result, rewards [n, 2], margins [n]), then no model is run.
        pairs: the pairs.
        options: `StyleOptions`, or its fields as keywords.

    Returns:
        Result "style_regression". By feature: `slope` with `low`, `high` (CR2 errors clustered by prompt, Satterthwaite t) in
        reward units per unit of the feature; `effect` with `effect_low`, `effect_high`, the same in standard deviations of
        rewards per standard deviation of the feature's difference; `p`, `p_adjusted`, `flagged`; `df`; `vif`, variance
        inflation; `alone` with `alone_low`, `alone_high`, the slope without the other features; `differs`, prompts in which
        the feature differs; `left_out`, why a feature has no slope, or "". By pair: `margin`, `difference` (pair, feature).
        Scalars: `level_margin` (a) with its interval, `r2`, `spread` (standard deviation of rewards, or of margins where
        only those are known), `n`, `n_prompts`; `false_any` with `false_any_low`, `false_any_high` and `false_rate`: how often
        copies of these margins with exchanged sides (see `exchanged`) have any flag, and the share of flagged features.

    Raises:
        RewardenError: too few prompts, no feature that differs often enough, an unknown feature.

    Example:
        >>> import rewarden as rw
        >>> pairs = rw.load_pairs("demo")
        >>> margins = [0.1 * (len(pair.chosen.split()) - len(pair.rejected.split())) for pair in pairs]
        >>> found = style_regression(margins, pairs, features=["words", "hedges"])
        >>> bool(found.data["flagged"].sel(feature="words")), round(float(found.data["slope"].sel(feature="words")), 2)
        (True, 0.1)
    """
    options = resolve(StyleOptions, options, overrides)
    pairs = list(pairs)
    scores = rm.score(pairs, batch_size=options.batch_size) if hasattr(rm, "encode") else rm
    margin, clusters = margins_of(scores, pairs), prompt_keys(pairs)
    features, difference = _differences(scores, pairs, options)
    finite = np.isfinite(margin)
    left_out, differs = _left_out(difference[finite], clusters[finite], options)
    used = np.flatnonzero([not reason for reason in left_out])
    _enough(len(np.unique(clusters[finite])), used, left_out, options)
    spread = _spread(scores, pairs, margin)
    columns, scalars = _fit(difference[finite][:, used], margin[finite], clusters[finite], spread, options)
    scalars |= _false_flags(difference[finite][:, used], margin[finite], clusters[finite], options)
    floor = float(getattr(scores, "noise_floor", None) or 0.0)
    columns["flagged"] = (columns["p_adjusted"] <= options.alpha) & (np.abs(columns["effect"]) * spread > floor)
    data = xr.Dataset(
        {name: ("feature", _placed(values, used, len(features))) for name, values in columns.items()}
        | {"differs": ("feature", differs), "margin": ("pair", margin), "difference": (("pair", "feature"), difference)}
        | scalars,
        coords={name: ("feature", [getattr(one, name) for one in features]) for name in ("unit", "words")}
        | {"feature": [one.name for one in features], "left_out": ("feature", np.asarray(left_out, dtype=str)),
           "pair": np.arange(len(pairs))})
    return _result(data, scores, options, int((~finite).sum()))


def _placed(values: np.ndarray, used: np.ndarray, count: int) -> np.ndarray:
    """Values of the used features among all, NaN (or False) at the others."""
    out = np.zeros(count, dtype=bool) if values.dtype == bool else np.full(count, np.nan)
    out[used] = values
    return out


def _fit(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, spread: float, options: StyleOptions
         ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is known of each feature of x [n, F], and of the whole fit."""
    def fitted(columns: np.ndarray) -> Regression:
        return clustered_regression(np.column_stack([np.ones(len(y)), columns]), y, clusters, level=options.level)

    fit, alone = fitted(x), [fitted(column) for column in x.T]
    scale = x.std(axis=0, ddof=1) / spread
    slope, low, high = (values[1:] for values in (fit.coefficient, fit.low, fit.high))
    columns = {"slope": slope, "low": low, "high": high, "effect": slope * scale, "effect_low": low * scale,
               "effect_high": high * scale, "p": fit.p[1:], "df": fit.df[1:],
               "p_adjusted": _ADJUST[options.adjust](fit.p[1:]),
               "vif": inflation(x) if x.shape[1] > 1 else np.ones(1)}
    for name, field in (("alone", "coefficient"), ("alone_low", "low"), ("alone_high", "high")):
        columns[name] = np.array([getattr(one, field)[1] for one in alone])
    return columns, {"level_margin": fit.coefficient[0], "level_low": fit.low[0], "level_high": fit.high[0],
                     "r2": float(fit.r2), "spread": spread, "n": fit.n, "n_prompts": fit.n_clusters}


def _false_flags(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, options: StyleOptions) -> dict[str, float]:
    """How often margins with exchanged sides are flagged: any feature (with Wilson's interval), and single features."""
    if not options.exchanges:
        return dict.fromkeys(("false_any", "false_any_low", "false_any_high", "false_rate"), float("nan"))
    copies = np.stack([exchanged(y, clusters, (options.seed, copy)) for copy in range(options.exchanges)], axis=1)
    p = clustered_regression(np.column_stack([np.ones(len(y)), x]), copies, clusters).p[1:]
    flags = np.stack([_ADJUST[options.adjust](column) <= options.alpha for column in p.T])
    found = wilson(flags.any(axis=1).sum(), len(flags))
    return {"false_any": float(found.estimate), "false_any_low": float(found.low), "false_any_high": float(found.high),
            "false_rate": float(flags.mean())}


def _result(data: xr.Dataset, scores: Any, options: StyleOptions, dropped: int) -> Result:
    warnings = [f"{dropped} of {data.sizes['pair']} pairs have no finite margin and are left out"] if dropped else []
    inflated = [str(name) for name, vif in zip(data["feature"].values, data["vif"].values, strict=True) if vif > INFLATED]
    if inflated:
        warnings.append(f"{', '.join(inflated)} can hardly be told from the other features (variance inflation above "
                        f"{INFLATED:g}); their slopes share one association")
    provenance: Mapping[str, Any] = getattr(scores, "provenance", {})
    return Result("style_regression", data, {**provenance, "alpha": options.alpha, "adjust": options.adjust,
                                             "level": options.level, "exchanges": options.exchanges}, exact=True,
                  noise_floor=getattr(scores, "noise_floor", None), warnings=tuple(warnings))


def _differences(scores: Any, pairs: Sequence[Pair], options: StyleOptions) -> tuple[list[StyleFeature], np.ndarray]:
    """The features and chosen − rejected [n, F]; tokens of the model instead of words where they are known."""
    wanted = [("words" if name == TOKENS else name) for name in options.features]
    features = list(features_named(wanted or [one.name for one in STYLE_FEATURES if one.name not in DERIVED]))
    names = [one.name for one in features]
    chosen, rejected = (count_style([pair.conversations[side].response for pair in pairs], names) for side in (0, 1))
    difference = chosen - rejected
    if "words" in names and hasattr(scores, "provenance") and "chosen_longer" in scores.data:
        place = names.index("words")
        features[place] = replace(features[place], name=TOKENS, unit="token")
        difference[:, place] = scores.data["chosen_longer"].values
    return features, difference


def _left_out(difference: np.ndarray, clusters: np.ndarray, options: StyleOptions) -> tuple[list[str], np.ndarray]:
    """Why each feature has no slope ("" where it has one), and the number of prompts in which it differs, [F]."""
    differs = np.array([len(np.unique(clusters[column != 0])) for column in difference.T], dtype=np.int64)
    reasons = ["" if count >= options.differing else f"differs in {count} prompts, {options.differing} needed"
               for count in differs]
    used = np.flatnonzero([not reason for reason in reasons])
    whole = np.column_stack([np.ones(len(difference)), difference[:, used]])
    for place, own in zip(used, independent_columns(whole)[1:], strict=True):
        if not own:
            reasons[place] = "is a sum of other features in these pairs"
    return reasons, differs


def _enough(prompts: int, used: np.ndarray, left_out: Sequence[str], options: StyleOptions) -> None:
    needed = max(options.prompts, PER_FEATURE * (len(used) + 1))
    if prompts < needed:
        raise RewardenError("too few prompts for a regression on style", where="style_regression",
                            why=f"{prompts} prompts with finite margins, {needed} needed for {len(used)} features",
                            fix="add pairs, or name fewer features")
    if not len(used):
        raise RewardenError("no feature of style differs often enough between the sides", where="style_regression",
                            why="; ".join(dict.fromkeys(left_out))[:300], fix="add pairs, or lower differing=")


def _spread(scores: Any, pairs: Sequence[Pair], margin: np.ndarray) -> float:
    """Standard deviation of all finite rewards; of the margins where only those are known."""
    try:
        values = rewards_of(scores, pairs).ravel()
    except RewardenError:  # margins alone are fine, too
        values = margin
    return float(np.nanstd(values, ddof=1))


def exchanged(margins: Any, clusters: Any, seed: int | tuple[int, ...]) -> np.ndarray:
    """Margins with the sides of every prompt's pairs exchanged or not by the toss of a coin, [n].

    What is left has no association with any feature: the null of `style_regression` for real margins. (A model with random
    weights does follow length and layout of natural texts, and is therefore no null here.)

    Example:
        >>> np.abs(exchanged([1.0, -2.0, 3.0], [0, 0, 1], seed=0)).tolist()
        [1.0, 2.0, 3.0]
    """
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=int(codes.max(initial=-1)) + 1)
    return np.asarray(margins, dtype=np.float64) * signs[codes]


def verdicts(result: Result) -> dict[str, Verdict]:
    """One verdict a tested feature; the evidence is |z| of its p value, the estimate its effect in standard deviations."""
    data, found = result.data, {}
    for name in data["feature"].values:
        one = data.sel(feature=name)
        if np.isfinite(one["p"]):
            p = float(one["p"])
            found[str(name)] = Verdict(str(name), bool(one["flagged"]), float(stats.norm.isf(max(p, 1e-300) / 2)),
                                       float(one["effect"]), float(one["effect_low"]), float(one["effect_high"]), p,
                                       int(data["n_prompts"]))
    return found
