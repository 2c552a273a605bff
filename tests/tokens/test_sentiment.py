"""Slopes on valence: HC3 by definition and by statsmodels; planted slopes, coverage and false positives over 200 seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.comparison.shared import shared_vocabulary
from rewarden.tokens.scores import token_scores
from rewarden.tokens.words.regression import ols_hc3
from rewarden.tokens.words.sentiment import SIGNS, sentiment_slopes
from rewarden.tokens.words.table import shared_words

SEEDS = 200


def lexicon(n=400, seed=0):
    """Made-up words with valences like VADER's: one decimal, more bad ones than good."""
    rng = np.random.default_rng(seed)
    letters = "abcdefghijklmnopqrst"
    words = [f"w{letters[i // 400]}{letters[i // 20 % 20]}{letters[i % 20]}" for i in range(n)]
    values = np.where(rng.random(n) < 0.57, -1, 1) * np.round(rng.uniform(0.1, 3.5, n), 1)
    return dict(zip(words, values.tolist(), strict=True))


def scan(reward, texts, **more):
    reward = np.atleast_2d(reward)
    return token_scores(reward, token_id=range(len(texts)), text=texts, prompts=[f"p{i}" for i in range(len(reward))], **more)


def noise(valence, count, seed=1):
    """Rewards without an effect [count, word]; noisier at strong words, with a heavy tail, as rewards are."""
    rng = np.random.default_rng(seed)
    return rng.standard_t(6, (count, len(valence))) * (0.3 + 0.3 * np.abs(valence))


def test_hc3_is_that_of_statsmodels():
    """Numbers of statsmodels 0.15: OLS(y, X).fit(cov_type="HC3", use_t=True)."""
    rng = np.random.default_rng(7)
    design = np.column_stack([np.ones(40), rng.normal(size=40), rng.uniform(1, 7, 40)])
    outcome = design @ [1, -.5, .3] + rng.normal(size=40) * (0.2 + np.abs(design[:, 1]))
    fit = ols_hc3(design, outcome)
    expected = {"coefficient": [1.25757070094, -0.171929243331, 0.223131340494],
                "se": [0.344546573784, 0.294291386801, 0.0766658526061],
                "low": [0.559453029976, -0.768220233201, 0.0677915677722],
                "high": [1.9556883719, 0.42436174654, 0.378471113217],
                "p": [0.000805021940114, 0.562621433106, 0.00607835349511]}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(fit, name), values, rtol=1e-9)
    assert fit.n == 40


@pytest.mark.parametrize(("n", "k"), [(5, 2), (12, 3), (30, 4)])
def test_hc3_is_what_leaving_out_each_item_gives(n, k):
    rng = np.random.default_rng(n)
    design = np.column_stack([np.ones(n), rng.normal(size=(n, k - 1))])
    outcome = rng.normal(size=n)
    whole = np.linalg.lstsq(design, outcome, rcond=None)[0]
    without = [np.linalg.lstsq(np.delete(design, i, 0), np.delete(outcome, i), rcond=None)[0] for i in range(n)]
    covariance = sum(np.outer(whole - one, whole - one) for one in without)
    fit = ols_hc3(design, outcome, 0.9)
    np.testing.assert_allclose(fit.coefficient, whole, atol=1e-12)
    np.testing.assert_allclose(fit.se, np.sqrt(np.diag(covariance)), rtol=1e-9)
    np.testing.assert_allclose(fit.high - fit.low, 2 * stats.t.ppf(0.95, n - k) * fit.se, rtol=1e-12)


def test_what_least_squares_cannot_tell_is_nan():
    ones = np.ones(5)
    assert np.isnan(ols_hc3(np.column_stack([ones, ones]), np.arange(5.0)).coefficient).all()
    assert np.isnan(ols_hc3(np.ones((2, 2)), np.arange(2.0)).coefficient).all()
    alone = ols_hc3(np.column_stack([ones, [0, 0, 0, 0, 1]]), np.array([1.0, 2, 3, 2, 9]))  # item 5 alone decides the slope
    np.testing.assert_allclose(alone.coefficient, [2, 7])
    assert np.isnan([*alone.se, *alone.p]).all()
    flat = ols_hc3(np.column_stack([ones, np.arange(5)]), np.zeros(5))
    assert (flat.coefficient.tolist(), flat.p.tolist()) == ([0, 0], [1, 1])
    for level in (0, 1, 95):
        with pytest.raises(RewardenError, match="is no coverage"):
            ols_hc3(np.ones((3, 1)), np.ones(3), level)


PLANTED = {"negative": 0.4, "positive": 0.9}


def planted(words, count):
    valence = np.array(list(words.values()))
    line = np.where(valence < 0, PLANTED["negative"], PLANTED["positive"]) * valence - 3
    return line + noise(valence, count)


def test_planted_slopes_are_found_and_intervals_cover_them():
    words = lexicon()
    found = sentiment_slopes(scan(planted(words, SEEDS), list(words)), words)
    for sign, slope in PLANTED.items():
        at = SIGNS.index(sign)
        assert abs(found.slope[0, at] - slope) <= 2 * found.se[0, at]
        covered = np.mean((found.low[:, at] <= slope) & (slope <= found.high[:, at]))
        assert 0.90 <= covered <= 0.99, sign
        # Errors are of the right size: the spread of 200 slopes is what each fit says of itself.
        assert found.slope[:, at].std() == pytest.approx(found.se[:, at].mean(), rel=0.15)
        assert np.median(found.p[:, at]) < 1e-4


def test_without_an_effect_p_is_uniform():
    words = lexicon(seed=5)
    found = sentiment_slopes(scan(noise(np.array(list(words.values())), SEEDS), list(words)), words)
    for at, sign in enumerate(SIGNS):
        assert 0.01 <= (found.p[:, at] < 0.05).mean() <= 0.08, sign
        assert stats.kstest(found.p[:, at], "uniform").pvalue > 0.01, sign
    assert (found.p_adjusted < 0.05).sum() <= 3


def test_spaces_and_case_change_nothing():
    words = lexicon(120)
    reward = planted(words, 2)
    plain = sentiment_slopes(scan(reward, list(words)), words)
    ways = [lambda w: " " + w, str.upper, lambda w: " " + w.capitalize(), lambda w: "\n" + w]
    spelled = [ways[i % 4](word) for i, word in enumerate(words)]
    other = sentiment_slopes(scan(reward, spelled), words)
    np.testing.assert_array_equal(other.slope, plain.slope)
    assert (other.n[0].tolist(), len(other.word)) == (plain.n[0].tolist(), 120)


def test_a_word_counts_once_however_many_tokens_spell_it():
    words = lexicon(120)
    reward = planted(words, 2)
    many = [0, 3, 3, 3, 7, 11, 11]
    texts = [*words, *(" " + list(words)[i] for i in many), "!", "7", "unknown"]
    both = np.concatenate([reward, reward[:, many], reward[:, :3]], axis=1)
    once, often = sentiment_slopes(scan(reward, list(words)), words), sentiment_slopes(scan(both, texts), words)
    np.testing.assert_allclose(often.slope, once.slope, rtol=1e-12)
    np.testing.assert_allclose(often.se, once.se, rtol=1e-12)
    assert len(set(often.word)) == len(often.word) == 120
    assert often.tokens.sum() == 127


def test_each_cell_is_the_plain_fit():
    words = {**lexicon(150), "nil": 0.0}
    reward = planted(words, 3).astype(np.float32)
    reward[1, ::7] = np.nan
    found = sentiment_slopes(scan(reward, list(words)), words)
    valence = np.array(list(words.values()))
    for i in range(3):
        finite = np.isfinite(reward[i])
        for j, kept in enumerate((valence < 0, valence > 0, valence < 9)):
            slope, intercept = np.polyfit(valence[kept & finite], reward[i, kept & finite].astype(float), 1)
            np.testing.assert_allclose([found.slope[i, j], found.intercept[i, j]], [slope, intercept], rtol=1e-9)
            assert found.n[i, j] == (kept & finite).sum()
    np.testing.assert_allclose(found.p_adjusted.ravel(), stats.false_discovery_control(found.p.ravel()))
    order = np.argsort(list(words))
    assert found.word.tolist() == np.array(list(words))[order].tolist()
    np.testing.assert_array_equal(found.valence, valence[order])
    np.testing.assert_array_equal(found.reward, reward[:, order].astype(float))


def test_standardised_slopes_do_not_know_the_unit():
    words = lexicon(200)
    reward = planted(words, 2)
    one = sentiment_slopes(scan(reward, list(words)), words, standardise=True)
    other = sentiment_slopes(scan(32.0 * reward - 7, list(words)), words, standardise=True)
    raw = sentiment_slopes(scan(reward, list(words)), words)
    for name in ("slope", "se", "low", "high", "p"):
        np.testing.assert_allclose(other.data[name], one.data[name], rtol=1e-5)
    np.testing.assert_allclose(one.slope * one.scale[:, None], raw.slope, rtol=1e-9)
    np.testing.assert_allclose(one.scale, reward.astype(np.float32).std(axis=1, ddof=1), rtol=1e-5)


def test_prompts_and_words_can_be_chosen():
    words = lexicon(200)
    some = list(words)[:90]
    reward = planted(words, 3)
    whole, part = scan(reward, list(words)), scan(reward[1:2, :90], some)
    np.testing.assert_allclose(sentiment_slopes(whole, words, prompts="p1", words=some).slope,
                               sentiment_slopes(part, words).slope, rtol=1e-12)


def test_a_shared_vocabulary_is_taken_model_by_model():
    words = lexicon(200)
    texts, reward = list(words), planted(words, 2)
    one, other = scan(reward[:1, :160], texts[:160]), scan(reward[1:, 40:], [" " + word for word in texts[40:]])
    shared = shared_vocabulary([one, other], by="text", strip=True, names=["one", "other"])
    for name, row in (("one", 0), ("other", 1)):
        found = sentiment_slopes(shared.of(name), words)
        valence = np.array(list(words.values()))[40:160]
        expected = np.polyfit(valence, reward[row, 40:160].astype(np.float32).astype(float), 1)[0]
        assert (found.slope[0, 2], found.n[0, 2]) == (pytest.approx(expected), 120)
        by_words = sentiment_slopes((one, other)[row], words, words=shared_words([one, other]))
        np.testing.assert_allclose(by_words.slope, found.slope, rtol=1e-12)
    with pytest.raises(RewardenError, match=r"shared\.of\(model\)"):
        sentiment_slopes(shared, words)


def test_what_is_smaller_than_rounding_is_marked():
    words = lexicon(200)
    reward = np.array(list(words.values())) * [[1e-4], [1.0]]
    found = sentiment_slopes(scan(reward, list(words), noise_floor=1e-3), words)
    assert found.below_noise.tolist() == [[True] * 3, [False] * 3]
    assert found.noise_floor == 1e-3
    by_sd = sentiment_slopes(scan(reward, list(words), noise_floor=1e-3), words, standardise=True)
    assert by_sd.below_noise.tolist() == found.below_noise.tolist()  # the noise floor is in units of the reward


def test_too_few_words():
    words = dict.fromkeys("abcdefghijkl", 1.0) | {"y": -1.0, "z": -2.0}
    found = sentiment_slopes(scan(np.arange(14.0), list(words)), words)
    assert np.isnan(found.slope[0, :2]).all()
    assert found.n.tolist() == [[2, 12, 14]]
    assert found.warnings == ("fewer than 10 negative words: no slope",
                              "positive words: no error can be told, one word alone or one value alone decides")
    with pytest.raises(RewardenError, match="9 usable, at least 10 needed"):
        sentiment_slopes(scan(np.arange(14.0), list(words)), dict(list(words.items())[:9]))
    flat = sentiment_slopes(scan(np.zeros(14), list(words)), words, standardise=True)
    assert (flat.slope[0, 2], flat.p[0, 2], flat.scale[0]) == (0, 1, 1)


def test_vader_is_the_default_and_all_is_kept_in_a_file(tmp_path):
    words = ["love", "hate", "joy", "war", "good", "bad", "nice", "evil", "happy", "sad", "great", "awful", "table"]
    found = sentiment_slopes(scan(np.arange(13.0), [f" {word}" for word in words]))
    assert found.n.tolist() == [[6, 6, 12]]
    assert found.provenance["lexicon"].startswith("VADER")
    again = Result.load(found.save(tmp_path / "s.nc"))
    assert again.data.identical(found.data)
    assert math.isfinite(again.slope[0, 2])


def test_equal_rewards_have_no_slope():
    draw = np.random.default_rng(0)
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]
    scores = token_scores(np.full((1, 400), 1.0), token_id=range(400), text=words, prompts=["p"], noise_floor=0.0)
    found = sentiment_slopes(scores, dict(zip(words, draw.uniform(-4, 4, 400), strict=True))).data
    assert (found["slope"].values == 0).all()
    assert (found["p_adjusted"].values == 1).all()
    assert found["below_noise"].values.all()
