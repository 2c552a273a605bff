"""What does the reward say of a word that its frequency as a next word does not?

In: a vocabulary scan, and log-probabilities of the same ids from causal language models. Out: their comparison, and the
implicit reward of a policy over its reference. Ignorant of how either was made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import require_n
from rewarden.tokens.framing import token_clusters
from rewarden.tokens.rank_intervals import rank_interval
from rewarden.tokens.scores import FLAGS, TokenScores, token_scores


def compare_with_base(scores: TokenScores, log_probs: Result | np.ndarray, *, special: bool = True, level: float = 0.95,
                      n_resamples: int = 1000, seed: int = 0) -> Result:
    """Does the reward rank tokens as a language model's likelihood does, and which tokens does it move most?

    Args:
        scores: a vocabulary scan.
        log_probs: Result of `next_token_log_probs`, joined by token id, with the scan's prompts or a single one for all; or
            float [token] or [prompt, token] along the scan's.
        special: keep control tokens and tokens whose bytes are no text.
        level: of the intervals.
        n_resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Result "base_lm". By prompt: `rho`, `tau` (Spearman's, Kendall's tau-b) of reward and log-probability, with `rho_low`,
        `rho_high`, `tau_low`, `tau_high` (BCa bootstrap over clusters of tokens, see `token_clusters`). By prompt and token:
        `reward`, `log_prob`; `rank_reward`, `rank_base`, 1 for the best and for the likeliest; `lift`, how far the reward
        places the token above its likelihood, as a share of the tokens, −1 to 1. `n`, `n_clusters`.

    Raises:
        RewardenError: prompts or tokens that cannot be joined, fewer than 3 tokens with both numbers.

    Source: Christian et al., arXiv 2506.07326, tables A1-A5, which set next-token logits beside rewards.

    Example:
        >>> scores = token_scores([[3.0, 2.0, 1.0, 0.0]], token_id=range(4), text=["joy", "the", "of", "war"], prompts=["best"])
        >>> found = compare_with_base(scores, np.log([0.1, 0.4, 0.3, 0.2]), n_resamples=20)
        >>> found.lift.round(2).tolist(), extreme_lifts(found, 1)["text"].tolist()
        ([[1.0, -0.33, -0.33, -0.33]], ['joy'])
    """
    reward = scores.data["reward"].values.astype(np.float64)
    log_p = _beside(scores, log_probs)
    kept = np.isfinite(reward).all(0) & np.isfinite(log_p).all(0)
    if not special:
        kept &= ~(scores.data["special"].values | scores.data["byte"].values)
    n = int(kept.sum())
    require_n(n, 3, "a comparison with a language model")
    reward, log_p, tokens = reward[:, kept], log_p[:, kept], scores.data.isel(token=np.flatnonzero(kept))
    clusters = token_clusters(tokens)
    ranks = [stats.rankdata(-values, axis=1) for values in (reward, log_p)]
    columns: dict[str, Any] = {}
    for name in ("rho", "tau"):
        found = [rank_interval(x, y, name, clusters=clusters, level=level, n_resamples=n_resamples, seed=seed)
                 for x, y in zip(reward, log_p, strict=True)]
        columns |= {f"{name}{end}": ("prompt", np.asarray([getattr(one, field) for one in found]))
                    for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))}
    cells = {"reward": reward, "log_prob": log_p, "rank_reward": ranks[0], "rank_base": ranks[1],
             "lift": (ranks[1] - ranks[0]) / (n - 1)}
    data = xr.Dataset({**columns, **{name: (("prompt", "token"), value) for name, value in cells.items()}, "n": n,
                       "n_clusters": len(np.unique(clusters))}, coords=dict(tokens.coords))
    lost = len(kept) - n
    notes = [f"{lost} tokens are left out: no finite number on both sides, or special ones not asked for"] if lost else []
    base = str(log_probs.provenance.get("model", "")) if isinstance(log_probs, Result) else ""
    chosen = {"base": base, "special": special, "level": level, "n_resamples": n_resamples, "seed": seed}
    return Result("base_lm", data, {**scores.provenance, **chosen}, scores.exact, scores.noise_floor,
                  (*scores.warnings, *notes))


def extreme_lifts(result: Result, n: int = 20, prompt: int = 0, *, sunk: bool = False) -> pd.DataFrame:
    """The tokens that the reward places furthest above their likelihood (or furthest below, where `sunk`).

    Args:
        result: of `compare_with_base`.
        n: rows.
        prompt: number of the prompt.

    Returns:
        Columns token_id, text, lift, rank_reward, rank_base, reward, log_prob and the flags, furthest first.
    """
    if n < 1 or not 0 <= prompt < result.data.sizes["prompt"]:
        raise RewardenError(f"{n} tokens under prompt {prompt}", where="extreme_lifts", fix="at least 1; count prompts from 0")
    order = np.argsort((1 if sunk else -1) * result.lift[prompt], kind="stable")[:n]
    return pd.DataFrame({**{name: result.data[name].values[order] for name in ("token_id", "text")},
                         **{name: result.data[name].values[prompt][order]
                            for name in ("lift", "rank_reward", "rank_base", "reward", "log_prob")},
                         **{flag: result.data[flag].values[order] for flag in FLAGS}})


def implicit_reward(log_p_policy: np.ndarray, log_p_base: np.ndarray, weighted: bool = True) -> np.ndarray:
    """The reward that a policy's change against its base amounts to, token by token.

    Args:
        log_p_policy: natural logarithms, any shape.
        log_p_base: the same shape.
        weighted: MWLR(t) = (p1 + p2)/2 · (log p1 − log p2), which leaves out changes among tokens neither would say; else
            the plain log-ratio, DPO's reward of the token over β.

    Returns:
        float64 of that shape; 0 (weighted) or NaN where both probabilities are 0.

    Raises:
        RewardenError: two shapes.

    Source: Christian et al., arXiv 2601.20838 (mixture-weighted log-ratio); Rafailov et al., arXiv 2305.18290, eq. 5.

    Example:
        >>> implicit_reward(np.log([0.5, 0.25]), np.log([0.25, 0.5]), weighted=False).round(3).tolist()
        [0.693, -0.693]
    """
    first, second = (np.asarray(side, np.float64) for side in (log_p_policy, log_p_base))
    if first.shape != second.shape:
        raise RewardenError(f"log-probabilities of shapes {first.shape} and {second.shape}", where="implicit_reward",
                            fix="pass both over the same prompts and ids")
    with np.errstate(invalid="ignore"):
        ratio = first - second  # NaN where both are −inf
        if not weighted:
            return ratio
        return np.where(np.isneginf(first) & np.isneginf(second), 0.0, (np.exp(first) + np.exp(second)) / 2 * ratio)


def implicit_scores(policy: Result, base: Result, *, weighted: bool = True, beta: float = 1.0) -> TokenScores:
    """A policy's implicit reward of every token, laid out as a scan: all analyses of scans take it.

    For a DPO pair: `implicit_scores(next_token_log_probs(policy, prompt), next_token_log_probs(reference, prompt),
    weighted=False, beta=0.1)` is the first token's part of the reward that `readout="implicit"` gives.

    Args:
        policy: of `next_token_log_probs`: the tuned model.
        base: the same prompts and ids under the model it was tuned from.
        weighted: see `implicit_reward`.
        beta: factor.

    Raises:
        RewardenError: other prompts, ids or token names on the two sides.
    """
    for name in ("prompt", "token_id", "piece"):
        sides = [side.data[name].values if name in side.data.coords else None for side in (policy, base)]
        if sides[0] is None or sides[1] is None or not np.array_equal(*sides):
            raise RewardenError(f"policy and base differ in {name}", where="implicit_scores",
                                why="tokens are compared id by id",
                                fix="score the same prompts= and ids= with both; they must share a tokenizer")
    data = policy.data
    provenance = {**policy.provenance, "reference": str(base.provenance.get("model", "")), "beta": beta,
                  "output": "weighted log-ratio" if weighted else "log-ratio"}
    return token_scores(beta * implicit_reward(policy.log_prob, base.log_prob, weighted), token_id=data["token_id"].values,
                        text=list(data["text"].values), prompts=list(data["prompt"].values), piece=list(data["piece"].values),
                        bytes_=list(data["bytes"].values), flags={flag: data[flag].values for flag in FLAGS},
                        provenance=provenance)


def _beside(scores: TokenScores, log_probs: Result | np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [prompt, token] along a scan's prompts and tokens; NaN for ids the base was not asked."""
    shape = scores.data["reward"].shape
    if not isinstance(log_probs, Result):
        values = np.asarray(log_probs, np.float64)
        if values.shape not in (shape, shape[1:]):
            raise RewardenError(f"log-probabilities {values.shape} beside rewards {shape}", where="log_probs=",
                                fix="pass float [token] or [prompt, token], or a Result of next_token_log_probs")
        return np.broadcast_to(values, shape).copy()
    if "log_prob" not in log_probs.data:
        raise RewardenError(f"a {log_probs.kind!r} result holds no log-probabilities", where="log_probs=",
                            fix="pass a Result of next_token_log_probs")
    wanted, known = ([str(text) for text in side.data["prompt"].values] for side in (scores, log_probs))
    missing = [text for text in wanted if text not in known]
    if missing and len(known) > 1:
        raise RewardenError(f"no log-probabilities under {missing[0]!r}", where="log_probs=", why=f"there are {known}",
                            fix="run next_token_log_probs on the scan's prompts, or on one prompt for all")
    rows = [0 if len(known) == 1 else known.index(text) for text in wanted]
    table = pd.DataFrame(log_probs.log_prob[rows].T, index=log_probs.token_id)
    return table.reindex(scores.data["token_id"].values).to_numpy(np.float64).T
