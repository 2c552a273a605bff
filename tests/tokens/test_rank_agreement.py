"""Agreement of models against scipy, enumeration, simulation and the published EloEverything scores."""

from __future__ import annotations

import time
from itertools import permutations, product
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import holm
from rewarden.tokens.comparison.blocks import random_blocks
from rewarden.tokens.comparison.rank_agreement import rank_agreement
from rewarden.tokens.comparison.shared import shared_vocabulary
from rewarden.tokens.scores import ties_of, token_scores

MODELS = ["N-Gem", "S-Gem-v0.2", "S-Gem", "S-Lla", "N-Lla", "L-Lla", "R-Lla-8B", "R-Lla-3B", "F-Lla", "R-Gem-2B"]


def correlated(m: int, n: int, seed: int, step: float | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n) + rng.normal(size=(m, n))
    return values if step is None else np.round(values / step) * step


@pytest.mark.parametrize("step", [None, 0.5])
def test_correlations_equal_scipy(step):
    values = correlated(3, 150, 0, step)
    found = rank_agreement(values, list("abc"), blocks=0)
    for i, j in product(range(3), repeat=2):
        x, y = values[i], values[j]
        cell = {"prompt": 0, "model": i, "other": j}
        expected = [stats.kendalltau(x, y).statistic, stats.spearmanr(x, y).statistic, stats.weightedtau(x, y).statistic,
                    stats.weightedtau(-x, -y).statistic]
        got = found.data.isel(cell)
        np.testing.assert_allclose([got["tau"], got["spearman"], *got["weighted_tau"]], expected, atol=1e-12)


def test_the_bottom_is_the_top_of_the_negative():
    values = correlated(3, 60, 1, 0.5)
    found, turned = (rank_agreement(sign * values, list("abc"), k=[5, 20], blocks=0).data for sign in (1, -1))
    for name in ("weighted_tau", "rbo", "overlap", "overlap_p"):
        np.testing.assert_allclose(found[name].sel(end="bottom"), turned[name].sel(end="top"), atol=1e-12)


def test_overlap_is_counted_and_averaged_over_ties():
    # First three: a has 0, then two of {1, 2, 3}; b has 3, 0, 1. Shared: 0 for sure, 1 and 3 in two of three orders each.
    values = [[9, 5, 5, 5, 1, 0], [8, 7, 1, 9, 2, 3]]
    found = rank_agreement(values, ["a", "b"], k=[1, 3, 7], blocks=0)
    assert found.overlap[0, 0, :2, 0, 1] == pytest.approx([0, (1 + 2 / 3 + 2 / 3) / 3])
    assert found.overlap[0, 0, 1, 0, 0] == pytest.approx((1 + 3 * (2 / 3) ** 2) / 3)  # two orders of the same ties
    assert np.isnan(found.overlap[0, 0, 2]).all()
    assert found.overlap_chance[0, :2] == pytest.approx([1 / 6, 1 / 2])
    assert any("no overlap for k = 7: there are 6 tokens" in note for note in found.warnings)


def test_overlap_p_is_hypergeometric_and_adjusted_once_for_each_pair():
    values = correlated(3, 40, 2)
    found = rank_agreement(values, list("abc"), k=[4, 10], blocks=0)
    raw = []
    for end, sign in enumerate((1, -1)):
        for at, size in enumerate((4, 10)):
            for i, j in ((0, 1), (0, 2), (1, 2)):
                tops = [set(np.argsort(-sign * values[model])[:size]) for model in (i, j)]
                shared = len(tops[0] & tops[1])
                p = sum(comb(size, s) * comb(40 - size, size - s) for s in range(shared, size + 1)) / comb(40, size)
                assert found.overlap[0, end, at, i, j] == pytest.approx(shared / size)
                assert found.overlap_p[0, end, at, i, j] == found.overlap_p[0, end, at, j, i] == pytest.approx(p)
                raw.append((p, found.overlap_p_holm[0, end, at, i, j]))
    np.testing.assert_allclose([adjusted for _, adjusted in raw], holm([p for p, _ in raw]), atol=1e-12)
    assert np.isnan(found.overlap_p[0, 0, 0].diagonal()).all()


def test_chance_of_rbo_is_the_mean_over_all_permutations():
    x, y = np.array([4.0, 4, 3, 1]), np.array([5.0, 2, 2, 1])
    found = rank_agreement([x, y], ["a", "b"], k=[1], p=0.7, blocks=0)
    every = [rank_agreement([x, y[list(order)]], ["a", "b"], k=[1], p=0.7, blocks=0).rbo[0, :, 0, 1]
             for order in permutations(range(4))]
    np.testing.assert_allclose(found.rbo_chance[0, :, 0, 1], np.mean(every, axis=0), atol=1e-12)


def test_tokens_without_a_reward_are_set_apart_and_counted():
    values = correlated(3, 50, 3)
    values[0, 4], values[1, 4], values[1, 9] = np.nan, np.inf, -np.inf
    found = rank_agreement(values, list("abc"), k=[5], blocks=6)
    kept = np.delete(values, [4, 9], axis=1)
    clean = rank_agreement(kept, list("abc"), k=[5], blocks=6)
    assert (found.n.tolist(), found.missing.tolist(), clean.missing.tolist()) == ([48], [[1, 2, 0]], [[0, 0, 0]])
    for name in ("tau", "tau_low", "spearman_high", "weighted_tau", "rbo", "overlap"):
        np.testing.assert_array_equal(found.data[name], clean.data[name])
    assert any("2 tokens or fewer" in note for note in found.warnings)


def test_intervals_are_those_of_the_delete_block_jackknife():
    values = correlated(2, 90, 4)
    found = rank_agreement(values, ["a", "b"], k=[5], blocks=9, level=0.9, seed=5)
    block = random_blocks(90, 9, 5)
    tau = stats.kendalltau(*values).statistic
    left_out = np.array([stats.kendalltau(*values[:, block != b]).statistic for b in range(9)])
    reach = stats.t.ppf(0.95, 8) * np.sqrt(8 / 9 * ((left_out - left_out.mean()) ** 2).sum()) / (1 - tau**2)
    expected = np.tanh(np.arctanh(tau) + np.array([-reach, reach]))
    np.testing.assert_allclose([found.tau_low[0, 0, 1], found.tau_high[0, 0, 1]], expected, atol=1e-12)
    clusters = np.arange(90) // 2
    wide = rank_agreement(values, ["a", "b"], k=[5], blocks=9, seed=5, clusters=clusters)
    by_cluster = random_blocks(90, 9, 5, clusters)
    without = [stats.kendalltau(*values[:, by_cluster != b]).statistic for b in range(9)]
    error = np.sqrt(8 / 9 * ((without - np.mean(without)) ** 2).sum()) * stats.t.ppf(0.975, 8) / (1 - tau**2)
    assert wide.tau_high[0, 0, 1] == pytest.approx(np.tanh(np.arctanh(tau) + error), abs=1e-12)


def test_intervals_cover_as_often_as_they_say():
    runs = [rank_agreement(correlated(2, 200, seed), ["a", "b"], k=[5], seed=seed).data for seed in range(100)]
    truth = {"tau": 2 / np.pi * np.arcsin(0.5), "spearman": 6 / np.pi * np.arcsin(0.25)}  # of normal scores that correlate by ½
    for name, value in truth.items():
        inside = [float(run[f"{name}_low"][0, 0, 1]) <= value <= float(run[f"{name}_high"][0, 0, 1]) for run in runs]
        assert np.mean(inside) > 0.9, name
    # Of weighted tau no closed form: its mean over the runs.
    for end in (0, 1):
        mean = np.mean([run["weighted_tau"].values[0, end, 0, 1] for run in runs])
        inside = [run["weighted_tau_low"].values[0, end, 0, 1] <= mean <= run["weighted_tau_high"].values[0, end, 0, 1]
                  for run in runs]
        assert np.mean(inside) > 0.88


def test_a_model_and_its_reverse():
    x = np.arange(30.0)
    found = rank_agreement([x, -x], ["a", "b"], k=[5])
    for name in ("tau", "tau_low", "tau_high", "spearman", "spearman_low", "spearman_high"):
        np.testing.assert_allclose(found.data[name][0], [[1, -1], [-1, 1]], atol=1e-12)
    assert (found.overlap[0, 0, 0, 0, 1], found.rbo[0, 0].diagonal().tolist()) == (0, pytest.approx([1, 1]))


def test_a_constant_model_has_no_correlation():
    found = rank_agreement([np.ones(20), np.arange(20.0)], ["flat", "b"], k=[5])
    assert np.isnan(found.tau[0, 0]).all()
    assert np.isnan(found.spearman_low[0, 0, 1])
    assert found.tau[0, 1, 1] == 1
    assert any("flat gives every token the same reward" in note for note in found.warnings)


def test_what_rounding_could_change_bounds_what_it_does_change():
    rng = np.random.default_rng(6)
    reward = np.stack([rng.normal(size=300), rng.normal(size=300)]).astype(np.float32)
    reward[1] += reward[0]
    floors, texts = [0.02, 0.05], [str(i) for i in range(300)]
    scans = [token_scores(row[None], token_id=np.arange(300), text=texts, prompts=["Hi"], noise_floor=floor)
             for row, floor in zip(reward, floors, strict=True)]
    found = rank_agreement(shared_vocabulary(scans, names=["a", "b"]), k=[5], blocks=0)
    near = [(np.abs(row[:, None] - row) <= floor)[np.triu_indices(300, 1)].mean()
            for row, floor in zip(reward.astype(float), floors, strict=True)]
    assert found.unresolved[0] == pytest.approx(near)
    assert found.tau_noise[0, 0, 1] == pytest.approx(2 * sum(near))
    moved = [stats.kendalltau(*(reward + rng.uniform(-0.5, 0.5, reward.shape) * np.array(floors)[:, None])).statistic
             for _ in range(50)]
    assert np.abs(np.array(moved) - found.tau[0, 0, 1]).max() <= found.tau_noise[0, 0, 1]
    assert not found.below_noise[0, 0, 1]
    weak = rank_agreement([np.arange(8.0) % 2, [0, 1, 2, 3, 4, 5, 6, 7]], ["a", "b"], k=[2], blocks=0)
    assert weak.below_noise[0, 0, 1]
    assert any("a leaves the order of 43% of the pairs of tokens open: 2 distinct rewards among 8" in n for n in weak.warnings)


def test_each_prompt_of_shared_scores_is_one_array():
    values = correlated(4, 80, 7).astype(np.float32).reshape(2, 2, 80)  # [model, prompt, token]
    scans = [token_scores(rows, token_id=np.arange(80), text=[str(i) for i in range(80)], prompts=["best", "worst"],
                          provenance={"model": name}, warnings=["half"]) for rows, name in zip(values, "ab", strict=True)]
    found = rank_agreement(shared_vocabulary(scans), k=[5], blocks=4, seed=1)
    assert found.prompt.tolist() == ["best", "worst"]
    for at in (0, 1):
        alone = rank_agreement(values[:, at], ["a", "b"], k=[5], blocks=4, seed=1)
        for name in ("tau", "tau_low", "weighted_tau_high", "rbo", "overlap", "distinct"):
            np.testing.assert_array_equal(found.data[name][at], alone.data[name][0])
    assert found.warnings == ("a: half", "b: half")


def test_saved_and_loaded(tmp_path):
    found = rank_agreement(correlated(2, 30, 8), ["a", "b"], k=[5])
    assert Result.load(found.save(tmp_path / "agreement.nc")).data.identical(found.data)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: rank_agreement(np.zeros((2, 9))), "with names None"),
    (lambda: rank_agreement(np.zeros((2, 9)), ["a", "a"]), "a different name for each"),
    (lambda: rank_agreement(np.zeros((1, 9)), ["a"]), "two or more models"),
    (lambda: rank_agreement(np.full((2, 9), np.nan), ["a", "b"]), "at least 3 needed"),
    (lambda: rank_agreement(np.eye(2, 9), ["a", "b"], k=[0], p=1, rbo_ties="c", blocks=1, level=2),
     r"k=\[0\].*p=1.*rbo_ties='c'.*blocks=1.*level=2"),
    (lambda: rank_agreement(np.eye(2, 9), ["a", "b"], clusters=[1, 2]), "9 items but 2 clusters"),
])
def test_refused(call, message):
    with pytest.raises(RewardenError) as error:
        call()
    assert pd.Series([str(error.value)]).str.contains(message).all(), str(error.value)


def test_forty_five_pairs_of_a_whole_vocabulary_take_less_than_five_seconds():
    values = correlated(10, 128_256, 9).astype(np.float32)
    start = time.process_time()  # this process's own time: other work on the machine does not count
    found = rank_agreement(values, MODELS, blocks=0)
    assert time.process_time() - start < 5
    assert found.tau[0, 0, 1] == pytest.approx(stats.kendalltau(values[0], values[1]).statistic, abs=1e-12)


# Published scores of 7,530 items under three prompts, and their agreement with the human ranking.

SPEARMAN = {
    "one_single_thing": [0.2932, 0.3323, 0.4047, 0.3915, 0.3738, 0.3452, 0.3741, 0.5411, 0.3765, 0.3586],
    "one_word": [0.3227, 0.3144, 0.3281, 0.4493, 0.4702, 0.4580, 0.3803, 0.5465, 0.4998, 0.4268],
    "humans_most_prefer": [0.1431, 0.2758, 0.3275, 0.2719, 0.3026, 0.3101, 0.2133, 0.4352, 0.2596, 0.3212],
}
TAU = [0.2006, 0.2322, 0.2829, 0.2739, 0.2581, 0.2367, 0.2568, 0.3844, 0.2590, 0.2474]


@pytest.fixture
def elo(shared_data):
    def read(name: str) -> np.ndarray:
        """float64 [human and ten models, item]."""
        table = pd.read_csv(shared_data / "eloeverything" / f"{name}.csv")
        return np.stack([table["elo_score"], *(table[column] for column in table.columns[4:])]).astype(float)

    return read


@pytest.mark.parametrize("prompt", list(SPEARMAN))
def test_published_agreement_with_people(elo, prompt):
    found = rank_agreement(elo(prompt), ["human", *MODELS], blocks=0).data.isel(prompt=0).sel(model="human", other=MODELS)
    np.testing.assert_allclose(found["spearman"], SPEARMAN[prompt], atol=1e-4)
    if prompt == "one_single_thing":
        np.testing.assert_allclose(found["tau"], TAU, atol=1e-4)


def test_published_half_precision_scores_are_mostly_ties(elo):
    scores = elo("one_single_thing")[1:]
    _, distinct = ties_of(scores)
    assert [distinct[MODELS.index(name)] for name in ("S-Lla", "F-Lla", "S-Gem", "S-Gem-v0.2")] == [174, 213, 183, 189]
    found = rank_agreement(scores, MODELS, k=[10], blocks=0)
    assert found.distinct[0].tolist() == distinct.tolist()
    assert any(note.startswith("S-Lla leaves the order of") for note in found.warnings)
