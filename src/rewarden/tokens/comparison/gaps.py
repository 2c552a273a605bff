"""Which tokens do two models rank most differently?

In: shared scores. Out: a table of the largest rank gaps, either way. Ignorant of why.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from rewarden.errors import RewardenError
from rewarden.tokens.comparison.shared import SharedScores


def rank_gaps(scores: SharedScores, model: int | str, other: int | str, prompt: int | str = 0, n: int = 20, *,
              special: bool = False) -> pd.DataFrame:
    """Tokens by the gap between their ranks under two models, largest first.

    Args:
        scores: the tokens that the models share.
        model: one model, by number or name.
        other: the other.
        prompt: number or text of the prompt.
        n: rows.
        special: keep control tokens and tokens whose bytes are no text.

    Returns:
        Columns text, rank, other_rank (1 is the best; tied tokens share their mean rank), gap = rank − other_rank (negative:
        `model` likes it better), reward, other_reward. Tokens without a finite reward under both are left out.

    Raises:
        RewardenError: no such model or prompt, the same model twice, n below 1.

    Example:
        >>> from rewarden.tokens import shared_vocabulary, token_scores
        >>> scans = [token_scores([row], token_id=range(3), text=["a", "b", "c"], prompts=["Hi"])
        ...          for row in ([3, 2, 1], [1, 2, 3])]
        >>> both = shared_vocabulary(scans, names=["x", "y"])
        >>> rank_gaps(both, "x", "y", n=2)[["text", "gap"]].values.tolist()
        [['a', -2.0], ['c', 2.0]]
    """
    if n < 1 or scores.of(model).provenance["model"] == scores.of(other).provenance["model"]:
        raise RewardenError(f"{n} gaps between {model!r} and {other!r}", where="rank_gaps",
                            fix="name two different models and ask for at least one row")
    at = scores.prompt_index(prompt)
    rewards = np.stack([scores.of(which).data["reward"].values[at].astype(np.float64) for which in (model, other)])
    kept = np.isfinite(rewards).all(0)
    if not special:
        kept &= ~(scores.of(model).data["special"].values | scores.of(model).data["byte"].values)
    rewards = rewards[:, kept]
    ranks = rankdata(-rewards, axis=1)
    gap = ranks[0] - ranks[1]
    order = np.argsort(-np.abs(gap), kind="stable")[:n]
    return pd.DataFrame({"text": scores.data["text"].values[kept][order], "rank": ranks[0][order],
                         "other_rank": ranks[1][order], "gap": gap[order], "reward": rewards[0][order],
                         "other_reward": rewards[1][order]})
