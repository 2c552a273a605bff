"""Which unit vector sets two kinds of vectors apart best?

In: vectors [n, d], labels, weights. Out: a unit vector, pointing from texts without the concept to texts with it; and how well
vectors of one part tell the other parts apart. Closed forms and Newton's method, no random start. Ignorant of models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rewarden.errors import RewardenError

STEPS, TOLERANCE = 50, 1e-10
"""Newton steps at most, and the largest change of a coefficient at which they stop."""


def fit_vector(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, method: str, ridge: float = 1.0) -> np.ndarray:
    """The unit vector [d] of one estimator.

    Args:
        x: float64 [n, d].
        labels: bool [n].
        weights: float64 [n], of texts in the means.
        method: "mean_difference", "lda" or "logistic".
        ridge: see `ConceptOptions.ridge`.

    Raises:
        RewardenError: the two kinds have the same mean.

    Example:
        >>> x = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]])
        >>> fit_vector(x, np.array([False, False, True, True]), np.ones(4), "mean_difference").tolist()
        [1.0, 0.0]
    """
    gap = _mean(x, labels, weights) - _mean(x, ~labels, weights)
    vector = {"mean_difference": lambda: gap, "lda": lambda: _lda(x, labels, weights, gap),
              "logistic": lambda: logistic(x, labels, ridge)}[method]()
    size = float(np.linalg.norm(vector))
    if not size > 1e-12 * (1 + float(np.abs(x).max())):
        raise RewardenError("texts with and without the concept have the same mean", where="direction",
                            why=f"the {method} vector has length {size:.2g}",
                            fix="use another site, or texts that the model tells apart")
    return vector / size


def _mean(x: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights[rows] @ x[rows] / weights[rows].sum()


def _lda(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Σ⁻¹·gap with the covariance within kinds, shrunken (Ledoit & Wolf 2004), so that it has an inverse."""
    from sklearn.covariance import ledoit_wolf

    within = x - np.where(labels[:, None], _mean(x, labels, weights), _mean(x, ~labels, weights))
    covariance = ledoit_wolf(within, assume_centered=True)[0]
    return np.linalg.lstsq(covariance, gap, rcond=None)[0]


def logistic(x: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """Coefficients [d] of ridge logistic regression on standardised columns, in units of the columns themselves.

    The intercept bears no penalty, so that the opposite labels give the opposite vector.
    """
    spread = x.std(0)
    scale = np.where(spread > 1e-9 * (1 + spread.max(initial=0.0)), spread, np.inf)
    z = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / scale])  # [n, 1 + d]
    penalty = np.append(0.0, np.full(x.shape[1], ridge))
    theta = np.zeros(z.shape[1])

    def loss(at: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(labels, -1.0, 1.0) * (z @ at)).sum() + (penalty * at * at).sum() / 2)

    for _ in range(STEPS):
        share = 1 / (1 + np.exp(-np.clip(z @ theta, -500, 500)))
        gradient = z.T @ (share - labels) + penalty * theta
        step = np.linalg.solve((z.T * (share * (1 - share))) @ z + np.diag(penalty + 1e-12), gradient)
        size = 1.0
        while size > 1e-6 and loss(theta - size * step) > loss(theta):
            size /= 2
        theta = theta - size * step
        if np.abs(step).max() < TOLERANCE:
            break
    return theta[1:] / scale


def cross_scores(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, folds: np.ndarray,
                 fit: Callable[..., np.ndarray], **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Each text's score by the vector of the other parts [n]; and scores of the texts each vector was made from [folds, n].

    Args:
        x: float64 [n, d].
        labels: bool [n].
        weights: float64 [n].
        folds: int64 [n], part of each text.
        fit: makes a vector of (x, labels, weights).
        settings: further arguments of `fit`.
    """
    out = np.empty(len(x))
    taught = np.full((int(folds.max()) + 1, len(x)), np.nan)
    for part in range(len(taught)):
        rest = folds != part
        vector = fit(x[rest], labels[rest], weights[rest], **settings)
        out[~rest] = x[~rest] @ vector
        taught[part, rest] = x[rest] @ vector
    return out, taught


def auc(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """The plain number behind `statistics.clustered.auc_interval`, by ranks: share of comparisons within parts that are won."""
    from scipy.stats import rankdata

    won = compared = 0.0
    for part in np.unique(folds):
        inside = folds == part
        ranks, up = rankdata(scores[inside]), labels[inside]
        above, below = int(up.sum()), int((~up).sum())
        won += float(ranks[up].sum()) - above * (above + 1) / 2
        compared += above * below
    return won / compared if compared else float("nan")
