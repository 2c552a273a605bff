"""Divergence: distances equal other implementations', clean states are flagged at α, effects are those of patching."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import LedoitWolf
from tests.statistics.coverage import assert_covers, assert_null_rate, coverage

import rewarden as rw
from rewarden import RewardenError
from rewarden.hacking.off_distribution.clean import Clean, Half
from rewarden.hacking.off_distribution.kept import change_without, mean_ends
from rewarden.hacking.off_distribution.measure import _excess, divergence, verdicts
from rewarden.hacking.off_distribution.patched import _parts
from rewarden.hacking.off_distribution.reference import Reference
from rewarden.organisms import noise
from rewarden.statistics import content_clusters

KEY = ("resid_post", 0, -1)


def draws(rng, n, d, decay=1.0):
    """Correlated rows whose spectrum falls off, as that of activations does: values, axes (rows), standard deviations."""
    axes, spread = np.linalg.qr(rng.normal(size=(d, d)))[0], np.arange(1, d + 1) ** (-decay / 2)
    return rng.normal(size=(n, d)) * spread @ axes + rng.normal(size=d), axes, spread


@pytest.mark.parametrize(("n", "d"), [(40, 12), (30, 64)])
def test_shrunk_distances_are_those_of_another_implementation(n, d):
    rows = draws(np.random.default_rng(n), n + 5, d)[0]
    theirs = LedoitWolf().fit(rows[:n])
    found = Reference.fit(rows[:n], components=4).squares(rows)
    np.testing.assert_allclose(found[:, -1], theirs.mahalanobis(rows), rtol=1e-6)
    np.testing.assert_allclose(found[:, 0] + found[:, 1], found[:, 2], rtol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(40, 12), (30, 64)])
@pytest.mark.parametrize("method", ["ledoit_wolf", "pca"])
def test_distances_and_their_parts_by_explicit_matrices(n, d, method):
    rng = np.random.default_rng(d)
    rows = draws(rng, n + 5, d)[0]
    reference = Reference.fit(rows[:n], method, 4)
    covariance = reference.rest * (np.eye(d) - reference.axes.T @ reference.axes) + (
        reference.axes.T * reference.variance) @ reference.axes
    if method == "pca":
        sample = np.cov(rows[:n].T, bias=True)
        values = np.linalg.eigvalsh(sample)[::-1]
        pooled = [*values[:4], *[values[4:].mean()] * (d - 4)]
        np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[::-1], pooled, rtol=1e-6)
    centred = rows - rows[:n].mean(0)
    squares = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(reference.squares(rows)[:, -1], squares, rtol=1e-6)
    direction = rng.normal(size=d)
    along = centred @ direction / np.sqrt(direction @ covariance @ direction)
    np.testing.assert_allclose(reference.along(rows, direction), along, rtol=1e-6)
    assert (along**2 <= squares * (1 + 1e-9)).all()  # a part of it


def half_of(rng, d, n, method):
    rows, axes, spread = draws(rng, 2 * n + 10, d)
    half = Half({KEY: Reference.fit(rows[:n], method)}, np.arange(n))
    half.take({KEY: rows[n:2 * n]}, 0)
    return half, rows[2 * n:], axes, spread


def flagged(half, rows, alpha=0.05):
    scores = [half.scores(-1, [KEY], [each])[:, 0] for each in half.distance(KEY, rows)]
    return np.array([(of >= of[-1]).mean() for of in scores]) <= alpha


@pytest.mark.parametrize("d", [64, 256])
@pytest.mark.parametrize("method", ["ledoit_wolf", "pca"])
def test_clean_states_are_flagged_at_alpha_and_outliers_are_found(d, method):
    """Check 21. Ten standard deviations of the direction stepped in, whether the states vary much or little along it."""
    clean, far = [], []
    for rng in np.random.default_rng([d]).spawn(60):
        half, rows, axes, spread = half_of(rng, d, 200, method)
        clean.append(flagged(half, rows).mean())
        unit = rng.normal(size=rows.shape)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        sd = np.sqrt(((unit @ axes.T) ** 2 * spread**2).sum(1))
        lead = rng.integers(32, size=len(rows))
        far += [flagged(half, rows + 10 * sd[:, None] * unit), flagged(half, rows + 10 * spread[lead, None] * axes[lead])]
    error = np.std(clean, ddof=1) / np.sqrt(len(clean))
    assert abs(np.mean(clean) - 0.05) < 2.6 * max(error, np.sqrt(0.05 * 0.95 / 600))
    assert np.mean(far) >= 0.99


def test_few_clean_rows_and_many_distances_do_not_raise_the_rate():
    """Check 21. Of twenty clean rows and a clean state, each is as likely the farthest out in any of nine distances."""
    keys = [("resid_post", layer, -1) for layer in range(3)]
    p = []
    for rng in np.random.default_rng(20).spawn(1200):
        rows = rng.normal(size=(3, 42, 32))
        half = Half({key: Reference.fit(of[:20], components=8) for key, of in zip(keys, rows, strict=True)}, np.arange(21))
        half.take({key: of[20:41] for key, of in zip(keys, rows, strict=True)}, 2)
        scores = half.scores(0, keys, [half.distance(key, of[41:])[0] for key, of in zip(keys, rows, strict=True)]).max(1)
        p.append((scores >= scores[-1]).mean())
    assert len(scores) == 21
    assert stats.binomtest(int((np.array(p) <= 0.05).sum()), len(p), 1 / 21).pvalue > 0.001
    assert stats.chisquare(np.bincount(np.rint(21 * np.array(p)).astype(int), minlength=22)[1:]).pvalue > 0.001


def test_scores_by_hand():
    half = Half({}, np.array([0, 1, 2, 3]), {KEY: np.array([[9.0, 9.0], [1.0, 4.0], [2.0, 4.0], [3.0, 7.0]])})
    rows = np.array([[1.0, 4.0], [2.0, 4.0], [3.0, 7.0], [6.0, 1.0]])
    np.testing.assert_allclose(half.scores(0, [KEY], [rows[-1]])[:, 0], stats.zscore(rows).max(1))
    lost = half.scores(0, [KEY, KEY], [rows[-1], np.array([np.inf, 2.0])])
    assert lost[-1].tolist() == [stats.zscore(rows)[-1].max(), np.inf]
    assert np.isfinite(lost[:-1]).all()


def test_states_are_ranked_among_one_row_of_each_prompt(organism, drawn):
    talks = [talk for pair in drawn[:50] for talk in pair.conversations]
    prompts = content_clusters([repr(talk.prompt) for talk in talks])
    clean = Clean.of(organism, [organism.encode(talk) for talk in talks], prompts, ["mlp_out"], method="pca", components=4,
                     limit=400, seed=3)
    assert sorted(np.concatenate([half.prompts for half in clean.halves])) == list(np.unique(prompts))
    assert all(len(half.final) == len(half.prompts) for half in clean.halves)


def test_rank_counts_others_only():
    half = Half({}, np.array([0, 0, 1, 2]))
    clean = np.array([9.0, 9.0, 1.0, 3.0])
    assert half.rank(0, clean, np.float64(2.0)) == pytest.approx(2 / 3)
    assert half.rank(7, clean[:, None], np.array([2.0, 10.0])).tolist() == [0.8, 0.2]


def test_a_step_in_what_the_reward_reads_and_one_in_the_rest():
    rng = np.random.default_rng(0)
    half, rows, _, _ = half_of(rng, 16, 200, "ledoit_wolf")
    half.final = rows
    reference, unit = half.references[KEY], rng.normal(size=16)
    unit /= np.linalg.norm(unit)
    covariance = (reference.axes.T * reference.variance) @ reference.axes
    read, silent = covariance @ unit, np.linalg.qr(np.stack([unit, rng.normal(size=16)], 1))[0][:, 1]
    before, rest_before = _parts(half, unit, rows[:1])
    along, rest = _parts(half, unit, rows[:1] + 50 * np.sign((rows[0] - reference.mean) @ unit) * read)
    assert along[0] > before[0] + 1
    assert rest == pytest.approx(rest_before, rel=1e-6)
    along, rest = _parts(half, unit, rows[:1] + 50 * silent)
    assert along == pytest.approx(before)
    assert rest[0] > rest_before[0] + 10


@pytest.fixture(scope="module")
def organism():
    return noise(seed=5)


@pytest.fixture(scope="module")
def drawn(organism):
    return organism.pairs(60, seed=1)


def test_effects_are_those_of_patching(organism, drawn):
    found = divergence(organism, drawn[:4], clean=drawn, resamples=100)
    patched = rw.patch(organism, drawn[:4], sites=("resid_post", "attn_out", "mlp_out", "z"), resamples=100)
    heads = found.data.isel(component=np.flatnonzero(found.data["site"].values == "z"))
    np.testing.assert_allclose(heads["effect"].values.reshape(patched.effect_heads.shape), patched.effect_heads, atol=1e-6)
    for site in ("resid_post", "attn_out", "mlp_out"):
        some = found.data.isel(component=np.flatnonzero(found.data["site"].values == site))
        np.testing.assert_allclose(some["effect"].values, patched.data["effect"].sel(site=site).values, atol=1e-6)
    np.testing.assert_allclose(found.data["mean"].values, found.data["effect"].values.mean(0), atol=1e-12)


def test_p_of_states_by_hand(organism, drawn):
    """One component of one pair: states from whole forwards, distances from another implementation, ranks by a loop."""
    pairs, layer = drawn[:2], 1
    found = divergence(organism, pairs, clean=drawn[2:], sites=("mlp_out",), resamples=100).data
    found = found.sel(component=f"mlp_out.{layer}")
    talks = [talk for pair in drawn for talk in pair.conversations]
    prompts = content_clusters([repr(talk.prompt) for talk in talks])
    clean = Clean.of(organism, [organism.encode(talk) for talk in talks], prompts, ["mlp_out"], method="ledoit_wolf",
                     components=32, limit=400, seed=0)
    traces = [organism.trace(talk, ("mlp_out", "resid_post"), "read") for talk in talks]
    states = [[trace["mlp_out"][layer, 0].numpy(), *trace["resid_post"][layer:, 0].numpy()] for trace in traces]
    mine = np.asarray([clean.half_of[int(prompt)] == clean.half_of[int(prompts[0])] for prompt in prompts])
    site = rw.Site("mlp_out", layer, -1)
    edit = rw.Edit(site, traces[1]["mlp_out"][layer, 0])
    edited = organism.plan(talks[0], [edit], trace=("resid_post",), backend="hooks").run()
    patched = [states[1][0], *edited.traces["resid_post"][0, layer:, 0].numpy()]
    # those of each prompt that states are ranked among, by the residual that is read
    final = np.stack([one[-1] for one in states])
    held = [int(np.abs(final - row).sum(1).argmin()) for row in clean.half(int(prompts[0])).final]
    held = [row for row in held if prompts[row] != prompts[0]]
    assert len({prompts[row] for row in held}) == len(held) == len(set(prompts[mine])) - 1
    most = np.full(len(held) + 1, -np.inf)
    for number, state in enumerate(patched):
        rows = np.stack([one[number] for one in states])
        theirs = LedoitWolf().fit(rows[~mine])
        spectrum, axes = np.linalg.eigh(theirs.covariance_)
        scaled = (np.vstack([rows[held], state]) - theirs.location_) @ axes[:, ::-1]
        squares = scaled**2 / spectrum[::-1]
        k = min(32, (int((~mine).sum()) - 1) // 2)
        for part in (squares[:, :k], squares[:, k:], squares) if k < rows.shape[1] else (squares,):
            distance = np.sqrt(part.sum(1))
            most = np.maximum(most, stats.zscore(distance))
    assert float(found["p_state"][0]) == pytest.approx((most >= most[-1]).mean(), abs=2 / len(held))


def test_zeros_are_far_off_and_their_effects_are_set_apart(demo):
    pairs = rw.load_pairs("demo", limit=100)
    found = divergence(demo, pairs[:12], clean=pairs, mode="zero", sites=("mlp_out", "attn_out"), resamples=200)
    said = verdicts(found)
    assert said["mlp_out.0"].flag
    assert said["mlp_out.0"].estimate == 1.0
    assert said["mlp_out.0"].n == 12
    assert int(found.data["kept_n"].sel(component="mlp_out.0")) == 0
    kept = np.where(found.data["divergent"], np.nan, found.data["effect"])
    np.testing.assert_allclose(found.data["kept_mean"][1:], np.nanmean(kept[:, 1:], 0))
    assert found.data["null_share"].min() >= 0
    assert found.data["null_share"].max() <= 1
    assert not bool((found.data["null_only"] & ~found.data["divergent"]).any())


@pytest.mark.slow
def test_null_models_are_flagged_no_more_often_than_alpha():
    flags, clean = [], []
    for seed in range(60):
        organism = noise(seed=seed)
        pairs = organism.pairs(50, seed=seed)
        found = divergence(organism, pairs[:8], clean=pairs, sites=("mlp_out",), resamples=100)
        flags.append(any(one.flag for one in verdicts(found).values()))
        clean.append(float((found.data["p_source"] <= 0.05).mean()))
    assert_null_rate(flags, 0.05)
    # 50 prompts in two halves: a state is one of 25
    assert abs(np.mean(clean) - 1 / 25) < 2.6 * np.std(clean, ddof=1) / np.sqrt(len(clean))


def test_clean_states_in_place_of_patched_ones_are_marked_at_alpha():
    """The beta-binomial test on exchangeable scores: thresholds vary with the clean rows they come from."""
    prompts = np.arange(24)
    half_of = {int(prompt): int(prompt) % 2 for prompt in prompts}
    flags = []
    for rng in np.random.default_rng(7).spawn(1000):
        halves = [Half({}, np.arange(100, 140)) for _ in range(2)]
        scores = rng.normal(size=(2, 40))
        p = np.array([halves[half_of[int(one)]].rank(int(one), scores[half_of[int(one)]], rng.normal()) for one in prompts])
        sweeper = SimpleNamespace(clean=SimpleNamespace(halves=halves, half_of=half_of), prompts=prompts)
        flags.append(_excess(p <= 0.05, np.ones(24, bool), sweeper, prompts, 0.05) <= 0.05)
    assert_null_rate(flags, 0.05)


@pytest.mark.parametrize(("pairs", "prompts", "share", "kind"), [
    (24, 24, 0.3, "normal"), (24, 24, 0.3, "t"), (24, 24, 0.7, "normal"), (12, 12, 0.2, "normal"), (24, 12, 0.3, "normal")])
def test_intervals_of_effects_without_the_divergent(pairs, prompts, share, kind):
    rng = np.random.default_rng([pairs, prompts, int(10 * share)])
    shape = (pairs, 1500)

    def draw(*shape):
        return rng.normal(size=shape) if kind == "normal" else rng.standard_t(5, size=shape)

    codes = np.sort(np.r_[np.arange(prompts), rng.integers(prompts, size=pairs - prompts)])
    divergent = rng.random(shape) < share
    values = 0.5 + draw(*shape) + (draw(prompts, 1500)[codes] if prompts < pairs else 0) + 0.8 * divergent
    kept = np.where(divergent, np.nan, values)
    low, high = mean_ends(kept, codes, level=0.95, resamples=1000, seed=0)
    told = np.isfinite(low)
    assert_covers(coverage(low[told], high[told], 0.5))
    found = change_without(values, divergent, codes, 0.95)
    np.testing.assert_allclose(found["shift"], values.mean(0) - np.nanmean(kept, 0))
    told = np.isfinite(found["shift_low"])
    assert_covers(coverage(found["shift_low"][told], found["shift_high"][told], 0.8 * divergent.mean(0)[told]))


def test_change_without_pairs_by_hand():
    values = np.array([1.0, 1.5, 0.5, 3.0, 4.0, 3.7])
    divergent = values > 2
    found = change_without(values[:, None], divergent[:, None], np.arange(6), 0.95)
    welch = stats.ttest_ind(values[divergent], values[~divergent], equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([found["shift_low"][0], found["shift_high"][0]], 0.5 * np.array([welch.low, welch.high]))
    none = change_without(np.ones((3, 1)), np.zeros((3, 1), bool), np.arange(3), 0.95)
    assert [float(none[name][0]) for name in ("shift", "shift_low", "shift_high")] == [0, 0, 0]
    every = change_without(np.ones((3, 1)), np.ones((3, 1), bool), np.arange(3), 0.95)
    assert np.isnan([every[name][0] for name in ("shift", "shift_low", "shift_high")]).all()


def test_refusals(organism, drawn):
    with pytest.raises(RewardenError, match="too few clean conversations") as error:
        divergence(organism, drawn[:10])
    assert "at least 40 prompts" in error.value.why
    with pytest.raises(RewardenError, match="impossible options") as error:
        divergence(organism, drawn, sites=("q",), components=0, references=1)
    assert {"sites", "components", "references"} <= set(error.value.why.replace(";", "").split())
    with pytest.raises(RewardenError, match="no distance can be fitted"):
        Reference.fit(np.full((4, 2), np.nan))
