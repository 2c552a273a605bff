"""Vectors that set two kinds apart: against other libraries, and when the kinds change places."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden.concepts.probes import auc, cross_scores, fit_vector, logistic
from rewarden.errors import RewardenError

METHODS = ("mean_difference", "lda", "logistic")


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.random(120) < 0.5
    x = rng.normal(size=(120, 6)) * np.array([1, 2, 1, 1, 0.5, 1]) + 3
    x[:, 2] += 1.5 * labels
    return x, labels


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_axis_is_found_with_its_sign(planted, method: str) -> None:
    x, labels = planted
    vector = fit_vector(x, labels, np.ones(120), method)
    assert np.argmax(np.abs(vector)) == 2
    assert vector[2] > 0.8
    assert np.linalg.norm(vector) == pytest.approx(1)
    other = fit_vector(x, ~labels, np.ones(120), method)
    np.testing.assert_allclose(other, -vector, atol=1e-6)


def test_logistic_is_sklearns(planted) -> None:
    from sklearn.linear_model import LogisticRegression

    x, labels = planted
    z = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(z, labels).coef_[0] / x.std(0)
    np.testing.assert_allclose(logistic(x, labels, 2.0), theirs, rtol=1e-4, atol=1e-5)


def test_logistic_stands_separable_kinds_and_constant_columns() -> None:
    x = np.column_stack([np.arange(20.0), np.full(20, 7.0)])
    found = logistic(x, np.arange(20) >= 10, 1e-3)
    assert found[0] > 0
    assert found[1] == 0
    assert np.isfinite(found).all()


def test_lda_is_sklearns_shrunken_one(planted) -> None:
    from sklearn.covariance import ledoit_wolf

    x, labels = planted
    means = [x[side].mean(0) for side in (labels, ~labels)]
    within = np.concatenate([x[labels] - means[0], x[~labels] - means[1]])
    solved = np.linalg.inv(ledoit_wolf(within, assume_centered=True)[0]) @ (means[0] - means[1])
    np.testing.assert_allclose(fit_vector(x, labels, np.ones(120), "lda"), solved / np.linalg.norm(solved), atol=1e-8)


def test_cross_scores_are_those_of_vectors_made_without_the_text(planted) -> None:
    x, labels = planted
    folds = np.arange(120) % 4
    found, taught = cross_scores(x, labels, np.ones(120), folds, fit_vector, method="mean_difference")
    for i in (0, 17, 63):
        rest = folds != folds[i]
        gap = x[rest & labels].mean(0) - x[rest & ~labels].mean(0)
        assert found[i] == pytest.approx(x[i] @ gap / np.linalg.norm(gap))
    assert np.isnan(taught[1][folds == 1]).all()
    assert np.isfinite(taught[1][folds != 1]).all()


def test_auc_counts_comparisons_within_folds() -> None:
    rng = np.random.default_rng(3)
    scores, labels, folds = rng.integers(5, size=40).astype(float), rng.random(40) < 0.5, np.arange(40) % 2
    won = [(np.sign(a - b) + 1) / 2 for i, a in enumerate(scores) for j, b in enumerate(scores)
           if labels[i] and not labels[j] and folds[i] == folds[j]]
    assert auc(scores, labels, folds) == pytest.approx(np.mean(won))


def test_kinds_without_a_difference_are_refused() -> None:
    with pytest.raises(RewardenError, match="same mean"):
        fit_vector(np.ones((4, 2)), np.array([True, False, True, False]), np.ones(4), "mean_difference")
