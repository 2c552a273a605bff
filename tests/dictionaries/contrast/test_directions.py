"""SparseRM directions: which are chosen, what the head computes, and that the read-out works with every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.dictionaries.contrast.formatted import at_random, organism_of
from tests.dictionaries.random_dictionaries import random_dictionary

from rewarden.conversation import Pair
from rewarden.dictionaries.contrast.directions import sparse_directions
from rewarden.dictionaries.contrast.fired import firing
from rewarden.dictionaries.contrast.pairwise import fit_head, margin_loss
from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.prompts import prompts_of
from rewarden.edits import Edit, Site
from rewarden.errors import RewardenError
from rewarden.lens import reward_lens
from rewarden.options.contrast import DirectionOptions
from rewarden.organisms import noise
from rewarden.statistics import share_interval

SITE = Site("resid_post", 3)
BASIS = random_dictionary(64, 96, site=SITE, k=12, seed=4)


@pytest.mark.parametrize("hidden", [0, 16])
def test_it_learns_what_the_pairs_prefer(hidden: int) -> None:
    organism = organism_of(0, 0.0)
    found = sparse_directions(organism, organism.pairs(200), BASIS, hidden=hidden, steps=150)
    fresh = organism.reading(found).score(organism.pairs(100, seed=5)).margin
    assert (fresh > 0).mean() > 0.9
    report = found.report.data
    assert float(report["accuracy_low"]) < float(report["accuracy"]) <= float(report["accuracy_high"])
    assert float(report["accuracy"]) > 0.85
    assert float(report["loss"][-1]) < float(report["loss"][0])
    assert found.report.provenance["held_out_pairs"] == 40


def test_on_coins_it_is_right_half_the_time() -> None:
    nothing = noise(1)
    found = [sparse_directions(nothing, at_random(nothing.pairs(120, seed), seed), BASIS, steps=40, seed=seed)
             for seed in range(6)]
    accuracy = [float(reader.report.data["accuracy"]) for reader in found]
    assert abs(np.mean(accuracy) - 0.5) < 0.13  # 144 held-out pairs: three standard errors, and a little for the stop


def test_directions_are_of_the_features_whose_rates_differ_most() -> None:
    organism = organism_of(1)
    pairs = organism.pairs(120)
    found = sparse_directions(organism, pairs, BASIS, directions=3, steps=5, held_out=0.25, seed=3)
    prompts = prompts_of(pairs)
    apart = np.isin(prompts, np.random.default_rng(3).permutation(120)[:30])
    rows = [organism.encode(side) for pair, out in zip(pairs, apart, strict=True) if not out for side in pair.conversations]
    on = firing(organism, rows, BASIS).toarray() > 0
    difference = on[::2].mean(0) - on[1::2].mean(0)
    above, below = (sorted(x for x in sign * difference if x > 0)[::-1][:3] for sign in (1, -1))
    np.testing.assert_allclose(difference[found.features], [*above, *(-x for x in below)])
    assert found.report.data["sign"].values.tolist() == [1] * len(above) + [-1] * len(below)
    assert len(above) == 3
    np.testing.assert_allclose(found.report.data["chosen_rate"], on[::2].mean(0)[found.features])
    torch.testing.assert_close(found.directions, BASIS.W_dec[torch.as_tensor(found.features)])


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("standardised", [False, True])
def test_the_reward_by_hand(hidden: int, standardised: bool) -> None:
    organism = organism_of(2)
    dictionary = random_dictionary(64, 96, site=SITE, k=12, standardised=standardised)
    found = sparse_directions(organism, organism.pairs(60), dictionary, directions=6, hidden=hidden, steps=10)
    talk = organism.pairs(1, seed=8)[0].conversations[0]
    h = organism.trace(talk)["resid_post"][3, -1].double()
    x = (h - h.mean()) / (h.std() + 1e-6) if standardised else h
    along = dictionary.W_dec[torch.as_tensor(found.features)].double() @ x
    z = (along - found.head.mean) * found.head.scale
    if hidden:
        z = torch.relu(found.head.inner.double() @ z + found.head.inner_bias)
    reader = organism.reading(found)
    reward = float(reader.reward([talk])[0, 0])
    assert reward == pytest.approx(float(z @ found.head.out.double()), abs=1e-4)
    read = organism.trace(talk)["resid_post"][3, -1:]
    reading = found.read(reader.encode(talk))
    torch.testing.assert_close(found.parts(read, reading)["direction"].double(), along, atol=1e-4, rtol=0)
    affine = found.frozen(read, reading)
    assert float(affine(read.float())) == pytest.approx(reward, abs=1e-4)


def test_held_out_pairs_of_one_prompt_are_one_unit() -> None:
    organism = organism_of(1)
    pairs = at_random([Pair(f"prompt {i // 4}", pair.chosen, pair.rejected) for i, pair in enumerate(organism.pairs(120))], 0)
    found = sparse_directions(organism, pairs, BASIS, steps=5)
    prompts = prompts_of(pairs)
    apart = np.isin(prompts, np.random.default_rng(0).permutation(30)[:6])
    margin = organism.reading(found).score(pairs).margin[apart]
    peer = share_interval((np.sign(margin) + 1) / 2, prompts[apart])
    data = found.report.data
    np.testing.assert_allclose([data["accuracy"], data["accuracy_low"], data["accuracy_high"]],
                               [peer.estimate, peer.low, peer.high])


def test_lens_and_edits_work_on_it() -> None:
    organism = organism_of(2)
    dictionary = replace(BASIS, site=Site("resid_post", 2))
    rm = organism.reading(sparse_directions(organism, organism.pairs(60), dictionary, steps=10))
    assert rm.read_layer == 2
    pair = organism.pairs(1, seed=8)[0]
    lens = reward_lens(rm, pair, resamples=100)
    np.testing.assert_allclose(lens.data["lens"].values[0, :, -1], rm.score(pair).reward[0, :, 0], atol=1e-4)
    base, other = (rm.base(side) for side in pair.conversations)
    swapped = rm.edit(base, [Edit(Site("resid_post", 2, -1), other.activation("resid_post", 2)[-1])])
    assert float(swapped[0, 0]) == pytest.approx(other.reward, abs=1e-4)


def test_the_input_of_a_layer_is_the_output_of_the_one_before() -> None:
    organism = organism_of(2)
    pairs = organism.pairs(40)
    first = sparse_directions(organism, pairs, replace(BASIS, site=Site("resid_pre", 3)), steps=5)
    second = sparse_directions(organism, pairs, replace(BASIS, site=Site("resid_post", 2)), steps=5)
    assert first.layer == second.layer == 2
    np.testing.assert_allclose(organism.reading(first).score(pairs).margin, organism.reading(second).score(pairs).margin)


def test_the_head_is_seeded_and_stops_where_held_out_pairs_are_best() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, 8, generator=rng)
    apart = np.arange(30) % 3 == 0
    options = DirectionOptions(hidden=4, steps=60, learning_rate=0.1)
    head, losses = fit_head(x, apart, options)
    again, _ = fit_head(x, apart, options)
    assert torch.equal(head(x), again(x))
    reward = head(x[torch.as_tensor(apart)])
    assert float(margin_loss(reward[:, 0], reward[:, 1], 1.0)) == pytest.approx(losses[1].min(), abs=1e-6)
    slow = np.maximum(0, 1 - (reward[:, 0] - reward[:, 1]).numpy()).mean()
    assert losses[1].min() == pytest.approx(slow, abs=1e-6)
    constant = x.clone()
    constant[..., 3] = 5.0  # a direction that never changes has no say
    assert torch.isfinite(fit_head(constant, apart, options)[0](constant)).all()


def test_what_a_read_out_cannot_read_is_refused() -> None:
    organism = organism_of(0)
    for site in (Site("mlp_out", 1), Site("resid_pre", 0)):
        with pytest.raises(RewardenError, match="a read-out cannot read") as error:
            sparse_directions(organism, organism.pairs(30), replace(BASIS, site=site))
        assert error.value.fix
    with pytest.raises(RewardenError, match="too few items"):
        sparse_directions(organism, organism.pairs(10), BASIS)
    silent = Dictionary(BASIS.W_enc, BASIS.b_enc, BASIS.W_dec, BASIS.b_dec, activation="jumprelu",
                        threshold=torch.full((96,), 1e6), site=SITE)
    with pytest.raises(RewardenError, match="no feature fires more often"):
        sparse_directions(organism, organism.pairs(30), silent)
    with pytest.raises(RewardenError, match="held_out"):
        DirectionOptions(held_out=1.0)
