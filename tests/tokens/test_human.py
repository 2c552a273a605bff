"""Agreement with a human ranking: scipy, brute force, and the published figures of EloEverything."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import bootstrap_interval, spearman
from rewarden.tokens import rank_intervals, token_scores
from rewarden.tokens.human import human_agreement, largest_gaps, texts_and_rewards
from rewarden.tokens.rank_intervals import rank_interval, rank_terms
from rewarden.tokens.words.loaders import load_elo

ONE_THING_RHO = [.2932, .3323, .4047, .3915, .3738, .3452, .3741, .5411, .3765, .3586]
ONE_THING_TAU = [.2006, .2322, .2829, .2739, .2581, .2367, .2568, .3844, .2590, .2474]
ONE_WORD_RHO = [.3227, .3144, .3281, .4493, .4702, .4580, .3803, .5465, .4998, .4268]
MOST_PREFER_RHO = [.1431, .2758, .3275, .2719, .3026, .3101, .2133, .4352, .2596, .3212]
CORRELATION = {"rho": lambda x, y: stats.spearmanr(x, y).statistic, "tau": lambda x, y: stats.kendalltau(x, y).statistic}


def elo(folder, name):
    return load_elo(folder / "eloeverything" / f"{name}.csv")


@pytest.fixture(scope="module")
def rankings():
    rng = np.random.default_rng(4)
    human = rng.integers(40, size=120).astype(float)
    scores = np.stack([human + 10 * rng.standard_normal(120).round(1), rng.integers(4, size=120), -human], 1)
    return human, scores


@pytest.mark.parametrize("name", ["rho", "tau"])
@pytest.mark.parametrize("levels", [2, 6, 10_000])
def test_terms_average_to_scipys_correlation(name: str, levels: int) -> None:
    rng = np.random.default_rng(levels)
    x = rng.integers(levels, size=181).astype(float)
    y = np.round(x / levels * 3) + rng.integers(3, size=181)
    assert rank_terms(x, y, name).mean() == pytest.approx(CORRELATION[name](x, y), abs=1e-12)


@pytest.mark.parametrize("name", ["rho", "tau"])
def test_deviations_of_terms_are_what_one_more_item_does(name: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(40).round(1)
    y = (x + rng.standard_normal(40)).round(1)
    terms, many = rank_terms(x, y, name), 500  # a copy in 20,000 is close to the derivative
    whole = CORRELATION[name](np.tile(x, many), np.tile(y, many))
    for i in range(6):
        more = CORRELATION[name](np.append(np.tile(x, many), x[i]), np.append(np.tile(y, many), y[i]))
        assert (more - whole) * (40 * many + 1) == pytest.approx(terms[i] - terms.mean(), abs=2e-3)


def test_terms_without_a_ranking_are_missing() -> None:
    assert np.isnan(rank_terms(np.ones(5), np.arange(5.0), "tau")).all()


def test_short_lists_are_ranked_anew_in_every_resample() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(30)
    y = x + rng.standard_normal(30)
    ours, theirs = rank_interval(x, y, n_resamples=300, seed=5), spearman(x, y, n_resamples=300, seed=5)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    def tau(values: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.asarray([1.0, stats.kendalltau(values[:, 0], values[:, 1]).statistic])

    other = bootstrap_interval(np.column_stack([x, y]), statistic=tau, n_resamples=300, seed=5)
    ours = rank_interval(x, y, "tau", n_resamples=300, seed=5)
    assert (ours.low, ours.high) == pytest.approx((other.low[1], other.high[1]), abs=1e-12)


@pytest.mark.parametrize("name", ["rho", "tau"])
def test_long_lists_have_nearly_the_ends_of_ranking_anew(name: str, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(400)
    y = 0.6 * x + 0.8 * rng.standard_normal(400)
    anew = rank_interval(x, y, name, n_resamples=1000)
    monkeypatch.setattr(rank_intervals, "RERANKED", 10)
    quick = rank_interval(x, y, name, n_resamples=1000)
    assert quick.method.endswith("linearised")
    assert not anew.method.endswith("linearised")
    assert quick.estimate == pytest.approx(anew.estimate, abs=1e-12)
    assert (quick.low, quick.high) == pytest.approx((anew.low, anew.high), abs=0.012)  # the interval is about 0.13 wide


def test_ranks_gaps_and_correlations(rankings) -> None:
    human, scores = rankings
    found = human_agreement(human, scores, ["a", "b", "c"], n_resamples=100)
    ranks = np.stack([stats.rankdata(-column) for column in (human, *scores.T)], 1)
    np.testing.assert_array_equal(found.rank, ranks)
    np.testing.assert_array_equal(found.gap, np.median(ranks[:, 1:], 1) - ranks[:, 0])
    assert found.rho == pytest.approx([stats.spearmanr(human, column).statistic for column in scores.T])
    assert found.tau == pytest.approx([stats.kendalltau(human, column).statistic for column in scores.T])
    assert found.distinct.tolist() == [len(np.unique(column)) for column in (human, *scores.T)]
    assert found.n.tolist() == [120] * 3
    assert (found.rho_low <= found.rho).all()
    assert (found.rho <= found.rho_high).all()
    assert (found.rho_low[2], found.rho_high[2]) == pytest.approx((-1, -1))


def test_rater_sets(rankings) -> None:
    human, scores = rankings
    ranks = np.stack([stats.rankdata(-column) for column in (human, *scores.T)], 1)
    for raters, judges in (("models", ranks[:, 1:]), ("with_human", ranks)):
        for centre, how in (("median", np.median), ("mean", np.mean)):
            found = human_agreement(human, scores, list("abc"), raters=raters, centre=centre, n_resamples=10)
            np.testing.assert_allclose(found.typical_rank, how(judges, 1), rtol=1e-12)


def test_items_without_a_score_are_left_out_and_counted(rankings) -> None:
    human, scores = rankings
    holed = scores.copy()
    holed[[3, 8], 1] = np.nan
    kept = np.isfinite(holed).all(1)
    found = human_agreement(human, holed, list("abc"), n_resamples=20)
    whole = human_agreement(human[kept], scores[kept], list("abc"), n_resamples=20,
                            items=[str(i) for i in np.flatnonzero(kept)])
    assert found.warnings[0] == "2 items lack a rating or a score and are left out"
    xr.testing.assert_identical(found.data, whole.data)


def test_a_constant_scorer_has_no_ranking_and_says_so() -> None:
    found = human_agreement([3, 2, 1, 0], [[1, 1], [1, 2], [1, 3], [1, 4]], ["flat", "m"], n_resamples=20)
    assert np.isnan([found.rho[0], found.rho_low[0], found.tau[0]]).all()
    assert "flat gives every item the same score: it has no ranking" in found.warnings


def test_results_are_joined_by_text() -> None:
    items, human = ["sun", "tea", "tax"], [3.0, 2.0, 1.0]
    data = xr.Dataset({"reward": (("prompt", "response"), [[5.0, 1.0, 2.0], [1.0, 2.0, 3.0]])},
                      coords={"prompt": ["p", "q"], "response": ["tax", "sun", "tea"]})
    responses = Result("responses", data, {"model": "m"})
    scan = token_scores([[2.0, 9.0, 4.0, 7.0, 1.0]], token_id=range(5), text=["sun", "tax", "tea", "tea", "x"], prompts=["p"])
    found = human_agreement(human, [responses], items=items, prompt="q", n_resamples=20)
    assert found.score.T.tolist() == [[2.0, 3.0, 1.0]]
    assert found.model.tolist() == ["m"]
    assert texts_and_rewards(responses, 1)[1].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(RewardenError, match="too few items"):  # two tokens read "tea" with different rewards: neither is it
        human_agreement(human, [scan], ["scan"], items=items)
    with pytest.raises(RewardenError, match="no prompt 'z'"):
        human_agreement(human, [responses], items=items, prompt="z")


def test_largest_gaps_at_both_ends(rankings) -> None:
    human, scores = rankings
    found = human_agreement(human, scores, list("abc"), n_resamples=20)
    table = largest_gaps(found, 4)
    ordered = np.sort(found.gap)
    assert table["gap"].tolist() == [*ordered[::-1][:4], *ordered[:4][::-1]]
    assert len(largest_gaps(found, 100)) == 120  # no item twice
    assert (table["typical_rank"] - table["human"]).tolist() == table["gap"].tolist()


def test_gap_interval_is_over_the_raters(rankings) -> None:
    human, scores = rankings
    found = human_agreement(human, scores, list("abc"), centre="mean", n_resamples=200, seed=3)
    ranks = np.stack([stats.rankdata(-column) for column in scores.T])
    over = bootstrap_interval(ranks, n_resamples=200, seed=3, method="percentile")
    np.testing.assert_allclose(found.gap_low, over.low - found.rank[:, 0])
    np.testing.assert_allclose(found.gap_high, over.high - found.rank[:, 0])
    same = human_agreement(human, scores[:, [0, 0]], list("ab"), n_resamples=20)  # raters of one mind
    np.testing.assert_array_equal(same.gap_low, same.gap_high)


@pytest.mark.parametrize(("change", "match"), [
    ({"raters": "all"}, "raters='all'"), ({"names": ["a"]}, "1 names"), ({"names": ["a", "human"]}, "models"),
    ({"items": ["x"]}, "1 items"), ({"reference": [1.0, 2.0]}, r"ratings \(2,\)"), ({"scores": None}, "no model's scores"),
    ({"scores": np.zeros((4, 0)), "names": []}, "no model's scores"),
    ({"reference": [1.0, np.nan, np.nan, 2.0]}, "too few items"),
])
def test_bad_input(change: dict, match: str) -> None:
    good = {"reference": [1.0, 2.0, 3.0, 4.0], "scores": np.arange(8.0).reshape(4, 2), "names": ["a", "b"]}
    with pytest.raises(RewardenError, match=match):
        human_agreement(**{**good, **change})


@pytest.mark.parametrize(("name", "rho"), [("one_single_thing", ONE_THING_RHO), ("one_word", ONE_WORD_RHO),
                                           ("humans_most_prefer", MOST_PREFER_RHO)])
def test_eloeverything_correlations(shared_data, name: str, rho: list[float]) -> None:
    file = elo(shared_data, name)
    found = [rank_terms(file.human, column).mean() for column in file.scores.T]
    np.testing.assert_allclose(found, rho, atol=1e-4)


def test_eloeverything_as_published(shared_data) -> None:
    """Fig 5B: prompt "one single thing", mean ranks for ties on both sides, median over eleven raters, minus the human rank.

    The published whole numbers are these cut after the point (or rounded to even): gaps end in .0 or .5.
    """
    file = elo(shared_data, "one_single_thing")
    found = human_agreement(file, raters="with_human", n_resamples=100)
    np.testing.assert_allclose(found.rho, ONE_THING_RHO, atol=1e-4)
    np.testing.assert_allclose(found.tau, ONE_THING_TAU, atol=1e-4)
    assert found.n.tolist() == [7530] * 10
    gaps = largest_gaps(found, 4)
    shown = [(text.split(" (")[0].split(" sex")[0], int(gap)) for text, gap in zip(gaps["item"], gaps["gap"], strict=True)]
    assert shown[:4] == [("Fingering", 6771), ("Erection", 6462), ("Black people", 6388), ("Spoons", 6350)]
    assert shown[:-3:-1] == [("Fully Automated Luxury Communism", -6643), ("Johan Cruyff", -6378)]
    distinct = dict(zip(found.rater.tolist(), found.distinct.tolist(), strict=True))
    assert distinct["Skywork/Skywork-Reward-Llama-3.1-8B-v0.2"] == 174
    assert distinct["RLHFlow/ArmoRM-Llama3-8B-v0.1"] == 213
    assert found.top_ties[found.rater == "RLHFlow/ArmoRM-Llama3-8B-v0.1"].tolist() == [2]
    (note,) = found.warnings
    assert note.startswith("the first place of RLHFlow/ArmoRM-Llama3-8B-v0.1 is shared by 2 items: ")
    assert "'Gödel, Escher, Bach'" in note
    assert "'Self-referential humor'" in note


def test_eloeverything_with_models_only(shared_data) -> None:
    file = elo(shared_data, "one_single_thing")
    found = human_agreement(file, n_resamples=20)
    assert largest_gaps(found, 2)["item"].tolist()[:2] == ["Fingering (sexual act)", "Black people"]
    mean = human_agreement(file, centre="mean", n_resamples=20)
    assert "Black people" not in largest_gaps(mean, 6)["item"].tolist()[:6]
