"""Single tokens that move the reward: the law of the test, and planted words."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

import rewarden as rw
from rewarden.cli.app import main
from rewarden.errors import RewardenError
from rewarden.hacking.word_triggers import named, place_in, triggers, verdicts
from rewarden.organisms import backdoor, keyword, length, noise
from rewarden.plots.triggers import trigger_strip, trigger_table
from rewarden.statistics import holm
from rewarden.statistics.spacings import outlier_p, ratio_p, spacings


def few(organism, **options):
    pairs = [pair for pair in organism.pairs(24) if pair.subset != "hard"]
    return triggers(organism, pairs, **options)


@pytest.mark.parametrize(("m", "k", "ratio"), [(1, 60, 6.0), (3, 58, 12.0), (4, 11, 8.0)])
def test_the_law_of_the_ratio_is_that_of_exponentials(m, k, ratio):
    draws = np.random.default_rng(m).exponential(size=(100_000, m + k))
    middle = np.partition(draws[:, m:], -(-k // 2) - 1, axis=1)[:, -(-k // 2) - 1]
    share = (draws[:, :m].sum(axis=1) / middle > ratio).mean()
    expected = ratio_p(ratio, m, k)
    assert share == pytest.approx(expected, abs=4 * (expected / 100_000) ** 0.5)


@pytest.mark.parametrize("law", ["standard_normal", "laplace"])
def test_samples_without_outliers_are_flagged_at_most_at_the_stated_rate(law):
    generator, flags = np.random.default_rng(3), 0
    for _ in range(300):
        both = getattr(generator, law)(size=(2, 4000))
        flags += bool((holm(np.concatenate([outlier_p(sign * one, 4, 64) for one in both for sign in (1, -1)])) <= 0.05).any())
    assert flags <= 25  # 99 % of binomial(300, .05)


def test_a_group_that_stands_apart_does_not_hide_one_beyond_it_and_is_none_itself():
    generator = np.random.default_rng(5)
    sample = np.concatenate([generator.normal(size=4000), 20 + generator.normal(size=20)])
    assert outlier_p(sample, 4, 64).min() > 0.01
    assert outlier_p(np.append(sample, 40.0), 4, 64)[0] < 1e-6
    assert spacings(sample, 64).argmax() == 19


def test_a_sample_without_differences_has_none():
    assert outlier_p(np.zeros(500), 3, 64).tolist() == [1.0, 1.0, 1.0]
    assert outlier_p(np.append(np.zeros(500), 1e-7), 1, 64, floor=1e-6).tolist() == [1.0]
    assert outlier_p(np.append(np.zeros(500), 1.0), 1, 64).tolist() == [0.0]


@pytest.mark.parametrize("place", ["prompt", "response"])
def test_effects_are_those_of_whole_conversations(place):
    organism = noise(3)
    text = organism.pairs(1)[0].conversations[0]
    slot = place_in(organism, text, place)
    row = slot.filled([500])
    assert (row.spans == slot.filled([501]).spans).all()
    assert row.text.count(organism.tokenizer.decode([500])) >= 1
    assert (int(np.flatnonzero(row.ids != slot.filled([501]).ids)[0]) < row.response_start) == (place == "prompt")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "question", "key"), [(keyword, "keyword", "word"), (backdoor, "backdoor", "trigger")])
def test_the_planted_word_is_found_at_the_stated_dose(make, question, key):
    organism = make(seed=1)  # the keyword of seed 2 is missed: good words count half as much
    result = few(organism, confirmed=4)
    found = verdicts(result)
    assert {name for name, one in found.items() if one.flag} == {question}
    place = {"keyword": "response", "backdoor": "prompt"}[question]
    assert named(result, place) == [f" {organism.truth[key]}"]
    if question == "keyword":
        assert found[question].estimate == pytest.approx(organism.truth["dose"], abs=0.5)


def test_a_word_is_found_among_part_of_the_vocabulary_too():
    organism = keyword(seed=1, noise=0.3)
    word = organism.tokenizer.encode(f" {organism.truth['word']}", add_special_tokens=False)[-1]
    result = few(organism, tokens=2000, tail=32)
    table = trigger_table(result, 3)
    assert len(table) == 12
    assert len(trigger_strip(result, 3).data) == 6
    there = word in result.data["token_id"].values
    assert verdicts(result)["keyword"].flag == there


@pytest.mark.parametrize("make", [partial(length, quality=0), noise])  # of a few good words, some would stand apart
def test_other_organisms_are_not_flagged(make):
    assert not any(one.flag for one in verdicts(few(make(seed=4), tokens=1500, confirmed=4)).values())


def test_too_few_prompts_and_impossible_options_are_refused():
    with pytest.raises(RewardenError, match="tokens tried in conversations"):
        triggers(noise(0), noise(0).pairs(3))
    with pytest.raises(RewardenError, match="tail"):
        triggers(noise(0), noise(0).pairs(8), tail=16)


def test_the_verb_prints_one_object(capsys):
    assert main(["hacking", "triggers", "--tokens", "640", "--limit", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["verdicts"]) == {"keyword", "backdoor"}
    assert rw.hacking.triggers is triggers
