"""verl's own code, in an environment of its own, runs our manager; what it is made of is tested here."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.clients.configured import MAKE, arguments, offline
from tests.training.clients.environments import ask
from tests.training.openrlhf.asked import feature_reward
from tests.training.worlds import cut, rollouts, tokenizer

from rewarden.errors import RewardenError
from rewarden.training import verl
from rewarden.training.verl import Settings, place_tokens, rollout_ids

BASE = "verl.experimental.reward_loop.reward_manager.base"


def padded(prompts: list[list[int]], completions: list[list[int]]) -> dict[str, list[list[int]]]:
    """Ids as verl's agent loop pads them: prompts on the left, responses on the right; padding is no id that counts here."""
    p, r = max(map(len, prompts)) + 1, max(map(len, completions)) + 2
    return {"prompts": [[9] * (p - len(ids)) + ids for ids in prompts],
            "responses": [ids + [9] * (r - len(ids)) for ids in completions],
            "attention_mask": [[0] * (p - len(a)) + [1] * (len(a) + len(b)) + [0] * (r - len(b))
                               for a, b in zip(prompts, completions, strict=True)]}


class Data:
    """As much of a DataProto as a manager touches."""

    def __init__(self, batch: dict[str, torch.Tensor], columns: dict[str, list[Any]]) -> None:
        self.batch, self.columns = batch, columns

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            return Data({name: value[places] for name, value in self.batch.items()},
                        {name: value[places] for name, value in self.columns.items()})
        return SimpleNamespace(batch={name: value[places] for name, value in self.batch.items()},
                               non_tensor_batch={name: value[places] for name, value in self.columns.items()})


def data(prompts: list[list[int]], completions: list[list[int]], **columns: list[Any]) -> Data:
    return Data({name: torch.tensor(value) for name, value in padded(prompts, completions).items()}, columns)


@pytest.fixture
def manager(monkeypatch):
    """Makes our manager on a base class that stands in for verl's."""
    class RewardManagerBase:
        def __init__(self, config, tokenizer, compute_score):
            self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score

        @classmethod
        def assemble_rm_scores(cls, data, scores):
            return "verl's own", list(scores)

    module = ModuleType(BASE)
    module.RewardManagerBase = RewardManagerBase  # type: ignore[attr-defined]
    for name in ("verl", "verl.experimental", "verl.experimental.reward_loop", "verl.experimental.reward_loop.reward_manager"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, BASE, module)

    def made(make: Any = None, **settings: Any) -> Any:
        config = SimpleNamespace(reward={"reward_kwargs": settings})
        return verl.reward_manager(make)(config, tokenizer(), compute_score=None)

    return made


def scores(one: Any, given: Data, count: int) -> list[dict[str, Any]]:
    return [asyncio.run(one.run_single(given[place:place + 1])) for place in range(count)]


def test_rewards_are_those_of_the_ids_and_sum_over_tokens(manager):
    prompts, completions = rollouts(6)
    right, given = feature_reward()(prompts, completions), data(prompts, completions)
    once = scores(manager(lambda tokenizer: feature_reward()), given, 6)
    np.testing.assert_allclose([one["reward_score"] for one in once], right, rtol=0, atol=1e-5)
    for one, reward in zip(once, right, strict=True):
        told = one["reward_extra_info"]
        assert list(told) == ["feature/one", "feature/two", "feature/missing"]
        assert told["feature/one"] + told["feature/two"] == pytest.approx(2 * reward + 0.3, abs=1e-5)
    by_token = manager(lambda tokenizer: feature_reward(), per_token=True)
    paid = [one["reward_score"] for one in scores(by_token, given, 6)]
    assert [len(one) for one in paid] == [len(ids) for ids in completions]
    assert [one[len(cut(ids)):] for one, ids in zip(paid, completions, strict=True)] == [
        [0.0] * (len(ids) - len(cut(ids))) for ids in completions]
    placed = type(by_token).assemble_rm_scores(given, paid)
    assert placed.shape == given.batch["responses"].shape
    np.testing.assert_allclose(placed.sum(1), right, rtol=0, atol=1e-5)
    assert not placed[~given.batch["attention_mask"][:, given.batch["prompts"].shape[1]:].bool()].any()
    assert type(by_token).assemble_rm_scores(given, [1.0, 2.0]) == ("verl's own", [1.0, 2.0])


def test_the_reward_is_named_in_the_configuration(manager, tmp_path):
    given, (prompts, completions) = arguments(tmp_path), rollouts(3)
    found = scores(manager(reward=MAKE, arguments=given), data(prompts, completions), 3)
    np.testing.assert_allclose([one["reward_score"] for one in found], offline(given)(prompts, completions), rtol=0, atol=1e-5)


def test_ground_truths_are_golds(manager):
    def reward(prompt_ids, completion_ids, gold, data_source):
        return np.asarray([float(gold[0]) + (data_source[0] == "sums")])

    given = data([[5]], [[6]], data_source=["sums"], reward_model=[{"ground_truth": "7", "style": "rule"}])
    assert scores(manager(lambda tokenizer: reward), given, 1)[0]["reward_score"] == 8.0


@pytest.mark.parametrize("per_token", [False, True])
def test_a_rollout_without_a_number_stops_the_run_or_is_paid_what_is_said(manager, per_token):
    given = data([[5, 6]], [[1, 1]])
    with pytest.raises(RewardenError, match="a rollout has no reward"):
        scores(manager(lambda tokenizer: feature_reward(), per_token=per_token), given, 1)
    found = scores(manager(lambda tokenizer: feature_reward(), per_token=per_token, missing=-3), given, 1)[0]
    assert found["reward_score"] == ([0.0, -3.0] if per_token else -3.0)
    assert found["reward_extra_info"] == {"feature/one": 0.0, "feature/two": 0.0, "feature/missing": 1.0}
    said = scores(manager(lambda tokenizer: feature_reward(empty=-2.0), per_token=per_token), given, 1)[0]
    assert said["reward_score"] == ([0.0, -2.0] if per_token else -2.0)


@pytest.mark.parametrize(("settings", "match"), [
    ({"rewards": "x"}, "rewards: unknown"), ({"per_token": "yes"}, "per_token"), ({"missing": "0"}, "missing: no number"),
    ({"arguments": 3}, "arguments"), ({}, "names no function"), ({"reward": "math:hypot"}, None)])
def test_settings_that_cannot_be_used_are_refused_before_a_rollout(manager, settings, match):
    with pytest.raises((RewardenError, TypeError), match=match):
        manager(**settings)


def test_only_feature_rewards_pay_tokens(manager):
    with pytest.raises(RewardenError, match="knows no single tokens"):
        manager(lambda tokenizer: lambda prompt_ids, completion_ids: np.zeros(len(prompt_ids)), per_token=True)


def test_ids_are_those_under_the_mask():
    prompts, completions = rollouts(5)
    given = data(prompts, completions)
    found = [rollout_ids(given[place].batch, {}) for place in range(5)]
    assert found == list(zip(prompts, completions, strict=True))


@pytest.mark.parametrize(("change", "columns", "match"), [
    ({"attention_mask": torch.tensor([1, 1, 1])}, {}, "a mask of 3 positions"),
    ({"attention_mask": torch.tensor([1, 0, 1, 1])}, {}, "holes"),
    ({"attention_mask": torch.tensor([1, 1, 0, 1])}, {}, "holes"),
    ({"response_mask": torch.tensor([0, 1])}, {}, "several turns"), ({}, {"__num_turns__": np.int32(4)}, "several turns")])
def test_what_is_no_single_turn_rollout_is_refused(change, columns, match):
    item = {"prompts": torch.tensor([5, 6]), "responses": torch.tensor([7, 8]), "attention_mask": torch.tensor([1, 1, 1, 1])}
    with pytest.raises(RewardenError, match=match):
        rollout_ids({**item, **change}, columns)
    assert rollout_ids(item, {"__num_turns__": 2}) == ([5, 6], [7, 8])


def test_rewards_of_other_tokens_are_not_placed():
    given = data([[5], [5]], [[6, 7], [6]])
    with pytest.raises(RewardenError, match="rewards of other tokens"):
        place_tokens(given.batch, [[1.0], [1.0]])


def test_verl_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "verl", None)
    with pytest.raises(RewardenError, match="cannot be imported"):
        _ = verl.RewardManager
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        _ = verl.Manager
    assert Settings().missing is None


def question(tmp_path: Any, **settings: Any) -> tuple[dict[str, Any], list[list[int]], list[list[int]], np.ndarray]:
    """What the real verl is asked, and what is right."""
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    given, (prompts, completions) = arguments(tmp_path), rollouts(5)
    asked = {**padded(prompts, completions), "golds": ["7"] * 5, "make": MAKE, "arguments": given,
             "tokenizer": str(tmp_path / "tokenizer"), **settings}
    return asked, prompts, completions, offline(given)(prompts, completions)


def tokens_of(tmp_path: Any, prompts: list[list[int]], completions: list[list[int]], width: int) -> np.ndarray:
    """Pay of each token, [n, R], with the ends that a completion keeps at 0."""
    reward = offline(arguments(tmp_path))
    told = reward.values(reward.provider.rollouts(prompts, completions)).tokens
    return np.asarray([[*((own - reward.centre / len(own)) / reward.spread), *[0.0] * (width - len(own))] for own in told])


@pytest.mark.slow
@pytest.mark.peers
def test_the_real_verl_loads_and_runs_our_manager(tmp_path):
    asked, prompts, completions, right = question(tmp_path, workers=0)
    found = ask("verl", "verl_client.py", asked, tmp_path)
    sizes, width = [len(ids) for ids in completions], len(asked["responses"][0])
    naive = [len(tokenizer().decode(ids, skip_special_tokens=True)) for ids in completions]
    for name, values in (("naive", naive), ("once", right)):  # verl's placement: at the last token
        expected = np.zeros((5, width))
        expected[range(5), np.asarray(sizes) - 1] = values
        np.testing.assert_allclose(found[name]["rm_scores"], expected, rtol=0, atol=1e-5)
    paid = tokens_of(tmp_path, prompts, completions, width)
    np.testing.assert_allclose(found["per_token"]["rm_scores"], paid, rtol=0, atol=1e-5)
    assert [list(one) for one in found["once"]["extra"]] == [["feature/one", "feature/two", "feature/missing"]] * 5


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize(("per_token", "workers"), [(False, 2), (True, 1)])
def test_the_real_workers_run_our_manager(tmp_path, per_token, workers):
    asked, prompts, completions, right = question(tmp_path, workers=workers, per_token=per_token)
    found = ask("verl", "verl_client.py", asked, tmp_path)
    scored = np.asarray(found["rm_scores"])
    np.testing.assert_allclose(scored.sum(1), right, rtol=0, atol=1e-5)
    assert found["keys"] == ["feature/one", "feature/two", "feature/missing"]
    np.testing.assert_allclose(np.add(found["extra"]["feature/one"], found["extra"]["feature/two"]), 2 * right + 0.3, atol=1e-5)
    if per_token:
        np.testing.assert_allclose(scored, tokens_of(tmp_path, prompts, completions, scored.shape[1]), rtol=0, atol=1e-5)
    else:
        assert (scored != 0).sum(1).tolist() == [1] * 5
