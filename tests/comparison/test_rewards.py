"""What is said of rewards alone: against plain counting, scipy and the definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.comparison.worlds import PAIRS, gated, tiny

import rewarden as rw
from rewarden.comparison import compare, disagreements, scalars
from rewarden.errors import RewardenError
from rewarden.statistics.linearised import change_interval

SCORES = {"inside_pairs": 0, "resamples": 100}


def scored(reward: np.ndarray, name: str = "made", **changes) -> rw.Result:
    """A score Result of the pairs with these rewards [pair, 2]."""
    result = tiny().score(PAIRS)
    data = result.data.copy(deep=True)
    data["reward"][:] = reward[:, :, None]
    return rw.Result("score", data, {"model": name, "output": "score", **changes}, noise_floor=1e-6)


@pytest.fixture(scope="module")
def rewards() -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.normal(size=(2, 10, 2))
    made[1, 0] = 1.0  # a tie of the second
    made[0, 1, 0] = np.nan
    return made


def test_agreement_kappa_and_accuracy_are_counts(rewards):
    found = compare([scored(rewards[0], "a"), scored(rewards[1], "b")], PAIRS, **SCORES).data
    margin = rewards[:, :, 0] - rewards[:, :, 1]
    kept = np.isfinite(margin).all(axis=0)
    won = np.where(np.abs(margin) <= 1e-6, 0.5, margin > 0)[:, kept]
    same = np.mean([1.0 if a == b else 0.5 if 0.5 in (a, b) else 0.0 for a, b in won.T])
    p, q = won.mean(axis=1)
    chance = p * q + (1 - p) * (1 - q)
    assert found["agreement"].values[0, 1] == pytest.approx(same)
    assert found["agreement_chance"].values[0, 1] == pytest.approx(chance)
    assert found["kappa"].values[0, 1] == pytest.approx((same - chance) / (1 - chance))
    assert found["accuracy_gap"].values[0, 1] == pytest.approx(p - q)
    assert found["accuracy_gap_low"].values[0, 1] == -found["accuracy_gap_high"].values[1, 0]
    assert int(found["n_both"].values[0, 1]) == 9
    assert found["n"].values.tolist() == [9, 10]
    assert found["spread"].values[1] == pytest.approx(rewards[1].std(ddof=1))


def test_rank_correlations_are_scipys(rewards):
    found = compare([scored(rewards[1]), scored(rewards[0] + 1)], PAIRS, **SCORES).data
    margin = rewards[:, :, 0] - rewards[:, :, 1]
    for place, (x, y) in enumerate(((rewards[1].ravel(), rewards[0].ravel()), (margin[1], margin[0]))):
        kept = np.isfinite(y)
        assert found["spearman"].values[place, 0, 1] == pytest.approx(stats.spearmanr(x[kept], y[kept]).statistic)
        assert found["kendall"].values[place, 0, 1] == pytest.approx(stats.kendalltau(x[kept], y[kept]).statistic)
        assert found["spearman_low"].values[place, 0, 1] < found["spearman"].values[place, 0, 1]


def test_a_model_agrees_with_itself_and_scale_does_not_matter():
    rm = tiny()
    own = rm.score(PAIRS)
    found = compare([rm, scored(3 * own.reward[:, :, 0] + 5)], PAIRS, **SCORES).data
    assert found["agreement"].values[0, 1] == 1
    assert found["spearman"].values[:, 0, 1].tolist() == pytest.approx([1, 1])
    assert found["accuracy_gap"].values[0, 1] == 0


def test_disagreements_are_the_pairs_of_opposite_sign(rewards):
    result = compare([scored(rewards[0], "a"), scored(rewards[1], "b")], PAIRS, **SCORES)
    listed = disagreements(result, PAIRS)
    margin = (rewards[:, :, 0] - rewards[:, :, 1]) / result.data["spread"].values[:, None]
    wanted = [row for row in range(10) if margin[0, row] * margin[1, row] < 0]
    assert set(listed["pair"]) == {PAIRS[row].id for row in wanted}
    decided = np.abs(margin).min(axis=0)
    assert listed["decided"].tolist() == pytest.approx(sorted((decided[row] for row in wanted), reverse=True))
    for row in listed.to_dict("records"):
        at = [pair.id for pair in PAIRS].index(row["pair"])
        assert row["right"] == ("a" if margin[0, at] > 0 else "b")
        assert (row["chosen"], row["rejected"]) == (PAIRS[at].chosen, PAIRS[at].rejected)
    with pytest.raises(RewardenError, match="no model 'c'"):
        disagreements(result, first="c")
    with pytest.raises(RewardenError, match="3 pairs for a comparison of 10"):
        disagreements(result, PAIRS[:3])


def test_every_scalar_is_a_model_and_the_model_runs_once(monkeypatch):
    rm, calls = gated(), []
    plain = type(rm).reward_encoded
    monkeypatch.setattr(type(rm), "reward_encoded", lambda self, *a, **k: calls.append(1) or plain(self, *a, **k))
    found = compare([rm], PAIRS, scalars=True, **SCORES)
    assert len(calls) == 1
    reward = rm.score(PAIRS).reward
    assert found.data["model"].values.tolist() == [f"gated: {name}" for name in rm.names]
    np.testing.assert_array_equal(found.reward, np.moveaxis(reward, 2, 0))
    np.testing.assert_allclose(scalars(rm)[2].score(PAIRS).margin, found.margin[2], atol=1e-6)
    stored = compare([rm.score(PAIRS)], PAIRS, scalars=True, **SCORES)
    np.testing.assert_array_equal(stored.reward, found.reward)


def test_known_scores_are_not_made_again(monkeypatch):
    rm = tiny()
    own = rm.score(PAIRS)
    monkeypatch.setattr(type(rm), "score", lambda *_, **__: pytest.fail("scored again"))
    found = compare([rm, rm], PAIRS, scores=[own, None], **SCORES)
    np.testing.assert_allclose(found.margin[0], own.margin, atol=1e-6)
    assert found.data["model"].values.tolist() == ["llama-0", "llama-0 (2)"]


@pytest.mark.parametrize(("call", "what"), [
    (lambda: compare([tiny()], PAIRS), "1 model to compare"),
    (lambda: compare([tiny(), tiny()], PAIRS, names=["a", "a"]), "2 names for 2"),
    (lambda: compare([tiny(), tiny().score(PAIRS[:4])], PAIRS), "not of these pairs"),
    (lambda: compare([tiny(), tiny()], PAIRS, scores=[None]), "1 scores for 2 models"),
    (lambda: compare([tiny(), tiny()], [], inside_pairs=0), "no pairs"),
    (lambda: compare([tiny(), tiny()], PAIRS, inside_pairs=2), "inside_pairs=2"),
    (lambda: compare([tiny(), tiny().score(PAIRS)], PAIRS, vocabulary=True, **SCORES), "no vocabulary of"),
])
def test_what_cannot_be_compared_is_refused(call, what):
    with pytest.raises(RewardenError, match=what) as refused:
        call()
    assert refused.value.fix


def test_an_ensemble_is_compared_by_its_scores():
    both = rw.Ensemble([tiny(), tiny(seed=1)])
    found = compare([both, tiny()], PAIRS, resamples=100)
    assert np.isnan(found.data["lens"].values[0]).all()
    assert "only scores are known" in str(found.data["no_frame"].values[0, 1])
    assert found.warnings[0].startswith("only scores are compared of mean(")


def test_models_that_share_no_pair_are_told_and_the_others_compared(rewards):
    rng = np.random.default_rng(1)
    made = rng.normal(size=(3, 10, 2))
    made[0, :5], made[1, 5:] = np.nan, np.nan
    result = compare([scored(made[0], "a"), scored(made[1], "b"), scored(made[2], "c")], PAIRS, **SCORES)
    data = result.data
    for name in ("agreement", "agreement_low", "kappa", "kappa_low", "accuracy_gap", "accuracy_gap_low"):
        assert np.isnan(data[name].values[0, 1]), name
    assert np.isnan(data["spearman"].values[:, 0, 1]).all()
    assert data["n_both"].values[0, 1:].tolist() == [0, 5]
    assert "no pair has a finite reward of both a and b: they are not compared" in result.warnings
    margin = made[:, :, 0] - made[:, :, 1]
    expected = stats.spearmanr(margin[0, 5:], margin[2, 5:]).statistic
    assert data["spearman"].values[1, 0, 2] == pytest.approx(expected)  # on all that the two share, not on what all three do
    assert len(disagreements(result, PAIRS)) == 0


def test_the_gap_in_accuracy_is_the_paired_change(rewards):
    made = np.abs(rewards[1])
    made[:, 1] = 0.0  # the chosen response wins every pair
    found = compare([scored(made, "a"), scored(2 * made, "b")], PAIRS, **SCORES).data
    assert found["accuracy_gap"].values[0, 1] == 0
    assert found["accuracy_gap_low"].values[0, 1] < -0.05 < 0.05 < found["accuracy_gap_high"].values[0, 1]
    won = np.where(np.arange(10) < 8, 1.0, -1.0)
    other = made.copy()
    other[:, 0] *= won
    found = compare([scored(other, "a"), scored(made, "b")], PAIRS, **SCORES).data
    expected = change_interval(np.ones(10), won > 0)
    for end, value in (("", expected.estimate), ("_low", expected.low), ("_high", expected.high)):
        assert found[f"accuracy_gap{end}"].values[0, 1] == pytest.approx(value)
