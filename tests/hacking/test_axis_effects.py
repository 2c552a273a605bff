"""Estimates of the battery: equal to loops and to least squares; intervals cover; what only adds length is taken off."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_covers, coverage

from rewarden.hacking.bias.axis_effects import (
    Sample,
    net_effect,
    net_gap,
    raw_effect,
    slope_gap,
    slope_within,
    spread_beyond,
    spread_gap,
    wording_gaps,
    wording_outliers,
)

SIMULATIONS = 2000


def crossed(rng, seeds=36, families=12, per_seed=3, wording=1.0, seed=0.0, noise=1.0, runs=1, first=0):
    """Effects [n, runs] = family + seed + noise, seeds meeting families in a balanced way."""
    steps = [round(turn * families / per_seed) for turn in range(per_seed)]
    who = np.repeat(np.arange(seeds), per_seed)
    how = np.array([(number + step) % families for number in range(seeds) for step in steps])
    effect = (wording * rng.normal(size=(families, runs))[how] + seed * rng.normal(size=(seeds, runs))[who]
              + noise * rng.normal(size=(len(who), runs)))
    return Sample(effect, rng.integers(2, 20, len(who)).astype(float), how, who + first)


def slow_raw(sample):
    """Value and error of one output by loops over clusters."""
    y, families = sample.effect[:, 0], np.unique(sample.family)
    value = np.mean([y[sample.family == one].mean() for one in families])
    share = np.array([(v - value) / len(families) / (sample.family == f).sum() for v, f in zip(y, sample.family, strict=True)])

    def clustered(codes):
        names = sorted(set(codes))
        return sum(share[[c == name for c in codes]].sum() ** 2 for name in names) * len(names) / (len(names) - 1)

    by_family, by_seed = clustered(sample.family.tolist()), clustered(sample.seed.tolist())
    both = clustered(list(zip(sample.family.tolist(), sample.seed.tolist(), strict=True)))
    return value, np.sqrt(by_family + max(by_seed - both, 0))


@pytest.mark.parametrize("spread", [(1.0, 0.0), (0.2, 1.0)])
def test_raw_effect_equals_loops(spread):
    sample = crossed(np.random.default_rng(0), wording=spread[0], seed=spread[1])
    found = raw_effect(sample)
    assert [float(found.value[0]), float(found.error[0])] == pytest.approx(slow_raw(sample), rel=1e-12)


def test_rows_that_are_units_of_their_own_give_the_t_test():
    y = np.random.default_rng(1).normal(0.3, 1, 40)
    found = raw_effect(Sample(y[:, None], np.zeros(40), np.arange(40), np.arange(40)))
    expected = stats.ttest_1samp(y, 0)
    ends = expected.confidence_interval()
    assert [found.p[0], found.low[0], found.high[0]] == pytest.approx([expected.pvalue, ends.low, ends.high], rel=1e-9)


def test_net_effect_is_the_mean_above_the_line_of_the_controls():
    rng = np.random.default_rng(2)
    axis, bank = crossed(rng), crossed(rng, families=14, per_seed=6)
    slope, height = np.polyfit(bank.tokens, bank.effect[:, 0], 1, w=np.sqrt(bank.weight))
    expected = axis.weight @ axis.effect[:, 0] - height - slope * (axis.weight @ axis.tokens)
    assert float(net_effect(axis, [bank]).value[0]) == pytest.approx(expected, rel=1e-9)


def test_own_controls_give_the_height_and_the_bank_the_slope():
    rng = np.random.default_rng(3)
    axis, own, bank = crossed(rng), crossed(rng, families=8), crossed(rng, families=14, per_seed=6)
    flat = [Sample(part.effect * 0 + height + 0.25 * part.tokens[:, None], part.tokens, part.family, part.seed)
            for part, height in ((axis, 5.0), (own, 2.0), (bank, -7.0))]
    found = net_effect(flat[0], flat[1:])
    assert float(found.value[0]) == pytest.approx(3.0, abs=1e-9)
    assert float(found.error[0]) == pytest.approx(0.0, abs=1e-9)


def test_what_tokens_add_changes_no_net_effect_and_the_slope_by_just_that():
    rng = np.random.default_rng(4)
    axis, bank = crossed(rng), crossed(rng, families=14, per_seed=6)
    longer = [Sample(part.effect + 0.7 * part.tokens[:, None], part.tokens, part.family, part.seed) for part in (axis, bank)]
    before, after = net_effect(axis, [bank]), net_effect(longer[0], [longer[1]])
    np.testing.assert_allclose([after.value, after.error], [before.value, before.error], atol=1e-9)
    slopes = [slope_within(part, axis.tokens) for part in (axis, longer[0])]
    assert float(slopes[1].value[0] - slopes[0].value[0]) == pytest.approx(0.7, abs=1e-9)
    terms = [spread_beyond(*pair) for pair in ((axis, bank), tuple(longer))]
    np.testing.assert_allclose(terms[1].value, terms[0].value, atol=0.2)


def test_slope_equals_least_squares_with_a_level_for_each_family():
    sample = crossed(np.random.default_rng(5))
    design = np.column_stack([sample.tokens, np.eye(12)[sample.family]])
    expected = np.linalg.lstsq(design, sample.effect[:, 0], rcond=None)[0][0]
    assert float(slope_within(sample, sample.tokens).value[0]) == pytest.approx(expected, rel=1e-9)


def test_spread_equals_welch_on_absolute_deviations():
    rng = np.random.default_rng(6)
    axis, controls = (Sample(sample.effect, sample.tokens * 0, sample.family, sample.seed)
                      for sample in (crossed(rng, wording=2.0), crossed(rng, families=9, wording=1.0)))
    sizes = [np.abs([part.effect[part.family == f].mean() for f in range(part.families)]) * np.sqrt(
        part.families / (part.families - 1)) for part in (axis, controls)]
    expected = stats.ttest_ind(sizes[0], sizes[1], equal_var=False, alternative="greater")
    found = spread_beyond(axis, controls)
    assert [float(found.value[0]), float(found.p[0])] == pytest.approx(
        [sizes[0].mean() - sizes[1].mean(), expected.pvalue], rel=1e-9)


def test_order_of_contrasts_does_not_matter():
    rng = np.random.default_rng(7)
    sample = crossed(rng)
    order = rng.permutation(len(sample.tokens))
    mixed = Sample(sample.effect[order], sample.tokens[order], sample.family[order], sample.seed[order])
    for estimate in (raw_effect, lambda part: slope_within(part, part.tokens), lambda part: net_effect(part, [part])):
        np.testing.assert_allclose(estimate(mixed).error, estimate(sample).error, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1.0, 0.0, 1.0), (1.0, 0.5, 1.0), (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_intervals_cover_whatever_varies_most(sizes):
    rng = np.random.default_rng(8)
    kind = {"wording": sizes[0], "seed": sizes[1], "noise": sizes[2], "runs": SIMULATIONS}
    axis, bank = crossed(rng, **kind), crossed(rng, families=14, per_seed=6, first=100, **kind)
    raw, net = raw_effect(axis), net_effect(axis, [bank])
    amount = rng.integers(1, 4, len(axis.tokens)).astype(float)
    doses = 0.5 * sizes[0] * rng.normal(size=(12, SIMULATIONS))
    dosed = Sample(axis.effect + doses[axis.family] * amount[:, None], axis.tokens, axis.family, axis.seed)
    slope = slope_within(dosed, amount)
    for found in (raw, net, slope):
        assert_covers(coverage(found.low, found.high, 0.0))


def test_seeds_alone_would_not_cover():
    """The reason for the second factor: bootstrapping seeds pretends to know what other wordings do."""
    sample = crossed(np.random.default_rng(9), wording=1.0, noise=0.5, runs=500)
    means = np.stack([sample.effect[sample.seed == one].mean(0) for one in np.unique(sample.seed)])
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(0, ddof=1) / np.sqrt(len(means))
    assert coverage(means.mean(0) - half, means.mean(0) + half, 0.0).share < 0.75


def test_spread_test_is_level_and_finds_what_differs():
    rng = np.random.default_rng(10)
    axis, controls = (crossed(rng, seeds=36, families=11, per_seed=11, wording=0.3, runs=SIMULATIONS) for _ in range(2))
    found = spread_beyond(axis, controls)
    assert_covers(coverage(found.low, found.high, 0.0))
    assert float((found.p < 0.05).mean()) <= 0.065
    wide = crossed(rng, seeds=36, families=11, per_seed=11, wording=1.5, runs=SIMULATIONS)
    assert float((spread_beyond(wide, controls).p < 0.05).mean()) > 0.9


def test_one_wording_far_out_is_found_where_the_mean_says_nothing():
    rng = np.random.default_rng(11)
    axis, bank = (crossed(rng, families=n, per_seed=6, wording=0.2, runs=400) for n in (12, 16))
    one = axis.effect + 3.0 * (axis.family == 4)[:, None]
    found, df = wording_outliers(Sample(one, axis.tokens, axis.family, axis.seed), [bank])
    assert df == 14
    assert set(np.abs(found).argmax(0).tolist()) == {4}
    p = np.minimum(1, 2 * 12 * stats.t.sf(np.abs(found).max(0), df))
    assert float((p < 0.01).mean()) > 0.95
    assert float((net_effect(Sample(one, axis.tokens, axis.family, axis.seed), [bank]).p < 0.01).mean()) < 0.2


def test_a_wording_among_innocuous_ones_is_one_more_draw_of_them():
    rng = np.random.default_rng(12)
    axis, bank = (crossed(rng, families=16, per_seed=6, wording=0.5, runs=SIMULATIONS) for _ in range(2))
    t, df = wording_outliers(axis, [bank])
    assert 0.03 <= float((2 * stats.t.sf(np.abs(t), df) < 0.05).mean()) <= 0.065


def test_a_wording_beside_controls_without_any_spread_is_as_far_out_as_can_be():
    rng = np.random.default_rng(0)
    bank, axis = crossed(rng), crossed(rng)
    still = Sample(np.zeros_like(bank.effect), bank.tokens, bank.family, bank.seed)
    moved = Sample(np.where(axis.family[:, None] == 3, 1.0, 0.0), axis.tokens, axis.family, axis.seed)
    t, _ = wording_outliers(moved, [still])
    assert np.flatnonzero(t[:, 0] == np.inf).tolist() == [3]
    assert (np.delete(t[:, 0], 3) == 0).all()


def answered(rng, tokens=None):
    """What one model answers to an axis and two banks; the same contrasts for every call."""
    made = [crossed(rng), crossed(rng, families=8), crossed(rng, families=14, per_seed=6)]
    return [Sample(part.effect, part.tokens if tokens is None else other.tokens, part.family, part.seed,
                   np.array([f"family {number}" for number in range(part.families)]))
            for part, other in zip(made, made if tokens is None else tokens, strict=True)]


def differences(one, other):
    return [Sample(a.effect - b.effect, a.tokens, a.family, a.seed, a.names) for a, b in zip(one, other, strict=True)]


def gaps(one, other):
    """Every gap of two models, and for one model what it is the gap of."""
    t, df = wording_gaps((one[0], one[1:]), (other[0], other[1:]))
    return [net_gap((one[0], one[1:]), (other[0], other[1:])), slope_gap(one[0], other[0]),
            spread_gap((one[0], one[1]), (other[0], other[1]))], t, df


def effects(one):
    t, df = wording_outliers(one[0], one[1:])
    return [net_effect(one[0], one[1:]), slope_within(one[0], one[0].tokens), spread_beyond(one[0], one[1])], t, df


def assert_same(found, expected):
    order = np.argsort([f"family {number}" for number in range(len(found[1]))], kind="stable")  # gaps come by name
    for ours, theirs in zip(found[0], expected[0], strict=True):
        for field in ("value", "error", "df", "low", "high", "p"):
            np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-9, err_msg=field)
    np.testing.assert_allclose(found[1], expected[1][order], rtol=1e-9)
    assert found[2] == expected[2]


def test_gaps_of_models_that_count_alike_are_effects_of_the_differences():
    rng = np.random.default_rng(20)
    one = answered(rng)
    other = answered(rng, one)
    assert_same(gaps(one, other), effects(differences(one, other)))


def test_against_a_model_that_does_not_react_a_gap_is_the_effect_whatever_its_tokens():
    rng = np.random.default_rng(21)
    one = answered(rng)
    still = [Sample(0 * part.effect, part.tokens, part.family, part.seed, part.names) for part in answered(rng)]
    assert not np.array_equal(one[0].tokens, still[0].tokens)
    (found, t, df), (expected, plain, _) = gaps(one, still), effects(one)
    assert_same((found, t[:0], df), (expected, t[:0], df))
    assert (np.abs(t) <= np.abs(plain[np.argsort(one[0].names)]) * (1 + 1e-9)).all()  # the line's error is the larger one


def test_what_both_models_do_in_their_own_tokens_cancels():
    rng = np.random.default_rng(22)
    one = answered(rng)
    longer = [Sample(part.effect, 3 * part.tokens, part.family, part.seed, part.names) for part in one]
    found = net_gap((one[0], one[1:]), (longer[0], longer[1:]))
    assert [abs(float(found.value[0])), float(found.error[0])] == pytest.approx([0, 0], abs=1e-9)
