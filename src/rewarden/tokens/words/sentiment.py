"""Does a reward model pay for nice words, and charge for nasty ones?

In: a scan of the vocabulary (or scored responses) and a lexicon. Out: the slope of the reward on the word's valence, for
negative words, positive words and both, with HC3 intervals. Ignorant of models.
Source: Christian et al., arXiv 2506.07326, Fig. 3A-C, joined without case and white space.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr

from rewarden.result import Result
from rewarden.statistics import benjamini_hochberg, require_n
from rewarden.tokens.scores import texts
from rewarden.tokens.words.lexicons import Lexicon, LexiconLike, as_lexicon
from rewarden.tokens.words.regression import ols_hc3
from rewarden.tokens.words.table import Prompts, WordTable, word_table

SIGNS = ("negative", "positive", "both")
"""Words below 0, above 0, and all (those at 0 too)."""

FEWEST = 10
"""Words below which nothing is fitted; a sign with fewer is left NaN."""


def sentiment_slopes(scores: Result, lexicon: LexiconLike = None, *, prompts: Prompts = None,
                     words: Collection[str] | None = None, standardise: bool = False, level: float = 0.95) -> Result:
    """How much reward does one more point of valence bring?

    Args:
        scores: a scan (`TokenScores`) or scored responses (prompt, response). Tokens of one word are averaged first, so that
            a word counts once and the errors are of words (see `word_table`).
        lexicon: VADER by default; a `Lexicon`, a dict, a function of the word, or a file.
        prompts: numbers or texts; all by default.
        words: only these, such as those that several models share (`shared_words`); by default the scan's own.
        standardise: divide rewards by their standard deviation over the words used, prompt by prompt, so that models with
            other units can be compared; a slope is then in SDs for each point.
        level: nominal coverage.

    Returns:
        Result of kind "sentiment": `slope`, `intercept`, `se`, `low`, `high`, `p`, `p_adjusted` (Benjamini-Hochberg over
        prompts and signs), `n` (words), `below_noise` (the change over the whole range of valences is no more than rounding):
        (prompt, sign). For figures `valence`, `tokens` (word) and `reward` (prompt, word); `scale` (prompt), the divisor.

    Raises:
        RewardenError: fewer than ten words with a valence, an unknown prompt or lexicon.

    Example:
        >>> from rewarden.tokens.scores import token_scores
        >>> texts = ["bad", "poor", "worse", "evil", "vile", " nice", "good", " Great", "best", "love", "table"]
        >>> worth = dict(zip([text.strip().lower() for text in texts], range(-5, 5)))
        >>> scan = token_scores([[2.0 * i for i in range(-5, 6)]], token_id=range(11), text=texts, prompts=["Hi"])
        >>> found = sentiment_slopes(scan, worth)
        >>> found.slope.round(6).tolist(), found.n.tolist()
        ([[nan, nan, 2.0]], [[5, 4, 10]])
    """
    table = word_table(scores, prompts, words)
    chosen = as_lexicon(lexicon, table.words)
    table, valence = valued_words(table, chosen)
    scale = reward_scale(table, standardise)
    kept = {"negative": valence < 0, "positive": valence > 0, "both": np.full(len(valence), True)}
    shape = (len(table.prompts), len(SIGNS))
    cells = {name: np.full(shape, np.nan) for name in ("slope", "intercept", "se", "low", "high", "p")}
    n = np.zeros(shape, np.int64)
    swing = np.full(shape, np.nan)  # change of the reward, in its own units, over the valences used
    for i, reward in enumerate(table.reward / scale[:, None]):
        for j, sign in enumerate(SIGNS):
            rows = kept[sign] & np.isfinite(reward)
            n[i, j] = rows.sum()
            if n[i, j] < FEWEST:
                continue
            fit = ols_hc3(np.column_stack([np.ones(n[i, j]), valence[rows]]), reward[rows], level)
            found = (fit.coefficient[1], fit.coefficient[0], fit.se[1], fit.low[1], fit.high[1], fit.p[1])
            for name, value in zip(cells, found, strict=True):
                cells[name][i, j] = value
            swing[i, j] = abs(fit.coefficient[1]) * np.ptp(valence[rows]) * scale[i]
    adjusted = benjamini_hochberg(cells["p"].ravel()).reshape(shape)
    dims = ("prompt", "sign")
    data = xr.Dataset(
        {**{name: (dims, value) for name, value in cells.items()}, "p_adjusted": (dims, adjusted), "n": (dims, n),
         "below_noise": (dims, swing <= (scores.noise_floor or 0.0)), "valence": ("word", valence),
         "tokens": ("word", table.tokens), "reward": (("prompt", "word"), table.reward), "scale": ("prompt", scale)},
        coords={"prompt": texts(table.prompts), "sign": texts(SIGNS), "word": table.words})
    return Result("sentiment", data, {**scores.provenance, "lexicon": chosen.name, "level": level, "standardised": standardise},
                  scores.exact, scores.noise_floor, (*scores.warnings, *_notes(data)))


def valued_words(table: WordTable, lexicon: Lexicon) -> tuple[WordTable, np.ndarray]:
    """The words of a table that a lexicon has, and their valences float64 [word].

    Raises:
        RewardenError: fewer than ten.
    """
    valence = lexicon.of(table.words)
    rows = np.isfinite(valence)
    require_n(int(rows.sum()), FEWEST, f"an effect of sentiment: words that {lexicon.name} has a value for")
    return WordTable(table.words[rows], table.reward[:, rows], table.tokens[rows], table.prompts), valence[rows]


def reward_scale(table: WordTable, standardise: bool) -> np.ndarray:
    """What rewards are divided by [prompt]: 1, or their standard deviation over the table's words (1 where all are equal)."""
    scale = np.ones(len(table.prompts))
    for i, row in enumerate(table.reward):
        held = row[np.isfinite(row)]
        if standardise and len(held) > 1 and np.ptp(held) > 0:
            scale[i] = np.std(held, ddof=1)
    return scale


def _notes(data: xr.Dataset) -> list[str]:
    few = (data["n"] < FEWEST).any("prompt").values
    undefined = (data["slope"].isnull() | data["se"].isnull()).any("prompt").values & ~few
    return [f"fewer than {FEWEST} {sign} words: no slope" for sign in data["sign"].values[few]] + [
        f"{sign} words: no error can be told, one word alone or one value alone decides" for sign in
        data["sign"].values[undefined]]
