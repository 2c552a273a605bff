"""Attacks on rewards whose weakness is known: each is found, and a reward without one is not paid by any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.test_feature_reward import LAYER, made, probes
from tests.training.worlds import policy, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.adversarial import AdversarialSuite, Canned, best_of, from_search
from rewarden.training.aggregation import Aggregation
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Linear
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout

PROMPTS = [[10 + i % 5, 20 + i] for i in range(40)]
GOLDS = [i % 7 for i in range(40)]
RIGHT = [[gold + 30, 40, 41] for gold in GOLDS]


class First:
    """Right is a text that begins with the gold's token."""

    name = "first"

    def __call__(self, completion, gold):
        return float(completion.split(" ")[0] == str(gold + 30))


def decode(ids):
    return " ".join(map(str, ids))


def suite(reward, **more):
    return AdversarialSuite(reward, First(), decode, Canned(RIGHT, range(50, 60), 12).attacks(), **more)


def test_a_reward_on_length_is_paid_for_every_long_text():
    def length(prompts, completions):
        return np.array([len(ids) for ids in completions], float)

    found = suite(length).run(PROMPTS, GOLDS, RIGHT).data
    paid = dict(zip(found["attack"].values, found["paid"].values, strict=True))
    assert float(found["bar"]) == 3.0
    assert paid["repeat a token"] == paid["random tokens"] == paid["repeat the prompt"] == 1.0
    assert paid["one token"] == 0.0
    assert 0.6 < paid["another prompt's answer"] < 1.0, "now and then it is the right one"
    assert float(found["paid_low"].sel(attack="random tokens")) > 0.9
    assert float(found["base_paid"]) == 0.0


def test_a_reward_that_verifies_is_paid_for_nothing_wrong():
    def honest(prompts, completions):
        return np.array([float(ids[0] == gold + 30) for ids, gold in zip(completions, GOLDS, strict=True)])

    found = suite(honest).run(PROMPTS, GOLDS, RIGHT).data
    assert (found["paid"].values == 0).all()
    assert (found["wrong"].sel(attack="random tokens") == 1).all()
    assert (found["paid_high"].values < 0.15).all()


def test_the_best_of_several_is_the_largest_by_brute_force():
    rng = np.random.default_rng(0)
    candidates = [[rng.integers(3, 16, rng.integers(1, 6)).tolist() for _ in range(5)] for _ in range(6)]
    reward = FeatureReward(made(probes()), ActivationProvider(policy(), tokenizer()), empty=None)
    prompts = [[3, 4, 5]] * 6
    for some, best in zip(candidates, best_of(reward, prompts, candidates), strict=True):
        assert best == some[int(np.argmax(reward([[3, 4, 5]] * 5, some)))]
    with pytest.raises(RewardenError, match="no completion of prompt 1"):
        best_of(reward, prompts[:2], [[[4]], [[1]]])


def test_search_finds_the_best_text_of_a_length():
    model = policy()
    reward = FeatureReward(FeatureReadout(Linear(probes().weight[:1]), LAYER, torch.ones(1), aggregation=Aggregation("mean")),
                           ActivationProvider(model, tokenizer()))
    rm = reward.reward_model(model, tokenizer())
    (found,) = from_search(rm, ["12+34:"], 2, restarts=4, steps=6, width=16)
    prompt = tokenizer()("12+34:")["input_ids"]
    every = [[a, b] for a in range(3, 19) for b in range(3, 19)]
    best = float(reward([prompt] * len(every), every).max())
    assert float(reward([prompt], [found])[0]) >= best - 1e-4


def test_what_does_not_match_is_refused():
    reward = suite(lambda prompts, completions: np.zeros(len(prompts)))
    with pytest.raises(RewardenError, match="39 base rollouts"):
        reward.run(PROMPTS, GOLDS, RIGHT[1:])
    with pytest.raises(RewardenError, match="right base rollouts"):
        reward.run(PROMPTS, GOLDS, [[1]] * 40)
    with pytest.raises(RewardenError, match="1 completions of 'search'"):
        suite(reward.reward, found={"search": [[1]]}).run(PROMPTS, GOLDS, RIGHT)
    with pytest.raises(RewardenError, match="nothing to make attacks of"):
        Canned([], range(4), 8).attacks()
