"""A wrong answer never outranks a right one, whatever features say; golds go with their completions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewarden.errors import RewardenError
from rewarden.training.composition import CompositeReward, OutcomeReward, bounded
from rewarden.training.schedules import Schedule, share_done

ANY = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=300)
@given(data=st.data(), n=st.integers(1, 24), margin=st.floats(0, 0.49))
def test_no_wrong_answer_outranks_a_right_one(data, n, margin):
    outcome = data.draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])))
    features = data.draw(arrays(np.float64, n, elements=ANY))
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    found = bounded(outcome, features, groups, margin)
    assert np.isfinite(found).all()
    assert np.abs(found - outcome).max() <= margin + 1e-12
    if (outcome == 1).any() and (outcome == 0).any():
        assert found[outcome == 1].min() > found[outcome == 0].max()


@given(seed=st.integers(0, 99))
def test_among_equally_right_answers_to_one_prompt_features_decide(seed):
    rng = np.random.default_rng(seed)
    outcome, features, groups = rng.integers(0, 2, 20).astype(float), rng.normal(size=20), rng.integers(0, 3, 20)
    found = bounded(outcome, features, groups.tolist())
    for i in range(20):
        for j in range(20):
            if outcome[i] == outcome[j] and groups[i] == groups[j] and features[i] > features[j]:
                assert found[i] > found[j]


def test_graded_outcomes_keep_their_order():
    outcome = np.array([0.0, 0.25, 0.5, 1.0])
    found = bounded(np.repeat(outcome, 5), np.random.default_rng(0).normal(size=20) * 1e9, ["a"] * 20, 0.12)
    assert (np.diff([[found[i:i + 5].min(), found[i:i + 5].max()] for i in range(0, 20, 5)], axis=0)[:, 0] > 0).all()
    with pytest.raises(RewardenError, match=r"margin 0\.2"):
        bounded(outcome, outcome, ["a"] * 4, 0.2)


class Length:
    """Is the completion as long as the gold says?"""

    name = "length"

    def __call__(self, completion, gold):
        return float(len(completion) == gold)


def outcome(**settings):
    return OutcomeReward(Length(), lambda ids: "x" * len(ids), **settings)


def test_golds_are_those_of_their_completions():
    assert outcome()([[1]] * 3, [[5], [5, 5], [5]], gold=[1, 2, 9]).tolist() == [1.0, 1.0, 0.0]
    assert outcome(gold="answer").name == "length"
    with pytest.raises(RewardenError, match="no column 'answer'"):
        outcome(gold="answer")([[1]], [[5]], gold=[1])
    with pytest.raises(RewardenError, match="1 golds for 2 completions"):
        outcome()([[1]] * 2, [[5], [6]], gold=[1])


def test_a_composite_is_bounded_within_prompts():
    def first(prompt_ids, completion_ids):
        return np.array([ids[0] for ids in completion_ids], float)

    reward = CompositeReward(outcome(), {first: 2.0}, margin=0.2)
    prompts, completions = [[1], [1], [1], [2], [2]], [[9], [3], [6, 6], [4], [8]]
    found = reward(prompts, completions, gold=[1, 1, 1, 1, 1])
    np.testing.assert_allclose(found, [1.2, 0.8, 0.0, 0.8, 1.2])
    assert list(reward.parts(prompts, completions, gold=[1] * 5)) == ["length", "feature"]
    with pytest.raises(RewardenError, match="nothing to compose"):
        CompositeReward(outcome(), {})


@pytest.mark.parametrize(("schedule", "factors"), [
    (Schedule(), [1, 1, 1]), (Schedule("linear", 0, 2), [0, 1, 2]), (Schedule("cosine", 1, 0), [1, 0.5, 0]),
    (Schedule("step", 0, 3, begin=0.5), [0, 3, 3]), (Schedule("linear", 4, 2, begin=0.5, end=0.5), [4, 2, 2])])
def test_schedules(schedule, factors):
    np.testing.assert_allclose([schedule(share) for share in (0.0, 0.5, 1.0)], factors)


def test_a_schedule_needs_a_state():
    class State:
        global_step, max_steps = 3, 12

    assert share_done(State()) == 0.25
    with pytest.raises(RewardenError, match="needs the trainer's state"):
        share_done(None)
    with pytest.raises(RewardenError, match="impossible schedule"):
        Schedule("linear", 0, 1, begin=0.9, end=0.1)
