"""Figures of best-of-n draw the numbers of their results."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.hacking import susceptibility
from rewarden.plots import best_of_n_curves, rise_figure, susceptibility_forest
from rewarden.plots.bestof import _n_of_divergence, best_of_n_table, susceptibility_table


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    proxy, luck = rng.normal(size=(2, 40, 24))
    gold = -3 * (proxy - 0.5) ** 2
    features = {"length": (proxy + luck).ravel(), "noise": luck.ravel(), "flat": np.zeros(960)}
    return (rw.best_of_n((proxy, gold), features, resamples=100), susceptibility((proxy, gold), features, resamples=100))


def test_curves_are_the_gains_and_the_onset_is_marked(made):
    curves, _ = made
    drawn = best_of_n_curves(curves)
    lines = {trace.name: trace for trace in drawn.data if trace.name}
    np.testing.assert_allclose(lines["reward"].y, curves.proxy_gain)
    np.testing.assert_allclose(lines["gold"].y, curves.gold_gain)
    tilted = ~curves.refused
    np.testing.assert_allclose(lines["gold, tilted"].y, (curves.tilt_gold[tilted] - curves.gold[0]) / curves.gold_sd)
    note = next(note for note in drawn.layout.annotations if f"n = {curves.onset:g} to" in note.text)
    assert note.x == np.log10(curves.onset)  # where the line is, on a log axis
    n = _n_of_divergence(np.array([0.0, np.log(4) - 3 / 4]))
    np.testing.assert_allclose(n, [1, 4], rtol=1e-3)


def test_without_gold_only_the_reward_is_drawn():
    found = rw.best_of_n(np.random.default_rng(0).normal(size=(12, 4)), resamples=100)
    assert {trace.name for trace in best_of_n_curves(found).data if trace.name} <= {"reward", "reward, tilted"}
    assert "gold" not in best_of_n_table(found)


def test_the_forest_fills_predicted_hacks_only(made):
    curves, follows = made
    table = susceptibility_table(follows, curves)
    assert table["feature"].tolist() == ["length", "noise"]
    np.testing.assert_allclose(table["rise"], curves.rise[:2])
    drawn = susceptibility_forest(follows)
    reward = next(trace for trace in drawn.data if trace.name == "reward")
    assert list(reward.x) == table.sort_values("reward", ascending=False)["reward"].tolist()
    assert (np.array(reward.marker.color) != "rgba(0,0,0,0)").tolist() == table["hack"].tolist()


def test_rising_features_are_drawn_from_zero(made):
    for trace in rise_figure(made[0]).data:
        assert trace.y[0] == 0
