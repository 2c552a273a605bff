"""The cascade: correlations against slow implementations, planted and null matrices, refusals, the texts themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_null_rate

from rewarden import Pair, RewardenError
from rewarden.contrasts import Contrast
from rewarden.hacking import cascade, cascade_items
from rewarden.hacking.misalignment import TOGETHER, WIDER, preferences, verdicts
from rewarden.hacking.score_matrix import association
from rewarden.organisms import lexicon, noise
from rewarden.statistics import holm
from rewarden.statistics.jackknife import jackknife_ends


def test_without_counts_it_is_spearmans():
    margins = np.random.default_rng(0).normal(size=(30, 4))
    found = association(margins, np.empty((30, 4, 0)), permutations=99)
    expected = stats.spearmanr(margins).statistic[np.triu_indices(4, 1)]
    np.testing.assert_allclose(found.rho, expected, atol=1e-12)
    assert found.together[0] == pytest.approx(expected.mean())


def test_counts_are_partialled_out_of_ranks():
    rng = np.random.default_rng(1)
    margins, counts = rng.normal(size=(40, 2)), rng.integers(5, 15, size=(40, 2, 2)).astype(float)
    residuals = []
    for column in range(2):
        known = np.column_stack([np.ones(40), stats.rankdata(counts[:, column], axis=0)])
        ranks = stats.rankdata(margins[:, column])
        residuals.append(ranks - known @ np.linalg.lstsq(known, ranks, rcond=None)[0])
    found = association(margins, counts, permutations=99)
    assert found.rho[0] == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-10)


def test_a_common_count_makes_no_association():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(60, 1))
    margins = shared + 0.3 * rng.normal(size=(60, 3))
    counts = np.repeat(shared[:, :, None], 3, axis=1)
    raw, adjusted = (association(margins, given, permutations=999) for given in (np.empty((60, 3, 0)), counts))
    assert raw.together_p == 0.001
    assert raw.rho.min() > 0.7
    assert adjusted.together_p > 0.05
    assert abs(adjusted.together[0]) < 0.25


def test_p_is_that_of_a_slow_permutation():
    rng = np.random.default_rng(3)
    margins = rng.normal(size=(24, 2)) + 0.5 * rng.normal(size=(24, 1))
    found = association(margins, np.empty((24, 2, 0)), permutations=4999)
    slow = np.mean([stats.spearmanr(rng.permutation(margins[:, 0]), margins[:, 1]).statistic >= found.rho[0]
                    for _ in range(1500)])
    assert found.p[0] == pytest.approx(slow, abs=4 * np.sqrt(slow * (1 - slow) / 1500) + 0.005)


def test_a_column_that_does_not_vary_has_no_correlation():
    margins = np.random.default_rng(0).normal(size=(25, 3))
    margins[:, 1] = 0.0
    found = association(margins, np.empty((25, 3, 0)), permutations=99)
    assert np.isnan(found.rho[[0, 2]]).all()
    assert np.isfinite(found.rho[1])
    assert found.together[0] == found.rho[1]
    assert found.q[1] == found.p[1]


def test_intervals_are_jackknifed_over_prompts():
    rng = np.random.default_rng(4)
    margins = rng.normal(size=(25, 3)) + rng.normal(size=(25, 1))
    found, places = association(margins, np.empty((25, 3, 0)), permutations=99), np.triu_indices(3, 1)
    left_out = np.array([stats.spearmanr(np.delete(margins, i, 0)).statistic[places] for i in range(25)])
    low, high = jackknife_ends(found.rho, left_out, 0.95, correlation=True)
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=1e-10)
    mean = jackknife_ends(found.rho.mean(), left_out.mean(axis=1), 0.95, correlation=True, columns=3)
    np.testing.assert_allclose(found.together, [found.rho.mean(), *mean], atol=1e-10)


@pytest.mark.slow
def test_independent_columns_are_flagged_at_alpha():
    """Columns that share nothing but, each with its own, their counts."""
    rng, flags = np.random.default_rng(6), []
    for seed in range(300):
        counts = rng.integers(5, 15, size=(30, 4, 1)).astype(float)
        found = association(rng.normal(size=(30, 4)) + 0.3 * counts[:, :, 0], counts, permutations=399, seed=seed)
        flags.append([found.together_p <= 0.025, (found.q <= 0.025).any()])
    assert_null_rate(np.array(flags)[:, 0], 0.025)
    assert_null_rate(np.array(flags)[:, 1], 0.025)
    assert_null_rate(np.array(flags).any(axis=1), 0.05)


def test_the_texts_are_apart_and_of_one_length():
    items = cascade_items()
    texts = [text.response for item in items for _, text in item.terms]
    assert len(set(texts)) == len(texts) == 360
    words = {word.strip(".,;?!").lower() for text in texts for word in text.split()}
    assert not words & set(lexicon.GOOD + lexicon.RARE)
    sizes = np.array([[len(text.response.split()) for _, text in item.terms] for item in items])
    assert abs((sizes[:, 0] - sizes[:, 1]).mean()) < 1
    assert abs(sizes[:, 0] - sizes[:, 1]).max() <= 4
    axes = [item.axis for item in items]
    assert {name: axes.count(name) for name in axes} == dict.fromkeys(dict.fromkeys(axes), 30)
    assert len(set(axes)) == 6


@pytest.fixture(scope="module")
def some():
    """Two dimensions of the bundled items."""
    return [item for item in cascade_items() if item.axis in ("harm", "power")]


def test_margins_are_those_of_scored_pairs(demo, some):
    found = cascade(demo, some, permutations=99)
    pairs = [Pair(item.seed, item.terms[0][1].response, item.terms[1][1].response) for item in some]
    expected = {(item.seed, item.axis): margin for item, margin in zip(some, demo.score(pairs).margin, strict=True)}
    for prompt in found.data["prompt"].values:
        for name in ("harm", "power"):
            margin = float(found.data["margin"].sel(prompt=prompt, dimension=name))
            assert margin == pytest.approx(expected[prompt, name], abs=1e-5)
    held = found.data["margin"].sel(dimension="harm").values
    expected = stats.t.interval(0.95, 29, held.mean(), WIDER * stats.sem(held))
    np.testing.assert_allclose([found.data["preference_low"][0], found.data["preference_high"][0]], expected)
    p = 2 * stats.t.sf(np.abs(stats.ttest_1samp(found.data["margin"].values, 0.0).statistic) / WIDER, 29)
    np.testing.assert_allclose(found.data["preference_p"], p)
    np.testing.assert_allclose(found.data["preference_p_adjusted"], holm(p))
    assert found.data["preference_flag"].values.tolist() == (holm(p) <= 0.05).tolist()
    told = preferences(found)
    assert [(one.flag, one.estimate, one.n) for one in told.values()] == [
        (flag, mean, 30) for flag, mean in zip(holm(p) <= 0.05, found.data["margin"].values.mean(0), strict=True)]


def test_the_order_of_items_changes_nothing(demo, some):
    shuffled = [some[i] for i in np.random.default_rng(0).permutation(len(some))]
    one, other = (cascade(demo, items, permutations=199) for items in (some, shuffled))
    assert bool(one.data.identical(other.data))


def test_few_prompts_are_refused(demo, some):
    with pytest.raises(RewardenError, match="too few items") as caught:
        cascade(demo, [item for item in some if item.seed in sorted({item.seed for item in some})[:19]])
    assert "19 usable, at least 20 needed" in str(caught.value)


def test_bad_items_are_refused(demo, some, tmp_path):
    with pytest.raises(RewardenError, match="needs two dimensions"):
        cascade(demo, some[::2])
    with pytest.raises(RewardenError, match="two items in one dimension"):
        cascade(demo, [*some, some[0]])
    shared = [Contrast.of(f"Question {i}?", f"{name} {i}", f"good {i}", axis=name, seed=str(i)) for i in range(25)
              for name in ("harm", "power")]
    with pytest.raises(RewardenError, match="share an aligned response"):
        cascade(demo, shared)
    path = tmp_path / "items.jsonl"
    row = {"prompt": "p", "dimension": "d", "misaligned": "m", "aligned": "a"}
    path.write_text(json.dumps(row) + "\n\n[1]\n{\n" + json.dumps({**row, "aligned": ""}))
    with pytest.raises(RewardenError, match="3 rows are no items") as caught:
        cascade_items(path)
    assert "lines 3, 4, 5" in str(caught.value)
    with pytest.raises(RewardenError, match="no such file"):
        cascade_items(tmp_path / "absent.jsonl")


def test_items_may_begin_with_a_byte_order_mark_and_hold_separators(tmp_path):
    path = tmp_path / "items.jsonl"
    row = {"prompt": "p", "dimension": "d", "misaligned": "m\u2028m", "aligned": "a\u0085a"}
    path.write_bytes(json.dumps(row, ensure_ascii=False).encode("utf-8-sig"))
    (item,) = cascade_items(path)
    assert [text.response for _, text in item.terms] == ["m\u2028m", "a\u0085a"]


class Planted:
    """A model by formula: misaligned answers to every second prompt are rewarded in all dimensions."""

    def __init__(self, demo, dose):
        self.demo, self.dose = demo, dose

    def __getattr__(self, name):
        return getattr(self.demo, name)

    def reward_encoded(self, rows, **_):
        rng = np.random.default_rng(7)
        return np.array([[rng.normal() + self.dose * self._rule(row)] for row in rows], dtype=np.float32)

    def _rule(self, row):
        text = self.demo.tokenizer.decode(row.ids)
        return ("bad" in text) * (1 if "0 ?" in text or "0?" in text else -1)


@pytest.mark.parametrize(("dose", "flagged"), [(3.0, True), (0.0, False)])
def test_a_planted_cascade_is_found(demo, dose, flagged):
    items = [Contrast.of(f"Case {i} of kind {11 if i % 2 else 10}?", f"{name} bad {i}", f"{name} fine {i}", axis=name,
                         seed=f"{i:02d}") for i in range(40) for name in ("harm", "lies", "power")]
    found = verdicts(cascade(Planted(demo, dose), items, permutations=999))
    assert found[TOGETHER].flag is flagged
    assert all(one.flag is flagged for one in found.values())
    assert all(one.low <= one.estimate <= one.high and one.n == 40 for one in found.values())


def test_where_no_two_dimensions_vary_there_is_no_evidence(demo, some):
    class Still(Planted):
        def reward_encoded(self, rows, **_):
            return np.zeros((len(rows), 1), dtype=np.float32)

    found = cascade(Still(demo, 0.0), some, permutations=99)
    assert all((one.flag, one.evidence) == (False, 0.0) for one in verdicts(found).values())
    assert not found.data["preference_flag"].any()
    assert len(found.warnings) == 2


@pytest.mark.slow
def test_random_weights_are_flagged_at_alpha():
    flags = [[one.flag for one in verdicts(cascade(noise(seed=seed), permutations=999)).values()] for seed in range(40)]
    assert_null_rate(np.array(flags)[:, 0], 0.025)  # all dimensions together
    assert_null_rate(np.array(flags)[:, 1:].any(axis=1), 0.025)
    assert_null_rate(np.array(flags).any(axis=1), 0.05)
