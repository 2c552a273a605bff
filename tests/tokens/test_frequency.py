"""The effect of word frequency: planted and confounded effects, coverage and false positives over 200 seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import token_scores
from rewarden.tokens.words.frequencies import frequencies
from rewarden.tokens.words.frequency_effect import frequency_effect

SEEDS = 200
SLOPES = {"frequency": -0.3, "valence": 0.5}


def scan(reward, texts, **more):
    reward = np.atleast_2d(reward)
    return token_scores(reward, token_id=range(len(texts)), text=texts, prompts=[f"p{i}" for i in range(len(reward))], **more)


@pytest.fixture(scope="module")
def world():
    """Words, valences, uses per million and their Zipf values; common words are nicer, as in English."""
    rng = np.random.default_rng(2)
    letters = "abcdefghijklmnopqrst"
    words = [f"w{a}{b}" for a in letters for b in letters]
    zipf = rng.uniform(1.5, 6, len(words))
    valence = np.clip(0.5 * (zipf - 4) + rng.normal(size=len(words)), -4, 4)
    worth, uses = (dict(zip(words, values.tolist(), strict=True)) for values in (valence, 10 ** (zipf - 3)))
    return words, worth, uses, zipf, valence


def noise(world, count):
    rng = np.random.default_rng(4)
    return rng.normal(size=(count, len(world[0]))) * (0.3 + 0.2 * (6 - world[3]))  # rare words are noisier


def test_planted_slopes_are_found_and_intervals_cover_them(world):
    words, worth, uses, zipf, valence = world
    reward = 1 + SLOPES["frequency"] * zipf + SLOPES["valence"] * valence + noise(world, SEEDS)
    found = frequency_effect(scan(reward, words), worth, uses)
    assert found.term.tolist() == list(SLOPES)
    for at, (term, slope) in enumerate(SLOPES.items()):
        assert abs(found.slope[0, at] - slope) <= 2 * found.se[0, at]
        assert 0.90 <= np.mean((found.low[:, at] <= slope) & (slope <= found.high[:, at])) <= 0.99, term
        assert found.slope[:, at].std() == pytest.approx(found.se[:, at].mean(), rel=0.15)


def test_sentiment_is_controlled(world):
    """Only valence counts, but common words are nicer: alone, frequency seems to pay."""
    words, worth, uses, _, valence = world
    found = frequency_effect(scan(0.8 * valence + noise(world, SEEDS), words), worth, uses)
    assert found.alone.min() > 0.2
    assert 0.01 <= (found.p[:, 0] < 0.05).mean() <= 0.08
    assert stats.kstest(found.p[:, 0], "uniform").pvalue > 0.01
    assert found.correlation[0] == pytest.approx(np.corrcoef(world[3], valence)[0, 1])


def test_each_prompt_is_the_plain_fit(world):
    words, worth, uses, zipf, valence = world
    reward = (zipf + noise(world, 3)).astype(np.float32)
    reward[1, ::6] = np.nan
    found = frequency_effect(scan(reward, words), worth, uses, standardise=True)
    for i in range(3):
        kept = np.isfinite(reward[i])
        design = np.column_stack([np.ones(len(words)), zipf, valence])[kept]
        outcome = reward[i, kept].astype(float)
        expected = np.linalg.lstsq(design, outcome / outcome.std(ddof=1), rcond=None)[0]
        np.testing.assert_allclose([found.intercept[i], *found.slope[i]], expected, rtol=1e-8)
        alone = np.polyfit(design[:, 1], outcome / outcome.std(ddof=1), 1)[0]
        assert (found.alone[i], found.n[i]) == (pytest.approx(alone), kept.sum())
    np.testing.assert_allclose(found.p_adjusted[:, 0], stats.false_discovery_control(found.p[:, 0]))


def test_no_word_is_there_twice(world, tmp_path):
    """The published join has a row for each part of speech: "love" as noun and as verb."""
    words, worth, uses, *_ = world
    reward = noise(world, 1)
    rows = [f"{word}\tNoun\t{0.25 * count!r}\n{word}\tVerb\t{0.75 * count!r}\n" for word, count in uses.items()]
    (tmp_path / "bnc.tsv").write_text("Word\tPoS\tFreq\n" + "".join(rows))
    texts = [*words, *(f" {word.capitalize()}" for word in words[:50])]
    often = frequency_effect(scan(np.concatenate([reward, reward[:, :50]], axis=1), texts), worth, tmp_path / "bnc.tsv")
    once = frequency_effect(scan(reward, words), worth, uses)
    np.testing.assert_allclose(often.slope, once.slope, rtol=1e-6)
    np.testing.assert_allclose(often.se, once.se, rtol=1e-6)
    assert (often.n.tolist(), len(set(often.word))) == ([400], 400)


def test_words_without_a_frequency_are_counted(world):
    words, worth, uses, *_ = world
    part = dict(list(uses.items())[:300])
    found = frequency_effect(scan(noise(world, 1), words), worth, part)
    assert (float(found.coverage), found.n.tolist(), len(found.word)) == (0.75, [300], 300)
    assert found.warnings == ("a table of 300 words covers 75% of the valued words",)
    with pytest.raises(RewardenError, match="words that a table of 9 words has a frequency for"):
        frequency_effect(scan(noise(world, 1), words), worth, dict(list(uses.items())[:9]))


def test_wordfreq_is_the_default(tmp_path):
    pytest.importorskip("wordfreq")
    words = ["love", "hate", "joy", "war", "good", "bad", "nice", "evil", "happy", "sad", "great", "awful", "zyzzqxw"]
    worth = {word: float(i % 5) for i, word in enumerate(words)}
    found = frequency_effect(scan(np.arange(13.0) ** 1.5, [f" {word}" for word in words]), worth)
    np.testing.assert_array_equal(found.zipf, frequencies(sorted(words[:12])).zipf)
    assert found.provenance["frequencies"].startswith("wordfreq")
    assert float(found.coverage) == pytest.approx(12 / 13)
    assert Result.load(found.save(tmp_path / "f.nc")).data.identical(found.data)


def test_what_is_smaller_than_rounding_is_marked(world):
    words, worth, uses, zipf, valence = world
    found = frequency_effect(scan(1e-5 * zipf + valence, words, noise_floor=1e-3), worth, uses)
    assert found.below_noise.tolist() == [[True, False]]


def test_too_few_finite_rewards(world):
    words, worth, uses, *_ = world
    reward = noise(world, 2)
    reward[1, 9:] = np.inf
    found = frequency_effect(scan(reward, words), worth, uses)
    assert np.isnan(found.slope[1]).all()
    assert np.isfinite(found.slope[0]).all()
    assert found.warnings == ("fewer than 10 words with a finite reward: no slope",)
