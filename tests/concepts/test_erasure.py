"""LEACE: no covariance is left, twice is once, no probe finds the concept, nothing less would do."""

from __future__ import annotations

import numpy as np
import pytest
from tests.concepts.test_directions import PAIRS

from rewarden.concepts.erasure import affine, certificate, covariance_of, erase, folds_of_rest, leace, left_over
from rewarden.concepts.examples import Examples
from rewarden.errors import RewardenError
from rewarden.options.concepts import EraseOptions


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.random(4000) < 0.5
    x = rng.normal(size=(4000, 12)) @ rng.normal(size=(12, 12)) + 5
    return x + np.outer(z, rng.normal(size=12)), z


@pytest.mark.parametrize("shrink", [True, False])
def test_nothing_is_left_and_twice_is_once(planted, shrink: bool) -> None:
    x, z = planted
    gone = leace(x, z, shrink=shrink)
    erased = gone(x)
    centred = z - z.mean()
    assert np.abs((erased - erased.mean(0)).T @ centred / len(z)).max() < 1e-6
    assert np.abs(gone(erased) - erased).max() < 1e-6
    np.testing.assert_allclose(erased.mean(0), x.mean(0), atol=1e-9)


def test_it_is_the_formula_of_the_theorem_with_a_pseudoinverse() -> None:
    rng = np.random.default_rng(1)
    z = np.eye(3)[rng.integers(3, size=40)]
    x = rng.normal(size=(40, 60)) + z @ rng.normal(size=(3, 60))  # more dimensions than texts
    covariance = np.cov(x.T, ddof=0)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-9
    whiten = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    cross = (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)
    columns = np.linalg.svd(whiten @ cross)[0][:, :2]
    slow = x - (x - x.mean(0)) @ (np.linalg.pinv(whiten) @ columns @ columns.T @ whiten).T
    np.testing.assert_allclose(leace(x, z, shrink=False)(x), slow, atol=1e-7)


def test_no_projection_changes_less(planted) -> None:
    x, z = planted
    best = ((leace(x, z, shrink=False)(x) - x) ** 2).sum()
    cross = (x - x.mean(0)).T @ (z - z.mean())
    rng = np.random.default_rng(2)
    for _ in range(20):
        right = rng.normal(size=12) + cross / np.linalg.norm(cross) * 2
        other = (x - x.mean(0)) - np.outer((x - x.mean(0)) @ right, cross) / (right @ cross)
        assert ((other - (x - x.mean(0))) ** 2).sum() >= best


@pytest.mark.parametrize("axis", ["hedging", "emphasis"])
def test_few_texts_of_many_dimensions_are_not_called_erased(demo, axis: str) -> None:
    from rewarden.hacking.bias.battery import contrasts

    found = erase(demo, contrasts([axis])[:126], folds=3).certificate
    assert found.covariance < 1e-6  # on the texts that made it, by construction
    assert found.covariance_held_out > 0.05
    assert found.auc_fresh > 0.6
    assert f"AUC {float(found.auc_fresh):.2f}" in found.warnings[0]
    assert "auc_after" not in found.data


def test_held_out_probes_find_nothing_with_many_texts(planted) -> None:
    x, z = planted
    examples = Examples([], z, np.arange(len(z)), np.arange(len(z)), np.ones(len(z)), "labelled")
    found = certificate(x, examples, EraseOptions(folds=4))
    assert found["auc_before"] > 0.6
    assert abs(float(found["auc_fresh"]) - 0.5) < 0.05
    assert found["auc_fresh_low"] < 0.5
    assert not left_over(found)
    assert found["covariance"] < 1e-6
    assert found["covariance_held_out"] < found["covariance_before"] / 2
    assert found["idempotent"] < 1e-6


def test_the_map_folds_into_a_linear_read_out(planted) -> None:
    x, z = planted
    gone, w = leace(x, z), np.random.default_rng(3).normal(size=12)
    new, constant = gone.folded(w)
    np.testing.assert_allclose(x @ new + constant, gone(x) @ w, atol=1e-9)
    moments = affine(x.mean(0), covariance_of(x, True), (x - x.mean(0)).T @ (z - z.mean())[:, None] / len(x))
    np.testing.assert_allclose(moments(x), gone(x), atol=1e-9)


def test_eraser_probe_and_judge_see_different_texts() -> None:
    folds = np.arange(50) % 5
    first = folds_of_rest(folds, 5)
    for part in range(5):
        assert not (first[part] & (folds == part)).any()
        assert 0 < first[part].sum() < (folds != part).sum()


def test_on_a_model(demo) -> None:
    gone = erase(demo, PAIRS, site="resid_post.3", folds=3, positions="response")
    assert gone.certificate.covariance < 1e-6
    assert gone.certificate.idempotent < 1e-6
    assert str(gone.place) == "resid_post.3"
    assert gone.place.positions == "response"
    assert 0 < gone.certificate.removed < 1


def test_what_does_not_vary_cannot_be_erased() -> None:
    with pytest.raises(RewardenError, match="nothing to erase"):
        leace(np.random.default_rng(0).normal(size=(10, 3)), np.ones(10))
