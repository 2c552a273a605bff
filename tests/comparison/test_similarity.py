"""CKA: against the estimator written out, its invariances, and no similarity of unrelated states."""

from __future__ import annotations

import numpy as np
import pytest
from tests.comparison.worlds import PAIRS, tiny

from rewarden.comparison import cka, compare
from rewarden.comparison.similarity import _layers
from rewarden.errors import RewardenError
from rewarden.options import CompareOptions


def written_out(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5, by loops' worth of traces."""
    n = len(x)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        return (np.trace(k @ m) + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one) / (
            n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def test_it_is_the_published_estimator():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5)) + 3
    y = x[:, :2] @ rng.normal(size=(2, 7)) + rng.normal(size=(12, 7))
    assert cka(x, y) == pytest.approx(written_out(x, y), abs=1e-10)


def test_rotation_scale_and_shift_change_nothing():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert cka(x, y) == pytest.approx(cka(5 * x @ turn + 2, y), abs=1e-9)
    assert cka(x, 5 * x @ turn + 2) == pytest.approx(1, abs=1e-9)


def test_unrelated_states_are_unlike_however_wide():
    rng = np.random.default_rng(2)
    found = [cka(rng.normal(size=(16, 200)), rng.normal(size=(16, 200))) for _ in range(300)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)


def test_few_texts_are_refused():
    with pytest.raises(RewardenError, match="too few items"):
        cka(np.ones((3, 2)), np.ones((3, 2)))


def test_layers_of_two_models():
    a, b = tiny(), tiny(seed=1)
    result = compare([a, b], PAIRS, resamples=100, inside_pairs=10)
    states = [np.stack([[rm.trace(side, ["resid_pre", "resid_post"], "read") for side in pair.conversations] for pair in PAIRS])
              for rm in (a, b)]
    held = [np.stack([[np.concatenate([trace["resid_pre"][:1, -1], trace["resid_post"][:, -1]]) for trace in both]
                      for both in one]) for one in states]
    value = result.data["cka"].values[0, 1]
    assert value.shape == (4, 4)
    assert int(result.data["cka_n"]) == 10
    assert np.isnan(value[0]).all()  # before the first layer the last token is the same in every text
    assert np.isnan(value[:, 0]).all()
    for i in range(1, 4):
        for j in range(1, 4):
            both = sum(_hsic(held[0][:, side, i], held[1][:, side, j]) for side in range(2))
            own = [sum(_hsic(held[place][:, side, layer], held[place][:, side, layer]) for side in range(2))
                   for place, layer in ((0, i), (1, j))]
            assert value[i, j] == pytest.approx(both / np.sqrt(own[0] * own[1]), abs=1e-5)
    np.testing.assert_array_equal(value, result.data["cka"].values[1, 0].T)


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased, up to a factor that all share."""
    n = len(x)
    k, m = (np.asarray(a, dtype=np.float64) @ np.asarray(a, dtype=np.float64).T for a in (x - x.mean(0), y - y.mean(0)))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    return np.trace(k @ m) + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one


def test_a_model_is_like_itself():
    value = compare([tiny(), tiny()], PAIRS, resamples=100, inside_pairs=10).data["cka"].values[0, 1]
    np.testing.assert_allclose(np.diag(value)[1:], 1, atol=1e-9)


def test_ends_stay_within_what_similarity_can_be():
    """Unrelated states in many dimensions, and few texts: an interval is not wider than the scale itself."""
    for seed, (texts, width) in enumerate([(64, 64), (64, 512), (8, 6), (6, 300)]):
        x, y = np.random.default_rng(seed).normal(size=(2, texts, 2, 2, width))
        estimate, low, high, _ = _layers(x, y, CompareOptions())
        assert (low >= -1).all()
        assert (high <= 1).all()
        assert (low <= estimate).all()
        assert (estimate <= high).all()
        if texts == 64:
            assert (high - low < 8 * np.abs(estimate).max() + 0.3).all()


def test_one_state_has_one_similarity():
    x = np.random.default_rng(0).normal(size=(12, 2, 3, 5))
    estimate, low, high, _ = _layers(x, x[:, :, ::-1] * 2.0, CompareOptions())
    for place in range(3):
        np.testing.assert_allclose([held[place, 2 - place] for held in (estimate, low, high)], 1, atol=1e-9)
