"""Maps against exact points, a closed form, scikit-learn, and themselves."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sklearn.manifold import smacof as sklearn_smacof

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.comparison.maps import classical_mds, model_map, smacof
from rewarden.tokens.comparison.rank_agreement import rank_agreement

# Kendall's tau of ten reward models, Christian et al. 2025, fig. 2A, as printed.
TAU = np.array([
    [1, .55, .56, .17, .18, .29, .29, .13, .14, .35], [.55, 1, .57, .28, .27, .35, .29, .30, .18, .42],
    [.56, .57, 1, .21, .24, .37, .25, .19, .13, .43], [.17, .28, .21, 1, .53, .48, .22, .41, .39, .32],
    [.18, .27, .24, .53, 1, .45, .19, .38, .44, .28], [.29, .35, .37, .48, .45, 1, .23, .33, .27, .42],
    [.29, .29, .25, .22, .19, .23, 1, .22, .25, .24], [.13, .30, .19, .41, .38, .33, .22, 1, .33, .32],
    [.14, .18, .13, .39, .44, .27, .25, .33, 1, .16], [.35, .42, .43, .32, .28, .42, .24, .32, .16, 1]])


def lengths(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


@pytest.mark.parametrize("seed", range(3))
def test_exact_points_are_recovered(seed):
    triangle = np.array([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]])
    many = lengths(np.random.default_rng(seed).normal(size=(12, 2)))
    for given in (triangle, many):
        found = classical_mds(given)
        np.testing.assert_allclose(lengths(found.points), given, atol=1e-12)
        assert found.stress < 1e-12
    found = smacof(triangle, init="random", n_init=1, seed=seed)
    np.testing.assert_allclose(lengths(found.points), triangle, atol=1e-6)
    np.testing.assert_allclose(lengths(smacof(many, init="random", seed=seed).points), many, atol=1e-6)


def test_in_more_dimensions_the_classical_map_projects_on_the_widest():
    points = np.random.default_rng(0).normal(size=(9, 4)) * [4, 3, 2, 1]
    centred = points - points.mean(axis=0)
    left, widths, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(classical_mds(lengths(points), 3).points), np.abs(left * widths)[:, :3], atol=1e-10)


def test_a_tetrahedron_becomes_a_square():
    found = smacof(1.0 - np.eye(4))
    # Σ (d - 1)² over four sides a and two diagonals a√2 is least at a = (2 + √2) / 4; then Σ d² = 8a² and stress-1 = 3 - 2√2.
    assert found.stress == pytest.approx(3 - 2 * np.sqrt(2), abs=1e-7)
    assert np.sort(lengths(found.points)[np.triu_indices(4, 1)])[[0, 3, 4, 5]] == pytest.approx(
        (2 + np.sqrt(2)) / 4 * np.array([1, 1, np.sqrt(2), np.sqrt(2)]), abs=1e-6)


def test_published_distances_fit_as_well_as_with_scikit_learn():
    distance = 1 - TAU
    start = classical_mds(distance).points
    ours = smacof(distance, init=start, n_init=1)
    options = {"n_components": 2, "n_init": 1, "eps": 1e-14, "max_iter": 10_000, "normalized_stress": False}
    theirs, stress = sklearn_smacof(distance, init=start, **options)
    assert ours.raw_stress == pytest.approx(stress, abs=1e-7)
    np.testing.assert_allclose(lengths(ours.points), lengths(theirs), atol=1e-3)
    best = smacof(distance)
    assert best.raw_stress == pytest.approx(1.0575911, abs=1e-6)  # least of 50 random starts of scikit-learn 1.9, three seeds
    assert best.stress == pytest.approx(np.sqrt(best.raw_stress / (lengths(best.points) ** 2).sum() * 2), abs=1e-12)
    assert best.converged
    assert best.stress < classical_mds(distance).stress


def test_the_same_three_times_and_turned_to_one_convention():
    distance = 1 - TAU
    runs = [smacof(distance, seed=4).points for _ in range(3)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] == runs[2]).all()
    for points in (runs[0], classical_mds(distance).points):
        spread = points.T @ points
        assert abs(spread[0, 1]) < 1e-10  # principal axes
        assert spread[0, 0] > spread[1, 1]
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
        assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = smacof(distance, init=runs[0] @ turn @ np.diag([1, -1]) + 5, n_init=1)
    np.testing.assert_allclose(turned.points, runs[0], atol=1e-6)


def test_model_map_of_the_published_matrix():
    names = [f"model {i}" for i in range(10)]
    data = xr.Dataset({"tau": (("model", "other"), TAU)}, coords={"model": names, "other": names})
    agreement = Result("rank_agreement", data, {"by": "bytes"}, warnings=("half precision",))
    found = model_map(agreement)
    assert found.distance == pytest.approx(1 - TAU)
    np.testing.assert_allclose(found.fitted, lengths(found.position), atol=1e-12)
    assert float(found.stress) == pytest.approx(smacof(1 - TAU).stress, abs=1e-12)
    assert found.warnings == ("half precision", f"the map fits badly: stress-1 up to {float(found.stress):.2f}")
    assert (found.provenance["by"], found.provenance["measure"], int(found.n)) == ("bytes", "tau", 10)
    classical = model_map(agreement, method="classical")
    np.testing.assert_allclose(classical.position, classical_mds(1 - TAU).points, atol=1e-12)


def test_a_map_for_every_prompt_and_end(tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 60))
    agreement = rank_agreement(values, list("abcd"), k=[5, 10], blocks=0)
    found = model_map(agreement, "overlap", n_init=3)
    assert found.data["position"].dims == ("prompt", "end", "k", "model", "axis")
    given = np.where(np.eye(4, dtype=bool), 0, 1 - agreement.overlap[0, 1, 0])
    np.testing.assert_allclose(found.position[0, 1, 0], smacof(given, n_init=3).points, atol=1e-12)
    assert found.data["stress"].sel(end="bottom", k=5).item() == pytest.approx(smacof(given, n_init=3).stress)
    assert Result.load(found.save(tmp_path / "map.nc")).data.identical(found.data)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: classical_mds([[0, 1], [2, 0]]), "no matrix of distances"),
    (lambda: classical_mds([[1, 1], [1, 0]]), "0 on the diagonal"),
    (lambda: smacof([[0, np.nan], [np.nan, 0]]), "no matrix of distances"),
    (lambda: classical_mds(1 - TAU, 10), "10 dimensions for 10 points"),
    (lambda: smacof(1 - TAU, init="pca"), "cannot start from 'pca'"),
    (lambda: smacof(1 - TAU, init=np.zeros((3, 2))), "there are 10 points in 2 dimensions"),
    (lambda: model_map(rank_agreement(np.eye(3, 9), list("abc"), blocks=0), "n"), "no matrix 'n' of models"),
    (lambda: model_map(rank_agreement(np.eye(3, 9), list("abc"), blocks=0), method="umap"), "no method 'umap'"),
    (lambda: model_map(rank_agreement([np.ones(9), np.arange(9), -np.arange(9)], ["flat", "b", "c"], blocks=0)),
     "tau is not defined for flat and b, flat and c"),
])
def test_refused(call, message):
    with pytest.raises(RewardenError) as error:
        call()
    assert message in str(error.value)
    assert error.value.fix
