"""Which values does a reward model put first: where do the words of each category rank, and who changes that?

In: a scan or scored responses, and lists of words by category. Out: each word's rank among all listed words under each prompt,
medians of categories with intervals, contrasts of two, shifts against a control prompt or persona. Ignorant of models.
Source: Christian et al., arXiv 2601.20838 (dictionaries); personas as in puffables/rm-optpessimal-personas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import benjamini_hochberg, bootstrap_interval, permutation_test, require_n, sign_flip_test
from rewarden.tokens.scores import texts
from rewarden.tokens.words.loaders import word_grid
from rewarden.tokens.words.table import Prompts, WordTable, match_words, word_table

FEWEST = 3
"""Words below which a category gets no interval and no contrast."""

WordLists = Mapping[str, Sequence[str]]


def word_grid_scores(scores: Result | Mapping[str, Result], lists: WordLists | None = None, *, prompts: Prompts = None,
                     control: int | str | None = None, contrasts: Sequence[tuple[str, str]] | None = None, level: float = 0.95,
                     n_resamples: int = 2000, permutations: int = 9999, seed: int = 0) -> Result:
    """Where do the words of each value category rank under each prompt?

    Rank 1 is the listed word with the highest reward under that prompt; equal rewards share the mean of their ranks. Words of
    other kinds take no part. A word may be in several categories; a contrast leaves out the words that both have. A scan has
    words of one token only; `score_responses(rm, prompt, words)` scores all.

    Args:
        scores: a scan (`TokenScores`), scored responses (prompt, response), or several of either by name: personas, one
            result for each (scored with that system message) and with the same prompts.
        lists: words by category, `*` at the end for any ending (see `load_word_lists`); by default the project's `word_grid`.
        prompts: numbers or texts; all by default.
        control: what shifts are measured against: a prompt of `scores`, or the name of a persona (then prompt by prompt).
        contrasts: pairs of categories to compare; by default all. Each costs one permutation test for each prompt.
        level: nominal coverage.
        n_resamples: bootstrap resamples.
        permutations: of each contrast.
        seed: of resamples and permutations.

    Returns:
        Result of kind "word-grid". For words: `reward`, `rank` (prompt, word), `tokens` (word), `member` (category, word). For
        categories: `n` (words found) and `listed` (entries) (category), `median` rank with `low`, `high` (prompt, category),
        percentile bootstrap over words. For contrasts (prompt, contrast): `difference` of mean ranks, first category minus
        second (negative: the first is liked more), `difference_low`, `difference_high` (Welch), `p` (permutation),
        `p_adjusted` (Benjamini-Hochberg over all), `below_noise` (the medians' rewards differ by no more than rounding). With
        a control: `shift` (prompt, word), rank minus rank under the control, and `shift_mean`, `shift_low`, `shift_high`,
        `shift_p` (sign flips), `shift_p_adjusted` (prompt, category), NaN for the control itself. Coordinates of `prompt`:
        `persona`, `question`.

    Raises:
        RewardenError: fewer than ten listed words scored, unknown categories or control, personas with other prompts.

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> lists = {"care": ["help", "mercy", "pity", "tender*", "nurse"], "harm": ["kill", "hurt", "ruin", "wound", "maim"]}
        >>> texts = [" help", "Mercy", "pity", "tenderness", "nurse", "kill", "hurt", "ruin", "wound", "maim", "table"]
        >>> scan = token_scores([range(11, 0, -1)], token_id=range(11), text=texts, prompts=["Hi"])
        >>> found = word_grid_scores(scan, lists, n_resamples=200)
        >>> found.median.tolist(), found.difference.tolist(), found.p.round(4).tolist()
        ([[3.0, 8.0]], [[-5.0]], [[0.0079]])
    """
    lists = word_grid() if lists is None else lists
    named = isinstance(scores, Mapping)
    each = scores if named else {"": scores}
    table, persona, question = _joined(each, prompts)
    names = list(lists)
    pairs = _pairs(names, contrasts)
    at = [] if control is None else _control_rows(table.prompts, persona, question, control, named)
    member = np.array([match_words(entries, table.words) for entries in lists.values()]).reshape(len(lists), -1)
    finite = np.isfinite(table.reward).all(axis=0)
    listed = member.any(axis=0)
    kept = listed & finite
    require_n(int(kept.sum()), 10, "a grid of value words: listed words among those scored, with a finite reward everywhere")
    member, reward = member[:, kept], table.reward[:, kept]
    rank = stats.rankdata(-reward, axis=1)
    n = member.sum(axis=1)
    floor = max((one.noise_floor for one in each.values() if one.noise_floor is not None), default=None)
    variables: dict[str, Any] = {"reward": (("prompt", "word"), reward), "rank": (("prompt", "word"), rank),
                                 "tokens": ("word", table.tokens[kept]), "member": (("category", "word"), member),
                                 "n": ("category", n), "listed": ("category", [len(entries) for entries in lists.values()])}
    variables |= _medians(rank, member, level, n_resamples, seed)
    variables |= _contrasts(rank, reward, member, pairs, level, permutations, seed, floor)
    if control is not None:
        variables |= _shifts(rank, member, at, level, n_resamples, seed)
    data = xr.Dataset(variables, coords={
        "prompt": texts(table.prompts), "persona": ("prompt", texts(persona)), "question": ("prompt", texts(question)),
        "word": table.words[kept], "category": texts(names),
        "contrast": texts(f"{names[i]} − {names[j]}" for i, j in pairs)})
    provenance = _provenance(each, level=level, n_resamples=n_resamples, permutations=permutations, seed=seed,
                             control="" if control is None else str(control))
    notes = _notes(each, lists, n, int((listed & ~finite).sum()))
    return Result("word-grid", data, provenance, all(one.exact for one in each.values()), floor, notes)


def _provenance(each: Mapping[str, Result], **more: Any) -> dict[str, Any]:
    """What all results have in common (personas differ in their system message), and how the grid was made."""
    first, *others = (dict(one.provenance) for one in each.values())
    return {**{key: value for key, value in first.items() if all(other.get(key) == value for other in others)}, **more}


def _notes(each: Mapping[str, Result], lists: WordLists, n: np.ndarray, lost: int) -> tuple[str, ...]:
    few = [f"{name}: {count} of {len(entries)} entries found, no interval" for (name, entries), count in
           zip(lists.items(), n, strict=True) if count < FEWEST]
    gone = [f"{lost} listed words have no finite reward under some prompt: they are left out"] if lost else []
    return tuple(dict.fromkeys([text for one in each.values() for text in one.warnings] + few + gone))


def _joined(scores: Mapping[str, Result], prompts: Prompts) -> tuple[WordTable, list[str], list[str]]:
    """One table of all personas' prompts over the words they share; persona and question of each row."""
    if not scores:
        raise RewardenError("no scores", where="scores=", fix="pass a scan, or a dict persona -> scan")
    tables = {name: word_table(result, prompts) for name, result in scores.items()}
    questions = {name: table.prompts for name, table in tables.items()}
    first = next(iter(questions))
    for name, asked in questions.items():
        if asked != questions[first]:
            raise RewardenError(f"persona {name!r} was asked other prompts", where="scores=",
                                why=f"{asked} and {questions[first]}", fix="score every persona with the same prompts")
    words = np.array(sorted(set.intersection(*(set(table.words.tolist()) for table in tables.values()))), dtype=object)
    blocks = [table.reward[:, np.searchsorted(table.words, words)] for table in tables.values()]
    persona = [name for name, asked in questions.items() for _ in asked]
    question = [text for asked in questions.values() for text in asked]
    several = len(questions[first]) > 1
    labels = [f"{name}: {text}" if name and several else name or text for name, text in zip(persona, question, strict=True)]
    counts = tables[first].tokens[np.searchsorted(tables[first].words, words)]
    return WordTable(words, np.concatenate(blocks), counts, labels), persona, question


def _medians(rank: np.ndarray, member: np.ndarray, level: float, n_resamples: int, seed: int) -> dict[str, Any]:
    fields = {name: np.full((len(rank), len(member)), np.nan) for name in ("median", "low", "high")}
    for j, rows in enumerate(member):
        if not rows.any():
            continue
        fields["median"][:, j] = np.median(rank[:, rows], axis=1)
        if rows.sum() >= FEWEST:
            # Percentile: the jackknife behind BCa takes two values only for a median.
            found = bootstrap_interval(rank[:, rows].T, statistic=np.median, level=level, n_resamples=n_resamples, seed=seed,
                                       method="percentile")
            fields["low"][:, j], fields["high"][:, j] = found.low, found.high
    return {name: (("prompt", "category"), value) for name, value in fields.items()}


def _pairs(names: list[str], contrasts: Sequence[tuple[str, str]] | None) -> list[tuple[int, int]]:
    if contrasts is None:
        return list(combinations(range(len(names)), 2))
    unknown = [name for pair in contrasts for name in pair if name not in names]
    if unknown or any(len(pair) != 2 or pair[0] == pair[1] for pair in contrasts):
        raise RewardenError(f"no contrast of {unknown or list(contrasts)}", where="contrasts=",
                            why=f"the categories are {', '.join(names)}", fix="pass pairs of two of these names")
    return [(names.index(first), names.index(second)) for first, second in contrasts]


def _contrasts(rank: np.ndarray, reward: np.ndarray, member: np.ndarray, pairs: list[tuple[int, int]], level: float,
               permutations: int, seed: int, floor: float | None) -> dict[str, Any]:
    shape = (len(rank), len(pairs))
    fields = {name: np.full(shape, np.nan) for name in ("difference", "difference_low", "difference_high", "p")}
    noise = np.zeros(shape, bool)
    for k, (i, j) in enumerate(pairs):
        first, second = member[i] & ~member[j], member[j] & ~member[i]
        if min(first.sum(), second.sum()) < FEWEST:
            continue
        for row, ranks in enumerate(rank):
            x, y = ranks[first], ranks[second]
            test = permutation_test(x, y, n_resamples=permutations, seed=seed)
            fields["difference"][row, k], fields["p"][row, k] = test.statistic, test.p
            if np.ptp(x) > 0 or np.ptp(y) > 0:
                welch = stats.ttest_ind(x, y, equal_var=False).confidence_interval(level)
                fields["difference_low"][row, k], fields["difference_high"][row, k] = welch.low, welch.high
            gap = np.median(reward[row, first]) - np.median(reward[row, second])
            noise[row, k] = abs(gap) <= (floor or 0.0)
    fields["p_adjusted"] = benjamini_hochberg(fields["p"].ravel()).reshape(shape)
    return {name: (("prompt", "contrast"), value) for name, value in {**fields, "below_noise": noise}.items()}


def _control_rows(labels: list[str], persona: list[str], question: list[str], control: int | str, named: bool) -> list[int]:
    """The row each row is compared with."""
    if named:
        if control not in persona:
            raise RewardenError(f"no persona {control!r}", where="control=", why=f"there are {list(dict.fromkeys(persona))}",
                                fix="use one of these names")
        return [next(i for i, (who, text) in enumerate(zip(persona, question, strict=True)) if (who, text) == (control, asked))
                for asked in question]
    known = labels.index(control) if control in labels else control
    if isinstance(known, str) or not -len(labels) <= known < len(labels):
        raise RewardenError(f"no prompt {control!r} among those chosen", where="control=", why=f"there are {labels}",
                            fix="use one of these texts, or its number")
    return [int(known) % len(labels)] * len(labels)


def _shifts(rank: np.ndarray, member: np.ndarray, control: list[int], level: float, n_resamples: int,
            seed: int) -> dict[str, Any]:
    shift = rank - rank[control]
    shift[[row for row, at in enumerate(control) if row == at]] = np.nan  # the control against itself is no finding
    names = ("shift_mean", "shift_low", "shift_high", "shift_p")
    fields = {name: np.full((len(rank), len(member)), np.nan) for name in names}
    for j, rows in enumerate(member):
        if rows.sum() < FEWEST:
            continue
        mean = bootstrap_interval(shift[:, rows].T, level=level, n_resamples=n_resamples, seed=seed)
        test = sign_flip_test(shift[:, rows].T, seed=seed)
        for name, value in zip(names, (mean.estimate, mean.low, mean.high, test.p), strict=True):
            fields[name][:, j] = value
    fields["shift_p_adjusted"] = benjamini_hochberg(fields["shift_p"].ravel()).reshape(fields["shift_p"].shape)
    return {"shift": (("prompt", "word"), shift), **{name: (("prompt", "category"), v) for name, v in fields.items()}}
