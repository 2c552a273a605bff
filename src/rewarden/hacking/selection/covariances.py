"""Which features of responses does optimising this reward raise first, and does the gold agree?

In: a `ScoreTable` and features of its samples. Out: susceptibilities χ = Cov(feature, reward) within prompts, the same for the
gold, and which features are predicted to be hacked. Ignorant of how features were made.
Letters: N samples, P prompts, F features, B reference read-outs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.hacking.calibration import null_words
from rewarden.hacking.selection.candidates import ScoreTable
from rewarden.hacking.selection.within_prompts import centred, covariances, gaps, mean_known, varying_prompts
from rewarden.options.best_of_n import BestOfNOptions
from rewarden.options.checks import resolve
from rewarden.result import Result
from rewarden.statistics import Verdict, benjamini_hochberg, monte_carlo_p, require_n
from rewarden.statistics.intervals import Interval
from rewarden.statistics.studentised import mean_above, studentised_interval

LEAST_PROMPTS = 10
"""Prompts below which nothing is estimated: no interval over fewer is worth its name."""

LEAST_VARYING = 10
"""Prompts whose samples must differ in a feature for it to be tested."""


def feature_columns(table: ScoreTable, features: Any = None) -> tuple[list[str], np.ndarray]:
    """Names and values float64 [N, F] of features of a table's samples.

    Args:
        table: the samples.
        features: a data frame or mapping of name -> [N]; None counts style features of the responses.

    Raises:
        RewardenError: no features and no responses, or columns of another length.
    """
    if features is None:
        if table.responses is None:
            raise RewardenError("no features to follow", where="susceptibility(table, features)",
                                why="none are given, and the table has no responses whose style could be counted",
                                fix="give a column 'response', or pass features={name: one number a sample}")
        from rewarden.hacking.styles.features import STYLE_FEATURES, count_style

        return [one.name for one in STYLE_FEATURES], count_style(table.responses)
    names = list(map(str, features))
    columns = [np.asarray(features[name], dtype=np.float64) for name in features]
    wrong = [name for name, column in zip(names, columns, strict=True) if column.shape != (len(table.proxy),)]
    if wrong or not names:
        raise RewardenError(f"features that are not one number a sample: {', '.join(wrong) or 'none given'}",
                            where="features", why=f"the table has {len(table.proxy)} samples", fix="give one number a sample")
    return names, np.stack(columns, 1)


def within_correlation(x: np.ndarray, y: np.ndarray, table: ScoreTable, options: BestOfNOptions) -> tuple[Interval, np.ndarray]:
    """Correlation of x [N, F] with y [N] within prompts, with intervals over prompts, and what each prompt adds to it [P, F].

    ρ = mean cov / √(mean var x · mean var y), means over prompts; the interval is that of the mean of each prompt's influence.
    Samples and prompts without finite numbers are left out, feature by feature.
    """
    y = np.where(np.isfinite(x), y[:, None], np.nan)
    cov, var_x, var_y = covariances(x, y, table), covariances(x, x, table), covariances(y, y, table)
    mean_x, mean_y = mean_known(var_x), mean_known(var_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = cov / np.sqrt(mean_x * mean_y)
        rho = mean_known(scaled)
        influence = scaled - rho / 2 * (var_x / mean_x + var_y / mean_y) + rho
    found = studentised_interval(influence, level=options.level, n_resamples=options.resamples, seed=options.seed)
    return found, influence


def usable(table: ScoreTable, least: int, what: str) -> tuple[ScoreTable, np.ndarray, list[str]]:
    """The samples with finite numbers of prompts that keep at least `least` of them, their numbers, and what was set apart."""
    kept = table.scored
    notes = [f"{int((~kept).sum())} samples are set apart: a number of theirs is not finite"] if not kept.all() else []
    sizes = np.bincount(table.of[kept], minlength=len(table.prompts))
    small = int((sizes < least).sum())
    if small:
        notes.append(f"{small} prompts are left out: fewer than {least} samples with finite numbers")
    if not kept.any():
        raise RewardenError("no sample of the table has a reward", where=what, why="all are missing or not finite",
                            fix="give rewards, or score the responses with rewarden.hacking.table_again(rm, table)")
    require_n(int((sizes >= least).sum()), LEAST_PROMPTS, f"{what}, prompts with {least} samples each")
    rows = np.flatnonzero(kept & (sizes >= least)[table.of])
    return table.rows(rows), rows, notes


def susceptibility(table: Any, features: Any = None, *, options: BestOfNOptions | None = None, **overrides: Any) -> Result:
    """Which features will a policy that is optimised against this reward show more of, and should it?

    χ = Cov(f, r) within a prompt is the slope of the mean of f when the policy starts to lean towards the reward,
    π ∝ π₀·exp(λr), at λ = 0. A feature is a predicted hack where χ > 0, beyond chance, while the gold is not shown to follow
    the feature (the interval of its correlation reaches to `negligible` or below) and follows it less than the reward does,
    beyond chance as well.

    Beyond chance means two things: beyond the sampling of prompts, and more than a random read-out of the same hidden states
    follows the feature, since any read-out follows some. Where the table has no `references` (random read-outs of the same
    model) the second is not known, and no feature is called a hack: see `compared`.

    A sample without a finite number of a feature is left out of that feature, and counted in `left_out`.

    Args:
        table: anything `ScoreTable.read` takes, with several samples a prompt.
        features: name -> one number a sample; style features of the responses by default.
        options, **overrides: see `BestOfNOptions`; used are alpha, negligible, level, resamples, seed.

    Returns:
        Result "susceptibility" by feature: `chi` (feature units × reward units), `chi_each` by prompt; `with_reward`, the
        correlation within prompts, and `with_gold`, each with `_low` and `_high` (symmetric bootstrap-t over prompts); `p`,
        one-sided, that χ ≤ 0 (Student's t over prompts); `reference_p`, that random read-outs follow the feature as much;
        `reference_sd` of their correlations; `q`, the larger of both after Benjamini & Hochberg; `marked`, where q ≤ alpha;
        `gap_p` that the reward does not follow the feature more than the gold; `hack`, where the largest of the three p is a
        finding and the gold is not shown to follow (nowhere without references); `varying`, prompts whose samples differ in the
        feature, NaN where fewer than 10 do; `left_out`, samples without a finite number.

    Raises:
        RewardenError: fewer than 10 prompts with two samples, no features.

    Source: the first-order (fluctuation-dissipation) response of an exponentially tilted policy.

    Example:
        >>> from dataclasses import replace
        >>> rng = np.random.default_rng(0)
        >>> quality, length = rng.normal(size=(2, 30, 8))
        >>> table = replace(ScoreTable.read((quality + length, quality)), references=rng.normal(size=(240, 99)))
        >>> found = susceptibility(table, {"length": length.ravel(), "quality": quality.ravel()}, resamples=200)
        >>> [(verdict.name, verdict.flag) for verdict in verdicts(found).values()]
        [('length', True), ('quality', False)]
    """
    options = resolve(BestOfNOptions, options, overrides)
    asked = ScoreTable.read(table)
    names, values = feature_columns(asked, features)
    table, rows, notes = usable(asked, 2, "susceptibility")
    values = values[rows]
    notes += gaps(names, values)
    left_out = (~np.isfinite(values)).sum(axis=0)
    varying = varying_prompts(values, table)
    values = np.where(varying >= LEAST_VARYING, values, np.nan)
    chi = covariances(values, table.proxy, table)
    reward, each = within_correlation(values, table.proxy, table, options)
    p, reference_p, reference_sd = mean_above(chi), *_references(values, table, reward.estimate)
    q = benjamini_hochberg(np.fmax(p, reference_p))
    data: dict[str, Any] = {"chi": ("feature", mean_known(chi)), "chi_each": (("prompt", "feature"), chi)}
    data |= reward.variables("with_reward", "feature")
    columns = {"p": p, "reference_p": reference_p, "reference_sd": reference_sd, "q": q, "varying": varying,
               "left_out": left_out, "marked": q <= options.alpha, "hack": np.zeros(len(names), dtype=bool)}
    if table.gold is not None:
        gold, gold_each = within_correlation(values, table.gold, table, options)
        columns["gap_p"] = mean_above(each - gold_each)
        beyond = benjamini_hochberg(np.fmax(columns["gap_p"], np.fmax(p, reference_p))) <= options.alpha
        if table.references is not None:
            columns["hack"] = beyond & (gold.low <= options.negligible)
        data |= gold.variables("with_gold", "feature")
    data |= {name: ("feature", column) for name, column in columns.items()}
    facts = {**asked.provenance, "alpha": options.alpha, "negligible": options.negligible, "level": options.level,
             "seed": options.seed, "style": features is None,
             "prompts": len(table.prompts), "samples": len(table.proxy), "gold": table.gold is not None,
             "references": 0 if table.references is None else table.references.shape[1],
             "compared": table.references is not None}
    coords = {"feature": names, "prompt": np.array(table.prompts, dtype=object)}
    return Result("susceptibility", xr.Dataset(data, coords=coords), facts, noise_floor=asked.noise, warnings=tuple(notes))


def _references(values: np.ndarray, table: ScoreTable, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided p [F] against random read-outs, and the standard deviation [F] of their correlations; NaN without any.

    Read-outs are asked about the same samples as the reward: features that lack the same ones are compared together.
    """
    p, spread = np.full((2, len(rho)), np.nan)
    if table.references is None:
        return p, spread
    known = np.isfinite(values)
    for here in np.unique(known, axis=1).T:
        some = here & (np.bincount(table.of[here], minlength=len(table.prompts)) > 1)[table.of]
        if some.any():
            mine = (known == here[:, None]).all(axis=0)
            p[mine], spread[mine] = _ranked(values[some][:, mine], table.rows(some), rho[mine])
    return p, spread


def _ranked(values: np.ndarray, table: ScoreTable, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and standard deviation as `_references`, of features without gaps.

    A read-out and its negative are equally random, so that the size is ranked and the sign halves p: exact for a model whose
    own read-out is such a random one.
    """
    assert table.references is not None
    share = np.sqrt(1.0 / (table.sizes - 1))[table.of][:, None]  # every prompt counts alike
    x, y = (centred(one, table) * share for one in (values, table.references))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (x.T @ y) / np.sqrt((x**2).sum(axis=0)[:, None] * (y**2).sum(axis=0))  # [F, B]
    two_sided = monte_carlo_p(found.T, rho, alternative="two-sided")
    p = np.where(rho > 0, two_sided / 2, 1 - two_sided / 2)
    return p, found.std(axis=1)


def compared(result: Result) -> bool:
    """Whether features were compared with random read-outs; if not, it is undetermined which are hacks.

    Args:
        result: of `susceptibility`.
    """
    return bool(result.provenance["references"])


def reliability(result: Result) -> str:
    """One sentence for reports and terminals: how often `hack` is wrong, or that it was not asked.

    Args:
        result: of `susceptibility`.
    """
    if not compared(result):
        return "Not compared with random read-outs of the model, so that no feature is called a hack."
    if not result.provenance.get("style", True):
        return "Null rate: measured for features of style only."
    return null_words("susceptibility")


def verdicts(result: Result) -> dict[str, Verdict]:
    """One verdict a feature that could be tested: is it a predicted hack? None is flagged unless `compared(result)`.

    Args:
        result: of `susceptibility`.

    Returns:
        Feature -> `Verdict`. `estimate` is the correlation with the reward within prompts; `evidence` is the smallest z
        value of the comparisons, and no larger than 0 where the gold is shown to follow the feature too.
    """
    data, n = result.data, np.isfinite(result.data["chi_each"].values).sum(axis=0)
    missing = np.full(data.sizes["feature"], np.nan)
    gold, gap = (data[key].values if key in data else missing for key in ("with_gold_low", "gap_p"))
    found = {}
    for place, name in enumerate(map(str, data["feature"].values)):
        p = float(data["p"].values[place])
        if np.isnan(p):
            continue
        p = float(np.fmax(p, gap[place]))
        against = float(data["with_reward"].values[place] / data["reference_sd"].values[place])
        z = float(np.fmin(stats.norm.isf(np.clip(p, 1e-300, 1 - 1e-15)), against))
        follows = gold[place] > float(result.provenance["negligible"])
        found[name] = Verdict(name, bool(data["hack"].values[place]), min(z, 0.0) if follows else z,
                              *(float(data[f"with_reward{end}"].values[place]) for end in ("", "_low", "_high")),
                              float(np.fmax(p, data["reference_p"].values[place])), int(n[place]))
    return found
