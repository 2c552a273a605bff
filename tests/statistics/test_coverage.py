"""The coverage helper itself: t intervals cover 95 %, normal ones of few values do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_covers, assert_null_rate, coverage


def test_t_interval_covers_and_normal_interval_of_five_values_does_not() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(5)
    half = stats.t.ppf(0.975, 4) * error
    found = coverage(mean - half, mean + half, 3.0)
    assert_covers(found)
    assert found.share + found.below + found.above == pytest.approx(1)
    with pytest.raises(AssertionError, match="covers"):
        assert_covers(coverage(mean - 1.96 * error, mean + 1.96 * error, 3.0))


def test_nan_ends_hold_nothing() -> None:
    assert coverage([np.nan, 0], [1, 1], 0.5).share == 0.5


def test_null_rate_of_too_many_flags_fails() -> None:
    rng = np.random.default_rng(1)
    assert_null_rate(rng.random(200) < 0.05, 0.05)
    assert_null_rate(rng.random((200, 10)) < 0.05, 0.05)
    for flags in (rng.random(200) < 0.15, np.repeat(rng.random((200, 1)) < 0.3, 10, axis=1)):
        with pytest.raises(AssertionError):
            assert_null_rate(flags, 0.05)
