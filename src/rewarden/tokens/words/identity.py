"""Does a model score words for groups of people lower or higher than other words like them?

In: rewards of texts, identity terms by axis, candidate controls, covariates. Out: a Result of kind "identity": each axis' and
each term's difference to controls matched on length, frequency, sentiment, with p values. Ignorant of models, and of where
covariates come from. A difference left by the covariates that were given may still be one of those that were not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import benjamini_hochberg, bootstrap_interval, require_n
from rewarden.tokens.human import texts_and_rewards

Covariate = Callable[[Sequence[str]], Any] | Mapping[str, float] | Sequence[float] | np.ndarray
"""A number a text: a function of a list of texts, a mapping, or an array along the texts of the rewards."""

TERM_CONTROLS = 999
"""Nearest controls a single term is compared with: its p value is at least 1/1,000."""

IMBALANCED = 0.1
"""Standardised difference of a covariate after matching that a reader must know of (Austin 2009)."""


def identity_bias(rewards: Result | np.ndarray | Sequence[float], axes: Mapping[str, Sequence[str]], controls: Sequence[str], *,
                  covariates: Mapping[str, Covariate] | None = None, texts: Sequence[str] | None = None, prompt: int | str = 0,
                  exact: Sequence[str] = (), per_term: int = 5, caliper: float = 0.25, adjust: bool = True, level: float = 0.95,
                  n_resamples: int = 2000, permutations: int = 9999, seed: int = 0) -> Result:
    """The reward of identity terms against that of matched controls, by axis and by term.

    A term's possible controls lie within `caliper` standard deviations of it on every covariate. An axis compares each of its
    terms with its `per_term` nearest ones, and no control serves two terms of an axis: the sets are independent, so choosing
    anew which member of each set is "the term" gives an exact test. A term alone is compared with up to 999 nearest.

    Args:
        rewards: a Result with `reward` (prompt, response) or (prompt, token), or float [text] with `texts`. Texts are compared
            without white space at their ends; the rewards of texts that are then equal are averaged.
        axes: axis → terms.
        controls: texts that are no identity terms; those on a list of terms (in any case) are left out.
        covariates: name → number of each text, such as `{"frequency": lambda listed: frequencies(listed).zipf, "sentiment":
            lambda listed: np.nan_to_num(vader().of(listed))}` with functions of `rewarden.tokens`: a text without a number is
            left out, so neutral words need a 0. "length" (characters) is always one of them, unless given.
        texts: [text], where `rewards` is an array.
        prompt: of the Result: number or text.
        exact: covariates that must be equal, such as a number of tokens.
        per_term: controls a term, at most.
        caliper: largest difference to a control, in standard deviations over all terms and controls.
        adjust: take off what a linear fit over the controls says of the covariates before comparing: within the caliper
            terms and controls still differ a little.
        level: of the intervals.
        n_resamples: bootstrap resamples.
        permutations: random choices of "the term"; p is at least 1/(permutations + 1).
        seed: of both.

    Returns:
        Result "identity". By axis: `effect`, the mean difference of terms to their controls in standard deviations of the
        controls' rewards, with `effect_low`, `effect_high` (BCa bootstrap over terms); `difference`, in units of the reward,
        and `below_noise`; `p` (two-sided, permutation within matched sets), `p_adjusted` (Benjamini–Hochberg over axes); `n`,
        terms with controls; `n_controls`; `listed`, terms asked for. By axis and covariate: `imbalance_before`,
        `imbalance_after` matching, in standard deviations. By term (a term of two axes twice): `reward`, `term_effect` with
        `term_low`, `term_high` (shifts that the permutation test does not reject; NaN where too few controls decide),
        `term_p`, `term_p_adjusted` (over terms), `term_n` controls; `matched` (term, place), the axis' controls;
        `left_out`, why a term has no comparison, or "". `sd` of the controls' rewards, `n_pool` controls to choose from.

    Raises:
        RewardenError: sizes that do not fit, an unknown covariate, no usable term, too few controls for the adjustment.

    Source: Rosenbaum & Rubin 1985 (calipers); Rosenbaum 2002, Observational Studies, §2 (permutation within sets);
        Abadie & Imbens 2011 (adjustment of matched differences).

    Example:
        >>> words = [f"w{i}" for i in range(60)]
        >>> found = identity_bias([i % 7 + 9.0 * (i < 12) for i in range(60)], {"ours": words[:10]}, words[10:], texts=words,
        ...                       covariates={"length": lambda texts: np.ones(len(texts))})
        >>> int(found.n[0]), bool(found.effect_low[0] > 0), bool(found.p[0] < 0.01)
        (10, True, True)
    """
    if per_term < 1 or caliper < 0 or permutations < 1 or not axes:
        raise RewardenError(f"per_term={per_term}, caliper={caliper}, permutations={permutations}, {len(axes)} axes",
                            where="identity_bias", fix="at least 1 control a term, 1 permutation, 1 axis; a caliper from 0")
    known = {"length": lambda listed: [len(text) for text in listed], **(covariates or {})}
    study = _study(_table(rewards, texts, prompt, known), axes, controls, exact, caliper, per_term, adjust)
    sets = study.sets(per_term)
    reasons = [why or ("" if len(found) else "its controls serve other terms")
               for why, found in zip(study.reasons, sets, strict=True)]
    if all(reasons):
        raise RewardenError("no term has a matched control", where="identity_bias", why="; ".join(sorted(set(reasons))),
                            fix="raise caliper=, or give more controls")
    floor = rewards.noise_floor if isinstance(rewards, Result) else None
    settings = {"level": level, "n_resamples": n_resamples, "seed": seed}
    by_axis = pd.DataFrame([_axis(study, [k for k in group if len(sets[k])], sets, permutations, settings)
                            for group in study.groups])
    by_term = pd.DataFrame([_term(reward, study.values[found[:TERM_CONTROLS]], study.sd, level)
                            for reward, found in zip(study.own, study.near, strict=True)])
    matched = np.full((len(sets), per_term), "", object)
    for row, found in enumerate(sets):
        matched[row, : len(found)] = study.pool[found]
    before, after = study.imbalance(sets)
    data = xr.Dataset({
        **{str(name): ("axis", column.to_numpy()) for name, column in by_axis.items()},
        **{str(name): ("term", column.to_numpy()) for name, column in by_term.items()},
        "p_adjusted": ("axis", benjamini_hochberg(by_axis["p"])),
        "term_p_adjusted": ("term", benjamini_hochberg(by_term["term_p"])),
        "below_noise": ("axis", np.abs(by_axis["difference"].to_numpy()) <= (-1.0 if floor is None else floor)),
        "listed": ("axis", np.asarray([len(group) for group in study.groups])),
        "imbalance_before": (("axis", "covariate"), before), "imbalance_after": (("axis", "covariate"), after),
        "reward": ("term", study.reward), "matched": (("term", "place"), matched),
        "left_out": ("term", np.asarray(reasons, object)), "sd": study.sd, "n_pool": len(study.pool),
    }, coords={"axis": list(axes), "covariate": study.names, "term": study.terms,
               "term_axis": ("term", np.repeat(np.asarray(list(axes), object), [len(group) for group in study.groups]))})
    provenance = {**(rewards.provenance if isinstance(rewards, Result) else {}), "prompt": prompt, "exact": ", ".join(exact),
                  "per_term": per_term, "caliper": caliper, "adjust": adjust, "permutations": permutations, **settings}
    return Result("identity", data, provenance, noise_floor=floor, warnings=tuple(_notes(data, study.lost)))


@dataclass(frozen=True, eq=False)
class _Study:
    """Terms and controls before they are matched; `pool` and what is along it are controls, the rest is along terms."""

    names: list[str]
    pool: np.ndarray
    values: np.ndarray
    z_pool: np.ndarray
    terms: np.ndarray
    groups: list[np.ndarray]
    reward: np.ndarray
    own: np.ndarray
    z_terms: np.ndarray
    reasons: list[str]
    near: list[np.ndarray]
    sd: float
    lost: int

    def sets(self, per_term: int) -> list[np.ndarray]:
        """Controls of each term, none twice within an axis: round by round each term takes its nearest one left, first the
        term that has fewest to choose from."""
        found: list[np.ndarray] = [np.empty(0, np.int64)] * len(self.near)
        for group in self.groups:
            taken: set[int] = set()
            for _ in range(per_term):
                for row in sorted(group, key=lambda k: len(self.near[k])):
                    free = next((int(c) for c in self.near[row] if int(c) not in taken), None)
                    if free is not None:
                        taken.add(free)
                        found[row] = np.append(found[row], free)
        return found

    def imbalance(self, sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Mean covariates of terms minus those of all controls, and of their own ones, [axis, covariate] in SD."""
        before, after = np.full((2, len(self.groups), len(self.names)), np.nan)
        for k, group in enumerate(self.groups):
            known = [row for row in group if np.isfinite(self.z_terms[row]).all()]
            used = [row for row in group if len(sets[row])]
            if known:
                before[k] = self.z_terms[known].mean(0) - self.z_pool.mean(0)
            if used:
                after[k] = np.mean([self.z_terms[row] - self.z_pool[sets[row]].mean(0) for row in used], 0)
        return before, after


def _study(table: pd.DataFrame, axes: Mapping[str, Sequence[str]], controls: Sequence[str], exact: Sequence[str],
           caliper: float, per_term: int, adjust: bool) -> _Study:
    """Terms and controls with all covariates, standardised; each term's controls within the caliper, nearest first."""
    names = [str(name) for name in table.columns if name != "reward"]
    if set(exact) - set(names):
        raise RewardenError(f"no covariate {sorted(set(exact) - set(names))}", where="exact=", why=f"there are {names}",
                            fix="use one of them")
    listed = [list(dict.fromkeys(str(term).strip() for term in terms)) for terms in axes.values()]
    rows = [term for terms in listed for term in terms]
    own_words = {term.casefold() for term in rows}
    asked = [text for text in dict.fromkeys(str(text).strip() for text in controls) if text.casefold() not in own_words]
    enough = max(TERM_CONTROLS, per_term * max(map(len, listed)))  # no axis can use more
    pool, people = table.reindex(asked).dropna(), table.reindex(rows)
    require_n(len(pool), 2 * len(names) + 2 if adjust else 2, "matched controls")
    every = pd.concat([pool, people.dropna()])[names].to_numpy()
    scale = np.where(every.std(0) > 0, every.std(0), 1.0)
    z_pool, z_terms = ((part[names].to_numpy() - every.mean(0)) / scale for part in (pool, people))
    reward, values = people["reward"].to_numpy(), pool["reward"].to_numpy()
    own, sd = reward, float(values.std(ddof=1))
    if not sd > 0:
        raise RewardenError("the controls' rewards are all equal", where="controls=", fix="give controls that differ in reward")
    if adjust:
        fit = np.linalg.lstsq(np.column_stack([np.ones(len(values)), z_pool]), values, rcond=None)[0]
        own, values = (y - fit[0] - z @ fit[1:] for y, z in ((own, z_terms), (values, z_pool)))
    reasons, near = [], []
    limit = np.where(np.isin(names, list(exact)), 0.0, caliper) + 1e-9  # rounding of the standardisation
    for z, (_, row) in zip(z_terms, people.iterrows(), strict=True):
        missing = [str(name) for name in row.index[row.isna()]]
        apart = np.abs(z_pool - z)
        inside = np.flatnonzero((apart <= limit).all(1) & (not missing))
        near.append(inside[np.argsort((apart[inside] ** 2).sum(1), kind="stable")][:enough])
        reasons.append(f"no {', '.join(missing)}" if missing else "" if len(inside) else "no control within the caliper")
    groups = np.split(np.arange(len(rows)), np.cumsum([len(terms) for terms in listed])[:-1])
    return _Study(names, pool.index.to_numpy(object), values, z_pool, people.index.to_numpy(object), groups, reward, own,
                  z_terms, reasons, near, sd, len(asked) - len(pool))


def _axis(study: _Study, used: list[int], sets: list[np.ndarray], permutations: int, settings: Mapping[str, Any]
          ) -> dict[str, Any]:
    """Effect, interval and p of one axis from the terms that have controls."""
    if not used:
        return dict.fromkeys(("effect", "effect_low", "effect_high", "difference", "p"), np.nan) | {"n": 0, "n_controls": 0}
    # [term, member]: each member of the set against the mean of the others; member 0 is the term
    sizes = np.asarray([len(sets[row]) for row in used])
    apart = np.zeros((len(used), sizes.max() + 1))
    for k, row in enumerate(used):
        members = np.append(study.own[row], study.values[sets[row]])
        apart[k, : len(members)] = (members - members.mean()) * len(members) / sizes[k]
    found = bootstrap_interval(apart[:, 0] / study.sd, **settings)
    rng = np.random.default_rng(settings["seed"])
    drawn = rng.integers(sizes + 1, size=(permutations, len(used)))
    null = apart[np.arange(len(used)), drawn].mean(1)
    hits = (np.abs(null) >= abs(apart[:, 0].mean()) - 1e-12).sum()  # rounding must not break ties
    return {"effect": found.estimate, "effect_low": found.low, "effect_high": found.high, "difference": apart[:, 0].mean(),
            "p": (hits + 1) / (permutations + 1), "n": len(used), "n_controls": int(sizes.sum())}


def _term(own: float, controls: np.ndarray, sd: float, level: float) -> dict[str, Any]:
    """One term among its controls: every member of the set against the mean of the others."""
    m = len(controls)
    nothing = dict.fromkeys(("term_effect", "term_low", "term_high", "term_p"), np.nan) | {"term_n": m}
    if not m:
        return nothing
    members = np.append(own, controls)
    apart = (members - members.mean()) * (m + 1) / m / sd
    p = (np.abs(apart) >= abs(apart[0]) - 1e-12).mean()
    # how far controls lie from one another; fewer than 1/(1 - level) of them can reject nothing
    low, high = np.quantile((controls - controls.mean()) / sd, [0.5 - level / 2, 0.5 + level / 2])
    ends = (apart[0] - high, apart[0] - low) if (m + 1) * (1 - level) >= 1 else (np.nan, np.nan)
    return {"term_effect": apart[0], "term_low": ends[0], "term_high": ends[1], "term_p": p, "term_n": m}


def _table(rewards: Any, texts: Sequence[str] | None, prompt: int | str, covariates: Mapping[str, Covariate]) -> pd.DataFrame:
    """One row a trimmed text: reward and covariates, float, averaged over texts that trimming makes equal."""
    if isinstance(rewards, Result):
        texts, values = texts_and_rewards(rewards, prompt)
    else:
        values = np.asarray(rewards, np.float64)
    if texts is None or values.shape != (len(texts),) or "reward" in covariates:
        raise RewardenError(f"rewards {values.shape} of {0 if texts is None else len(texts)} texts", where="identity_bias",
                            why="a covariate may not be called 'reward'" if "reward" in covariates else "",
                            fix="pass a Result, or rewards [text] with texts=[...]")
    trimmed = pd.Index([str(text).strip() for text in texts], dtype=object)
    table = pd.Series(values, trimmed).groupby(level=0, sort=False).mean().to_frame("reward")
    for name, given in covariates.items():
        if callable(given) or isinstance(given, Mapping):
            column = given(list(table.index)) if callable(given) else [given.get(text, np.nan) for text in table.index]
            column = np.asarray(column, np.float64)
        elif len(given) == len(trimmed):
            column = pd.Series(np.asarray(given, np.float64), trimmed).groupby(level=0, sort=False).mean().to_numpy()
        else:
            column = np.empty(0)
        if column.shape != (len(table),):
            raise RewardenError(f"the covariate {name!r} does not fit the texts", where="covariates=",
                                why=f"there are {len(trimmed)} texts", fix="give one number a text, a mapping, or a function")
        table[name] = column
    return table.where(np.isfinite(table))


def _notes(data: xr.Dataset, lost: int) -> list[str]:
    notes = [f"{lost} controls lack a reward or a covariate and are left out"] if lost else []
    left = int((data["left_out"].values != "").sum())
    if left:
        notes.append(f"{left} of {data.sizes['term']} terms are left out: see left_out")
    for axis, row in zip(data["axis"].values, data["imbalance_after"].values, strict=True):
        poor = [str(name) for name, value in zip(data["covariate"].values, row, strict=True) if abs(value) > IMBALANCED]
        if poor:
            notes.append(f"{axis}: terms and their controls still differ by more than {IMBALANCED} SD in {', '.join(poor)}")
    return notes
