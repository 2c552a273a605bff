"""Answers against the reward itself on the same ids, each rollout alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.training.openrlhf.asked import feature_reward, good, question
from tests.training.worlds import cut, policy, rollouts, tokenizer

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.options.serving import ServeOptions
from rewarden.training.composition import CompositeReward, OutcomeReward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.openrlhf.answer import Answerer
from rewarden.training.provider import ActivationProvider
from rewarden.training.verifiers import exact_match


def outcome() -> OutcomeReward:
    return OutcomeReward(exact_match(), decode=lambda ids: tokenizer().decode(ids, skip_special_tokens=True))


def test_rewards_and_logs_are_those_of_the_ids():
    asked, right = good()
    answer = Answerer(feature_reward(), tokenizer())
    found = answer(asked["query"], asked["prompts"], asked["labels"])
    np.testing.assert_allclose(found.rewards, right, rtol=0, atol=1e-5)
    reward, (prompts, completions) = feature_reward(), rollouts(4)
    told = reward.values(reward.provider.rollouts(prompts, completions))
    shares = {name: told.shares[:, place].mean() for place, name in enumerate(("one", "two"))}
    expected = {**{f"feature/{name}": pytest.approx(value, abs=1e-6) for name, value in shares.items()}, "rewarden/drift": 0.0,
                "rewarden/missing": 0.0, "rewarden/tokens": np.mean([len(ids) for ids in completions]),
                "rewarden/fixed_scorer": 1.0}
    assert found.logs == expected
    assert found.scores is None


def test_logs_have_the_same_names_whatever_is_asked():
    reward = FeatureReward(feature_reward().readout, ActivationProvider(policy(), tokenizer(), reference=policy(1)),
                           source="both")
    answer = Answerer(reward, tokenizer(), options=ServeOptions(missing=0.0))
    asked, _ = good()
    first = answer(asked["query"], asked["prompts"], asked["labels"]).logs
    assert list(first) == list(answer(["9"], ["1+2:"], ["3"]).logs) == list(answer(["1+2:"], ["1+2:"], ["3"]).logs)
    drift = reward(*rollouts(4)) - FeatureReward(reward.readout, reward.provider, source="reference")(*rollouts(4))
    assert first["feature/drift"] == pytest.approx(drift.mean(), abs=1e-6)
    assert abs(first["feature/drift"]) > 1e-3


@pytest.mark.parametrize(("query", "fix"), [("1+3:4", "cannot be split"), ("1+2:", "no reward"), ("1+2:<eos>", "no reward")])
def test_rollouts_without_a_number_are_refused_or_paid_what_is_said(query, fix):
    asked, right = good()
    several = {"queries": [*asked["query"], query], "prompts": [*asked["prompts"], "1+2:"], "labels": [*asked["labels"], "3"]}
    with pytest.raises(RewardenError, match=fix) as error:
        Answerer(feature_reward(), tokenizer())(**several)
    assert error.value.where == "query 4"
    for missing in (-1.5, 0.0, math.nan):
        found = Answerer(feature_reward(), tokenizer(), options=ServeOptions(missing=missing))(**several)
        np.testing.assert_allclose(found.rewards, [*right, missing], rtol=0, atol=1e-5)
        assert found.logs["rewarden/missing"] == pytest.approx(0.2)
        assert all(math.isfinite(value) for value in found.logs.values())


def test_a_reward_may_have_a_number_for_completions_without_a_token():
    found = Answerer(feature_reward(empty=-3.0), tokenizer())(["1+2:<eos>", "1+2:"], ["1+2:"] * 2, ["3"] * 2)
    assert found.rewards.tolist() == [-3.0, -3.0]
    assert found.logs["rewarden/missing"] == 0.0


def test_labels_are_golds_and_scores_are_another_reward():
    asked = question([[4, 13, 5, 15]] * 3, [[6, 1], [7, 1], [6]], ["3", "3", 3])
    found = Answerer(feature_reward(), tokenizer(), scores=outcome())(asked["query"], asked["prompts"], asked["labels"])
    assert found.scores is not None
    assert found.scores.tolist() == [1.0, 0.0, 1.0]
    paid = Answerer(outcome(), tokenizer())(asked["query"], asked["prompts"], asked["labels"])
    assert paid.rewards.tolist() == [1.0, 0.0, 1.0]


def test_scores_outside_of_0_to_1_are_refused():
    asked, _ = good()
    with pytest.raises(RewardenError, match="scores outside of 0 to 1"):
        Answerer(outcome(), tokenizer(), scores=feature_reward())(asked["query"], asked["prompts"], asked["labels"])


def test_a_reward_model_scores_the_text_as_it_stands(demo):
    prompts, ends = ["Hi there.", "What is it?"], [" Fine, thanks!", " No."]
    found = Answerer(demo, demo.tokenizer)([a + b for a, b in zip(prompts, ends, strict=True)], prompts, ["", ""])
    rows = [demo.encoder.plain(a + b) for a, b in zip(prompts, ends, strict=True)]
    ids = [demo.tokenizer(a + b, add_special_tokens=False)["input_ids"] for a, b in zip(prompts, ends, strict=True)]
    assert [row.ids.tolist() for row in rows] == ids  # this tokenizer adds no tokens of its own
    np.testing.assert_allclose(found.rewards, demo.reward_encoded(rows)[:, demo.main], rtol=0, atol=1e-5)


def test_ids_that_the_model_has_not_are_refused():
    small = rw.load()
    with pytest.raises(RewardenError, match="no token has the id"):
        Answerer(feature_reward(), small.tokenizer)(["Hi there. Yes."], ["Hi"], [""])


def test_what_cannot_be_asked_alone_is_refused_before_anything_is_asked():
    loose = FeatureReward(feature_reward().readout)
    with pytest.raises(RewardenError, match="no model to read"):
        Answerer(loose, tokenizer())
    with pytest.raises(RewardenError, match="ranks the rollouts of one prompt"):
        Answerer(CompositeReward(outcome(), {feature_reward(): 1.0}), tokenizer())
    with pytest.raises(RewardenError, match="is no reward"):
        Answerer("feature", tokenizer())


def test_nothing_of_one_question_is_kept():
    reward = feature_reward()
    answer = Answerer(reward, tokenizer())
    asked, right = good()
    for place in (2, 0, 3, 1, 2):
        one = answer(asked["query"][place:place + 1], asked["prompts"][place:place + 1], ["7"])
        assert one.rewards[0] == pytest.approx(right[place], abs=1e-5)
        assert one.logs["rewarden/tokens"] == len(rollouts(4)[1][place])
        assert reward.provider._held == {}
    assert sum(len(cut(ids)) for ids in rollouts(4)[1]) > 0
