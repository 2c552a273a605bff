"""Conflict: the frame identity, sums of gated rewards, slopes against gradients, chance levels, planted truth, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.statistics.coverage import assert_covers, assert_null_rate, coverage

import rewarden as rw
from rewarden import RewardenError
from rewarden.contrasts import Contrast
from rewarden.encoding import RESPONSE
from rewarden.hacking import conflict
from rewarden.hacking.objectives.conflicts import _pushes, verdicts
from rewarden.hacking.objectives.opposition import (
    chance_of_heads,
    chance_of_terms,
    frame_correlation,
    opposition,
    signed_cosines,
)
from rewarden.hacking.objectives.pushes import gradient_of
from rewarden.hacking.objectives.rows import head_objectives, read_rows, states_of
from rewarden.options import ConflictOptions
from rewarden.organisms import conflict as planted
from rewarden.organisms import noise
from rewarden.readout.heads import HeadEnsemble, SequenceHead
from rewarden.statistics.studentised import studentised_interval

FAST = {"draws": 999, "pushed": 2, "resamples": 200}


@pytest.fixture(scope="module")
def gated():
    return planted(dose=3.0, seed=1, gated=True)


@pytest.fixture(scope="module")
def pairs(gated):
    return gated.pairs(40)


@pytest.fixture(scope="module")
def found(gated, pairs):
    return conflict(gated, pairs, **FAST)


def test_rho_of_objectives_is_their_cosine_in_the_frame(gated, pairs, found):
    states, _ = states_of(gated, [gated.encode(side) for pair in pairs for side in pair.conversations], None)
    moved = states[0::2] - states[1::2]
    second_moment = moved.T @ moved
    rows = head_objectives(gated).rows.double().numpy()
    inner = rows @ second_moment @ rows.T
    cosine = inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))
    np.testing.assert_allclose(found.data["objective_rho"], cosine[np.triu_indices(4, 1)], atol=1e-6)


def test_weighted_objectives_add_up_to_the_margin(gated, pairs, found):
    added = (found.data["weight"] * found.data["difference"]).sum("objective").values
    np.testing.assert_allclose(added, gated.score(pairs).margin, atol=1e-4)
    assert float(found.data["share"].sum()) == pytest.approx(1.0)
    sizes = np.abs(found.data["weight"] * found.data["difference"]).values
    one_each = 1 - np.abs(added) / sizes.sum(axis=1)  # every prompt is asked once
    assert float(found.data["cancelled"]) == pytest.approx(one_each.mean())


def test_differences_are_those_of_the_models_scalars(gated, pairs, found):
    rewards = gated.reward([side for pair in pairs for side in pair.conversations])
    names = list(gated.names)
    for name in found.data["objective"].values:
        column = rewards[:, names.index(name)]
        np.testing.assert_allclose(found.data["difference"].sel(objective=name), column[0::2] - column[1::2], atol=1e-4)


def test_which_response_comes_first_plays_no_part(gated, pairs, found):
    turned = [rw.Pair(pair.prompt, pair.rejected, pair.chosen) if i % 3 else pair for i, pair in enumerate(pairs)]
    other = conflict(gated, turned, **FAST)
    for name in ("rho", "rho_low", "negative", "p", "push"):
        np.testing.assert_allclose(other.data[name], found.data[name], atol=1e-2 if name == "p" else 1e-6)  # p by draws


def test_slopes_where_the_reward_is_read_are_those_of_gradients(gated, pairs):
    found = conflict(gated, pairs, draws=99, pushed=3, step=0.02)
    sizes = found.data["size"].values
    model = read_rows(gated, head_objectives(gated))
    order = np.sort(np.random.default_rng(0).permutation(np.arange(40))[:3])
    for place, item in enumerate(order):
        trace = gated.trace(pairs[item].conversations[0], ["final"], "read")["final"][-1].float()
        residual = trace.detach().clone().requires_grad_(True)
        values = model.readout.apply(residual[None], None)
        gradients = [torch.autograd.grad(value, residual, retain_graph=True)[0].double().numpy() for value in values]
        inner = np.array([[one @ other for other in gradients] for one in gradients]) * sizes[:, None] / sizes
        expected = inner / np.diag(inner)[:, None]
        np.testing.assert_allclose(found.data["slope_item"].values[place], expected, atol=2e-2)


def test_slopes_at_an_earlier_layer_are_those_of_gradients(gated, pairs):
    layer = gated.architecture.n_layers - 2
    found = conflict(gated, pairs, draws=99, pushed=1, step=0.02, layer=layer)
    item = int(np.random.default_rng(0).permutation(np.arange(40))[0])
    model, sizes = read_rows(gated, head_objectives(gated)), found.data["size"].values
    base = model.base(pairs[item].conversations[0])
    start, step = int(np.flatnonzero(base.encoded.spans == RESPONSE)[0]), 1e-3
    probe = np.random.default_rng(0).normal(size=(40, base.length - start, gated.architecture.d_model)).astype(np.float32)
    site = rw.Site("resid_post", layer, tuple(range(start, base.length)))
    moved = model.edit(base, [rw.Edit(site, sign * step * torch.from_numpy(one), "add") for one in probe for sign in (1, -1)])
    change = (moved[0::2] - moved[1::2]) / (2 * step)  # in random directions: knows no backward pass
    gradients = [gradient_of(model, base, layer, number)[start:].double().numpy() for number in range(4)]
    for number, gradient in enumerate(gradients):
        np.testing.assert_allclose((probe * gradient).sum((1, 2)), change[:, number], atol=2e-2 * np.abs(change).max(0)[number])
    rows = np.array([gradient.ravel() for gradient in gradients])
    inner = rows @ rows.T * sizes[:, None] / sizes
    np.testing.assert_allclose(found.data["slope_item"].values[0], inner / np.diag(inner)[:, None], atol=5e-2)


@pytest.mark.parametrize("as_gate", [True, False])
def test_the_planted_conflict_is_found_and_no_other(as_gate):
    organism = planted(dose=3.0, seed=2, gated=as_gate)
    found = verdicts(conflict(organism, organism.pairs(60), **FAST))
    assert [name for name, one in found.items() if one.flag] == [organism.truth["question"]] == ["helpful|brief"]
    one = found["helpful|brief"]
    assert one.low <= one.estimate <= one.high < 0
    assert one.n == 60


@pytest.mark.slow
def test_random_heads_are_flagged_at_alpha():
    flags = []
    for seed in range(40):
        organism = noise(seed=seed, outputs=4, gated=bool(seed % 2))
        flags.append([one.flag for one in verdicts(conflict(organism, organism.pairs(40), **FAST)).values()])
    assert_null_rate(np.array(flags).any(axis=1), 0.05)


def test_p_of_random_rows_is_uniform():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(50, 24)) * np.geomspace(1, 0.01, 24)  # few directions carry the variance
    weights = rng.uniform(0.2, 1.0, size=(50, 3))
    p, by_rho = [], []
    for _ in range(300):
        rows = rng.normal(size=(3, 24))
        rho = frame_correlation(weights * (states @ rows.T))
        p.append(chance_of_heads(states, rows, weights, rho, 499, int(rng.integers(1 << 30))).p[0])
        by_rho.append(rho[0])
    assert np.std(by_rho) > 2 / np.sqrt(50)  # random directions do correlate here
    assert_null_rate(np.array(p) <= 0.05, 0.05)
    assert_null_rate(np.array(p) <= 0.2, 0.2)


def test_p_of_terms_is_uniform_for_random_rewards_and_small_for_a_planted_one():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(50, 24)) * np.geomspace(1, 0.05, 24)
    rows = rng.normal(size=(2, 24)) + rng.normal(size=24)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    p = []
    for draw in range(300):
        reward = rng.normal(size=24)
        p.append(chance_of_terms(states, rows, np.tile(rows @ reward, (50, 1)), states @ reward, 499, draw).p[0])
    assert_null_rate(np.array(p) <= 0.05, 0.05)
    against = rows[0] - rows[1]
    found = chance_of_terms(states, rows, np.tile(rows @ against, (50, 1)), states @ against, 1999, 0)
    assert found.p[0] < 0.01
    assert found.opposed[0] < 0


def test_the_interval_of_rho_covers():
    rng = np.random.default_rng(4)
    truth, ends = -0.4, []
    mix = np.linalg.cholesky([[1, truth], [truth, 1]])
    for _ in range(1500):  # three pairs a prompt that share half of their variance
        values = (rng.normal(size=(30, 1, 2)) + rng.normal(size=(30, 3, 2))) / np.sqrt(2) @ mix.T
        one = opposition(values.reshape(-1, 2), np.repeat(np.arange(30), 3), resamples=1)
        ends.append((one.low[0], one.high[0]))
    low, high = np.array(ends).T
    assert_covers(coverage(low, high, truth))


@pytest.mark.slow
def test_intervals_of_pushes_and_of_what_cancels_cover():
    """Twenty prompts, the fewest allowed, some with two pairs; sizes differ from prompt to prompt."""
    rng, options = np.random.default_rng(5), ConflictOptions(resamples=1000)
    mix = np.linalg.cholesky([[1.0, -0.6], [-0.6, 1.0]])

    def added(prompts):
        sizes = np.exp(0.4 * rng.normal(size=(int(prompts.max()) + 1, 1)))[prompts]
        return sizes * (rng.normal(size=(len(prompts), 2)) @ mix.T)

    many = np.arange(200_000)
    large = added(many)
    truth = np.abs(large[:, 0]).mean(), (1 - np.abs(large.sum(axis=1)) / np.abs(large).sum(axis=1)).mean()
    prompts, ends = np.r_[np.arange(20), np.arange(10)], []
    for _ in range(1500):
        pushes, undone = _pushes(added(prompts), prompts, options)
        ends.append([pushes["push_low"][0], pushes["push_high"][0], undone["cancelled_low"], undone["cancelled_high"]])
    low, high, least, most = np.array(ends).T
    assert_covers(coverage(low, high, truth[0]))
    assert_covers(coverage(least, most, truth[1]))


@pytest.mark.slow
def test_intervals_of_slopes_cover():
    """Slopes ⟨g, h⟩ / ⟨g, g⟩ of gradients that share a part from item to item: skewed, over 24 items and over 8."""
    rng = np.random.default_rng(6)

    def slopes(n):
        one, other = rng.normal(size=(2, n, 6)) + np.r_[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
        return (one * (other - 0.5 * one)).sum(axis=1) / (one**2).sum(axis=1)

    truth = slopes(400_000).mean()
    for n in (8, 24):
        found = studentised_interval(slopes(n * 2000).reshape(n, 2000), n_resamples=1000)  # cells share resamples only
        assert_covers(coverage(found.low, found.high, truth))


def test_few_pushed_conversations_have_no_interval(gated, pairs):
    found = conflict(gated, pairs, draws=99, pushed=4).data
    assert np.isfinite(found["slope"].values).all()
    assert np.isnan(found["slope_low"].values).all()
    assert np.isnan(found["slope_high"].values).all()


def test_the_share_of_negative_signs_is_that_of_resampled_prompts():
    rng = np.random.default_rng(2)
    values, prompts = rng.normal(size=(60, 2)), np.repeat(np.arange(20), 3)
    found = opposition(values, prompts, resamples=4000)
    slow = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(prompts == one) for one in rng.integers(20, size=20)])
        slow.append((values[rows, 0] * values[rows, 1]).sum() < 0)
    assert found.negative[0] == pytest.approx(np.mean(slow), abs=0.045)


def test_weights_of_an_output_that_sums_the_others(demo):
    rows = torch.randn(3, demo.architecture.d_model, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, -1.0, 2.0])
    head = SequenceHead(torch.cat([(weights @ rows)[None], rows]), torch.zeros(4), demo.readout.norm, ("sum", "a", "b", "c"))
    found = head_objectives(demo.reading(head))
    assert found.names == ("a", "b", "c")
    np.testing.assert_allclose(found.weigh(torch.zeros(1, 3), None), weights, atol=1e-4)
    loose = SequenceHead(torch.cat([torch.ones(1, rows.shape[1]), rows]), torch.zeros(4), demo.readout.norm, tuple("wxyz"))
    assert head_objectives(demo.reading(loose)).weigh is None
    assert head_objectives(demo.reading(loose)).names == tuple("wxyz")
    both = HeadEnsemble([SequenceHead(rows[:1], torch.zeros(1), demo.readout.norm),
                         SequenceHead(rows[1:], torch.zeros(2), demo.readout.norm, ("u", "v"))])
    assert head_objectives(demo.reading(both)).weigh(torch.zeros(1, 3), None).tolist() == pytest.approx([1 / 3] * 3)


def test_signed_cosines():
    rows, weights = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, -3.0]])
    assert signed_cosines(rows, weights)[0] == pytest.approx(-np.sqrt(0.5))


def test_terms_of_a_model_with_one_scalar(demo):
    pairs = rw.load_pairs("demo")[:40]
    contrasts = {name: [Contrast.of(f"What is {i}?", made(i), f"It is {i}.", axis=name) for i in range(10)]
                 for name, made in (("sure", lambda i: f"It is surely {i}."), ("list", lambda i: f"- It is {i}."))}
    found = conflict(demo, pairs, terms=contrasts, **FAST)
    states, _ = states_of(demo, [demo.encode(text) for item in contrasts["list"] for _, text in item.terms], None)
    direction = (states[0::2] - states[1::2]).mean(axis=0)
    direction /= np.linalg.norm(direction)
    np.testing.assert_allclose(found.data["weight"].sel(objective="list"), direction @ demo.readout.weight[0].double().numpy(),
                               atol=1e-4)
    vector = conflict(demo, pairs, terms={"list": direction, "sure": contrasts["sure"]}, **FAST)
    assert float(vector.data["rho"][0]) == pytest.approx(float(found.data["rho"][0]), abs=1e-4)
    assert list(verdicts(vector)) == ["list|sure"]
    few = [rw.Pair(f"What is {i}?", f"It is surely {i}.", f"It is {i}.") for i in range(9)]
    one = [replace(item, seed="one") for item in contrasts["sure"]]
    for term in (few, 2 * few, one):  # repeats of a prompt or a seed are no further ones
        with pytest.raises(RewardenError, match="direction of the term 'sure'") as error:
            conflict(demo, pairs, terms={"list": direction, "sure": term}, **FAST)
        assert "at least 10 needed" in error.value.why


def test_refusals(demo, gated, pairs):
    cases = [(demo, {}, "no two objectives"), (demo, {"terms": {"one": np.ones(192)}}, "two terms"),
             (demo, {"terms": {"one": np.ones(192), "two": np.zeros(192)}}, "no direction"),
             (demo, {"terms": {"one": np.ones(192), "two": []}}, "no contrasts"),
             (gated, {"objectives": ("helpful",)}, "two objectives"),
             (gated, {"objectives": ("helpful", "kind")}, "no objectives"),
             (gated, {"layer": 99}, "no reward is read"), (gated, {"step": 0.0}, "impossible options")]
    for model, given, says in cases:
        with pytest.raises(RewardenError, match=says) as caught:
            conflict(model, pairs, **given)
        assert caught.value.fix
    with pytest.raises(RewardenError, match="too few items"):
        conflict(gated, pairs[:19])


def test_pairs_of_two_prompts_are_left_out(gated, pairs):
    other = rw.Pair("One?", "A word.", "Another word.", rejected_prompt="Two?")
    found = conflict(gated, [other, *pairs], draws=99, pushed=1)
    assert int(found.data["left_out"]) == 1
    assert found.data["pair"].values[0] == 1
    assert "left out" in found.warnings[0]
