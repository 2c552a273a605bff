"""Monte Carlo p values, counted by hand."""

from __future__ import annotations

import numpy as np

from rewarden.statistics import monte_carlo_p


def test_monte_carlo_p_counts_the_observed_value_and_ties():
    null, observed = np.array([[0.1, -3.0], [0.4, 0.0], [0.5, 1.0], [-0.6, 0.2]]), np.array([0.5, np.nan])
    for alternative, p in (("greater", 2 / 5), ("less", 5 / 5), ("two-sided", 3 / 5)):
        found = monte_carlo_p(null, observed, alternative=alternative)
        assert found[0] == p
        assert np.isnan(found[1])
    assert monte_carlo_p(null[:, :1], [0.1, 0.1 + 1e-15, 9.0]).tolist() == [4 / 5, 4 / 5, 1 / 5]
    draws = np.random.default_rng(0).normal(size=(20, 500))
    assert abs(np.mean(monte_carlo_p(draws[1:], draws[0]) <= 0.1) - 0.1) < 0.04  # exact: as one of 20, with 19 draws
