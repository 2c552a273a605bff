"""What goes with agreement: the published matrix, hand-made tables, and the tests it is built from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from tests.tokens.test_maps import TAU

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import holm
from rewarden.statistics.jackknife import jackknife_ends
from rewarden.tokens.comparison.mantel import joint_regression, mantel, rank_correlation, without
from rewarden.tokens.comparison.rank_agreement import rank_agreement
from rewarden.tokens.comparison.similarity import model_similarity, property_matrices

NAMES = ["N-Gem", "S-Gem-v0.2", "S-Gem", "S-Lla", "N-Lla", "L-Lla", "R-Lla-8B", "R-Lla-3B", "F-Lla", "R-Gem-2B"]
TABLE = pd.DataFrame({"base": list("GGGLLLLLLG"), "developer": list("NSSSNLRRFR"),
                      "parameters": [27, 27, 27, 8, 8, 8, 8, 3, 8, 2],
                      "rank": [2, 3, 5, 10, 11, 12, 17, 19, 20, 31]}, index=NAMES)


def agreement_of(tau: np.ndarray, names: list[str]) -> Result:
    return Result("rank_agreement", xr.Dataset({"tau": (("model", "other"), tau)}, coords={"model": names, "other": names}))


def published() -> Result:
    return agreement_of(TAU, NAMES)


def test_published_matrix():
    found = model_similarity(published(), property_matrices(TABLE)).data
    assert found["property"].values.tolist() == ["base", "developer", "parameters", "rank"]
    np.testing.assert_allclose(found["spearman"], [0.530, -0.125, 0.348, 0.229], atol=0.001)
    p = found["p"].to_series()
    assert p["base"] < 0.05
    assert p["developer"] > 0.5
    assert float(found["r2"]) == pytest.approx(0.37, abs=0.01)
    assert (int(found["n"]), int(found["models"])) == (45, 10)


def test_it_is_made_of_mantel_and_the_joint_regression():
    known = property_matrices(TABLE)
    found = model_similarity(published(), known, permutations=200, seed=3, alternative="two-sided", level=0.9)
    tests = [mantel(TAU, one, permutations=200, seed=3, alternative="two-sided") for one in known.similarity]
    assert found.p.tolist() == [test.p for test in tests]
    assert found.p_holm.tolist() == holm(found.p).tolist()
    named = dict(zip(known.property, known.similarity, strict=True))
    joint = joint_regression(TAU, named, permutations=200, seed=3, level=0.9)
    for end, name in {"": "coefficient", "_low": "low", "_high": "high", "_p": "p", "_p_holm": "p_holm"}.items():
        np.testing.assert_array_equal(found.data[f"coefficient{end}"], joint.data[name])
    left_out = np.array([rank_correlation(without(TAU, i), without(known.similarity[0], i)) for i in range(10)])
    ends = jackknife_ends(np.array(found.spearman[0]), left_out, 0.9, correlation=True, of_pairs=True)
    np.testing.assert_allclose([found.low[0], found.high[0]], ends, atol=1e-12)


def test_intervals_of_correlations_cover_what_they_are_about():
    rng, runs = np.random.default_rng(0), []
    for _ in range(200):
        base = rng.permutation(np.repeat([0, 1], 5))
        noise = np.triu(rng.normal(size=(10, 10)), 1)
        tau = (base[:, None] == base) + noise + noise.T
        names = [str(i) for i in range(10)]
        known = property_matrices({"base": base.astype(str)}, models=names)
        found = model_similarity(agreement_of(tau, names), known, permutations=5)
        runs.append([found.spearman[0], found.low[0], found.high[0]])
    estimate, low, high = np.array(runs).T
    share = np.mean((low <= estimate.mean()) & (estimate.mean() <= high))
    assert 0.9 < share <= 0.995


def test_categories_and_numbers():
    table = {"base": ["g", "g", "l"], "size": [2.0, 27, 8], "tied": [True, False, False], "version": [1, 1, 2]}
    found = property_matrices(table, models=["a", "b", "c"], kinds={"version": "category"})
    assert found.rule.tolist() == ["equal", "1/(1+|difference|)", "equal", "equal"]
    assert found.similarity[0].tolist() == found.similarity[3].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found.similarity[1] == pytest.approx(np.array([[1, 1 / 26, 1 / 7], [1 / 26, 1, 1 / 20], [1 / 7, 1 / 20, 1]]))
    assert found.similarity[2].tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_rows_are_matched_by_name():
    shuffled = pd.concat([TABLE.iloc[::-1], pd.DataFrame([["Q", "Q", 1, 40]], columns=TABLE.columns, index=["other"])])
    first, second = (model_similarity(published(), property_matrices(table), permutations=50) for table in (TABLE, shuffled))
    assert first.data.drop_vars("rule").equals(second.data.drop_vars("rule"))


def test_every_prompt_and_end(tmp_path):
    rng = np.random.default_rng(1)
    agreement = rank_agreement(rng.normal(size=(5, 50)), list("abcde"), k=[10], blocks=0)
    known = property_matrices({"size": [1, 2, 4, 8, 16]}, models=list("abcde"))
    found = model_similarity(agreement, known, "rbo")
    assert found.data["spearman"].dims == ("prompt", "end", "property")
    matrix = agreement.rbo[0, 1]
    assert found.spearman[0, 1, 0] == pytest.approx(
        stats.spearmanr(matrix[np.triu_indices(5, 1)], known.similarity[0][np.triu_indices(5, 1)]).statistic)
    assert found.data["p"].sel(end="bottom").item() == mantel(matrix, known.similarity[0]).p
    assert Result.load(found.save(tmp_path / "similarity.nc")).data.identical(found.data)


def test_a_model_that_alone_tells_pairs_apart_leaves_no_interval():
    names = list("abcde")
    known = property_matrices({"base": list("xyyyy")}, models=names)
    found = model_similarity(agreement_of(TAU[:5, :5], names), known)
    assert np.isnan([found.low[0], found.high[0], found.coefficient_low[0], found.coefficient_high[0]]).all()
    assert any("no intervals" in note for note in found.warnings)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: property_matrices({"base": ["g", None, "l"]}, models=list("abc")), "missing: base of b"),
    (lambda: property_matrices({"base": ["g", "g", "g"]}, models=list("abc")), "base tells no two pairs of models apart"),
    (lambda: property_matrices(TABLE, kinds={"size": "number"}), "kinds: size=number"),
    (lambda: property_matrices({"base": ["g", "l", "g"]}, models=list("aab")), "a name of its own"),
    (lambda: model_similarity(published(), property_matrices(TABLE.iloc[:8])), "nothing is known of F-Lla, R-Gem-2B"),
    (lambda: model_similarity(published(), property_matrices(TABLE), "rho"), "no matrix 'rho'"),
])
def test_refused(call, message):
    with pytest.raises(RewardenError) as error:
        call()
    assert message in str(error.value)
    assert error.value.fix
