"""OpenRLHF's real client, in an environment of its own, against our server and our file."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from tests.training.clients.configured import MAKE, arguments, offline
from tests.training.clients.environments import HERE, ask
from tests.training.openrlhf.asked import feature_reward
from tests.training.openrlhf.test_answer import outcome
from tests.training.openrlhf.test_server import TOKEN, running
from tests.training.worlds import rollouts, tokenizer

from rewarden.training.openrlhf import app, reward_func_file

pytestmark = [pytest.mark.slow, pytest.mark.peers,
              pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="OpenRLHF's wheel is for 3.11")]


def test_the_real_client_gets_the_rewards_of_the_ids(tmp_path):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    prompts, completions = rollouts(6)
    right = feature_reward()(prompts, completions)
    told = [{"prompt": p, "completion": c, "label": "7"} for p, c in zip(prompts, completions, strict=True)]
    open_to_all = app(feature_reward(), tokenizer())
    guarded = app(feature_reward(), tokenizer(), token=TOKEN, scores=outcome())
    with running(open_to_all) as plain, running(guarded) as secret:
        known = secret.replace("http://", f"http://rewarden:{TOKEN}@")
        answers = ask("openrlhf", "openrlhf_client.py", {
            "tokenizer": str(tmp_path / "tokenizer"), "endpoints": [plain, known, [plain, known]], "rollouts": told}, tmp_path)
    for answer in answers:
        np.testing.assert_allclose([one["reward"] for one in answer], right, rtol=0, atol=1e-5)
        assert [one["ids"] for one in answer] == [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        for one, ids in zip(answer, completions, strict=True):
            assert one["extra_logs"]["rewarden/tokens"] == len(ids)
            assert (one["extra_logs"]["rewarden/drift"], one["extra_logs"]["rewarden/missing"]) == (0.0, 0.0)
            assert one["extra_logs"]["feature/one"] + one["extra_logs"]["feature/two"] == pytest.approx(
                2 * one["reward"] + 0.3, abs=1e-5)
    assert [one["scores"] for one in answers[0]] == [one["reward"] for one in answers[0]]
    golds = [tokenizer().decode(ids, skip_special_tokens=True) == "7" for ids in completions]
    assert [one["scores"] for one in answers[1]] == [float(gold) for gold in golds]


def test_the_real_client_gets_no_reward_for_what_is_refused(tmp_path):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    refused: list[Any] = [{"prompt": [4, 15], "completion": [1], "label": "7"}]  # nothing but the end
    with running(app(feature_reward(), tokenizer())) as url:
        (answer,) = ask("openrlhf", "openrlhf_client.py", {"tokenizer": str(tmp_path / "tokenizer"), "endpoints": [url],
                                                           "rollouts": refused}, tmp_path)
    assert answer[0]["reward"] is None
    assert answer[0]["extra_logs"] == {}


def test_the_real_client_loads_our_file(tmp_path):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    given = arguments(tmp_path)
    path = reward_func_file(tmp_path / "reward.py", MAKE, tmp_path / "tokenizer", arguments=given, missing=-3.0)
    prompts, completions = rollouts(5)
    right = offline(given)(prompts, completions)
    told = [{"prompt": p, "completion": c, "label": "7"} for p, c in zip(prompts, completions, strict=True)]
    (answer,) = ask("openrlhf", "openrlhf_client.py", {"tokenizer": str(tmp_path / "tokenizer"), "endpoints": [str(path)],
                                                       "rollouts": told}, tmp_path)
    np.testing.assert_allclose([one["reward"] for one in answer], right, rtol=0, atol=1e-5)
    assert [one["extra_logs"]["rewarden/tokens"] for one in answer] == [len(ids) for ids in completions]
    assert (HERE / "reward_of_policy.py").is_file()
