"""Audits of a policy whose accuracy is planted: how often good runs are stopped, how soon bad ones, and that nobody notices a
look."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from scipy import stats
from tests.statistics.coverage import assert_null_rate
from tests.training.worlds import policy, tokenizer

from rewarden.errors import RewardenError
from rewarden.statistics import wilson
from rewarden.training.outcome_audit import OutcomeAudit, higher_p, lower_p

P = 80
PROMPTS = [[3 + i % 10, 3 + i // 10, 13] for i in range(P)]
PLACE = {tuple(prompt): place for place, prompt in enumerate(PROMPTS)}


class Right:
    name = "right"

    def __call__(self, completion, gold):
        return float(completion == gold)


class Coin(torch.nn.Module):
    """A policy that answers each prompt rightly with a chance of its own, moved by a common amount."""

    def __init__(self, seed: int = 0, moved: float = 0.0) -> None:
        super().__init__()
        self.own, self.moved = np.random.default_rng(seed).uniform(0.3, 0.8, P), moved
        self.rng = np.random.default_rng(seed + 1)

    def sample(self, prompts):
        chance = np.asarray([self.own[PLACE[tuple(prompt)]] for prompt in prompts]) + self.moved
        return [[1] if won else [2] for won in self.rng.random(len(prompts)) < chance]


def audited(model, **settings):
    return OutcomeAudit(PROMPTS, ["1"] * P, Right(), lambda ids: str(ids[0]), **{
        "sample": lambda model, prompts, seed: model.sample(prompts), **settings}).bind(model)


def stopped(seed: int, moved: float, looks: int = 6, **settings) -> bool:
    model, rng = Coin(seed), np.random.default_rng(seed + 7)
    audit = audited(model, reward=lambda prompt_ids, completion_ids: rng.normal(size=len(prompt_ids)), **settings)
    audit.audit(0)
    model.moved = moved
    return any(audit.audit(step).stop for step in range(1, looks + 1))


@pytest.mark.slow
@pytest.mark.parametrize(("moved", "settings"), [
    (0.0, {"margin": 0.0}), (-0.05, {}), (0.0, {"margin": 0.0, "looks": 6}),
    (0.0, {"margin": 0.0, "samples": 3, "stop": "below"})])
def test_runs_that_are_no_worse_are_stopped_at_the_stated_rate_at_most(moved, settings):
    assert_null_rate([stopped(seed, moved, **settings) for seed in range(200)], 0.05)


def test_a_run_that_falls_is_stopped():
    assert np.mean([stopped(seed, -0.4, looks=4) for seed in range(20)]) == 1.0
    assert np.mean([stopped(seed, -0.4, looks=4, stop="never") for seed in range(5)]) == 0.0


def test_falling_from_a_peak_while_the_reward_rises_stops_too():
    model, paid = Coin(), {"now": 0.0}
    for rising, stops in ((True, True), (False, False)):
        audit = audited(model, samples=4, reward=lambda prompt_ids, _: paid["now"] + np.arange(len(prompt_ids)) % 3 * 0.1)
        for step, (moved, reward) in enumerate([(-0.2, 0.0), (0.2, 1.0), (-0.15, 2.0)]):
            model.moved, paid["now"] = moved, reward if rising else 0.0
            look = audit.audit(step)
        assert look.stop is stops
        assert ("accuracy fell while the reward rose" in look.reason) is stops
        assert look.below > 0.05, "it is no worse than the base was"


def test_the_tests_are_closed_forms():
    rng = np.random.default_rng(0)
    difference = rng.choice([-1.0, 0.0, 0.5], 40)
    told = np.concatenate([difference, [-1.0, 1.0, 0.0, 0.0]])
    weights = np.r_[np.ones(40), [0.5] * 4]
    mean = (told * weights).sum() / 42
    error = np.sqrt((weights * (told - mean) ** 2).sum() / 42 / 42)
    assert lower_p(difference, 0.1) == pytest.approx(stats.t.cdf((mean + 0.1) / error, 39))
    assert higher_p(difference) == pytest.approx(stats.ttest_1samp(difference, 0, alternative="greater").pvalue)
    assert higher_p(np.full(5, 0.5)) == 0.0
    assert higher_p(np.array([0.5, np.nan])) == 1.0


def test_the_rate_is_spent_over_looks_and_rules():
    audit = audited(Coin(), stop="below")
    spent = [audit.audit(step).alpha for step in range(6)]
    np.testing.assert_allclose(spent, [0, 0.05 / 2, 0.05 / 6, 0.05 / 12, 0.05 / 20, 0.05 / 30])
    both = audited(Coin(), reward=lambda a, b: np.zeros(len(a)), looks=5)
    assert [both.audit(step).alpha for step in range(3)] == [0, 0.005, 0.005]
    for step in range(3, 6):
        both.audit(step)
    with pytest.raises(RewardenError, match="look 6 of 5"):
        both.audit(6)


def test_the_result_holds_every_look():
    model = Coin()
    audit = audited(model, samples=2, margin=0.1)
    for step in (0, 20, 40):
        audit.audit(step)
    found = audit.result()
    assert found.step.tolist() == [0, 20, 40]
    np.testing.assert_allclose(found.accuracy, found.right.mean(1))
    for low, high, right in zip(found.accuracy_low, found.accuracy_high, found.right, strict=True):
        ends = wilson(right.sum(), P)  # of prompts; halves count as they are
        assert (low, high) == (ends.low, ends.high)
    assert found.provenance["margin"] == 0.1


def test_an_audit_goes_on_where_its_file_stops(tmp_path):
    file = tmp_path / "audit.jsonl"
    model = Coin()
    first = audited(model, path=file, reward=lambda a, b: np.arange(len(a), dtype=float))
    for step in (0, 10):
        first.audit(step)
    with file.open("a") as log:
        log.write('{"event": "outcome audit", "step": 20, "ri')
    again = audited(model, path=file, reward=lambda a, b: np.arange(len(a), dtype=float))
    model.moved = -0.4
    look = again.audit(20)
    assert [one.step for one in again.looks] == [0, 10, 20]
    assert (look.alpha, look.stop) == (0.05 / 6 / 2, True)
    assert again.result().right[:2].tolist() == first.result().right.tolist()
    with pytest.raises(RewardenError, match="holds another audit"):
        audited(model, path=file, margin=0.2)
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    assert [line["step"] for line in lines] == [0, 10, 20]


def test_nobody_notices_a_look():
    model = policy()
    model.train()
    model.model.layers[1].eval()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    audit = OutcomeAudit(PROMPTS[:30], ["1"] * 30, Right(), tokenizer().decode, max_new_tokens=4).bind(model)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    modes = [module.training for module in model.modules()]
    first = audit.audit(0)
    greedy = OutcomeAudit(PROMPTS[:30], ["1"] * 30, Right(), tokenizer().decode, sample=_noisy).bind(model)
    greedy.audit(0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert states[2] == random.getstate()
    assert modes == [module.training for module in model.modules()]
    torch.manual_seed(99)
    again = OutcomeAudit(PROMPTS[:30], ["1"] * 30, Right(), tokenizer().decode, max_new_tokens=4).bind(model).audit(0)
    assert np.array_equal(first.right, again.right)


def _noisy(model, prompts, seed):
    model.eval()
    return [[int(torch.randint(9, ())), np.random.randint(9), random.randrange(9)] for _ in prompts]


@pytest.mark.parametrize(("make", "match"), [
    (lambda: OutcomeAudit(PROMPTS, ["1"] * 3, Right(), str), "80 prompts, 80 of them distinct, and 3 golds"),
    (lambda: OutcomeAudit(PROMPTS[:5] * 8, ["1"] * 40, Right(), str), "40 prompts, 5 of them distinct"),
    (lambda: OutcomeAudit(PROMPTS[:20], ["1"] * 20, Right(), str), "too few items for an outcome audit"),
    (lambda: OutcomeAudit(PROMPTS, ["1"] * P, Right(), str, n=90), "too few items for an outcome audit"),
    (lambda: OutcomeAudit(PROMPTS, ["1"] * P, Right(), str, margin=2.0), "impossible options: margin"),
    (lambda: OutcomeAudit(PROMPTS, ["1"] * P, Right(), str, stop="soon"), "impossible options: stop"),
    (lambda: OutcomeAudit(PROMPTS, ["1"] * P, Right(), str).audit(0), "the audit has no model"),
    (lambda: OutcomeAudit(PROMPTS, ["1"] * P, Right(), str).result(), "nothing was audited yet"),
    (lambda: audited(Coin(), sample=lambda m, p, s: [[1]]).audit(0), "1 completions of 80 prompts")])
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(RewardenError, match=match):
        make()


def trained(tmp_path, audit, steps: int = 6):
    trl = pytest.importorskip("trl")
    from tests.training.test_feature_reward import made, probes
    from tests.training.test_trl import data, settings

    from rewarden.training.feature_reward import FeatureReward
    from rewarden.training.trl import bind, reward_funcs

    torch.manual_seed(0)
    trainer = trl.GRPOTrainer(model=policy(), reward_funcs=reward_funcs([FeatureReward(made(probes()))]), train_dataset=data(),
                              args=settings(tmp_path, max_steps=steps), processing_class=tokenizer(),
                              callbacks=[] if audit is None else [audit.callback()])
    bind(trainer)
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_is_audited_learns_the_same(tmp_path):
    audit = OutcomeAudit(PROMPTS[:30], ["1"] * 30, Right(), tokenizer().decode, max_new_tokens=4, every=2)
    plain, watched = trained(tmp_path / "a", None), trained(tmp_path / "b", audit)
    assert [look.step for look in audit.looks] == [0, 2, 4, 6]
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True))
    logged = [row for row in watched.state.log_history if "audit/accuracy" in row]
    assert [row["step"] for row in logged] == [0, 2, 4, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_is_stopped_by_its_audit(tmp_path):
    weights = policy().lm_head.weight.detach().clone()

    def sample(model, prompts, seed):  # right as long as nothing was learnt
        return [[1] if torch.equal(model.lm_head.weight, weights) else [2] for _ in prompts]

    def audit(**settings):
        return OutcomeAudit(PROMPTS, ["1"] * P, Right(), lambda ids: str(ids[0]), sample=sample, every=2, **settings)

    halted, left = audit(path=tmp_path / "audit.jsonl"), audit(stop="never")
    assert trained(tmp_path / "a", halted).state.global_step == 2
    assert "more than 0.05 below the base's 1.000" in halted.looks[-1].reason
    assert trained(tmp_path / "b", left).state.global_step == 6
    with pytest.raises(RewardenError, match="3 looks are planned"):
        trained(tmp_path / "c", audit(looks=2))
