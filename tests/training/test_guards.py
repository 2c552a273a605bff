"""A flag changes the flagged rollout's advantage, and no factor common to a batch changes any; under TRL's normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.training.monitors.watched import base, fitted, world
from tests.training.test_feature_reward import made, probes
from tests.training.worlds import rollouts, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.composition import CompositeReward, OutcomeReward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.guards import Guard, penalty_trainer
from rewarden.training.monitors import NllMonitor
from rewarden.training.trl import bind, reward_funcs


def watched(provider, fpr: float = 0.3, kind: str = "nll"):
    return fitted(kind, provider).calibrate(provider, base(provider, 60), fpr)


def normalised(rewards: np.ndarray, groups: int) -> np.ndarray:
    """TRL's advantages: NaN rows have no part in their group, and none of their own."""
    own = rewards.reshape(groups, -1)
    mean, std = np.nanmean(own, 1, keepdims=True), np.nanstd(own, 1, ddof=1, keepdims=True)
    return np.nan_to_num((own - mean) / (std + 1e-4)).ravel()


def batch(provider, groups: int = 6, each: int = 8):
    rng = np.random.default_rng(5)
    prompts = [rng.integers(3, 16, 5).tolist() for _ in range(groups)]
    completions = [rng.integers(3, 16, rng.integers(1, 9)).tolist() for _ in range(groups * each)]
    return [p for p in prompts for _ in range(each)], completions


@pytest.mark.parametrize("mode", ["penalty", "screening"])
def test_flagged_rewards_change_one_by_one_and_others_not_at_all(mode):
    provider = world()
    reward = FeatureReward(made(probes()), provider)
    guard = Guard(watched(provider), mode, size=2.5)
    ids = batch(provider)
    plain, guarded = reward(*ids), guard(reward).bind(provider)(*ids)
    flags = guard.monitors[0].flags(provider, provider.rollouts(*ids))
    assert 0 < flags.sum() < len(flags)
    assert (plain[~flags] == guarded[~flags]).all()
    if mode == "screening":
        assert np.isnan(guarded[flags]).all()
    else:
        assert (guarded[flags] == plain[flags] - 2.5).all()


def test_a_factor_common_to_the_batch_cancels_and_flags_do_not():
    provider = world()
    ids = batch(provider)
    reward = FeatureReward(made(probes()), provider)
    plain = normalised(reward(*ids), 6)
    flags = watched(provider).flags(provider, provider.rollouts(*ids))
    assert np.abs(normalised(0.2 * reward(*ids), 6) - plain).max() < 5e-3, "mechreward's way: nothing but the 1e-4"
    for mode, size in (("penalty", 1.0), ("screening", 1.0)):
        found = normalised(Guard(watched(provider), mode, size)(reward).bind(provider)(*ids), 6)
        mixed = np.asarray([0 < own.sum() < 8 for own in flags.reshape(6, 8)]).repeat(8)
        assert (np.abs(found - plain)[flags & mixed] > 0.05).all()
        clean = ~flags.reshape(6, 8).any(1).repeat(8)
        assert (found[clean] == plain[clean]).all(), "groups without a flag are as they were"


def test_screened_groups_are_those_without_the_flagged_rows():
    provider = world()
    ids = batch(provider)
    reward = FeatureReward(made(probes()), provider)
    flags = watched(provider).flags(provider, provider.rollouts(*ids))
    found = normalised(Guard(watched(provider), "screening")(reward).bind(provider)(*ids), 6).reshape(6, 8)
    for row, own, left in zip(found, flags.reshape(6, 8), reward(*ids).reshape(6, 8), strict=True):
        assert (row[own] == 0).all()
        rest = left[~own]
        if len(rest) > 1:
            np.testing.assert_allclose(row[~own], (rest - rest.mean()) / (rest.std(ddof=1) + 1e-4), atol=1e-12)


def test_a_large_penalty_puts_every_flagged_rollout_below_the_others():
    provider = world()
    ids = batch(provider)
    reward = FeatureReward(made(probes()), provider)
    spread = np.ptp(reward(*ids))
    found = Guard(watched(provider), size=spread + 1e-6)(reward).bind(provider)(*ids)
    flags = watched(provider).flags(provider, provider.rollouts(*ids))
    assert found[flags].max() < found[~flags].min()


def test_several_monitors_vote_and_their_rates_add_up():
    provider = world()
    monitors = [watched(provider, 0.3, "nll"), watched(provider, 0.2, "mahalanobis"), watched(provider, 0.25, "text")]
    rolled = provider.rollouts(*batch(provider))
    votes = sum(one.flags(provider, rolled).astype(int) for one in monitors)
    for need in (1, 2, 3):
        guard = Guard(monitors, need=need)
        guarded = guard(lambda prompt_ids, completion_ids: np.zeros(len(prompt_ids))).bind(provider)
        assert np.array_equal(guarded(*batch(provider)) < 0, votes >= need)
        assert guard.fpr == pytest.approx(0.75 / need)
        assert guarded.metrics()["guard/flagged"] == (votes >= need).mean()
    fresh = base(provider, 2000, 7)
    for need in (1, 2):
        guard = Guard(monitors, need=need).bind(provider)
        rate = (np.sum(list(guard.flags(fresh).values()), axis=0) >= need).mean()
        assert rate <= guard.fpr


def test_columns_reach_the_rewards_that_take_them():
    provider = world()

    class Even:
        name = "even"

        def __call__(self, completion, gold):
            return float(len(completion) % 2 == gold)

    outcome = OutcomeReward(Even(), tokenizer().decode)
    whole = CompositeReward(outcome, {FeatureReward(made(probes())): 1.0})
    ids = batch(provider)
    golds = [0] * len(ids[0])
    guarded = Guard(watched(provider), size=3.0)(whole).bind(provider)
    flags = watched(provider).flags(provider, provider.rollouts(*ids))
    np.testing.assert_array_equal(guarded(*ids, gold=golds), whole(*ids, gold=golds) - 3.0 * flags)
    assert guarded.name == "composite"


@pytest.mark.parametrize(("make", "match"), [
    (lambda p: Guard([]), "no monitor is given"),
    (lambda p: Guard(NllMonitor()), "is not calibrated"),
    (lambda p: Guard([FeatureReward(made(probes()))]), "is no monitor"),
    (lambda p: Guard([watched(p), watched(p)]), "two monitors have one name"),
    (lambda p: Guard(watched(p), "downweight"), "no mode is called"),
    (lambda p: Guard(watched(p), size=0), "a penalty of 0"),
    (lambda p: Guard(watched(p), size=float("nan")), "a penalty of nan"),
    (lambda p: Guard(watched(p), need=2), "need=2 of 1"),
    (lambda p: Guard(watched(p))(watched(p)), "is no reward"),
    (lambda p: Guard(watched(p))(Guard(watched(p))), "a guard is no reward"),
    (lambda p: Guard(watched(p)).all([FeatureReward(made(probes())), lambda a, b: a]), "a penalty on 2 rewards"),
    (lambda p: Guard(watched(p))(lambda a, b: np.zeros(len(a)))(*rollouts()), "no model to read yet")])
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(RewardenError, match=match):
        make(world())


class Seen:
    """Rewards, ids and advantages of every batch."""

    def __init__(self, trainer: Any) -> None:
        self.rewards: list[np.ndarray] = []
        self.advantages: list[np.ndarray] = []
        self.ids: list[tuple[list, list]] = []
        reward, whole = trainer._calculate_rewards, trainer._generate_and_score_completions

        def rewards(inputs, prompts, completions, completion_ids):
            found = reward(inputs, prompts, completions, completion_ids)
            self.rewards.append(found.cpu().numpy().astype(np.float64))
            self.ids.append(([tokenizer()(p)["input_ids"] for p in prompts], completion_ids))
            return found

        def scored(inputs):
            out = whole(inputs)
            self.advantages.append(out["advantages"].cpu().numpy().astype(np.float64))
            return out

        trainer._calculate_rewards, trainer._generate_and_score_completions = rewards, scored


def trained(tmp_path, rewards, provider, guard=None, **more):
    trl = pytest.importorskip("trl")
    from tests.training.test_trl import data, settings

    torch.manual_seed(0)
    make = trl.GRPOTrainer if guard is None else penalty_trainer(guard)
    trainer = make(model=provider.policy, reward_funcs=reward_funcs(rewards), processing_class=tokenizer(),
                   train_dataset=data(), args=settings(tmp_path, per_device_train_batch_size=16, num_generations=8,
                                                       max_steps=3, **more))
    torch.manual_seed(0)
    bind(trainer, provider=provider)
    seen = Seen(trainer)
    trainer.train()
    return seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["penalty", "screening"])
def test_in_a_real_trainer_flagged_advantages_change_and_screened_groups_are_those_without(tmp_path, mode):
    provider = world()
    guard = Guard(watched(provider, 0.5, "mahalanobis"), mode, size=2.0)
    seen = trained(tmp_path, [guard(FeatureReward(made(probes()), name="probes"))], provider)
    total = 0
    for received, got, ids in zip(seen.rewards, seen.advantages, seen.ids, strict=True):
        rolled = provider.rollouts(*ids)
        flags = guard.monitors[0].flags(provider, rolled)  # of the reference: the same after training
        total += int(flags.sum())
        own, known = received[:, 0], ~np.isnan(received[:, 0])
        if mode == "screening":
            assert (np.isnan(own) == flags)[rolled.sizes > 0].all()
            assert (got[flags] == 0).all()
            for group in range(2):
                rows = np.arange(8) + 8 * group
                rest = rows[known[rows]]
                if len(rest) > 1:
                    expected = (own[rest] - own[rest].mean()) / (own[rest].std(ddof=1) + 1e-4)
                    np.testing.assert_allclose(got[rest], expected, atol=1e-4)
        else:
            plain = normalised(np.where(flags, own + 2.0, own), 2)
            mixed = np.asarray([0 < part.sum() < 8 for part in flags.reshape(2, 8)]).repeat(8)
            assert (np.abs(got - plain)[flags & mixed & known] > 1e-3).all()
            np.testing.assert_allclose(got, normalised(own, 2), atol=1e-4)
    assert total > 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_penalty_on_advantages_leaves_all_others_as_they_are(tmp_path):
    first = []
    for guarded in (False, True):
        provider = world()
        guard = Guard(watched(provider, 0.5, "mahalanobis"), size=1.5).bind(provider)
        seen = trained(tmp_path, [FeatureReward(made(probes()), name="probes")], provider, guard if guarded else None)
        flags = guard.flagged(provider.rollouts(*seen.ids[0]))
        first.append((seen.ids[0], seen.advantages[0], flags))
    (ids, plain, flags), (same, lowered, again) = first
    assert ids == same
    assert np.array_equal(flags, again)
    assert 0 < flags.sum() < len(flags)
    assert (plain[~flags] == lowered[~flags]).all()
    np.testing.assert_allclose(plain[flags] - lowered[flags], 1.5, rtol=1e-6)
    with pytest.raises(RewardenError, match="has no penalty"):
        penalty_trainer(Guard(guard.monitors, "screening"), object)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_where_a_trainer_has_several_rewards_all_are_screened(tmp_path):
    def steady(prompt_ids, completion_ids):
        return np.full(len(prompt_ids), -5.0)

    provider = world()
    guard = Guard(watched(provider, 0.5, "mahalanobis"), "screening")
    rewards = [FeatureReward(made(probes()), name="probes"), steady]
    seen = trained(tmp_path, guard.all(rewards), provider)
    flags = [guard.monitors[0].flags(provider, provider.rollouts(*ids)) for ids in seen.ids]
    assert sum(own.sum() for own in flags) > 3
    assert all((got[own] == 0).all() for got, own in zip(seen.advantages, flags, strict=True))
    # TRL would count a single None as 0, which is more than -5
    with pytest.raises(RewardenError, match="some rewards are screened"):
        trained(tmp_path, [guard(steady), FeatureReward(made(probes()), name="probes")], provider)
