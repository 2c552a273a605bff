"""Mantel's test and the joint regression against brute force over all permutations, and under the null."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.tokens.comparison.mantel import joint_regression, mantel, rank_correlation, upper, without


def symmetric(m: int, rng: np.random.Generator) -> np.ndarray:
    half = np.triu(rng.normal(size=(m, m)), 1)
    return half + half.T


def reordered(matrix: np.ndarray, order) -> np.ndarray:
    return matrix[np.ix_(order, order)]


def t_values(y: np.ndarray, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients and t of least squares with a constant, and R², from the normal equations."""
    design = np.column_stack([np.ones(len(y)), *columns])
    inverse = np.linalg.inv(design.T @ design)
    b = inverse @ design.T @ y
    rest = y - design @ b
    return b, b / np.sqrt(np.diag(inverse) * (rest @ rest) / (len(y) - len(b))), 1 - rest @ rest / ((y - y.mean()) ** 2).sum()


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("step", [None, 1.0])
def test_six_models_equal_all_720_orders(alternative, step):
    rng = np.random.default_rng(0)
    for _ in range(4):
        x, y = symmetric(6, rng), symmetric(6, rng)
        y = np.round((y + 0.7 * x) / step) if step else y + 0.7 * x
        x = np.round(x / step) if step else x
        every = np.array([stats.spearmanr(upper(x), upper(reordered(y, order))).statistic for order in permutations(range(6))])
        seen = stats.spearmanr(upper(x), upper(y)).statistic
        extreme = {"greater": every >= seen - 1e-9, "less": every <= seen + 1e-9, "two-sided": abs(every) >= abs(seen) - 1e-9}
        found = mantel(x, y, alternative=alternative)
        assert found.statistic == pytest.approx(seen, abs=1e-12)
        assert found.p == pytest.approx(extreme[alternative].mean(), abs=1e-12)
        assert (found.n, found.n_clusters, found.method) == (15, 6, "Mantel, Spearman, exact")


def test_random_orders_come_near_to_all_of_them():
    rng = np.random.default_rng(1)
    x = symmetric(7, rng)
    y = x + 1.5 * symmetric(7, rng)
    exact, drawn = mantel(x, y, permutations=5040), mantel(x, y, permutations=5039, seed=3)
    assert (exact.method, drawn.method) == ("Mantel, Spearman, exact", "Mantel, Spearman, 5039 random")
    assert abs(exact.p - drawn.p) < 4 * np.sqrt(exact.p * (1 - exact.p) / 5039)
    assert drawn.p * 5040 == pytest.approx(round(drawn.p * 5040))  # (b + 1) / (B + 1)
    assert mantel(x, x, permutations=200).p == pytest.approx(1 / 201)
    assert mantel(x, y, permutations=300, seed=5).p == mantel(x, y, permutations=300, seed=5).p


def test_unrelated_matrices_have_uniform_p():
    rng = np.random.default_rng(2)
    p = np.array([mantel(symmetric(9, rng), symmetric(9, rng), permutations=400, seed=seed).p for seed in range(200)])
    assert (p < 0.05).mean() <= 0.08
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_joint_regression_equals_brute_force_over_all_orders():
    rng = np.random.default_rng(3)
    a, b = symmetric(6, rng), symmetric(6, rng)
    b = b + 0.5 * a
    y = 0.6 * a + symmetric(6, rng)
    columns = [upper(a), upper(b)]
    coefficient, t, r2 = t_values(upper(y), columns)
    found = joint_regression(y, {"a": a, "b": b})
    assert found.coefficient == pytest.approx(coefficient[1:], abs=1e-12)
    assert (float(found.intercept), float(found.r2)) == pytest.approx((coefficient[0], r2), abs=1e-12)
    assert found.t == pytest.approx(t[1:], abs=1e-10)
    for at, (mine, other) in enumerate(((a, b), (b, a))):
        # Double semi-partialing, literally: permute what the other property leaves unexplained, then fit both again.
        b0, b1 = np.polynomial.polynomial.polyfit(upper(other), upper(mine), 1)
        unexplained = mine - b0 - b1 * other
        every = [abs(t_values(upper(y), [upper(reordered(unexplained, order)), upper(other)])[1][1])
                 for order in permutations(range(6))]
        assert found.p[at] == pytest.approx(np.mean(np.array(every) >= abs(t[1 + at]) - 1e-9), abs=1e-12)
    explained = [t_values(upper(reordered(y, order)), columns)[2] for order in permutations(range(6))]
    assert float(found.r2_p) == pytest.approx(np.mean(np.array(explained) >= r2 - 1e-9), abs=1e-12)
    assert found.p_holm == pytest.approx([min(2 * p, 1) if p == found.p.min() else max(p, 2 * found.p.min()) for p in found.p])


def test_intervals_of_coefficients_leave_out_one_model_at_a_time():
    rng = np.random.default_rng(4)
    a, b, noise = (symmetric(8, rng) for _ in range(3))
    y = a - b + noise
    found = joint_regression(y, {"a": a, "b": b}, permutations=50, level=0.9)
    left_out = np.array([t_values(upper(without(y, i)), [upper(without(one, i)) for one in (a, b)])[0][1:] for i in range(8)])
    reach = stats.t.ppf(0.95, 7) * np.sqrt(6 / 16 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.low, found.coefficient - reach, atol=1e-10)
    np.testing.assert_allclose(found.high, found.coefficient + reach, atol=1e-10)


def test_a_property_without_effect_holds_its_level_beside_one_with_an_effect():
    rng = np.random.default_rng(5)
    p, covered = [], []
    for seed in range(200):
        base = symmetric(9, rng)
        idle = base + symmetric(9, rng)  # correlated with what matters
        found = joint_regression(2 * base + symmetric(9, rng), {"base": base, "idle": idle}, permutations=300, seed=seed)
        p.append(found.p)
        covered.append([found.low[0] <= 2 <= found.high[0], found.low[1] <= 0 <= found.high[1]])
    p = np.array(p)
    assert (p[:, 1] < 0.05).mean() <= 0.08
    assert stats.kstest(p[:, 1], "uniform").pvalue > 0.01
    assert (p[:, 0] < 0.05).mean() > 0.95
    assert (np.mean(covered, axis=0) > 0.9).all()


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(6)
    x, y = np.round(symmetric(7, rng)), symmetric(7, rng)
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(upper(x), upper(y)).statistic, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones((5, 5)), y[:5, :5]))


M5 = symmetric(5, np.random.default_rng(7))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: mantel(M5, M5[:4, :4]), "shape (4, 4) beside one of (5, 5)"),
    (lambda: mantel(M5[:3, :3], M5[:3, :3]), "at least 4 needed"),
    (lambda: mantel(M5, np.ones((5, 5))), "must tell some pairs of models apart"),
    (lambda: mantel(M5, np.triu(M5)), "must be symmetric"),
    (lambda: mantel(M5, M5, alternative="both"), "alternative='both'"),
    (lambda: mantel(M5, M5, permutations=0), "0 permutations"),
    (lambda: joint_regression(M5, {"a": M5, "b": 1 - 2 * M5}), "a, b determine each other"),
    (lambda: joint_regression(M5[:4, :4], {str(i): M5[:4, :4] ** i for i in range(1, 6)}), "at least 8 needed"),
])
def test_refused(call, message):
    with pytest.raises(RewardenError) as error:
        call()
    assert message in str(error.value)
    assert error.value.fix
