"""One axis of depth: interpolation, ends, and the rank correlation at each depth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.comparison.worlds import PAIRS, tiny

import rewarden as rw
from rewarden.comparison import compare
from rewarden.comparison.depth import on_depth, rank_correlations
from rewarden.statistics import wilson


def test_layers_of_models_of_unlike_depth_meet():
    a, b = tiny(), tiny("gpt2", n_layer=2, num_hidden_layers=2)
    data = compare([a, b], PAIRS, resamples=100, inside_pairs=10, depths=7).data
    assert data["inside"].values.tolist() == list(range(10))
    for place, rm in enumerate((a, b)):
        lens = rw.reward_lens(rm, PAIRS, resamples=100)
        own = np.linspace(0, 1, rm.architecture.n_layers + 1)
        expected = np.stack([np.interp(data["depth"].values, own, row) for row in lens.margin])
        np.testing.assert_allclose(data["lens_margin"].values[place], expected, atol=1e-6)
        np.testing.assert_allclose(data["lens_margin"].values[place, :, -1], rm.score(PAIRS).margin, atol=1e-5)
        np.testing.assert_allclose(data["lens"].values[place], expected.mean(0) / float(data["spread"][place]), atol=1e-6)
        floor = rm.score(PAIRS).noise_floor
        right = (np.sign(expected) * (np.abs(expected) > floor) + 1) / 2
        share = wilson(right.sum(0), 10)
        for end, value in (("", share.estimate), ("_low", share.low), ("_high", share.high)):
            np.testing.assert_allclose(data[f"lens_accuracy{end}"].values[place], value, atol=1e-12)
        assert data["crystallization"].values[place, 0] == pytest.approx(
            (np.nanmean(lens.crystallization_first) + 1) / rm.architecture.n_layers)
    found = data["lens_agreement"].values[0, 1]
    for depth in range(7):
        x, y = data["lens_margin"].values[:, :, depth]
        if np.ptp(x) and np.ptp(y):
            assert found[depth] == pytest.approx(stats.spearmanr(x, y).statistic)
        else:
            assert np.isnan(found[depth])


def test_a_straight_line_stays_one():
    assert on_depth(np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([0.1, 0.5])).tolist() == [[pytest.approx(0.3), 1.5]]


def test_rank_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, size=(2, 30, 3)).astype(float)
    y[:, 2] = 1.0
    found = rank_correlations(x, y)
    assert found[:2].tolist() == pytest.approx([stats.spearmanr(x[:, c], y[:, c]).statistic for c in range(2)])
    assert np.isnan(found[2])


def test_a_result_is_kept_bit_for_bit(tmp_path):
    made = compare([tiny(), tiny(seed=1)], PAIRS, resamples=100, inside_pairs=10)
    again = rw.Result.load(made.save(tmp_path / "made.nc"))
    assert again.data.identical(made.data)
    assert dict(again.provenance) == dict(made.provenance)
    assert again.provenance["models"] == '["llama-0", "llama-1"]'
