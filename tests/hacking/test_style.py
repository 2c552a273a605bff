"""The regression of margins on style: planted slopes come back, and what cannot be answered is refused or named."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.hacking.styles.features import count_style
from rewarden.hacking.styles.regression import exchanged, style_regression, verdicts
from rewarden.preferences import prompt_keys
from rewarden.result import Result

WORDS = ["the", "pond", "lies", "still", "and", "grey", "while", "reeds", "bend", "in", "a", "light", "wind", "over", "it"]


def made(n: int, seed: int = 0, per_prompt: int = 1) -> list[rw.Pair]:
    """Pairs whose sides differ in length, hedges and bold words, each drawn by itself."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        words = list(rng.choice(WORDS, rng.integers(5, 25)))
        words += ["perhaps"] * int(rng.poisson(0.7)) + ["**reed**"] * int(rng.poisson(0.7))
        return " ".join(rng.permutation(words)) + "."

    return [rw.Pair(f"Question {row // per_prompt}?", text(), text()) for row in range(n)]


def differences(pairs, names):
    return count_style([pair.chosen for pair in pairs], names) - count_style([pair.rejected for pair in pairs], names)


def test_planted_slopes_are_recovered():
    pairs, names = made(120), ["words", "emphasis", "hedges"]
    x = differences(pairs, names)
    found = style_regression(0.7 + x @ [0.05, 1.5, 0.0], pairs, exchanges=0).data.sel(feature=names)
    np.testing.assert_allclose(found["slope"], [0.05, 1.5, 0.0], atol=1e-9)
    assert float(found["level_margin"]) == pytest.approx(0.7)
    assert float(found["r2"]) == pytest.approx(1.0)


def test_slopes_are_least_squares_in_both_units():
    pairs, names = made(150, per_prompt=2), ["words", "emphasis", "hedges"]
    x, rewards = differences(pairs, names), np.random.default_rng(5).normal(size=(150, 2))
    found = style_regression(rewards, pairs, features=names, exchanges=0)
    margin = rewards[:, 0] - rewards[:, 1]
    slope = np.linalg.lstsq(np.column_stack([np.ones(150), x]), margin, rcond=None)[0]
    np.testing.assert_allclose(found.data["slope"], slope[1:])
    np.testing.assert_allclose(found.data["effect"], slope[1:] * x.std(axis=0, ddof=1) / rewards.std(ddof=1))
    np.testing.assert_allclose(found.data["alone"].values[1], np.polyfit(x[:, 1], margin, 1)[0])
    assert (int(found.n), int(found.n_prompts)) == (150, 75)


def test_the_planted_feature_is_flagged_and_no_other():
    pairs = made(200, seed=3)
    x = differences(pairs, ["emphasis"])[:, 0]
    margin = 0.8 * x + np.random.default_rng(8).normal(size=200)
    found = style_regression(margin, pairs)
    said = verdicts(found)
    assert [name for name, verdict in said.items() if verdict.flag] == ["emphasis"]
    assert max(said, key=lambda name: said[name].evidence) == "emphasis"
    assert said["emphasis"].n == 200
    slope = found.data.sel(feature="emphasis")
    assert float(slope["low"]) < 0.8 < float(slope["high"])
    assert 0.01 < float(found.false_any) < 0.09


def test_exchanged_sides_are_flagged_no_more_often_than_stated():
    pairs = made(120, seed=1, per_prompt=2)
    margin = differences(pairs, ["words"])[:, 0] * 0.1 + np.random.default_rng(2).exponential(size=120)
    found = style_regression(margin, pairs, exchanges=2000)
    assert float(found.false_any) <= 0.05 + 2.33 * np.sqrt(0.05 * 0.95 / 2000)
    assert float(found.false_any_low) <= float(found.false_any) <= float(found.false_any_high)
    assert float(found.false_rate) <= float(found.false_any)


def test_exchanging_keeps_sizes_and_turns_a_prompts_pairs_together():
    margins, clusters = np.arange(1.0, 41.0), np.arange(40) // 2
    turned = exchanged(margins, clusters, 0)
    np.testing.assert_array_equal(np.abs(turned), margins)
    signs = np.sign(turned).reshape(20, 2)
    assert bool((signs[:, 0] == signs[:, 1]).all())
    assert 0 < (signs[:, 0] > 0).sum() < 20
    np.testing.assert_array_equal(turned, exchanged(margins, clusters, 0))


def test_exchanging_the_sides_of_pairs_themselves_changes_no_slope():
    """Margin and differences change sign together, so only the level knows which side was called chosen."""
    pairs = made(80)
    margin = differences(pairs, ["words"])[:, 0] + np.random.default_rng(0).normal(size=80)
    level = style_regression(margin, pairs, exchanges=0)
    turned = [rw.Pair(pair.prompt, pair.rejected, pair.chosen) for pair in pairs]
    back = style_regression(-margin, turned, exchanges=0)
    np.testing.assert_allclose(back.data["slope"], level.data["slope"], atol=1e-12)
    np.testing.assert_allclose(back.level_margin, -level.level_margin)


def test_rare_features_and_sums_of_others_are_named():
    pairs = [rw.Pair(pair.prompt, pair.chosen + " Yes!" * (row < 5), pair.rejected) for row, pair in enumerate(made(60))]
    found = style_regression(np.random.default_rng(0).normal(size=60), pairs, exchanges=0)
    why = dict(zip(found.data["feature"].values, found.data["left_out"].values, strict=True))
    assert why["exclamations"] == "differs in 5 prompts, 20 needed"
    assert why["words"] == ""
    assert np.isnan(found.data["p"].sel(feature="exclamations"))
    assert not bool(found.data["flagged"].sel(feature="exclamations"))
    alike = [rw.Pair(f"{row}?", "Long. " * (1 + row % 4), "Long. ") for row in range(60)]  # a sentence a word
    found = style_regression(np.arange(60.0), alike, features=["words", "sentences"], exchanges=0)
    assert found.data["left_out"].values.tolist() == ["", "is a sum of other features in these pairs"]


def test_features_that_can_hardly_be_told_apart_are_warned_of():
    rng = np.random.default_rng(0)
    pairs = [rw.Pair(f"{row}?", "perhaps " * int(n) + "x" * int(rng.integers(2)), "reed.") for row, n in
             enumerate(rng.integers(1, 30, size=80))]
    found = style_regression(rng.normal(size=80), pairs, features=["words", "hedges"], exchanges=0)
    assert "can hardly be told" in found.warnings[0]


def test_refusals_say_what_is_needed():
    pairs = made(30)
    with pytest.raises(RewardenError, match="30 prompts with finite margins, 40 needed"):
        style_regression(np.zeros(30), pairs)
    with pytest.raises(RewardenError, match="30 prompts"):
        style_regression(np.zeros(90), made(90, per_prompt=3))
    with pytest.raises(RewardenError, match="no feature of style"):
        style_regression(np.zeros(60), [rw.Pair(f"{row}?", "Yes.", "No.") for row in range(60)], features=["emoji"])
    with pytest.raises(RewardenError, match="colour"):
        style_regression(np.zeros(60), made(60), features=["colour"])
    with pytest.raises(RewardenError, match="adjust"):
        style_regression(np.zeros(60), made(60), adjust="none")


def test_rewards_that_are_not_finite_are_set_apart():
    pairs, margin = made(80), np.random.default_rng(0).normal(size=80)
    margin[3] = np.inf
    found = style_regression(margin, pairs, exchanges=0)
    assert "1 of 80 pairs" in found.warnings[0]
    kept = [row for row in range(80) if row != 3]
    alone = style_regression(margin[kept], [pairs[row] for row in kept], exchanges=0)
    np.testing.assert_allclose(found.data["slope"], alone.data["slope"])


def test_a_model_and_its_scores_say_the_same_and_length_is_tokens(demo, tmp_path):
    pairs = made(60)
    score = demo.score(pairs)
    found = style_regression(demo, pairs, exchanges=20)
    again = style_regression(score, pairs, exchanges=20)
    np.testing.assert_allclose(found.data["slope"], again.data["slope"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(again.data["difference"].sel(feature="tokens"), score.data["chosen_longer"])
    assert float(again.spread) == pytest.approx(float(score.data["reward"].values.std(ddof=1)), rel=1e-5)
    assert again.noise_floor == score.noise_floor
    loaded = Result.load(again.save(tmp_path / "style.nc"))
    np.testing.assert_array_equal(loaded.data["left_out"], again.data["left_out"])


def test_effects_within_the_noise_floor_are_not_flagged(demo):
    pairs = made(60)
    score = demo.score(pairs)
    tiny = score.data.copy(deep=True)
    tiny["margin"] = 1e-9 * tiny["chosen_longer"]
    found = style_regression(Result("score", tiny, score.provenance, noise_floor=1e-5), pairs, features=["tokens"], exchanges=0)
    assert float(found.data["p_adjusted"].sel(feature="tokens")) < 0.05
    assert not found.data["flagged"].values.any()


def test_clusters_are_prompts():
    pairs = made(120, per_prompt=3)
    margin = np.random.default_rng(4).normal(size=40)[prompt_keys(pairs)]
    found = style_regression(margin, pairs, exchanges=0)
    assert int(found.n_prompts) == 40
    assert float(found.data["df"].sel(feature="words")) < 40
