"""The reference experiments at toy size: a setting of base rollouts, arms that are what they say, a run that goes on."""

from __future__ import annotations

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.training.arithmetic import load_policy
from rewarden.training.experiments import ARMS, gain, make_setting, measure, run_arms, summary
from rewarden.training.experiments.arms import rewards_of

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def setting():
    return make_setting(0, 600, 80)


def test_the_base_is_what_the_manifest_says_and_no_monitor_is_a_reward(setting):
    assert 0.4 < setting.base["accuracy"] < 0.7
    assert setting.base["reverse"] > 0.9
    assert abs(setting.base["feature"]) < 0.5
    assert setting.base["feature"] == pytest.approx(setting.base["feature_frozen"], abs=1e-5), "the base is its own reference"
    assert all(setting.base[f"flag_{monitor.name}"] <= 0.1 for monitor in setting.monitors)
    assert {layer for monitor in setting.monitors for layer in monitor.layers}.isdisjoint({setting.readout.layer})


@pytest.mark.parametrize("name", ARMS)
def test_rewards_of_an_arm_are_what_it_says(setting, name):
    funcs, weights = rewards_of(ARMS[name], setting, load_policy()[1])
    assert [one.__name__ for one in funcs] == {"outcome": ["outcome"], "feature": ["feature"], "sum": ["outcome", "feature"],
                                              "bounded": ["composite"]}[ARMS[name].rewards]
    assert weights == ([1.0, 0.1] if ARMS[name].rewards == "sum" else [1.0])


def test_a_stopped_run_goes_on_and_trains_nothing_twice(setting, tmp_path, monkeypatch):
    seen: list[tuple[str, int]] = []
    first = run_arms(tmp_path / "run", ["outcome"], [0], steps=2, setting=setting, progress=lambda *one: seen.append(one))
    both = run_arms(tmp_path / "run", ["outcome", "hybrid, bounded"], [0, 1], steps=2, setting=setting,
                    progress=lambda *one: seen.append(one))
    assert seen == [("outcome", 0), ("hybrid, bounded", 0), ("outcome", 1), ("hybrid, bounded", 1)]
    one, same = (result.data.sel(arm="outcome", seed=0)["accuracy"] for result in (first, both))
    assert float(one) == float(same)
    assert both.data["accuracy"].sel(arm="base").values.tolist() == [setting.base["accuracy"]] * 2
    told = summary(both)
    assert told["arm"].tolist() == ["base", "outcome", "hybrid, bounded"]
    difference = both.data["accuracy"].sel(arm="outcome").values - both.data["accuracy"].sel(arm="base").values
    assert gain(both, "outcome", "base")[0] == pytest.approx(difference.mean())
    with pytest.raises(RewardenError, match="another steps"):
        run_arms(tmp_path / "run", ["outcome"], [0], steps=3, setting=setting)
    with pytest.raises(RewardenError, match="no arm is called 'magic'"):
        run_arms(tmp_path / "other", ["magic"], setting=setting)


def test_measuring_leaves_a_policy_as_it_is(setting):
    model = load_policy()[0]
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = measure(model, setting), measure(model, setting)
    assert first == second
    assert model.training
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
