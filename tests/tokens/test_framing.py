"""The framing plane against planted factors, sklearn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens import token_scores
from rewarden.tokens.framing import AXES, ENDS, framing_extremes, framing_plane, token_clusters


def scan(reward, **more):
    n = len(reward[0])
    return token_scores(reward, token_id=range(100, 100 + n), text=[f"word{i}" for i in range(n)],
                        prompts=[f"prompt {row}" for row in range(len(reward))], **more)


def planted(angle: float, agree: float, oppose: float, n: int = 4000, seed: int = 0):
    """Two independent factors: `agree` along the angle (degrees), `oppose` at right angles to it."""
    rng = np.random.default_rng(seed)
    a, o = agree * rng.standard_normal(n), oppose * rng.standard_normal(n)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([c * a + s * o + 3.0, s * a - c * o - 5.0])  # framings [2, n] at different means


@pytest.mark.parametrize(("angle", "agree", "oppose"), [(25.0, 2.0, 1.0), (60.0, 1.0, 3.0), (45.0, 1.0, 0.5)])
def test_two_planted_factors_are_recovered(angle: float, agree: float, oppose: float) -> None:
    plane = framing_plane(scan(planted(angle, agree, oppose)), [0], [1], n_resamples=500)
    true = np.radians(angle)
    directions = np.asarray([[np.cos(true), np.sin(true)], [np.sin(true), -np.cos(true)]])
    assert ((plane.direction * directions).sum(1) > 0.99).all()
    share = agree**2 / (agree**2 + oppose**2)
    assert plane.fitted_share_low[0] <= share <= plane.fitted_share_high[0]
    assert plane.fitted_share_low[1] <= 1 - share <= plane.fitted_share_high[1]
    assert plane.angle_low <= angle <= plane.angle_high
    assert plane.angle_high - plane.angle_low < 8


def test_fitted_axes_are_the_principal_components() -> None:
    framings = planted(30, 1.0, 2.0, n=700)
    plane = framing_plane(scan(framings), [0], [1], n_resamples=50)
    held = framings.astype(np.float32).astype(float).T
    pca = PCA(2).fit(held)
    assert abs(pca.components_ @ plane.direction.T) == pytest.approx(np.asarray([[0, 1], [1, 0]]), abs=1e-6)  # oppose is larger
    assert plane.fitted_share[::-1] == pytest.approx(pca.explained_variance_ratio_, abs=1e-9)
    common = np.sqrt((held.std(0) ** 2).mean())
    assert plane.fitted * common == pytest.approx((held - held.mean(0)) @ plane.direction.T, abs=1e-9)


def test_fixed_axes_are_standardised_sum_and_difference() -> None:
    rng = np.random.default_rng(7)
    reward = rng.standard_normal((5, 300)) * [[1], [2], [1], [5], [1]]
    plane = framing_plane(scan(reward), ["prompt 0", 3], [1, "prompt 2"], n_resamples=50)
    held = reward.astype(np.float32).astype(float)
    p, n = (stats.zscore(held[rows].mean(0)) for rows in ([0, 3], [1, 2]))
    assert plane.reading == pytest.approx(np.stack([p, n], 1), abs=1e-9)
    assert plane.fixed == pytest.approx(np.stack([p + n, p - n], 1) / np.sqrt(2), abs=1e-9)
    r = stats.pearsonr(p, n).statistic
    assert float(plane.correlation) == pytest.approx(r)
    assert plane.fixed_share == pytest.approx([(1 + r) / 2, (1 - r) / 2])
    assert plane.fixed.var(0) / 2 == pytest.approx(plane.fixed_share)
    assert float(plane.rank_correlation) == pytest.approx(stats.spearmanr(p, n).statistic)
    assert plane.sd == pytest.approx([held[[0, 3]].mean(0).std(), held[[1, 2]].mean(0).std()])


def by_hand(framings):
    """Correlation, angle of the agree axis (degrees) and its share, from numpy's eigenvectors."""
    values, vectors = np.linalg.eigh(np.cov(framings))
    k = int(np.argmax(vectors[0] * vectors[1]))  # the axis whose two parts have one sign
    angle = np.degrees(np.arctan2(*abs(vectors[::-1, k])))
    return np.asarray([np.corrcoef(framings)[0, 1], angle, values[k] / values.sum()])


def test_intervals_are_those_of_computing_every_resample_anew() -> None:
    framings = planted(35, 1.5, 1.0, n=600, seed=2)
    plane = framing_plane(scan(framings), [0], [1], n_resamples=4000)
    rng = np.random.default_rng(9)
    anew = np.stack([by_hand(framings[:, rng.integers(600, size=600)]) for _ in range(4000)])
    low, high = np.quantile(anew, [0.025, 0.975], axis=0)
    for k, name in enumerate(("correlation", "angle", "fitted_share")):
        ours = [float(np.ravel(getattr(plane, name + end))[0]) for end in ("", "_low", "_high")]
        assert ours[0] == pytest.approx(by_hand(framings)[k], abs=1e-5)
        assert ours[1:] == pytest.approx([low[k], high[k]], abs=0.1 * (high[k] - low[k]))


def test_intervals_cover_the_planted_values() -> None:
    # 100 draws of a 95 % interval: 95 ± 3 standard errors
    inside = np.zeros(2)
    for seed in range(100):
        plane = framing_plane(scan(planted(40, 1.4, 1.0, n=600, seed=seed)), [0], [1], n_resamples=300, seed=seed)
        inside += [plane.fitted_share_low[0] <= 1.96 / 2.96 <= plane.fitted_share_high[0],
                   plane.angle_low <= 40 <= plane.angle_high]
    assert (inside >= 88).all()
    assert (inside < 100).any()


def test_copies_of_a_word_widen_the_interval_and_leave_the_estimate() -> None:
    framings = planted(45, 1.5, 1.0, n=600)
    thrice = np.repeat(framings, 3, axis=1)
    words = [form for i in range(600) for form in (f"word{i}", f" word{i}", f" WORD{i}")]
    alone = framing_plane(scan(framings), [0], [1], n_resamples=2000)
    forms = token_scores(thrice, token_id=range(1800), text=words, prompts=["a", "b"])
    copies = framing_plane(forms, [0], [1], n_resamples=2000)
    unlike = framing_plane(scan(thrice), [0], [1], n_resamples=2000)
    assert (int(copies.n), int(copies.n_clusters), int(unlike.n_clusters)) == (1800, 600, 1800)
    widths = [float(plane.correlation_high - plane.correlation_low) for plane in (alone, copies, unlike)]
    assert float(copies.correlation) == pytest.approx(float(alone.correlation), abs=1e-6)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)
    assert widths[2] == pytest.approx(widths[0] / np.sqrt(3), rel=0.1)


def test_tokens_without_text_are_clusters_of_their_own() -> None:
    flags = {"special": np.asarray([False, False, True, True, False]), "byte": np.asarray([False] * 4 + [True])}
    scores = token_scores([[0, 1, 2, 3, 4]], token_id=[9, 8, 7, 6, 5], text=["�", "\t", "<s>", "<s>", "�"], prompts=["p"],
                          flags=flags)
    assert token_clusters(scores.data).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("end", list(ENDS))
@pytest.mark.parametrize("within", [True, False])
def test_extremes_equal_a_sort_by_hand(end: str, within: bool) -> None:
    plane = framing_plane(scan(planted(45, 1.0, 1.0, n=200)), [0], [1], n_resamples=20)
    signs = np.asarray(ENDS[end])
    keyed = sorted(((-(row @ signs), i) for i, row in enumerate(plane.reading)
                    if not within or (np.sign(row) == signs).all()))
    table = framing_extremes(plane, end, 12, within=within)
    assert table["token_id"].tolist() == [100 + i for _, i in keyed[:12]]
    assert table["rank"].tolist() == list(range(1, 13))
    axis, sign = end[:-1], 1 if end.endswith("+") else -1
    assert table[axis].tolist() == pytest.approx([sign * -key / np.sqrt(2) for key, _ in keyed[:12]])


def test_extremes_carry_flags_and_share_ranks() -> None:
    special = np.asarray([False, False, True, False])
    scores = token_scores([[2, 2, -1, -3], [-2, -2, 1, 3]], token_id=range(4), text=list("abcd"), prompts=["p", "n"],
                          flags={"special": special})
    plane = framing_plane(scores, ["p"], ["n"], n_resamples=20)
    table = framing_extremes(plane, "oppose+", 3)
    assert table[["rank", "text", "special"]].values.tolist() == [[1, "a", False], [1, "b", False]]
    assert framing_extremes(plane, "oppose-", 3)["special"].tolist() == [False, True]
    assert framing_plane(scores, ["p"], ["n"], special=False, n_resamples=20).token_id.tolist() == [0, 1, 3]


def test_missing_rewards_are_left_out_and_said(tmp_path) -> None:
    framings = planted(45, 1.0, 1.0, n=150)
    holed = framings.copy()
    holed[1, 7] = np.nan
    plane = framing_plane(scan(holed, provenance={"model": "m"}, noise_floor=0.1), [0], [1], n_resamples=20)
    rest = np.delete(np.arange(150), 7)
    assert plane.token_id.tolist() == (100 + rest).tolist()
    assert plane.reading == pytest.approx(stats.zscore(framings[:, rest].T, axis=0), abs=1e-5)
    assert plane.warnings[0].startswith("1 tokens are left out")
    assert (plane.provenance["model"], plane.noise_floor) == ("m", 0.1)
    loaded = Result.load(plane.save(tmp_path / "plane.nc"))
    assert loaded.data.identical(plane.data)


def test_round_clouds_say_that_they_have_no_axis() -> None:
    plane = framing_plane(scan(planted(45, 1.0, 1.0, n=5000)), [0], [1], n_resamples=20)
    assert any("nearly round" in note for note in plane.warnings)
    assert list(AXES) == plane.axis.tolist()


@pytest.mark.parametrize(("positive", "negative", "match"), [([], [1], "0 positive"), ([0], [0, 1], "1 on both sides"),
                                                             ([0], ["other"], "no prompt 'other'")])
def test_bad_prompts(positive, negative, match) -> None:
    with pytest.raises(RewardenError, match=match):
        framing_plane(scan(planted(45, 1, 1, n=20)), positive, negative)


def test_constant_framing_is_refused() -> None:
    with pytest.raises(RewardenError, match="all equal"):
        framing_plane(scan([[1, 2, 3, 4], [5, 5, 5, 5]]), [0], [1])
