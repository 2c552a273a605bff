"""A written file is loaded as OpenRLHF loads it, and answers what the reward answers."""

from __future__ import annotations

import ast
import importlib.util
import math

import numpy as np
import pytest
from tests.training.clients.configured import MAKE, arguments, offline
from tests.training.openrlhf.asked import question
from tests.training.worlds import rollouts, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.openrlhf import reward_func_file


def load(path):
    spec = importlib.util.spec_from_file_location("reward_func", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def test_a_written_file_answers_what_the_reward_answers(tmp_path):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    given, ids = arguments(tmp_path), rollouts(4)
    function = load(reward_func_file(tmp_path / "r.py", MAKE, tmp_path / "tokenizer", arguments=given, missing=math.nan))
    asked = question(*ids)
    told = function([*asked["query"], "9"], [*asked["prompts"], "1+2:"], ["7"] * 5)
    np.testing.assert_allclose(told["rewards"].numpy(), [*offline(given)(*ids), np.nan], rtol=0, atol=1e-5)
    assert list(told) == ["rewards", "extra_logs"]
    assert told["extra_logs"]["rewarden/missing"].item() == pytest.approx(0.2)


@pytest.mark.parametrize(("settings", "match"), [
    ({"path": "reward.txt"}, "no Python file"), ({"make": "reward_of_policy"}, "names no function"),
    ({"make": "/nowhere/mine.py:make"}, "cannot be imported"), ({"make": "math:make"}, "no function 'make'"),
    ({"arguments": {"weight": np.ones(2)}}, "cannot be written down"), ({"arguments": {1: 2}}, "cannot be written down"),
    ({"arguments": {"x": (1, 2)}}, "cannot be written down"), ({"missing": math.inf}, "impossible options")])
def test_what_would_fail_later_is_refused_now(tmp_path, settings, match):
    given = {"path": "reward.py", "make": MAKE, **settings}
    with pytest.raises(RewardenError, match=match):
        reward_func_file(tmp_path / given.pop("path"), given.pop("make"), "tokenizer", **given)
    assert list(tmp_path.iterdir()) == []


def test_text_in_arguments_cannot_leave_its_quotes(tmp_path):
    hostile = {"text": '""")\nraise SystemExit(1)\n("""', "braces": "{make} {0}", "nested": {"a": [None, True, "'\\"]}}
    path = reward_func_file(tmp_path / "r.py", "builtins:dict", 'a"b\\c', arguments=hostile)
    call = ast.parse(path.read_text(encoding="utf-8")).body[-1].value  # type: ignore[attr-defined]  # an assignment
    told = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    assert told == {"arguments": hostile, "scores": None, "missing": None}
    assert [ast.literal_eval(one) for one in call.args] == ["builtins:dict", 'a"b\\c']
