"""Word grids: ranks by brute force, planted categories and personas, false positives, and what overlaps or is missing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import token_scores
from rewarden.tokens.words.loaders import word_grid
from rewarden.tokens.words.values import word_grid_scores

QUICK = {"n_resamples": 300, "permutations": 499}
WORDS = [word for words in word_grid().values() for word in words]
CATEGORY = np.repeat(list(word_grid()), 25)


def scan(reward, texts, prompts=None, **more):
    reward = np.atleast_2d(reward)
    return token_scores(reward, token_id=range(len(texts)), text=texts,
                        prompts=prompts or [f"p{i}" for i in range(len(reward))], **more)


def noise(count, seed=0, n=200):
    return np.random.default_rng(seed).normal(size=(count, n))


def test_ranks_medians_and_differences_by_hand():
    lists = {"a": ["u*", "v", "w", "x"], "b": ["w", "k", "l", "m", "gone"], "c": ["p", "q", "r", "s"]}
    texts = ["ua", " Ub", "v", "w", "x", "k", "l", "m", "p", "q", "r", "s", "table", "!"]
    reward = np.array([[9, 8, 8, 1, 0, 7, 6, 5, 3, 3, 3, 2, 99, 99], np.arange(14.0)])
    found = word_grid_scores(scan(reward, texts), lists, contrasts=[("a", "b"), ("c", "a")], **QUICK)
    listed = [texts.index(t) for t in texts if t.strip().lower() in found.word]
    words = [texts[i].strip().lower() for i in listed]
    assert sorted(words) == found.word.tolist()
    for p in range(2):
        for word, at in zip(words, listed, strict=True):
            above = sum(reward[p, other] > reward[p, at] for other in listed)
            equal = sum(reward[p, other] == reward[p, at] for other in listed)
            assert found.rank[p, found.word.tolist().index(word)] == above + (equal + 1) / 2
    assert (found.n.tolist(), found.listed.tolist()) == ([5, 4, 4], [4, 5, 4])
    assert found.median[0].tolist() == [np.median([1, 2.5, 2.5, 11, 12]), np.median([11, 4, 5, 6]), np.median([8, 8, 8, 10])]
    # "w" is in both a and b: it takes no part in their contrast, but in that of c and a.
    expected = [np.mean([1, 2.5, 2.5, 12]) - np.mean([4, 5, 6]), np.mean([8, 8, 8, 10]) - np.mean([1, 2.5, 2.5, 11, 12])]
    np.testing.assert_allclose(found.difference[0], expected)
    welch = stats.ttest_ind([1, 2.5, 2.5, 12], [4, 5, 6], equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([found.difference_low[0, 0], found.difference_high[0, 0]], [welch.low, welch.high])
    exact = stats.permutation_test(([1, 2.5, 2.5, 12], [4, 5, 6]), lambda x, y, axis: x.mean(axis) - y.mean(axis),
                                   vectorized=True, n_resamples=np.inf).pvalue
    assert found.p[0, 0] == pytest.approx(exact)
    assert found.contrast.tolist() == ["a − b", "c − a"]
    np.testing.assert_allclose(found.p_adjusted.ravel(), stats.false_discovery_control(found.p.ravel()))


def test_a_planted_category_is_found():
    reward = noise(3) + 1.0 * (CATEGORY == "care") - 1.0 * (CATEGORY == "authority")
    reward[2] = noise(1, 9)
    contrasts = [("care", "authority"), ("agency", "communion")]
    found = word_grid_scores(scan(reward, [f" {word}" for word in WORDS]), contrasts=contrasts, n_resamples=300)
    assert found.n.tolist() == [25] * 8
    assert (found.p_adjusted[:2, 0] < 0.01).all()
    assert (found.difference_high[:2, 0] < 0).all()
    assert (found.p_adjusted[:2, 1] > 0.05).all()
    assert (found.p_adjusted[2] > 0.05).all()
    assert found.category[found.median[:2].argmin(axis=1)].tolist() == ["care"] * 2
    assert found.category[found.median[:2].argmax(axis=1)].tolist() == ["authority"] * 2
    assert ((found.low <= found.median) & (found.median <= found.high)).all()
    # In expectation the median word of a category without an effect is in the middle.
    assert abs(np.mean(found.median[2]) - 100.5) < 15


def test_intervals_of_medians_cover():
    """Words of a category are a sample of its words: the interval covers the median of all of them."""
    rng = np.random.default_rng(5)
    reward = np.concatenate([rng.normal(0.7, 1, (200, 40)), rng.normal(0, 1, (200, 400))], axis=1)
    texts = [a + b + c for a in "bcdfghjklmn" for b in "aeiou" for c in "bcdfghjk"]
    lists = {"few": texts[:40], "many": texts[40:]}
    found = word_grid_scores(scan(reward, texts), lists, contrasts=[], n_resamples=300)
    ranks = stats.norm.sf((0.7 - np.array([0.7, 0])) / 1)  # share above the median word of "few" in each category
    truth = 1 + 40 * ranks[0] + 400 * ranks[1]
    assert 0.90 <= np.mean((found.low[:, 0] <= truth) & (truth <= found.high[:, 0])) <= 0.99
    assert found.difference.shape == (200, 0)


def test_without_an_effect_p_is_uniform():
    found = word_grid_scores(scan(noise(200, 11), WORDS), contrasts=[("agency", "communion")], n_resamples=1, permutations=499)
    assert 0.01 <= (found.p[:, 0] < 0.05).mean() <= 0.08
    assert stats.kstest(found.p[:, 0], "uniform").pvalue > 0.01
    assert (found.p_adjusted < 0.05).sum() == 0


def test_order_and_spelling_of_candidates_change_nothing():
    reward = noise(2, 3)
    order = np.random.default_rng(1).permutation(200)
    one = word_grid_scores(scan(reward, WORDS), control=0, contrasts=[("care", "agency")], **QUICK)
    texts = [" " + WORDS[i].upper() for i in order]
    other = word_grid_scores(scan(reward[:, order], texts), control="p0", contrasts=[("care", "agency")], **QUICK)
    assert one.data.identical(other.data)


def test_a_personas_shift_is_found():
    base = noise(2, 21)
    nurse = base + 0.3 * noise(2, 22) + 1.5 * (CATEGORY == "care")
    same = base + 0.3 * noise(2, 23)
    scans = {"control": scan(base, WORDS), "nurse": scan(nurse, WORDS), "clerk": scan(same, WORDS)}
    found = word_grid_scores(scans, control="control", contrasts=[], **QUICK)
    assert found.prompt.tolist() == [f"{who}: p{i}" for who in scans for i in range(2)]
    assert found.persona.tolist() == [who for who in scans for _ in range(2)]
    ranks = [stats.rankdata(-values.astype(np.float32)) for values in (*base, *nurse, *same)]
    in_order = [WORDS.index(word) for word in found.word]
    for row, at in enumerate([0, 1, 0, 1, 0, 1]):
        expected = np.full(200, np.nan) if row < 2 else (ranks[row] - ranks[at])[in_order]
        np.testing.assert_array_equal(found.shift[row], expected)
    care = found.category.tolist().index("care")
    assert np.isnan(found.shift_mean[:2]).all()
    assert (found.shift_high[2:4, care] < -20).all()
    assert (found.shift_p_adjusted[2:4, care] < 0.01).all()
    assert (found.shift_p_adjusted[4:] > 0.05).all()
    np.testing.assert_allclose(found.shift_mean[3, care], found.shift[3, found.member[care]].mean())
    np.testing.assert_allclose(found.shift_p_adjusted[2:].ravel(), stats.false_discovery_control(found.shift_p[2:].ravel()))


def test_one_prompt_each_is_labelled_by_persona():
    scans = {who: scan(noise(1, seed), WORDS, prompts=["Hi"], noise_floor=seed / 8, warnings=("w",),
                       provenance={"model": "m", "system": who}) for seed, who in enumerate(["control", "nurse"])}
    found = word_grid_scores(scans, contrasts=[], n_resamples=1)
    assert (found.noise_floor, found.warnings) == (0.125, ("w",))
    assert (found.provenance["model"], "system" in found.provenance) == ("m", False)
    assert (found.prompt.tolist(), found.question.tolist()) == (["control", "nurse"], ["Hi", "Hi"])


def test_scored_responses_may_be_phrases(tmp_path):
    lists = {"a": ["Good faith", "fair play", "just cause"], "b": [f"b{letter}" for letter in "cdfghjk"]}
    texts = [word for words in lists.values() for word in words]
    data = xr.Dataset({"reward": (("prompt", "response"), [np.arange(10.0)])},
                      coords={"prompt": ["p"], "response": np.array(texts, object)})
    found = word_grid_scores(Result("responses", data), lists, **QUICK)
    assert found.median.tolist() == [[9, 4]]
    assert Result.load(found.save(tmp_path / "v.nc")).data.identical(found.data)


def test_what_is_missing_is_said():
    lists = {"a": ["u", "v", "lost"], "b": list("abcdefghij")}
    reward = np.stack([np.arange(12.0), np.arange(12.0)])
    reward[1, 3] = np.nan
    found = word_grid_scores(scan(reward, ["u", "v", *"abcdefghij"]), lists, **QUICK)
    assert (found.n.tolist(), found.rank.max()) == ([2, 9], 11)  # "b" has no finite reward under p1: it is ranked nowhere
    assert found.warnings == ("a: 2 of 3 entries found, no interval",
                              "1 listed words have no finite reward under some prompt: they are left out")
    assert np.isnan([found.low[0, 0], found.difference[0, 0], found.p[0, 0]]).all()
    assert found.median[0].tolist() == [10.5, 5]


def test_what_is_smaller_than_rounding_is_marked():
    reward = np.stack([1e-6 * noise(1, 4)[0], noise(1, 4)[0] + 2 * (CATEGORY == "care")])
    found = word_grid_scores(scan(reward, WORDS, noise_floor=1e-4), contrasts=[("care", "agency")], **QUICK)
    assert found.below_noise.tolist() == [[True], [False]]


@pytest.mark.parametrize(("options", "message"), [
    ({"contrasts": [("care", "harm")]}, r"no contrast of \['harm'\]"), ({"contrasts": [("care", "care")]}, "no contrast of"),
    ({"control": "p7"}, "no prompt 'p7'"), ({"control": 5}, "no prompt 5"), ({"prompts": "p7"}, "no prompt 'p7'"),
    ({"lists": {"a": ["love"]}}, "1 usable, at least 10 needed"), ({"level": 2.0}, "impossible interval")])
def test_questions_that_make_no_sense(options, message):
    with pytest.raises(RewardenError, match=message):
        word_grid_scores(scan(noise(2), WORDS), **{**QUICK, **options})


def test_personas_that_do_not_fit():
    one, other = scan(noise(1), WORDS, prompts=["Hi"]), scan(noise(1), WORDS, prompts=["Bye"])
    with pytest.raises(RewardenError, match="persona 'nurse' was asked other prompts"):
        word_grid_scores({"control": one, "nurse": other})
    with pytest.raises(RewardenError, match="no persona 'clerk'"):
        word_grid_scores({"control": one}, control="clerk", contrasts=[], **QUICK)
    with pytest.raises(RewardenError, match="no scores"):
        word_grid_scores({})
