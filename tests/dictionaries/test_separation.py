"""Means over pairs, intervals and tests of features: planted ones are found, random ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.dictionaries.random_dictionaries import random_dictionary

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.effects.effects import feature_effects
from rewarden.dictionaries.effects.separation import over_pairs
from rewarden.edits import Site
from rewarden.options.features import FeatureEffectOptions
from rewarden.organisms import decisive_head, noise

FAST = FeatureEffectOptions(resamples=200)


def sides(n: int, features: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Sides drawn alike."""
    rng = np.random.default_rng(seed)
    value = rng.gamma(1.0, size=(n, 2, features)) * (rng.random((n, 2, features)) < 0.5)
    noisy = rng.normal(size=(2, n, 2, features))
    return {"value": value, "rate": (value > 0).astype(float), "direct": noisy[0], "effect": noisy[1]}


def test_means_and_shares_by_hand():
    given = sides(11, 5)
    found = {name: values for name, (_, values) in over_pairs(given, np.arange(11), FAST, 0.0).items()}
    names = {"direct": "direct_mean", "effect": "effect_mean", "value": "value_difference", "rate": "separation"}
    for kind, name in names.items():
        np.testing.assert_allclose(found[name], (given[kind][:, 0] - given[kind][:, 1]).mean(0))
    np.testing.assert_allclose(found["frequency"], (given["rate"] > 0).mean((0, 1)))
    np.testing.assert_array_equal(found["n"], 11)
    on = np.where(given["rate"] > 0, given["effect"], np.nan)
    each = [[np.nanmean(pair[:, i]) for pair in on if np.isfinite(pair[:, i]).any()] for i in range(5)]
    np.testing.assert_allclose(found["reward_effect"], [np.mean(means) for means in each])
    assert (found["effect_low"] <= found["effect_mean"]).all()
    assert (found["effect_mean"] <= found["effect_high"]).all()
    # 2^11 sign patterns counted out
    signs = 1 - 2 * ((np.arange(2**11)[:, None] >> np.arange(11)) & 1)
    difference = given["effect"][:, 0] - given["effect"][:, 1]
    np.testing.assert_allclose(found["p"], (np.abs(signs @ difference) >= np.abs(difference.sum(0)) - 1e-9).mean(0))
    for kind, name in (("value", "value"), ("rate", "separation")):
        difference = given[kind][:, 0] - given[kind][:, 1]
        p = [stats.binomtest(int((column > 0).sum()), max(1, int((column != 0).sum()))).pvalue for column in difference.T]
        np.testing.assert_allclose(found[f"{name}_p"], p)
        tested = 2 * 0.5 ** (difference != 0).sum(0) <= 0.05
        np.testing.assert_allclose(found[f"{name}_q"][tested], stats.false_discovery_control(np.asarray(p)[tested]))
        assert np.isnan(found[f"{name}_q"][~tested]).all()
    np.testing.assert_allclose(found["q"], stats.false_discovery_control(found["p"]))


def test_planted_features_separate_and_the_others_do_not():
    given = sides(40, 60, seed=1)
    given["effect"][:, 0, 7] += 2
    given["rate"][:, :, 9] = [1.0, 0.0]
    given["value"][:, 0, 9] += 1
    found = {name: values for name, (_, values) in over_pairs(given, np.arange(40), FAST, 0.0).items()}
    assert np.flatnonzero(found["marked"]).tolist() == [7]
    assert np.flatnonzero(found["separation_q"] < 0.05).tolist() == [9]
    assert found["separation"][9] == 1
    assert not over_pairs(given, np.arange(40), FAST, 10.0)["marked"][1].any()  # all of it below the noise


def test_random_sides_are_marked_no_more_often_than_said():
    families = [over_pairs(sides(12, 20, seed), np.arange(12), FeatureEffectOptions(resamples=100), 0.0) for seed in range(60)]
    false = [[(family[name][1] < 0.05).any() for family in families] for name in ("q", "separation_q", "value_q")]
    # at most 5 % of families have a finding; 60 families: 9 or more would be a chance of 0.3 %
    assert max(map(sum, false)) <= 8


def test_too_few_prompts_and_silent_features_are_not_tested():
    given = sides(8, 4)
    given["effect"][..., 2] = 0
    few = over_pairs(given, np.asarray([0, 0, 1, 1, 2, 2, 3, 3]), FAST, 0.0)
    assert np.isnan(few["p"][1]).all()
    assert not few["marked"][1].any()
    enough = over_pairs(given, np.arange(8), FAST, 0.0)
    assert np.isnan(enough["p"][1]).tolist() == [False, False, True, False]
    one = over_pairs({name: values[:1] for name, values in given.items()}, np.arange(1), FAST, 0.0)
    assert np.isnan(one["effect_low"][1]).all()
    np.testing.assert_allclose(one["effect_mean"][1], given["effect"][0, 0] - given["effect"][0, 1])


def test_a_pair_set_apart_counts_nowhere():
    given = sides(9, 3)
    with_gap = {name: values.copy() for name, values in given.items()}
    for values in with_gap.values():
        values[4, 1] = np.nan
    kept = np.arange(9) != 4
    found, expected = over_pairs(with_gap, np.arange(9), FAST, 0.0), over_pairs(
        {name: values[kept] for name, values in given.items()}, np.arange(9)[kept], FAST, 0.0)
    for name in ("direct_mean", "effect_mean", "separation", "p", "n"):
        np.testing.assert_allclose(found[name][1], expected[name][1], err_msg=name)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_direction_of_a_planted_head_is_the_feature_that_decides(seed):
    organism = decisive_head(seed)
    rm = organism
    written = torch.nn.functional.normalize(rm.readout.weight[0] * rm.architecture.norm.gain, dim=0)
    others = torch.randn(40, rm.architecture.d_model, generator=torch.Generator().manual_seed(seed))
    others = torch.nn.functional.normalize(others - (others @ written)[:, None] * written, dim=1)
    place, atoms = int(torch.randint(40, (1,), generator=torch.Generator().manual_seed(seed))), others.clone()
    atoms[place] = written
    dictionary = Dictionary(atoms, torch.zeros(40), atoms, torch.zeros(atoms.shape[1]), "relu",
                            site=Site("resid_post", int(organism.truth["layer"])))
    pairs = organism.pairs(16)
    found = feature_effects(rm, pairs, dictionary, resamples=200)
    column = int(np.flatnonzero(found.feature == place)[0])
    assert int(np.nanargmax(found.effect_mean)) == column
    assert found.marked[column]
    margin = rm.score(pairs).margin.mean()
    assert found.effect_mean[column] > 0.5 * margin  # it carries most of what the pairs differ by
    others = np.delete(np.arange(len(found.feature)), column)
    assert np.abs(found.direct[..., others]).max() < 1e-5  # they are at right angles to what is read
    # without one of them the final norm divides by less: a real effect, and a small one
    assert np.abs(found.effect_mean[others]).max() < 0.25 * found.effect_mean[column]


def test_random_weights_and_pairs_drawn_alike_have_no_feature_that_separates():
    organism = noise(seed=0)
    width = organism.architecture.d_model
    found = feature_effects(organism, organism.pairs(20), random_dictionary(width, 64, k=8, site=Site("resid_post", 1)),
                            resamples=100)
    assert found.marked.sum() <= 1
    assert (found.separation_q < 0.05).sum() + (found.value_q < 0.05).sum() <= 1
    assert np.isfinite(found.p).sum() > 20
