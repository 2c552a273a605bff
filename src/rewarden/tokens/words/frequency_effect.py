"""Does a reward model prefer common words, when their sentiment is held fixed?

In: a scan of the vocabulary (or scored responses), a lexicon, a table of word frequencies. Out: the slope of the reward on
log frequency beside that on valence, with HC3 intervals, and how many words the table covers. Ignorant of models.
Source: Christian et al., arXiv 2506.07326, Fig. 3D; one row for each word, where their join repeats words by part of speech.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr

from rewarden.result import Result
from rewarden.statistics import benjamini_hochberg, require_n
from rewarden.tokens.scores import texts
from rewarden.tokens.words.frequencies import FrequencySource
from rewarden.tokens.words.frequencies import frequencies as word_frequencies
from rewarden.tokens.words.lexicons import LexiconLike, as_lexicon
from rewarden.tokens.words.regression import ols_hc3
from rewarden.tokens.words.sentiment import FEWEST, reward_scale, valued_words
from rewarden.tokens.words.table import Prompts, WordTable, word_table

TERMS = ("frequency", "valence")
"""What the reward is regressed on, beside the constant."""

POOR = 0.9
"""Coverage below which the reader is warned."""


def frequency_effect(scores: Result, lexicon: LexiconLike = None, frequencies: FrequencySource = "wordfreq", *,
                     prompts: Prompts = None, words: Collection[str] | None = None, standardise: bool = False,
                     level: float = 0.95) -> Result:
    """How much reward does a word get for being ten times as common, its valence held fixed?

    Args:
        scores: a scan (`TokenScores`) or scored responses (prompt, response); tokens of one word are averaged.
        lexicon: VADER by default, as for `sentiment_slopes`; words without a value are left out.
        frequencies: "wordfreq" (the package), a dict or file word -> occurrences per million; see `words.frequencies`.
        prompts: numbers or texts; all by default.
        words: only these (`shared_words`); by default the scan's own.
        standardise: divide rewards by their standard deviation over the words used, prompt by prompt.
        level: nominal coverage.

    Returns:
        Result of kind "frequency": `slope`, `se`, `low`, `high`, `p`, `p_adjusted` (Benjamini-Hochberg over prompts, each
        term by itself), `below_noise` (prompt, term), where the term "frequency" is reward for each factor of ten and
        "valence" for each point; `intercept`, `n` (words), `correlation` between the two terms, `alone`, the slope on
        frequency without valence (prompt). For figures `zipf`, `valence`, `tokens` (word), `reward` (prompt, word); `scale`
        (prompt); `coverage`, the share of valued words that have a frequency.

    Raises:
        RewardenError: fewer than ten words with both, a table that cannot be read, wordfreq not installed.

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> texts = [f"word{letter}" for letter in "abcdefghijkl"]
        >>> uses = {text: 10.0 ** (i % 4) for i, text in enumerate(texts)}
        >>> worth = {text: float(i % 5) - 2 for i, text in enumerate(texts)}
        >>> reward = [0.5 * (3 + i % 4) - (i % 5 - 2) for i in range(12)]
        >>> found = frequency_effect(token_scores([reward], token_id=range(12), text=texts, prompts=["Hi"]), worth, uses)
        >>> found.slope.round(5).tolist(), found.n.tolist(), float(found.coverage)
        ([[0.5, -1.0]], [12], 1.0)
    """
    table = word_table(scores, prompts, words)
    chosen = as_lexicon(lexicon, table.words)
    table, valence = valued_words(table, chosen)
    used = word_frequencies(table.words, frequencies)
    rows = np.isfinite(used.zipf)
    require_n(int(rows.sum()), FEWEST, f"an effect of frequency: words that {used.source} has a frequency for")
    table = WordTable(table.words[rows], table.reward[:, rows], table.tokens[rows], table.prompts)
    zipf, valence = used.zipf[rows], valence[rows]
    scale = reward_scale(table, standardise)
    cells = {name: np.full((len(table.prompts), len(TERMS)), np.nan) for name in ("slope", "se", "low", "high", "p")}
    per_prompt = {name: np.full(len(table.prompts), np.nan) for name in ("intercept", "correlation", "alone")}
    n = np.isfinite(table.reward).sum(axis=1)
    swing = np.full((len(n), len(TERMS)), np.nan)
    for i, reward in enumerate(table.reward / scale[:, None]):
        kept = np.isfinite(reward)
        if n[i] < FEWEST:
            continue
        terms = np.column_stack([zipf, valence])[kept]
        fit = ols_hc3(np.column_stack([np.ones(n[i]), terms]), reward[kept], level)
        for name, value in zip(cells, (fit.coefficient, fit.se, fit.low, fit.high, fit.p), strict=True):
            cells[name][i] = value[1:]
        per_prompt["intercept"][i] = fit.coefficient[0]
        per_prompt["alone"][i] = ols_hc3(np.column_stack([np.ones(n[i]), terms[:, 0]]), reward[kept], level).coefficient[1]
        if (np.ptp(terms, axis=0) > 0).all():
            per_prompt["correlation"][i] = np.corrcoef(terms.T)[0, 1]
        swing[i] = np.abs(fit.coefficient[1:]) * np.ptp(terms, axis=0) * scale[i]
    dims = ("prompt", "term")
    data = xr.Dataset(
        {**{name: (dims, value) for name, value in cells.items()},
         "p_adjusted": (dims, np.column_stack([benjamini_hochberg(p) for p in cells["p"].T])),
         "below_noise": (dims, swing <= (scores.noise_floor or 0.0)),
         **{name: ("prompt", value) for name, value in per_prompt.items()}, "n": ("prompt", n), "scale": ("prompt", scale),
         "zipf": ("word", zipf), "valence": ("word", valence), "tokens": ("word", table.tokens),
         "reward": (("prompt", "word"), table.reward), "coverage": used.coverage},
        coords={"prompt": texts(table.prompts), "term": texts(TERMS), "word": table.words})
    notes = [f"{used.source} covers {used.coverage:.0%} of the valued words"] if used.coverage < POOR else []
    notes += [f"fewer than {FEWEST} words with a finite reward: no slope"] if (n < FEWEST).any() else []
    provenance = {**scores.provenance, "lexicon": chosen.name, "frequencies": used.source, "level": level,
                  "standardised": standardise}
    return Result("frequency", data, provenance, scores.exact, scores.noise_floor, (*scores.warnings, *notes))
