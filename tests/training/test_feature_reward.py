"""A feature reward against sums written out over each sequence alone; as a read-out it is any other reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.worlds import WIDTH, by_hand, cut, policy, rollouts, tokenizer

import rewarden as rw
from rewarden.conversation import Conversation, Pair
from rewarden.dictionaries.dictionary import Dictionary
from rewarden.errors import RewardenError
from rewarden.sarm.hashes import dictionary_sha256
from rewarden.training.aggregation import Aggregation
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Latents, Linear
from rewarden.training.packs.pack import (
    Normalisation,
    Pack,
    PackAggregation,
    PackDictionary,
    PackFeature,
    PackModel,
    PackSite,
)
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout

LAYER = 1


def dictionary(k: int = 3, seed: int = 0) -> Dictionary:
    torch.manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(24, WIDTH), dim=-1)
    return Dictionary(atoms, torch.zeros(24), atoms, torch.randn(WIDTH), k=k)


def probes(seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    return Linear(torch.randn(2, WIDTH), torch.randn(2), ("one", "two"))


def made(features, kind: str = "top", **settings) -> FeatureReadout:
    return FeatureReadout(features, LAYER, torch.tensor([1.0, -0.5]), aggregation=Aggregation(kind), **settings)


def test_latents_are_those_of_the_whole_dictionary():
    states, chosen = torch.randn(5, 4, WIDTH), [7, 2]
    latents, values = dictionary().encode(states.reshape(-1, WIDTH))
    dense = torch.zeros(20, 24).scatter_(1, latents, values)
    assert torch.equal(Latents(dictionary(), chosen)(states), dense[:, chosen].reshape(5, 4, 2))


def test_gradients_through_latents_hold_which_of_them_fire():
    states = torch.randn(6, WIDTH, requires_grad=True)
    found = Latents(dictionary(), [7, 2, 11])(states)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    moved = torch.randn(6, WIDTH) * 1e-4
    with torch.no_grad():
        change = Latents(dictionary(), [7, 2, 11])(states + moved) - found
    torch.testing.assert_close(change.sum(), (gradient * moved).sum(), atol=1e-6, rtol=1e-2)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["mean", "max", "last", "top", "sum"])
@pytest.mark.parametrize("features", [probes(), Latents(dictionary(), [7, 2])], ids=["probes", "latents"])
def test_rewards_are_sums_over_each_sequence_alone(features, kind):
    model, (prompts, completions) = policy(), rollouts()
    reward = FeatureReward(made(features, kind), ActivationProvider(model, tokenizer()), centre=0.3, spread=2.0)
    expected = []
    for prompt, completion in zip(prompts, completions, strict=True):
        values = features(by_hand(model, prompt, cut(completion), LAYER)).double().numpy()
        ordered = np.sort(values, axis=0)[::-1]
        one = {"mean": values.mean(0), "max": values.max(0), "last": values[-1], "sum": values.sum(0),
               "top": ordered[: int(np.ceil(len(values) / 4))].mean(0)}[kind]
        expected.append((one @ [1.0, -0.5] - 0.3) / 2)
    np.testing.assert_allclose(reward(prompts, completions), expected, atol=1e-5)
    told = reward.values(reward.provider.rollouts(prompts, completions))
    np.testing.assert_allclose(told.shares.sum(1), 2 * told.reward + 0.3, atol=1e-5)
    np.testing.assert_allclose([own.sum() for own in told.tokens], told.shares.sum(1), atol=1e-5)
    assert [len(own) for own in told.tokens] == [len(cut(c)) for c in completions]


def test_what_is_not_above_its_threshold_counts_nothing():
    model, (prompts, completions) = policy(), rollouts()
    limits = torch.tensor([0.5, -torch.inf])
    plain, cut_off = (FeatureReward(made(probes(), "mean", thresholds=limit), ActivationProvider(model, tokenizer()))
                      for limit in (None, limits))
    for prompt, completion, shares in zip(prompts, completions, cut_off.values(
            cut_off.provider.rollouts(prompts, completions)).shares, strict=True):
        values = probes()(by_hand(model, prompt, cut(completion), LAYER)).double().numpy()
        values[:, 0] = np.where(values[:, 0] > 0.5, values[:, 0], 0)
        np.testing.assert_allclose(shares, values.mean(0) * [1.0, -0.5], atol=1e-5)
    assert not np.allclose(plain(prompts, completions), cut_off(prompts, completions))


def test_prompt_tokens_padding_and_ends_do_not_count():
    model = policy()
    reward = FeatureReward(made(probes()), ActivationProvider(model, tokenizer()))
    alone = reward([[3, 4, 5]], [[6, 7, 8]])
    beside = reward([[3, 4, 5], [9] * 20], [[6, 7, 8], [10] * 20])
    ended = reward([[3, 4, 5]], [[6, 7, 8, 1, 0, 0]])
    np.testing.assert_allclose([beside[0], ended[0]], [alone[0]] * 2, rtol=1e-5)
    states = by_hand(model, [3, 4, 5], [6, 7, 8], LAYER)
    assert reward.readout.apply(states, None)[0] == pytest.approx(float(alone[0]), abs=1e-5)  # its own three tokens only


def test_a_completion_without_a_token_is_paid_least():
    provider = ActivationProvider(policy(), tokenizer())
    assert FeatureReward(made(probes()), provider, empty=-7.0)([[3], [3]], [[1], [4]])[0] == -7.0
    assert np.isnan(FeatureReward(made(probes()), provider, empty=None)([[3], [3]], [[1], [4]])).tolist() == [True, False]


def test_drift_is_what_changed_inside_for_the_same_text():
    model, (prompts, completions) = policy(), rollouts()
    provider = ActivationProvider(model, tokenizer(), reference="frozen")
    both = FeatureReward(made(probes()), provider, source="both")
    batch = provider.rollouts(prompts, completions)
    np.testing.assert_allclose(both.values(batch).drift, 0.0, atol=1e-6)
    frozen = FeatureReward(made(probes()), provider, source="reference")
    before = frozen(prompts, completions)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.2)
    found = both.values(batch)
    np.testing.assert_allclose(found.reward - found.drift, before, atol=1e-5)
    np.testing.assert_allclose(frozen(prompts, completions), before, atol=1e-6)
    assert np.abs(found.drift).max() > 0.01


def test_two_rewards_share_one_forward():
    provider = ActivationProvider(policy(), tokenizer())
    rewards = [FeatureReward(made(probes(seed)), provider) for seed in (0, 1)]
    rewards.append(FeatureReward(FeatureReadout(probes(), 2), provider, name="deeper"))
    for reward in rewards:
        reward(*rollouts())
    assert provider.batches["policy"] == 1


def test_as_a_reward_model_it_gives_the_same_numbers_and_is_looked_into():
    model = policy()
    reward = FeatureReward(made(Latents(dictionary(), [7, 2])), ActivationProvider(model, tokenizer()))
    rm = reward.reward_model(model, tokenizer())
    pairs = [Pair("12+34:", "2+4=06,1+3+0=04,046", "046"), Pair("90+09:", "099", "0+9=09,9+0+0=09,099")]
    for pair in pairs:
        for talk in pair.conversations:
            ids = tokenizer()(str(pair.prompt))["input_ids"], tokenizer()(talk.response)["input_ids"]
            assert rm.reward([talk])[0, 0] == pytest.approx(float(reward([ids[0]], [ids[1]])[0]), abs=1e-5)
    lens = rw.reward_lens(rm, pairs)
    np.testing.assert_allclose(lens.data["margin"].values[:, LAYER + 1], rm.score(pairs).margin, atol=1e-4)
    scan = rw.score_vocabulary(rm, "12+34:")
    best = int(scan.data["reward"].values[0].argmax())
    token = int(scan.data["token_id"].values[best])
    one = rm.reward([Conversation.of("12+34:", tokenizer().decode([token]))])[0, 0]
    assert float(scan.data["reward"].values[0, best]) == pytest.approx(float(one), abs=1e-4)
    base = rm.base(pairs[0].conversations[0])
    where = rw.Site("resid_post", LAYER, int(base.reading.positions[0]))
    same = rm.edit(base, [rw.Edit(where, base.activation("resid_post", LAYER)[where.position])])
    assert same[0, 0] == pytest.approx(float(base.reward), abs=1e-5)


def pack(held: Dictionary, **more) -> Pack:
    features = (PackFeature(7, "seven", 1.0, threshold=0.1), PackFeature(2, "two", -0.5))
    return Pack("both", "1.0.0", PackModel("tiny", "0" * 64), PackSite("resid_post", LAYER),
                PackDictionary("d", dictionary_sha256(held), held.d_sae), features, **more)


@pytest.mark.parametrize("kind", [PackAggregation("top", share=0.5), PackAggregation("last", k=2), PackAggregation("max")])
def test_a_pack_is_the_reward_it_describes(tmp_path, kind):
    held, model, (prompts, completions) = dictionary(), policy(), rollouts()
    file = pack(held, aggregation=kind, normalisation=Normalisation(0.4, 2.0, 100)).save(tmp_path / "pack.json")
    found = FeatureReward.from_pack(file, held, ActivationProvider(model, tokenizer()))
    settings = {key: value for key, value in (("k", kind.k), ("share", kind.share)) if value is not None}
    readout = FeatureReadout(Latents(held, [7, 2]), LAYER, torch.tensor([1.0, -0.5]), torch.tensor([0.1, -torch.inf]),
                             Aggregation(kind.kind, **settings))
    plain = FeatureReward(readout, ActivationProvider(model, tokenizer()), centre=0.4, spread=2.0)
    np.testing.assert_allclose(found(prompts, completions), plain(prompts, completions), atol=1e-6)
    told = plain.values(plain.provider.rollouts(prompts, completions)).shares / [1.0, -0.5]
    np.testing.assert_allclose(found(prompts, completions), Pack.load(file).score(told), atol=1e-5)
    assert (found.name, found.readout.names) == ("both", ("reward", "seven", "two"))
    with pytest.raises(RewardenError, match="made with something else"):
        FeatureReward.from_pack(file, dictionary(seed=1))


@pytest.mark.parametrize(("make", "match"), [
    (lambda: Latents(dictionary(), [3, 3]), "latents that cannot be read"),
    (lambda: Latents(dictionary(), [24]), "latents that cannot be read"),
    (lambda: Linear(torch.tensor([torch.nan, 1.0])), "finite weights"),
    (lambda: FeatureReadout(probes(), 0, torch.ones(3)), "of other features"),
    (lambda: FeatureReadout(probes(), -1), "a layer below 0"),
    (lambda: FeatureReward(made(probes()), source="both ways"), "no source is called"),
    (lambda: FeatureReward(made(probes()), spread=0.0), "spread 0.0"),
    (lambda: FeatureReward(made(probes()))([[1]], [[2]]), "no model to read yet"),
    (lambda: FeatureReward(FeatureReadout(Linear(torch.ones(3)), 0), ActivationProvider(policy(), tokenizer())), "of width 3"),
    (lambda: FeatureReward(FeatureReadout(probes(), 9), ActivationProvider(policy(), tokenizer())), "no layer 9")])
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(RewardenError, match=match):
        make()
