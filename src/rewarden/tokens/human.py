"""Do reward models rank things as people do, and where are they furthest apart?

In: a human rating of items and the models' scores of the same items. Out: a Result of kind "human": rank correlations with
intervals, every rater's rank of every item, and the gaps. Ignorant of where the scores come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval, require_n
from rewarden.tokens.rank_intervals import rank_interval

HUMAN = "human"
"""Name of the human rater."""

NAMED = 3
"""Items that a warning about a tie at the top names."""


CENTRES = {"median": np.median, "mean": np.mean}


def human_agreement(reference: Any, scores: Any = None, names: Sequence[str] | None = None, *,
                    items: Sequence[str] | None = None, prompt: int | str = 0,
                    raters: Literal["models", "with_human"] = "models", centre: Literal["median", "mean"] = "median",
                    level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> Result:
    """How far do models agree with a human ranking, and on which items least?

    Ranks count from 1, the best; equal scores share the mean of their ranks. A row of `rank` is an item's trajectory over
    the raters. An item's gap is its typical rank over the rater set minus its human rank: positive where the models place
    it lower than people do.

    Args:
        reference: float [item], higher is better; or an object with `items`, `human`, `models`, `scores` (as `load_elo` gives).
        scores: float [item, model]; or Results with `reward` (prompt, response) or (prompt, token), one a model, joined by
            text; None takes those of `reference`.
        names: of the models; None takes those of `reference`, or the Results' own.
        items: [item], texts; None takes those of `reference`, or numbers.
        prompt: of the Results: number or text.
        raters: whose ranks make the typical rank: the models', or the human's with them.
        centre: the typical rank is the "median" or the "mean" over that set.
        level: of the intervals.
        n_resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Result "human" over items that have all scores. `reference` (item), `score` (item, model), `rank` (item, rater), where
        rater 0 is "human"; `typical_rank`, `gap` and, over the rater set, `gap_low`, `gap_high` (item). `rho`, `tau` (model):
        Spearman's and Kendall's tau-b with `rho_low`, `rho_high`, `tau_low`, `tau_high` (BCa bootstrap over items, see
        `rank_interval`); `n` (model) items. `distinct` (rater): different scores; `top_ties` (rater):
        items that share the best one.

    Raises:
        RewardenError: sizes that do not fit, fewer than 3 usable items, an unknown rater set.

    Source: Christian et al., arXiv 2506.07326, fig. 5; its "average model rank" is the median over eleven raters, the human
        one included: `raters="with_human"`.

    Example:
        >>> found = human_agreement([4, 3, 2, 1], [[4, 9], [3, 1], [2, 5], [1, 3]], ["a", "b"], items=list("wxyz"))
        >>> found.rho.round(3).tolist(), found.gap.tolist()
        ([1.0, 0.4], [0.0, 1.0, -0.5, -0.5])
    """
    if raters not in ("models", "with_human") or centre not in CENTRES:
        raise RewardenError(f"raters={raters!r}, centre={centre!r}", where="human_agreement",
                            fix="raters is 'models' or 'with_human', centre 'median' or 'mean'")
    human, table, names, items = _inputs(reference, scores, names, items, prompt)
    kept = np.isfinite(human) & np.isfinite(table).all(1)
    require_n(int(kept.sum()), 3, "a comparison of rankings")
    human, table, items = human[kept], table[kept], [text for text, here in zip(items, kept, strict=True) if here]
    values = np.column_stack([human, table])  # [item, rater]
    rank = stats.rankdata(-values, axis=0)
    judges = rank if raters == "with_human" else rank[:, 1:]
    found = bootstrap_interval(judges.T, statistic=CENTRES[centre], level=level, n_resamples=n_resamples, seed=seed,
                               method="percentile")
    top = (values == values.max(0)).sum(0)
    agreement = {}
    for name in ("rho", "tau"):
        agreement |= rank_interval(human, table, name, level=level, n_resamples=n_resamples, seed=seed).variables(name, "model")
    labels = np.empty(len(items), object)
    labels[:] = items
    data = xr.Dataset({
        "reference": ("item", human), "score": (("item", "model"), table), "rank": (("item", "rater"), rank),
        "typical_rank": ("item", found.estimate),
        **{name: ("item", value - rank[:, 0]) for name, value in
           (("gap", found.estimate), ("gap_low", found.low), ("gap_high", found.high))},
        **agreement, "n": ("model", np.full(len(names), len(human))),
        "distinct": ("rater", np.asarray([len(np.unique(column)) for column in values.T])), "top_ties": ("rater", top),
    }, coords={"item": labels, "model": list(names), "rater": [HUMAN, *names]})
    provenance = {"raters": raters, "centre": centre, "level": level, "n_resamples": n_resamples, "seed": seed}
    return Result("human", data, provenance, warnings=tuple(_notes(values, items, [HUMAN, *names], int((~kept).sum()))))


def largest_gaps(result: Result, n: int = 10) -> pd.DataFrame:
    """The items on which a rater set and people are furthest apart.

    Args:
        result: of `human_agreement`.
        n: items at each end.

    Returns:
        Columns item, gap, gap_low, gap_high, human (rank), typical_rank: the n items that the raters place furthest below the
        human rank, furthest first, then the n furthest above, the furthest last.

    Example:
        >>> result = human_agreement([3, 2, 1], [[1], [2], [3]], ["m"], items=["sun", "tea", "tax"])
        >>> largest_gaps(result, 1)[["item", "gap"]].values.tolist()
        [['sun', 2.0], ['tax', -2.0]]
    """
    if n < 1:
        raise RewardenError(f"{n} items", where="n=", fix="ask for at least 1")
    order = np.argsort(-result.gap, kind="stable")
    rows = np.concatenate([order[:n], order[max(n, len(order) - n):]])
    held = {name: result.data[name].values[rows] for name in ("item", "gap", "gap_low", "gap_high")}
    return pd.DataFrame({**held, HUMAN: result.rank[rows, 0], "typical_rank": result.typical_rank[rows]})


def _inputs(reference: Any, scores: Any, names: Sequence[str] | None, items: Sequence[str] | None, prompt: int | str
            ) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Human ratings, scores [item, model], models' names and item texts of the forms that `human_agreement` takes."""
    if hasattr(reference, "human"):
        items = reference.items if items is None else items
        if scores is None:
            scores, names = reference.scores, reference.models if names is None else names
        reference = reference.human
    if scores is None or not np.size(scores):
        raise RewardenError("no model's scores", where="scores=", fix="pass float [item, model], or Results of score_responses")
    human = np.asarray(reference, np.float64)
    if isinstance(scores, Result) or (isinstance(scores, Sequence) and len(scores) and isinstance(scores[0], Result)):
        results = [scores] if isinstance(scores, Result) else list(scores)
        if items is None:
            raise RewardenError("Results are joined to the items by text", where="items=", fix="pass the items' texts")
        names = [str(r.provenance.get("model", f"model {k}")) for k, r in enumerate(results)] if names is None else names
        table = np.column_stack([_joined(result, items, prompt) for result in results])
    else:
        table = np.asarray(scores, np.float64)
    if human.ndim != 1 or table.ndim != 2 or len(table) != len(human) or names is None or len(names) != table.shape[1]:
        raise RewardenError(f"ratings {human.shape}, scores {table.shape} and {0 if names is None else len(names)} names",
                            where="human_agreement", fix="pass reference [item], scores [item, model], names [model]")
    items = [str(number) for number in range(len(human))] if items is None else [str(text) for text in items]
    if len(items) != len(human) or len({HUMAN, *names}) != len(names) + 1:
        raise RewardenError(f"{len(items)} items for {len(human)} ratings, models {list(names)}", where="items=, names=",
                            fix=f"one text a rating; names that differ from each other and from {HUMAN!r}")
    return human, table, [str(name) for name in names], items


def texts_and_rewards(result: Result, prompt: int | str = 0) -> tuple[list[str], np.ndarray]:
    """Texts and float64 rewards, under one prompt, of a vocabulary scan or of scored responses.

    Raises:
        RewardenError: a Result without `reward` over tokens or responses, or no such prompt.
    """
    label = next((name for name in ("response", "text") if name in result.data.coords), None)
    if label is None or "reward" not in result.data or result.data["reward"].dims[0] != "prompt":
        raise RewardenError(f"a {result.kind!r} result holds no rewards of texts", where="scores",
                            fix="pass a Result of rw.score_vocabulary or rw.score_responses")
    prompts = [str(text) for text in result.data["prompt"].values]
    row = prompts.index(prompt) if prompt in prompts else prompt
    if row not in range(len(prompts)):
        raise RewardenError(f"no prompt {prompt!r}", where="prompt=", why=f"there are {prompts}", fix="use a text or a number")
    return [str(text) for text in result.data[label].values], result.data["reward"].values[row].astype(np.float64)


def _joined(result: Result, items: Sequence[str], prompt: int | str) -> np.ndarray:
    """The reward of each item's text; NaN where it was not scored or where its texts differ in reward."""
    texts, rewards = texts_and_rewards(result, prompt)
    known = pd.Series(rewards).groupby(pd.Series(texts, dtype=object)).agg(["first", "nunique"])
    return known["first"].where(known["nunique"] == 1).reindex([str(text) for text in items]).to_numpy(np.float64)


def _notes(values: np.ndarray, items: Sequence[str], raters: Sequence[str], lost: int) -> list[str]:
    notes = [f"{lost} items lack a rating or a score and are left out"] if lost else []
    for rater, column in zip(raters, values.T, strict=True):
        best = np.flatnonzero(column == column.max())
        if len(np.unique(column)) == 1:
            notes.append(f"{rater} gives every item the same score: it has no ranking")
        elif len(best) > 1:
            some = ", ".join([*(repr(items[i]) for i in best[:NAMED]), *["…"] * (len(best) > NAMED)])
            notes.append(f"the first place of {rater} is shared by {len(best)} items: {some}")
    return notes
