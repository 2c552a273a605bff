"""Best-of-n: exact against brute force and closed forms; intervals as honest as they say."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from tests.statistics.coverage import coverage

import rewarden as rw
from rewarden import RewardenError
from rewarden.hacking.selection.candidates import ScoreTable
from rewarden.hacking.selection.order_statistics import best_of_n_divergence, divergence, rank_weights, selection
from rewarden.hacking.selection.tilting import effective_samples, tilt_weights
from rewarden.result import Result
from rewarden.statistics.studentised import mean_above, studentised_interval


def every_draw(proxy: np.ndarray, gold: np.ndarray, n: int, replacement: bool) -> tuple[float, float]:
    """Mean reward and gold of the best over all draws, tied ones averaged: counted out."""
    places = range(len(proxy))
    draws = itertools.product(places, repeat=n) if replacement else itertools.permutations(places, n)
    best = [(proxy[list(draw)].max(), gold[[i for i in draw if proxy[i] == proxy[list(draw)].max()]].mean()) for draw in draws]
    return tuple(np.mean(best, axis=0))  # type: ignore[return-value]


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("proxy", [[0.3, -1.0, 2.0, 0.5, 0.1], [1.0, 1.0, 0.0, 2.0, 2.0], [7.0] * 5])
def test_selection_is_that_of_all_draws(proxy, replacement):
    proxy, gold = np.array(proxy), np.array([3.0, -1.0, 0.5, 2.0, 7.0])
    for n in (1, 2, 3, 4):
        weights = selection(proxy, [n], replacement)[0]
        # without ties among drawn copies of one sample, sharing by distinct items and by draws agree; count distinct items
        reward, _ = every_draw(proxy, gold, n, replacement)
        assert weights @ proxy == pytest.approx(reward, abs=1e-12)
        if not replacement:
            assert weights @ gold == pytest.approx(every_draw(proxy, gold, n, replacement)[1], abs=1e-12)


def test_tied_samples_share_what_their_group_wins_with_replacement():
    proxy, n = np.array([1.0, 0.0, 1.0, 1.0]), 3
    weights = selection(proxy, [n], replacement=True)[0]
    np.testing.assert_allclose(weights, [(1 - 0.25**n) / 3, 0.25**n, (1 - 0.25**n) / 3, (1 - 0.25**n) / 3], atol=1e-15)


def test_curves_equal_brute_force_resampling():
    rng = np.random.default_rng(1)
    proxy, gold = rng.normal(size=(2, 12, 7)).round(1)
    for replacement, n in ((False, 4), (True, 9)):
        found = rw.best_of_n((proxy, gold), max_n=n, replacement=replacement, resamples=100)
        drawn = rng.integers(7, size=(12, 20000, n)) if replacement else rng.random((12, 20000, 7)).argsort(axis=2)[..., :n]
        # ties: a random order of the samples decides
        jitter = proxy[:, None] + 1e-6 * rng.random((12, 20000, 7))
        best = np.take_along_axis(drawn, np.take_along_axis(jitter, drawn, 2).argmax(2)[..., None], 2)[..., 0]
        for name, values in (("proxy", proxy), ("gold", gold)):
            each = np.take_along_axis(values, best, 1)
            error = 5 * each.std(axis=1) / 20000**0.5 + 1e-9
            assert (np.abs(found.data[f"{name}_each"].values[:, -1] - each.mean(axis=1)) < error).all()


@pytest.mark.parametrize("replacement", [False, True])
def test_n_of_one_is_the_mean_and_the_reward_never_falls(replacement):
    proxy, gold = np.random.default_rng(2).standard_t(2, size=(2, 30, 40))
    found = rw.best_of_n((proxy, gold), replacement=replacement, resamples=100)
    np.testing.assert_allclose(found.data["proxy_each"].values[:, 0], proxy.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.data["gold_each"].values[:, 0], gold.mean(axis=1), atol=1e-12)
    assert (np.diff(found.data["proxy_each"].values, axis=1) >= -1e-12).all()
    last = proxy.max(axis=1) if not replacement else rank_weights(40, [40], True)[0] @ np.sort(proxy, axis=1).T
    np.testing.assert_allclose(found.data["proxy_each"].values[:, -1], last, atol=1e-10)


def test_large_pools_keep_their_digits():
    for replacement in (False, True):
        weights = rank_weights(5000, [1, 2, 17, 4999, 5000], replacement)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-10)
    # uniform rewards: the best of n of them is n/(n+1)
    assert rank_weights(5000, [9])[0] @ (np.arange(1, 5001) / 5001) == pytest.approx(9 / 10, abs=1e-12)


def test_divergence_is_the_formula_and_that_of_fine_pools():
    n = np.arange(1, 2000)
    np.testing.assert_allclose(best_of_n_divergence(n), [float(np.log(k) - 1 + 1 / k) for k in n], atol=1e-12)
    fine = divergence(rank_weights(200_000, [1, 2, 8, 64], replacement=True))
    np.testing.assert_allclose(fine, best_of_n_divergence([1, 2, 8, 64]), atol=1e-3)
    tied = divergence(selection(np.array([0.0, 1.0, 1.0, 1.0]), [50], replacement=True))
    np.testing.assert_allclose(tied, np.log(4 / 3), atol=1e-4)  # ties: no more than the choice of the tied
    pool = rw.best_of_n(np.random.default_rng(0).normal(size=(10, 32)), resamples=100)
    assert (pool.kl_pool <= pool.kl + 1e-12).all()


def test_tilts_of_normal_rewards_have_the_closed_form():
    proxy = np.random.default_rng(3).normal(size=(60, 4000))
    found = rw.best_of_n((proxy, 2 * proxy), tilts=(0.5, 1.0), max_n=8, resamples=100)
    np.testing.assert_allclose(found.tilt_proxy, [0.5, 1.0], atol=0.02)  # N(0,1) tilted by λ is N(λ,1)
    np.testing.assert_allclose(found.tilt_gold, [1.0, 2.0], atol=0.04)
    np.testing.assert_allclose(found.tilt_kl, [0.125, 0.5], atol=0.02)
    np.testing.assert_allclose(found.ess.mean(axis=0) / 4000, np.exp([-0.25, -1.0]), rtol=0.05)
    strong = tilt_weights(np.array([0.0, 1.0, 5.0]), np.array([0.0, 1000.0]))
    np.testing.assert_allclose(strong, [[1 / 3] * 3, [0, 0, 1]], atol=1e-12)
    assert effective_samples(strong).round(9).tolist() == [3.0, 1.0]


def test_tilts_with_few_effective_samples_are_refused():
    found = rw.best_of_n(np.random.default_rng(0).normal(size=(20, 8)), tilts=(0.1, 4.0), resamples=100)
    assert found.refused.tolist() == [False, True]
    assert np.isnan(found.tilt_proxy).tolist() == [False, True]
    assert "1 of 2 tilts are refused" in found.warnings[0]


def test_a_planted_onset_is_found_and_the_best_n_with_it():
    proxy = np.random.default_rng(4).normal(size=(80, 64))
    gold = -((proxy - 1.0) ** 2)  # best where the reward is 1: about n = 5
    found = rw.best_of_n((proxy, gold), resamples=100)
    assert 4 <= found.best_n <= 7
    assert found.onset == 4.0  # the first doubling that falls is the one from 4 to 8: E(max − 1)² is 0.49, then 0.55
    assert (found.step_p[:2] > 0.5).all()


def test_few_prompts_with_another_gold_are_warned_of():
    rng = np.random.default_rng(0)
    proxy, rare = rng.normal(size=(40, 4)), (rng.random((40, 4)) < 0.05).astype(float)
    assert any("of 40 prompts: intervals of gold can be far too narrow" in note
               for note in rw.best_of_n((proxy, rare), resamples=100, tilts=0.1).warnings)
    assert not any("too narrow" in note for note in rw.best_of_n((proxy[:10], proxy[:10]), resamples=100).warnings)


def test_noise_of_the_reward_is_taken_out_of_the_curve():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(300, 8))
    noisy = truth + rng.normal(size=truth.shape)
    found = rw.best_of_n((noisy, truth), noise=1.0, resamples=100)
    # selection by a reward with 5/4 of the noise variance: gold of the best of 16 of them is what the unbiased curve says
    again = rw.best_of_n((truth + 1.25**0.5 * rng.normal(size=truth.shape), truth), resamples=100)
    assert found.proxy[-1] > again.gold[-1] + 0.4
    assert found.proxy_unbiased[-1] == pytest.approx(again.gold[-1], abs=0.12)


def test_the_mean_of_all_other_copies_selects_for_each():
    rng = np.random.default_rng(9)
    copies = rng.normal(size=(30, 5, 3))
    rows = [{"prompt": f"p{p}", **{f"proxy_{c + 1}": copies[p, s, c] for c in range(3)}} for p in range(30) for s in range(5)]
    found = rw.best_of_n(rows, resamples=100)
    expected = [copies[p, np.delete(copies[p], c, axis=1).mean(axis=1).argmax(), c] for p in range(30) for c in range(3)]
    assert found.proxy_unbiased[-1] == pytest.approx(np.mean(expected))


def test_copies_select_for_each_other():
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(400, 8))
    copies = truth[..., None] + rng.normal(size=(400, 8, 2))
    rows = [{"prompt": f"p{p}", "proxy_1": a, "proxy_2": b, "gold": g}
            for p in range(400) for (a, b), g in zip(copies[p], truth[p], strict=True)]
    found = rw.best_of_n(rows, resamples=100)
    alone = [rw.best_of_n((copies[..., one], truth), resamples=100) for one in (0, 1)]
    assert found.proxy_unbiased[-1] == pytest.approx(np.mean([one.gold[-1] for one in alone]), abs=0.1)
    assert alone[0].proxy[-1] > found.proxy_unbiased[-1] + 0.5
    np.testing.assert_allclose(found.data["proxy_each"].values[:, 0], copies.mean(axis=(1, 2)))


@pytest.mark.parametrize("units", [12, 40])
@pytest.mark.parametrize("kind", ["normal", "heavy", "labels"])
def test_intervals_over_prompts_cover(kind, units):
    rng, m, n, runs = np.random.default_rng(9), 8, 3, 1000
    samples = {"normal": lambda shape: rng.normal(size=shape) + rng.normal(size=(*shape[:2], 1)),
               "heavy": lambda shape: rng.standard_t(5, size=shape) * np.exp(0.4 * rng.normal(size=(*shape[:2], 1))),
               "labels": lambda shape: (rng.random(shape) < 0.3).astype(float)}[kind]
    weights = rank_weights(m, [n])[0]
    values = np.sort(samples((runs, units, m)), axis=2) @ weights  # [runs, units]
    truth = 1 - 0.7**n if kind == "labels" else float(np.mean(np.sort(samples((20_000, 20, m)), axis=2) @ weights))
    found = studentised_interval(values.T, n_resamples=600)
    share = coverage(found.low, found.high, truth).share
    assert 0.93 - 2.6 * 0.008 <= share <= 0.97 + 2.6 * 0.006, share


def test_one_sided_p_is_uniform_where_there_is_nothing():
    p = mean_above(np.random.default_rng(10).normal(size=(20, 4000)))
    assert abs((p < 0.05).mean() - 0.05) < 2.6 * (0.05 * 0.95 / 4000) ** 0.5
    assert np.isnan(mean_above(np.ones((1, 2)))).all()
    for few in ([1.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 3.0]):
        ends = studentised_interval(few)
        assert [ends.estimate, bool(np.isnan(ends.low)), bool(np.isnan(ends.high))] == [np.mean(few), True, True]
    assert mean_above(np.full((5, 1), 0.1)).tolist() == [0.0]


def test_gaps_are_left_out_cell_by_cell():
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[3:9, 1] = np.nan
    both = studentised_interval(values)
    assert both.n.tolist() == [30, 24]
    assert both.estimate[1] == pytest.approx(np.nanmean(values[:, 1]))
    with pytest.raises(RewardenError, match="impossible interval"):
        studentised_interval(values, level=1.5)


def test_tables_of_every_source_are_one(tmp_path):
    proxy, gold = np.random.default_rng(0).normal(size=(2, 12, 3))
    rows = [{"prompt": f"prompt {p}", "response": f"r{p}-{s}", "reward": proxy[p, s], "label": gold[p, s]}
            for p in range(12) for s in range(3)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ScoreTable.read(path)
    table.result().save(tmp_path / "kept.nc")
    tables = [table, ScoreTable.read(rows), ScoreTable.read((proxy, gold)), ScoreTable.read({"proxy": proxy, "gold": gold}),
              ScoreTable.read(Result.load(tmp_path / "kept.nc"))]
    for one in tables:
        np.testing.assert_array_equal(one.proxy, proxy.ravel())
        np.testing.assert_array_equal(one.gold, gold.ravel())
        assert one.sizes.tolist() == [3] * 12
    assert tables[-1].responses == tables[0].responses


def test_samples_that_are_not_scored_and_small_prompts_are_set_apart():
    proxy = np.random.default_rng(0).normal(size=(12, 5))
    rows = [{"prompt": p, "proxy": proxy[p, s], "gold": 0.0 if (p, s) != (3, 1) else None} for p in range(12) for s in range(5)]
    rows = [dict(row, prompt=f"p{row['prompt']}") for row in rows if row["prompt"] != 7 or row["proxy"] == proxy[7, 0]]
    found = rw.best_of_n(rows, max_n=4, resamples=100)
    assert found.data.sizes["prompt"] == 11
    assert "1 samples are set apart" in found.warnings[0]
    assert "1 prompts are left out" in found.warnings[1]


def test_an_infinite_reward_is_a_sample_that_is_counted():
    proxy = np.random.default_rng(0).normal(size=(12, 5))
    proxy[2, 1], proxy[4, 4] = np.inf, np.nan  # the second is no sample
    table = ScoreTable.read(proxy)
    assert table.sizes.tolist() == [5] * 4 + [4] + [5] * 7
    assert "1 samples are set apart" in rw.best_of_n(table, max_n=4, resamples=100).warnings[0]


def test_messages_of_a_parquet_file_are_prompts(tmp_path):
    messages = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": messages, "reward": float(i), "response": "x"} for i in range(3)]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for source in (tmp_path / "rows.parquet", pd.read_parquet(tmp_path / "rows.parquet"), rows):
        table = ScoreTable.read(source)
        assert [json.loads(prompt) for prompt in table.prompts] == [messages]
        assert table.sizes.tolist() == [3]


def test_rows_without_a_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "reward": 1, "response": "x"}\n\n{"prompt": "a", "reward": 2, "response": null}\n')
    with pytest.raises(RewardenError, match="1 rows have no response") as caught:
        ScoreTable.read(path)
    assert "rows 3" in caught.value.why


@pytest.mark.parametrize(("table", "options", "says"), [
    ([{"prompt": "a", "reward": 1.0}, {"reward": 1.0}], {}, "1 rows have no prompt"),
    ([{"prompt": " ", "reward": 1.0}], {}, "1 rows have no prompt"),
    ([{"prompt": ["a"], "reward": 1.0}], {}, "1 rows have no prompt"),
    ([{"prompt": "a", "reward": 1.0, "response": float("nan")}], {}, "1 rows have no response"),
    (5, {}, "int holds no samples"),
    (([[1.0, 2.0], [1.0]],), {}, "holds what is no number"),
    ([{"prompt": "a", "text": "b"}], {}, "needs the columns 'prompt' and 'proxy'"),
    ([{"prompt": "a", "proxy": "high"}], {}, "holds what is no number"),
    ([{"prompt": "a", "response": "b"}], {}, "no sample of the table has a reward"),
    (np.ones(3), {}, "stand in an array"),
    (np.random.default_rng(0).normal(size=(9, 4)), {}, "too few items for best-of-n"),
    (np.ones((12, 4)), {}, "the same for all samples"),
    (np.random.default_rng(0).normal(size=(12, 4)), {"max_n": 9}, "the best of 9 needs 9 samples"),
    (np.random.default_rng(0).normal(size=(12, 4)), {"max_n": 1}, "impossible options"),
    (np.random.default_rng(0).normal(size=(12, 4)), {"least_ess": 0}, "impossible options"),
    (np.random.default_rng(0).normal(size=(12, 4)), {"features": {"length": [1.0]}}, "not one number a sample"),
])
def test_bad_input_is_one_error(table, options, says):
    with pytest.raises(RewardenError, match=says):
        rw.best_of_n(table, **options)


def test_features_rise_as_their_selected_samples_do():
    proxy, length = np.random.default_rng(0).normal(size=(2, 30, 6))
    both = proxy + length
    found = rw.best_of_n(both, {"length": length.ravel(), "flat": np.zeros(180)}, resamples=100)
    spread = np.sqrt(length.var(axis=1, ddof=1).mean())
    last = np.take_along_axis(length, both.argmax(axis=1)[:, None], 1)[:, 0]  # the best of all six
    assert found.rise[0] == pytest.approx(np.mean(last - length.mean(axis=1)) / spread)
    assert np.isnan(found.rise[1])
