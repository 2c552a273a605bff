"""The numbers over pairs are those of direct calls, and a model whose weights mean nothing is rarely marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.families import build
from tests.patching.by_hand import FAST, model_of
from tests.tokenizers_tiny import WORDS, tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.options import PatchOptions
from rewarden.patching import patch
from rewarden.patching.summary import fewest_clusters, prompt_clusters, summarise
from rewarden.reward_model import RewardModel
from rewarden.statistics import benjamini_hochberg, bootstrap_interval, sign_flip_test

pytestmark = pytest.mark.filterwarnings("ignore")


def random_pairs(n: int, seed: int, prompts: int | None = None) -> list[Pair]:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(3, 12)))
    return [Pair(f"one {number % (prompts or n)}", text(), text()) for number in range(n)]


def test_the_numbers_of_a_result_are_direct_calls() -> None:
    pairs = random_pairs(9, 0, prompts=7)
    found = patch(model_of("llama"), pairs, positions="each", resamples=200, seed=4, alpha=0.2)
    clusters = np.arange(9) % 7
    assert prompt_clusters(pairs).tolist() == clusters.tolist()
    every = []
    for suffix in ("", "_heads"):
        names = ("effect", "mean", "low", "high", "n", "p", "below_noise")
        data = {name: found.data[f"{name}{suffix}"].values for name in names}
        interval = bootstrap_interval(data["effect"], clusters=clusters, n_resamples=200, seed=4)
        test = sign_flip_test(data["effect"], clusters, seed=4)
        np.testing.assert_array_equal(data["mean"], interval.estimate)
        np.testing.assert_array_equal(data["low"], interval.low)
        np.testing.assert_array_equal(data["high"], interval.high)
        np.testing.assert_array_equal(data["n"], np.isfinite(data["effect"]).sum(0))
        moved = (np.nan_to_num(data["effect"]) != 0).any(0)
        np.testing.assert_array_equal(data["p"], np.where((test.n_clusters >= 4) & moved, test.p, np.nan))
        np.testing.assert_array_equal(data["below_noise"], np.abs(data["effect"]) <= found.noise_floor)
        assert found.data[f"mean{suffix}"].dims == found.data[f"effect{suffix}"].dims[1:]
        every.append(data["p"].ravel())
    adjusted = np.concatenate([found.p_adjusted.ravel(), found.p_adjusted_heads.ravel()])
    np.testing.assert_array_equal(adjusted, benjamini_hochberg(np.concatenate(every)))  # one family of tests
    assert found.data["tests"].item() == np.isfinite(np.concatenate(every)).sum()
    np.testing.assert_array_equal(found.marked, (found.p_adjusted < 0.2) & (np.abs(found.mean) > found.noise_floor))
    assert np.isnan(found.p[..., 0]).all()  # one conversation is that long
    assert not found.marked[..., 0].any()


def test_too_few_prompts_are_not_tested() -> None:
    assert [fewest_clusters(alpha) for alpha in (0.05, 0.03125, 0.01, 0.2)] == [6, 6, 8, 4]
    values = np.linspace(1.0, 2.0, 12)[:, None]
    for clusters, tested in ((np.arange(12) % 5, False), (np.arange(12) % 6, True)):
        found = summarise({"": (("pair", "layer"), values)}, clusters, PatchOptions(), 0.0)
        assert np.isfinite(found["p"][1][0]) == found["marked"][1][0] == tested
        assert found["mean"][1][0] == pytest.approx(1.5)


def test_cells_that_nothing_reaches_are_not_tested_and_cost_no_power() -> None:
    """Exact zeros in every pair, some of them missing: what remains is adjusted as if they had never been asked for."""
    rng = np.random.default_rng(0)
    moved = rng.standard_normal((9, 4)) + np.array([2.0, 1.0, 0.0, 0.0])
    moved[3, 3] = 0.0  # a zero in one pair is a value like any other
    still = np.zeros((9, 50))
    still[:4, 7] = np.nan
    still[:, 8] = -0.0
    alone = summarise({"": (("pair", "cell"), moved)}, np.arange(9), PatchOptions(resamples=100), 0.0)
    beside = summarise({"": (("pair", "cell"), np.hstack([still, moved])), "_heads": (("pair", "cell"), still)}, np.arange(9),
                       PatchOptions(resamples=100), 0.0)
    for name in ("p", "p_adjusted", "marked", "mean", "low", "high", "n"):
        np.testing.assert_array_equal(beside[name][1][50:], alone[name][1])
    np.testing.assert_array_equal(alone["p"][1], sign_flip_test(moved, np.arange(9), seed=0).p)
    np.testing.assert_array_equal(alone["p_adjusted"][1], benjamini_hochberg(alone["p"][1]))
    assert (alone["tests"][1], beside["tests"][1]) == (4, 4)
    for suffix in ("", "_heads"):
        for name in ("p", "p_adjusted"):
            assert np.isnan(beside[f"{name}{suffix}"][1][:50]).all()
        assert not beside[f"marked{suffix}"][1][:50].any()
        np.testing.assert_array_equal(beside[f"mean{suffix}"][1][:50], np.zeros(50))
        np.testing.assert_array_equal(beside[f"n{suffix}"][1][:50], np.isfinite(still).sum(0))


@pytest.mark.parametrize("sites", [("mlp_out",), ("resid_post", "z")])
def test_a_shared_prompt_is_no_test(sites: tuple[str, ...]) -> None:
    """Position by position, with one text before every difference: the tests are those behind it."""
    texts = [pair for pair in random_pairs(7, 3) if pair.chosen.split()[0] != pair.rejected.split()[0]]
    pairs = [Pair(f"one {number}", pair.chosen, pair.rejected) for number, pair in enumerate(texts)]
    found = patch(model_of("llama"), pairs, sites, positions="each", alignment="prefix", resamples=100)
    for suffix in [name.removeprefix("effect") for name in found.data.data_vars if name.startswith("effect")]:
        effect, p = found.data[f"effect{suffix}"].values, found.data[f"p{suffix}"].values
        known = np.isfinite(effect)
        still = (known.sum(0) >= 6) & (np.where(known, effect, 0.0) == 0).all(0)
        assert still.any()
        assert np.isnan(p[still]).all()
        assert np.isfinite(p[(known.sum(0) >= 6) & ~still]).all()
    adjusted = [found.data[name].values.ravel() for name in found.data.data_vars if name.startswith("p_adjusted")]
    assert found.data["tests"].item() == np.isfinite(np.concatenate(adjusted)).sum() > 0


def test_an_effect_within_the_noise_is_never_marked() -> None:
    values = 1e-4 * np.linspace(1.0, 2.0, 12)[:, None]
    for floor, marked in ((1e-3, False), (1e-5, True)):
        found = summarise({"": (("pair", "layer"), values)}, np.arange(12), PatchOptions(), floor)
        assert found["marked"][1][0] == marked
        assert found["below_noise"][1].all() == (not marked)


def test_a_planted_effect_is_marked_among_many_null_cells() -> None:
    """60 cells of noise and one effect of two standard deviations, over ten pairs."""
    hits = false = 0
    for seed in range(20):
        values = np.random.default_rng(seed).standard_normal((10, 61))
        values[:, 7] += 2.5
        found = summarise({"": (("pair", "cell"), values[:, :40]), "_heads": (("pair", "cell"), values[:, 40:])},
                          np.arange(10), replace(PatchOptions(), alpha=0.2, resamples=100), 0.0)
        marked = np.concatenate([found["marked"][1], found["marked_heads"][1]])
        hits, false = hits + marked[7], false + (marked.sum() > marked[7])
    assert hits >= 18
    assert false <= 9  # 20 × 0.2 are expected at most


def test_random_weights_are_marked_no_more_often_than_alpha() -> None:
    """24 models of random weights, 8 pairs each: at alpha 0.05 more than 4 with any mark have odds below 0.6 %."""
    marked = []
    for seed in range(24):
        rm = RewardModel(build("llama", seed=seed, num_hidden_layers=2), tiny_tokenizer(), check=False)
        found = patch(rm, random_pairs(8, seed), resamples=100)
        marked.append(bool(found.marked.any() or found.marked_heads.any()))
    assert sum(marked) <= 4


def test_in_bfloat16_a_tiny_planted_effect_is_within_the_noise() -> None:
    """The middle MLP writes a ten-thousandth of what the others write: less than rounding moves the reward."""
    model = build("llama")
    model.model.layers[1].mlp.down_proj.weight.mul_(1e-4)
    pairs = random_pairs(8, 0)
    whole = RewardModel(model, tiny_tokenizer())
    exact = patch(whole, pairs, "mlp_out", "zero", **FAST)
    half = patch(RewardModel(model.bfloat16(), tiny_tokenizer()), pairs, "mlp_out", "zero", **FAST)
    assert half.noise_floor > 100 * exact.noise_floor
    assert half.below_noise[:, 0, 1].all()
    assert not half.marked[0, 1]
    assert not exact.below_noise[:, 0, 1].all()  # float32 sees it
    large = np.abs(exact.effect) > 2 * half.noise_floor
    assert not half.below_noise[large].any()
    np.testing.assert_allclose(half.effect, exact.effect, atol=3 * half.noise_floor)
