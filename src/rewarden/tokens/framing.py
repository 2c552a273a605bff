"""Which tokens does a model like whatever is asked, and which flip when the question asks for the worst?

In: a vocabulary scan over prompts that ask for the best and prompts that ask for the worst. Out: a Result of kind "framing":
both rewards of each token, the axes on which the framings agree and oppose, their shares of the variance, the extremes.
Ignorant of models and of what the prompts say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval, content_clusters, require_n
from rewarden.tokens.rank_intervals import rank_interval
from rewarden.tokens.scores import FLAGS, TokenScores

AXES = ("agree", "oppose")
FRAMINGS = ("positive", "negative")
ENDS = {"agree+": (1, 1), "agree-": (-1, -1), "oppose+": (1, -1), "oppose-": (-1, 1)}
"""Ends of the axes: signs of the positive and the negative reading, which also name a quadrant."""

ROUND = 0.05
"""A cloud whose two spreads differ by less than this share of their sum has no direction of its own."""

FEW = 100
"""Tokens below which linearised intervals are noticeably too narrow."""


def framing_plane(scores: TokenScores, positive: Sequence[int | str], negative: Sequence[int | str], *, special: bool = True,
                  level: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> Result:
    """Rewards under two framings as a plane, read along two pairs of axes.

    Fixed axes: p and n are the standardised mean rewards under the positive and the negative prompts; agree = (p + n)/√2,
    oppose = (p − n)/√2. On standardised readings these diagonals are also the principal directions, always. The fitted axes
    are those of the centred rewards on one common scale: their angle says how strongly each framing moves the reward.

    Args:
        scores: a scan under all the prompts.
        positive: prompts that ask for something good, by number or text.
        negative: prompts that ask for something bad.
        special: keep control tokens and tokens whose bytes are no text.
        level: of the intervals.
        n_resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Result "framing". By token: `reading` (token, framing), the standardised mean reward; `fixed` and `fitted` (token,
        axis), positions on the axes (`fitted` in units of the common standard deviation); `quadrant`, the end whose signs
        both readings have, "" on a border. By axis: `fixed_share`, `fitted_share` of the variance; `direction` (axis,
        framing), unit vectors of the fitted axes. `angle`: degrees from the positive reward's own axis to the fitted agree
        axis, 45 where both framings move the reward equally. `correlation` (Pearson's) and `rank_correlation` (Spearman's)
        of the two framings. Each estimate has `…_low` and `…_high`: BCa bootstrap of the linearised statistic over clusters
        of tokens (see `token_clusters`). `n`, `n_clusters`; `mean` and `sd` (framing) in units of the reward. Coordinates of
        `token` are those of the scan.

    Raises:
        RewardenError: no prompt on a side, a prompt on both, fewer than 3 usable tokens, a framing with constant rewards.

    Source: Christian et al., arXiv 2506.07326, fig. 4, which ranks sums and differences.

    Example:
        >>> from rewarden.tokens import token_scores
        >>> scores = token_scores([[1, 2, 0, -3], [1, -2, 0, 1]], token_id=range(4), text=["it", "love", "so", "war"],
        ...                       prompts=["best", "worst"])
        >>> plane = framing_plane(scores, ["best"], ["worst"])
        >>> framing_extremes(plane, "oppose+", 1)["text"][0], framing_extremes(plane, "oppose-", 1)["text"][0]
        ('love', 'war')
    """
    rows = [sorted({scores.prompt_index(prompt) for prompt in side}) for side in (positive, negative)]
    both = set(rows[0]) & set(rows[1])
    if not rows[0] or not rows[1] or both:
        raise RewardenError(f"{len(rows[0])} positive and {len(rows[1])} negative prompts, {len(both)} on both sides",
                            where="positive=, negative=", fix="name at least one prompt a side, each on one side only")
    reward = scores.data["reward"].values.astype(np.float64)
    mean = np.stack([reward[side].mean(0) for side in rows], 1)  # [token, framing]
    kept = np.isfinite(mean).all(1)
    if not special:
        kept &= ~(scores.data["special"].values | scores.data["byte"].values)
    require_n(int(kept.sum()), 3, "a framing plane")
    tokens = scores.data.isel(token=np.flatnonzero(kept))
    centre, spread = mean[kept].mean(0), mean[kept].std(0)
    if not spread.all():
        raise RewardenError("the rewards of a framing are all equal", where="framing_plane",
                            why="then there is nothing to compare", fix="ask another question, or check the model's head")
    reading = (mean[kept] - centre) / spread
    common = np.sqrt((spread**2).mean())
    cloud = (mean[kept] - centre) / common
    axes, terms = _fitted(cloud)
    terms |= _fixed(reading)
    options: dict[str, Any] = {"level": level, "n_resamples": n_resamples, "seed": seed,
                               "clusters": token_clusters(tokens)}
    found = bootstrap_interval(np.column_stack(list(terms.values())), **options)
    ends = {name: np.stack([found.estimate, found.low, found.high], 1)[place] for place, name in enumerate(terms)}
    rho = rank_interval(reading[:, 0], reading[:, 1], **options)
    shares = {f"{kind}_share": np.stack([ends[f"{kind}_{axis}"] for axis in AXES]) for kind in ("fixed", "fitted")}
    data = xr.Dataset({
        "reading": (("token", "framing"), reading),
        "fixed": (("token", "axis"), reading @ _diagonals().T), "fitted": (("token", "axis"), cloud @ axes.T),
        "quadrant": ("token", _quadrants(reading)), "direction": (("axis", "framing"), axes),
        **{f"{name}{end}": ("axis", np.clip(value[:, k], 0, 1)) for name, value in shares.items()
           for k, end in enumerate(("", "_low", "_high"))},
        **_numbers("angle", ends["angle"]), **_numbers("correlation", np.clip(ends["correlation"], -1, 1)),
        **_numbers("rank_correlation", (rho.estimate, rho.low, rho.high)),
        "n": int(kept.sum()), "n_clusters": int(rho.n_clusters), "mean": ("framing", centre), "sd": ("framing", spread),
    }, coords={**{name: coord for name, coord in tokens.coords.items() if coord.dims == ("token",)},
               "framing": list(FRAMINGS), "axis": list(AXES)})
    names = ["\n".join(str(scores.data["prompt"].values[row]) for row in side) for side in rows]
    provenance = {**scores.provenance, "positive": names[0], "negative": names[1], "special": special, "level": level,
                  "n_resamples": n_resamples, "seed": seed}
    notes = [f"under the {name} prompts rewards differ by rounding only (sd {sd:.2g}, noise floor {scores.noise_floor:.2g})"
             for name, sd in zip(FRAMINGS, spread, strict=True) if sd <= (scores.noise_floor or 0.0)]
    return Result("framing", data, provenance, scores.exact, scores.noise_floor,
                  (*scores.warnings, *notes, *_notes(kept, cloud)))


def framing_extremes(plane: Result, end: str, n: int = 20, *, within: bool = True) -> pd.DataFrame:
    """The tokens furthest out at one end of the agree or the oppose axis.

    Args:
        plane: of `framing_plane`.
        end: "agree+" (liked under both framings), "agree-", "oppose+" (liked as best, disliked as worst) or "oppose-".
        n: rows.
        within: only tokens of that end's quadrant, where both readings have the end's signs.

    Returns:
        Columns rank, token_id, text, positive, negative (readings), agree, oppose (fixed axes), special, byte, trimmed,
        round_trip; furthest first; equal positions share the best rank among them.
    """
    if end not in ENDS or n < 1:
        raise RewardenError(f"{n} tokens of the end {end!r}", where="framing_extremes",
                            fix=f"ask for at least 1, at one of {list(ENDS)}")
    out = plane.reading @ (np.asarray(ENDS[end]) / np.sqrt(2.0))
    rows = np.flatnonzero(plane.quadrant == end) if within else np.arange(len(out))
    order = rows[np.argsort(-out[rows], kind="stable")][:n]
    columns = {"rank": np.searchsorted(np.sort(-out[rows]), -out[order]) + 1,
               **{name: plane.data[name].values[order] for name in ("token_id", "text")},
               **{name: plane.reading[order, k] for k, name in enumerate(FRAMINGS)},
               **{name: plane.fixed[order, k] for k, name in enumerate(AXES)},
               **{flag: plane.data[flag].values[order] for flag in FLAGS}}
    return pd.DataFrame(columns)


def token_clusters(tokens: xr.Dataset) -> np.ndarray:
    """Which tokens are one word but for case and white space, int [token].

    Tokens without a text of their own (control tokens, parts of characters, white space) stay by themselves.

    Example:
        >>> from rewarden.tokens import token_scores
        >>> scores = token_scores([[1, 2, 3]], token_id=[7, 8, 9], text=[" Love", "love", " "], prompts=["best"])
        >>> token_clusters(scores.data).tolist()
        [0, 0, 1]
    """
    alone = tokens["special"].values | tokens["byte"].values
    return content_clusters([(str(text), "") if str(text).strip() and not own else ("", str(number)) for text, own, number in
                             zip(tokens["text"].values, alone, tokens["token_id"].values, strict=True)])


def _diagonals() -> np.ndarray:
    return np.asarray([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)


def _fixed(reading: np.ndarray) -> dict[str, np.ndarray]:
    """Terms [token] whose mean is the statistic and whose deviations are its influence values: correlation and shares."""
    product = reading.prod(1)
    r = product.mean()
    term = r + product - r / 2 * (reading**2).sum(1)
    return {"correlation": term, "fixed_agree": (1 + term) / 2, "fixed_oppose": (1 - term) / 2}


def _fitted(cloud: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Unit vectors [axis, framing] of a centred cloud, and terms of the agree axis' angle and of both shares."""
    squares, product = cloud**2, cloud.prod(1)
    difference, twice = squares[:, 0] - squares[:, 1], 2 * product
    d, c = difference.mean(), twice.mean()
    # the major axis' angle; the agree axis is the one in the first quadrant, the other one 90° away
    major = np.arctan2(c, d) / 2
    angle = major if c >= 0 else major + np.pi / 2
    axes = np.asarray([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    length = d * d + c * c
    turn = (d * (twice - c) - c * (difference - d)) / (2 * length) if length > 0 else np.full(len(cloud), np.nan)
    total, positions = squares.sum(1), (cloud @ axes.T) ** 2  # [token], [token, axis]
    shares = positions.mean(0) / total.mean()
    terms = shares + (positions - shares * total[:, None]) / total.mean()
    return axes, {"angle": np.degrees(angle + turn), "fitted_agree": terms[:, 0], "fitted_oppose": terms[:, 1]}


def _quadrants(reading: np.ndarray) -> np.ndarray:
    """The end whose signs both readings have; "" on a border."""
    names = np.full(len(reading), "", object)
    for end, signs in ENDS.items():
        names[(np.sign(reading) == signs).all(1)] = end
    return names


def _numbers(name: str, values: Any) -> dict[str, float]:
    return {f"{name}{end}": float(value) for end, value in zip(("", "_low", "_high"), values, strict=True)}


def _notes(kept: np.ndarray, cloud: np.ndarray) -> list[str]:
    spread = np.linalg.eigvalsh(np.cov(cloud.T))
    lost = int((~kept).sum())
    notes = [f"{lost} tokens are left out: no finite reward, or special ones not asked for"] if lost else []
    if len(cloud) < FEW:
        notes.append(f"{len(cloud)} tokens: the intervals are linearised, and too narrow below {FEW}")
    if spread[1] - spread[0] < ROUND * spread.sum():
        notes.append("the cloud is nearly round: the fitted axes have no direction of their own")
    return notes
