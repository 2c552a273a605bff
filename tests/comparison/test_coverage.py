"""Intervals of a comparison hold the truth as often as they say, on data whose truth is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from tests.statistics.coverage import assert_covers, simulate

from rewarden.comparison.depth import rank_correlations
from rewarden.comparison.frames import _cosine
from rewarden.comparison.matrices import jackknifed, prompt_blocks
from rewarden.comparison.profiles import _shares, profile_correlation
from rewarden.comparison.rewards import _kappa
from rewarden.comparison.similarity import _layers
from rewarden.options import CompareOptions

LEVEL, UNITS = 0.95, 64
BLOCKS = prompt_blocks(np.arange(UNITS), 0)


def test_rank_correlation_of_lenses():
    """Two responses a prompt, normal: Spearman's ρ is 6/π·arcsin(r/2)."""
    clusters = np.repeat(np.arange(40), 2)
    blocks, square = prompt_blocks(clusters, 0), np.linalg.cholesky([[1, 0.5], [0.5, 1]])

    def one(rng):
        prompt, own = rng.normal(size=(40, 1, 2)), rng.normal(size=(40, 2, 2))
        values = ((0.7**0.5 * prompt + 0.3**0.5 * own) @ square.T).reshape(-1, 2)
        _, low, high = jackknifed(lambda kept: rank_correlations(values[kept, :1], values[kept, 1:])[0], blocks, LEVEL)
        return float(low), float(high), 6 / np.pi * np.arcsin(0.25)

    assert_covers(simulate(one, n=500), 0.925, 0.975)


def test_kappa():
    table = np.array([0.55, 0.25, 0.05, 0.15])  # both right, first only, second only, neither
    chance = 0.8 * 0.6 + 0.2 * 0.4
    truth = (0.7 - chance) / (1 - chance)

    def one(rng):
        drawn = rng.choice(4, size=UNITS, p=table)
        first, second = (drawn < 2).astype(float), (drawn % 2 == 0).astype(float)
        _, low, high = jackknifed(lambda kept: _kappa(first[kept], second[kept]), BLOCKS, LEVEL)
        return float(low), float(high), truth

    assert_covers(simulate(one, n=1000), 0.93, 0.972)


@pytest.mark.parametrize(("rho", "noise"), [(0.5, 1.0), (0.9, 1.0), (0.5, 3.0)])
def test_profile_correlation(rho, noise):
    """Both profiles seen through noise that they share in part."""
    base = np.random.default_rng(9).normal(size=(2, 30))
    a, b = base[0], rho * base[0] + np.sqrt(1 - rho**2) * base[1]
    truth = float(np.corrcoef(a, b)[0, 1])

    def one(rng):
        common = rng.normal(size=(UNITS, 30))
        x, y = (profile + noise * (rng.normal(size=(UNITS, 30)) + common) for profile in (a, b))
        _, low, high = np.clip(jackknifed(lambda kept: profile_correlation(x[kept], y[kept]), BLOCKS, LEVEL, correlation=False),
                               -1, 1)
        return float(low), float(high), truth

    assert_covers(simulate(one, n=700), 0.925, 0.975)


def test_shares_of_parts():
    """Independent normal contributions with means: E[d·margin] is variance plus mean times mean margin."""
    variance, mean = np.array([0.5, 0.3, 0.1, 0.1]), np.array([0.2, -0.1, 0.1, 0.0])
    truth = variance + mean * mean.sum()
    truth = truth / truth.sum()

    def one(rng):
        parts = rng.normal(size=(UNITS, 4)) * np.sqrt(variance) + mean
        weighted = parts * parts.sum(axis=1, keepdims=True)
        _, low, high = jackknifed(lambda kept: _shares(weighted[kept]), BLOCKS, LEVEL, correlation=False)
        return low[1], high[1], truth[1]

    assert_covers(simulate(one, n=1000), 0.925, 0.97)


def test_cosine_in_a_frame():
    scale, a, b = np.geomspace(3, 0.3, 12), *np.random.default_rng(5).normal(size=(2, 12))
    truth = (a * scale) @ (b * scale) / np.linalg.norm(a * scale) / np.linalg.norm(b * scale)

    def one(rng):
        _, low, high, _ = _cosine(rng.normal(size=(UNITS, 12)) * scale, np.arange(UNITS), a, b, CompareOptions())
        return low, high, truth

    assert_covers(simulate(one, n=400), 0.92, 0.98)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "mix", "units", "most"), [(64, 0.5, 64, 0.975), (6, 0.6, 64, 0.975), (30, 0.5, 16, 0.975),
                                                         (30, 0.2, 64, 0.98), (30, 0.0, 64, 0.99)])
def test_similarity_of_states(d, mix, units, most, monkeypatch):
    """Normal states: CKA is ‖Σxy‖² over the product of ‖Σxx‖ and ‖Σyy‖. Where it is (nearly) 0, intervals may be wider than
    they need be."""
    monkeypatch.setattr("rewarden.comparison.similarity.SHUFFLES", 1)
    fixed = np.random.default_rng(3)
    own, new = (fixed.normal(size=(d, d)) * np.linspace(1, 0.1, d) for _ in range(2))
    xx, xy = own @ own.T, mix * own @ own.T
    yy = mix**2 * xx + (1 - mix) ** 2 * new @ new.T
    truth = (xy**2).sum() / np.sqrt((xx**2).sum() * (yy**2).sum())

    def one(rng):
        drawn, other = rng.normal(size=(2, units, 2, 1, d))
        x = drawn @ own.T
        found = _layers(x, mix * x + (1 - mix) * other @ new.T, CompareOptions())[:, 0, 0]
        assert -1 <= found[1] <= found[0] <= found[2] <= 1
        return found[1], found[2], truth

    assert_covers(simulate(one, n=300), 0.92, most)
