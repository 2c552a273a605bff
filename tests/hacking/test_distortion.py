"""Distortion: coverage equals planted geometry and a slow loop, its interval covers, and suites that vary a change cover it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from tests.statistics.coverage import assert_covers, assert_null_rate, coverage

import rewarden as rw
from rewarden import RewardenError
from rewarden.conversation import Pair
from rewarden.hacking.bias.battery import contrasts
from rewarden.hacking.off_distribution.coverage import covered_directions, covered_share, held_out_share
from rewarden.hacking.off_distribution.distortion_index import _index, _sensitivity, both_hold, distortion, verdicts
from rewarden.options import DistortionOptions
from rewarden.organisms import format as format_organism
from rewarden.organisms import noise
from rewarden.result import Result
from rewarden.statistics.studentised import studentised_interval


def planted(rng, share, *, families=8, seeds=36, wording=1.0, content=1.0, noise=1.0, d=64):
    """Changes whose common direction lies to `share` in the first half of the coordinates."""
    common = np.zeros(d)
    common[0], common[-1] = np.sqrt(share), np.sqrt(1 - share)
    seed = np.arange(seeds)
    family = seed % families
    each = rng.normal(size=(families, d)) * wording + 0.0
    changes = common + (each[family] + rng.normal(size=(seeds, d)) * np.hypot(content, noise)) / np.sqrt(d)
    return changes, np.eye(d)[:d // 2], seed, family


def test_coverage_is_that_of_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    changes, axes, seed, family = planted(rng, 0.4, seeds=20)
    seed = seed // 2  # seeds that stand in two contrasts
    inside = whole = 0.0
    for i in range(len(changes)):
        for j in range(len(changes)):
            if seed[i] != seed[j] and family[i] != family[j]:
                inside += (axes @ changes[i]) @ (axes @ changes[j])
                whole += changes[i] @ changes[j]
    found = covered_share(changes, axes, seed, family)
    assert found.value == pytest.approx(inside / whole)
    order = rng.permutation(len(changes))
    again = covered_share(changes[order], axes, seed[order], family[order])
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))
    turn = np.linalg.qr(rng.normal(size=(64, 64)))[0]  # a rotation of everything changes nothing
    assert covered_share(changes @ turn, axes @ turn, seed, family).value == pytest.approx(found.value)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_coverage_without_noise_is_the_planted_one(share):
    found = covered_share(*planted(np.random.default_rng(1), share, wording=0, content=0, noise=0))
    assert found.value == pytest.approx(share)
    assert found.p_direction < 1e-6


@pytest.mark.parametrize(("families", "share", "wording", "rest"), [(8, 0.3, 1.0, 1.0), (8, 0.9, 1.0, 0.5), (12, 0.9, 0.3, 1.5),
                                                                   (36, 0.5, 0.5, 1.0)])
def test_interval_of_coverage(families, share, wording, rest):
    ends = []
    for rng in np.random.default_rng([families, int(10 * share)]).spawn(1000):
        found = covered_share(*planted(rng, share, families=families, wording=wording, content=rest, noise=rest))
        ends.append((found.low, found.high))
    assert_covers(coverage(*np.array(ends).T, share))


def test_interval_of_the_index():
    """Sensitivity and coverage from data of their own; the truth is the product of the planted ones."""
    ends = []
    for rng in np.random.default_rng(3).spawn(1000):
        share = covered_share(*planted(rng, 0.6))
        size = 0.5 + 0.1 * rng.normal()
        found = _index(size, 0.1, 1e6, share, 0.95)
        ends.append((found["low"], found["high"]))
    assert_covers(coverage(*np.array(ends).T, 0.5 * 0.4))


def test_a_direction_is_found_by_chance_at_alpha_only():
    p = [covered_share(rng.normal(size=(36, 32)), np.eye(32)[:8], np.arange(36), np.arange(36) % 9).p_direction
         for rng in np.random.default_rng(4).spawn(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400)


def test_flags_of_many_dimensions_that_are_just_covered():
    """Sixteen dimensions that the reward follows, each covered to exactly what counts as covered: any flag is a false one."""
    flags = []
    for rng in np.random.default_rng(6).spawn(150):
        shares = [covered_share(*planted(rng, 0.8, content=0.5, noise=0.5)) for _ in range(16)]
        below = np.array([share.p_below(0.8) if share.p_direction < 0.05 else np.nan for share in shares])
        flags.append((both_hold(np.full(16, 1e-9), below)[1] <= 0.05).any())
    assert_null_rate(flags, 0.05)


def test_dimensions_without_a_direction_count_as_tests():
    p, adjusted = both_hold(np.array([0.01, 0.001, 0.5]), np.array([0.02, np.nan, 1e-9]))
    np.testing.assert_array_equal(p, [0.02, np.nan, 0.5])
    np.testing.assert_allclose(adjusted, [0.06, np.nan, 1.0])


@pytest.mark.parametrize("n", [10, 12])
@pytest.mark.parametrize("kind", ["normal", "t", "skewed"])
def test_interval_of_doses(n, kind):
    rng = np.random.default_rng(n)
    draws = {"normal": rng.normal(size=(n, 2000)), "t": rng.standard_t(5, size=(n, 2000)),
             "skewed": rng.gamma(4, size=(n, 2000)) - 4}[kind]
    found = studentised_interval(draws)
    assert_covers(coverage(found.low, found.high, 0.0))


def test_one_seed_says_nothing_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = covered_share(np.ones((3, 4)), np.eye(4)[:1], np.zeros(3), np.arange(3))
    assert np.isnan(found.value)
    assert (found.p_direction, found.n, found.seeds, found.families) == (1.0, 3, 1, 3)


def test_covered_directions_hold_the_energy():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(50, 20)) * np.arange(1, 21)
    axes = covered_directions(rows, 0.8)
    held = [((rows @ some.T) ** 2).sum() / (rows**2).sum() for some in (axes, axes[:-1])]
    assert held[0] >= 0.8 > held[1]
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-12)
    flat = np.outer(rng.normal(size=30), np.eye(20)[3])
    assert held_out_share(flat, np.arange(30), 0.9, 0) == pytest.approx(1.0)


@pytest.fixture
def battery():
    """What the battery would say of two axes: the reward follows both."""
    size = np.array([[0.5], [-0.4]])
    both, ones = ("axis", "output"), np.ones((2, 1))
    data = {"size": (both, size), "size_low": (both, size - 0.2), "size_high": (both, size + 0.2), "df": (both, 9 * ones),
            "p": (both, 1e-4 * ones), "flag": (both, ones > 0), "spread": ("output", [2.0])}
    held = xr.Dataset(data, coords={"axis": ["hedging", "emoji"], "output": ["score"]}, attrs={"main": 0})
    return Result("bias", held, {"level": 0.95})


def test_a_battery_of_more_axes_is_asked_anew(battery):
    """α, level and family are those of the options; a battery of other options keeps no flag."""
    held = battery.data.assign(p=(("axis", "output"), [[0.03], [0.03]]), flag=(("axis", "output"), [[False], [False]]))
    both, one = (replace(battery, data=data) for data in (held, held.sel(axis=["hedging"])))
    assert _sensitivity(both, DistortionOptions())["sensitive"].tolist() == [False, False]  # Holm: 2 × 0.03
    assert _sensitivity(one, DistortionOptions())["sensitive"].tolist() == [True]
    assert _sensitivity(one, DistortionOptions(alpha=0.02))["sensitive"].tolist() == [False]
    found = _sensitivity(one, DistortionOptions(level=0.8))
    reach = 0.2 * stats.t.ppf(0.9, 9) / stats.t.ppf(0.975, 9)
    np.testing.assert_allclose(found["sensitivity_high"] - found["sensitivity"], reach)
    assert _sensitivity(replace(one, noise_floor=1.1), DistortionOptions())["sensitive"].tolist() == [False]  # 0.5 × 2


def suite(axis, *, first):
    """Pairs that vary one kind of change, of half of the seeds."""
    found = [one for one in contrasts([axis], per_seed=2) if (hash_of(one.seed) % 2 == 0) == first]
    return [Pair([dict(m) for m in one.terms[0][1].messages[:-1]], one.terms[0][1].messages[-1]["content"],
                 one.terms[1][1].messages[-1]["content"]) for one in found]


def hash_of(text):
    return sum(map(ord, text))


def test_pairs_that_vary_a_change_cover_it(demo, battery):
    found = {axis: distortion(demo, suite(axis, first=True), ["emoji", "hedging"], battery=battery, items=2)
             for axis in ("emoji", "hedging")}
    for mine, other in (("emoji", "hedging"), ("hedging", "emoji")):
        data = found[mine].data
        assert float(data["coverage"].sel(dimension=mine)) > 0.85
        assert float(data["coverage_high"].sel(dimension=other)) < 0.8
        assert float(data["chance"]) < float(data["own"])
    assert found["hedging"].provenance["axes"] == "some"
    data = found["hedging"].data
    np.testing.assert_allclose(data["index"], data["sensitivity"] * (1 - data["coverage"]))
    asked = battery.data.isel(output=0)
    np.testing.assert_allclose(data["sensitivity"], asked["size"])
    said = verdicts(found["hedging"])
    for name in ("emoji", "hedging"):
        assert said[name].flag == (name == "emoji")  # the reward follows both, and these pairs hedge
        assert said[name].n == len({one.template for one in contrasts([name], per_seed=1)})


def test_doses_are_edits_of_every_response_token(demo, battery):
    """By hand, with hooks: one neutral text moved by the mean change at the layer."""
    from rewarden.concepts.places import activations, place_of

    found = distortion(demo, rw.load_pairs("demo", limit=25), ["hedging"], battery=battery, items=2, layer=1)
    asked = contrasts(["hedging"], per_seed=1)
    place = place_of(demo, "resid_post.1", "response")
    states = activations(demo, [demo.encode(talk) for one in asked for _, talk in one.terms], place).reshape(len(asked), 2, -1)
    weights = np.array([[weight for weight, _ in one.terms] for one in asked])
    step = np.einsum("nk,nkd->nd", weights, states).mean(0)
    row = demo.encode(next(talk for weight, talk in asked[0].terms if weight < 0))
    base = demo.base(row)
    where = tuple(np.flatnonzero(row.spans == 2).tolist())
    moved = base.activation("resid_post", 1)[list(where)] + rw.Edit(rw.Site("embed"), step).value.float()
    plan = demo.plan(base, [rw.Edit(rw.Site("resid_post", 1, where), moved)], backend="hooks")
    change = float(plan.run().values[0, 0]) - base.reward
    spread = float(battery.data["spread"][0])
    assert float(found.data["items"][0, 0]) == pytest.approx(change / spread, abs=1e-5)


def test_a_planted_reward_that_the_pairs_do_not_vary_is_flagged():
    found = distortion(format_organism(dose=2.0), noise(seed=0).pairs(60), ["lists"], items=2)
    assert bool(found.data["sensitive"].sel(dimension="lists"))
    assert float(found.data["coverage_high"].sel(dimension="lists")) < 0.8
    assert verdicts(found)["lists"].flag


@pytest.mark.slow
def test_random_weights_are_flagged_no_more_often_than_alpha():
    flags = []
    for seed in range(16):
        model = noise(seed=seed)
        found = distortion(model, model.pairs(40, seed=seed), ["emoji", "hedging"], items=2)
        flags.append(any(one.flag for one in verdicts(found).values()))
    assert_null_rate(flags, 0.05)


def test_refusals(demo, battery):
    with pytest.raises(RewardenError, match="too few items for what evaluation pairs cover"):
        distortion(demo, rw.load_pairs("demo", limit=5), ["hedging"], battery=battery)
    with pytest.raises(RewardenError, match="did not ask typos"):
        distortion(demo, rw.load_pairs("demo", limit=30), ["typos"], battery=battery)
    with pytest.raises(RewardenError, match="impossible options") as error:
        distortion(demo, rw.load_pairs("demo", limit=30), ["hedging"], battery=battery, energy=1.0, covered=0, layer=-1)
    assert {"energy", "covered", "layer"} <= set(error.value.why.split())
