"""A reward in a process of its own against the reward itself."""

from __future__ import annotations

import numpy as np
import pytest
from tests.training.openrlhf.asked import feature_reward
from tests.training.worlds import cut, rollouts

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.training.model_reward import ModelReward
from rewarden.training.scorer import LOGGED, Scorer


def test_tokens_are_paid_the_reward():
    prompts, completions = rollouts(7)
    found = Scorer(feature_reward())(prompts, completions)
    np.testing.assert_allclose([paid.sum() for paid in found.tokens], found.rewards, rtol=0, atol=1e-5)
    assert [len(paid) for paid in found.tokens] == [len(cut(ids)) for ids in completions]
    np.testing.assert_allclose(found.parts["one"] + found.parts["two"], 2 * found.rewards + 0.3, rtol=0, atol=1e-5)
    assert list(found.parts) == list(Scorer(feature_reward()).parts)


@pytest.mark.parametrize(("reward", "given"), [
    (lambda prompt_ids, completion_ids, **columns: np.full(len(prompt_ids), len(columns)), 2),
    (lambda prompt_ids, completion_ids, gold: np.asarray(gold), 7),
    (lambda prompt_ids, completion_ids: np.zeros(len(prompt_ids)), 0)])
def test_columns_go_to_those_that_take_them(reward, given):
    assert Scorer(reward)([[5]], [[6]], gold=[7], other=["x"]).rewards.tolist() == [given]


def test_another_number_of_rewards_is_refused():
    with pytest.raises(RewardenError, match="rewards for 2 completions"):
        Scorer(lambda prompt_ids, completion_ids: np.zeros(3))([[5]] * 2, [[6]] * 2)


def test_a_reward_model_reads_ids_as_they_stand(demo):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 200, n).tolist() for n in (4, 2, 7)]
    completions = [rng.integers(3, 200, n).tolist() for n in (3, 6, 1)]
    spans = [np.r_[np.full(len(a), 1, np.uint8), np.full(len(b), 2, np.uint8)]
             for a, b in zip(prompts, completions, strict=True)]
    right = [demo.reward_encoded([Encoded(np.asarray([*a, *b]), s, np.zeros((len(s), 2), np.int64), "", names=("",) * len(s))]
                                 )[0, demo.main] for a, b, s in zip(prompts, completions, spans, strict=True)]
    found = ModelReward(demo)([*prompts, [5]], [*completions, []])
    np.testing.assert_allclose(found, [*right, np.nan], rtol=0, atol=1e-5)
    np.testing.assert_allclose(Scorer(demo)(prompts, completions).rewards, right, rtol=0, atol=1e-5)
    with pytest.raises(RewardenError, match="a rollout of"):
        ModelReward(demo)([[5] * 100_000], [[6]])
    assert LOGGED == 8
