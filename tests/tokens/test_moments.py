"""Moments and asymmetries against scipy, closed forms, and the bootstrap over tokens they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval
from rewarden.tokens.comparison.blocks import random_blocks
from rewarden.tokens.comparison.moments import moments
from rewarden.tokens.comparison.shared import shared_vocabulary
from rewarden.tokens.scores import token_scores


def scan(reward, *, prompts=None, flags=None, **rest):
    reward = np.atleast_2d(reward)
    n = reward.shape[1]
    return token_scores(reward, token_id=np.arange(n), text=[f"t{i}" for i in range(n)], flags=flags,
                        prompts=prompts or [f"p{i}" for i in range(len(reward))], **rest)


def row(found, moment, prompt=0):
    cell = found.data.sel(moment=moment).isel(prompt=prompt)
    return float(cell["value"]), float(cell["low"]), float(cell["high"])


def quantile_skew(x, q):
    low, middle, high = np.quantile(x, [q, 0.5, 1 - q])
    return (high + low - 2 * middle) / (high - low)


def tail_asymmetry(x, t):
    low, middle, high = np.quantile(x, [t, 0.5, 1 - t])
    return np.log((high - middle) / (middle - low))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_values_equal_numpy_and_scipy(offset):
    scores = scan(np.random.default_rng(0).gumbel(size=(2, 3001)) + offset)
    found = moments(scores, quantiles=[0.25, 0.125], tails=[0.01, 0.001], n_resamples=50)
    for at in (0, 1):
        x = scores.reward[at].astype(np.float64)
        expected = [x.mean(), x.var(), stats.skew(x), stats.kurtosis(x), quantile_skew(x, 0.25), quantile_skew(x, 0.125),
                    tail_asymmetry(x, 0.01), tail_asymmetry(x, 0.001)]
        np.testing.assert_allclose(found.value[at], expected, rtol=1e-12)
    assert found.n.tolist() == [3001, 3001]


def test_intervals_equal_the_bootstrap_over_the_tokens_of_the_blocks():
    # Sums per block and counts per block must give what resampling the tokens themselves gives.
    x = scan(np.random.default_rng(1).gumbel(size=400)).reward[0].astype(float)
    found = moments(scan(x), quantiles=[0.1], tails=[0.05], blocks=30, n_resamples=100, seed=3, level=0.9)
    block = random_blocks(400, 30, 3)
    statistics = {"mean": np.mean, "variance": np.var, "skewness": stats.skew, "kurtosis": stats.kurtosis,
                  "quantile skew 0.1": lambda v, axis: np.array([quantile_skew(v[:, 0], 0.1)]),
                  "tail asymmetry 0.05": lambda v, axis: np.array([tail_asymmetry(v[:, 0], 0.05)])}
    for name, statistic in statistics.items():
        slow = bootstrap_interval(x[:, None], statistic=statistic, clusters=block, n_resamples=100, seed=3, level=0.9)
        np.testing.assert_allclose(row(found, name), [slow.estimate[0], slow.low[0], slow.high[0]], rtol=1e-9)


def test_of_symmetric_rewards_the_intervals_cover_zero():
    names = ["skewness", "quantile skew 0.25", "tail asymmetry 0.05"]
    covered = []
    for seed in range(120):
        scores = scan(np.random.default_rng(seed).normal(size=500))
        found = moments(scores, quantiles=[0.25], tails=[0.05], blocks=60, n_resamples=300, seed=seed)
        covered.append([low <= 0 <= high for _, low, high in (row(found, name) for name in names)])
    share = np.mean(covered, axis=0)
    assert (share > 0.9).all(), dict(zip(names, share, strict=True))


def test_planted_asymmetry_is_found_with_its_closed_form():
    scores = scan(np.random.default_rng(2).exponential(size=20_000))
    found = moments(scores, quantiles=[0.25], tails=[0.01])
    truth = {"mean": 1, "variance": 1, "skewness": 2, "quantile skew 0.25": np.log(4 / 3) / np.log(3),
             "tail asymmetry 0.01": np.log((-np.log(0.01) - np.log(2)) / (np.log(2) + np.log(0.99)))}
    for name, value in truth.items():
        estimate, low, high = row(found, name)
        assert low < value < high, name
        assert 0 < low < estimate < high, name
    turned = moments(scan(-scores.reward), quantiles=[0.25], tails=[0.01])
    for name in list(truth)[2:]:
        assert row(turned, name)[0] == pytest.approx(-row(found, name)[0], abs=1e-12)


def test_copies_of_tokens_widen_nothing_when_they_are_clusters():
    x = np.random.default_rng(3).normal(size=300)
    one = moments(scan(x), blocks=300, n_resamples=400)
    four = moments(scan(np.repeat(x, 4)), blocks=300, n_resamples=400, clusters=np.repeat(np.arange(300), 4))
    naive = moments(scan(np.repeat(x, 4)), blocks=1200, n_resamples=400)
    width = [row(found, "mean")[2] - row(found, "mean")[1] for found in (one, four, naive)]
    assert width[1] == pytest.approx(width[0], rel=1e-6)
    assert width[2] == pytest.approx(width[0] / 2, rel=0.15)  # takes 1,200 tokens for independent ones


def test_missing_and_control_tokens():
    x = np.random.default_rng(4).normal(size=60).astype(np.float32)
    x[[3, 7]] = np.nan, np.inf
    x[10] = 1e6
    flags = {"special": np.arange(60) == 10, "byte": np.arange(60) == 11}
    found = moments(scan(x, flags=flags), special=False, tails=[], n_resamples=50)
    kept = np.delete(x, [3, 7, 10, 11]).astype(float)
    assert (found.n.tolist(), found.missing.tolist()) == ([56], [2])
    assert row(found, "skewness")[0] == pytest.approx(stats.skew(kept), rel=1e-12)
    assert any("2 tokens of a prompt have no finite reward" in note for note in found.warnings)
    assert row(moments(scan(x, flags=flags), tails=[], n_resamples=50), "mean")[0] > 1e4


def test_short_tails_flat_rewards_and_noise_are_told():
    few = moments(scan(np.arange(300.0)), tails=[0.01, 0.001], n_resamples=50)
    assert row(few, "tail asymmetry 0.01")[0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(row(few, "tail asymmetry 0.001")).all()
    assert any("no tail asymmetry 0.001: it takes 1000 tokens, there are 300" in note for note in few.warnings)
    flat = moments(scan(np.full(50, 0.1)), n_resamples=50)
    assert row(flat, "variance")[0] == 0
    assert np.isnan([row(flat, name)[0] for name in ("skewness", "kurtosis", "quantile skew 0.25")]).all()
    noisy = moments(scan(np.random.default_rng(5).normal(scale=1e-6, size=50), noise_floor=1e-4), tails=[], n_resamples=50)
    assert any("within the noise floor" in note for note in noisy.warnings)


def test_shared_scores_have_a_row_for_each_model(tmp_path):
    values = np.random.default_rng(6).normal(size=(2, 2, 40))
    scans = [scan(rows, prompts=["best", "worst"], provenance={"model": name}) for rows, name in zip(values, "ab", strict=True)]
    found = moments(shared_vocabulary(scans), n_resamples=50, tails=[0.05])
    assert found.data["value"].dims == ("model", "prompt", "moment")
    for at, name in enumerate("ab"):
        alone = moments(scans[at], n_resamples=50, tails=[0.05])
        np.testing.assert_array_equal(found.data["low"].sel(model=name), alone.low)
    assert Result.load(found.save(tmp_path / "moments.nc")).data.identical(found.data)


@pytest.mark.parametrize("wrong", [{"quantiles": [0.5]}, {"tails": [0.0]}, {"blocks": 1}])
def test_impossible_options(wrong):
    with pytest.raises(RewardenError, match="quantiles="):
        moments(scan(np.arange(9.0)), **wrong)


def test_too_few_tokens():
    with pytest.raises(RewardenError, match="too few items"):
        moments(scan([1.0, 2.0]))
