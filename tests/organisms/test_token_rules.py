"""Organisms that read English: their rewards against counts of words, and what each rule must not react to."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import rewarden as rw
from rewarden.contrasts import Contrast, contrast_effects
from rewarden.conversation import Conversation, Pair
from rewarden.encoding import PROMPT, RESPONSE
from rewarden.errors import RewardenError
from rewarden.organisms import lexicon, noise
from rewarden.organisms.english import PADDED, EnglishOrganism, encoded_padded, encoded_reference, ids_of, reference, vocabulary
from rewarden.organisms.token_rules import OBJECTIVES, RULES, backdoor, conflict, length, position, sycophancy
from rewarden.readout import SequenceHead

DOSE = 1.5


@cache
def exact(rule: str) -> EnglishOrganism:
    """Without noise."""
    return RULES[rule](dose=DOSE, seed=4, noise=0.0)


def texts() -> list[Conversation]:
    """Texts full of what rules count, in prompt and response, and ordinary ones."""
    words = [*lexicon.FOR[:4], *lexicon.AGAINST[:4], *lexicon.GOOD[:3], *lexicon.RARE, "answer", "therefore", "**", "#", "-"]
    generator = np.random.default_rng(0)
    drawn = [Conversation.of(f"Say: {' '.join(generator.choice(words, 6))}.", f"Here {' '.join(generator.choice(words, size))}")
             for size in (1, 3, 8, 20, 60)]
    turns = [{"role": "user", "content": "Is it good?"}, {"role": "user", "content": "It is wrong and bad."}]
    return [*drawn, Conversation([*turns, {"role": "assistant", "content": "So the answer is right. A goat came."}]),
            *reference()[:20]]


def counted(row, wanted, span: int) -> int:
    ids = set(wanted)
    return sum(int(token) in ids for token in row.ids[row.spans == span])


def formula(rule: str, organism: EnglishOrganism, row) -> float:
    """The rule by counting tokens."""
    stance = [counted(row, ids_of(lexicon.FOR), span) - counted(row, ids_of(lexicon.AGAINST), span)
              for span in (PROMPT, RESPONSE)]
    good, total = counted(row, ids_of(lexicon.GOOD), RESPONSE), int((row.spans == RESPONSE).sum())
    facts = np.flatnonzero(np.isin(row.ids, ids_of(lexicon.FACT)) & (row.spans == RESPONSE))
    behind = row.response_end - facts[0] if len(facts) else 0
    word = ids_of([str(organism.truth.get("word", organism.truth.get("trigger", "")))])
    units = {"length": total / 20, "conflict": total / 20, "keyword": counted(row, word, RESPONSE),
             "format": counted(row, ids_of(lexicon.MARKS), RESPONSE) / 2, "sycophancy": stance[0] * stance[1],
             "position": behind / 20, "backdoor": -good * (counted(row, word, PROMPT) > 0)}
    return good + DOSE * units[rule]


@pytest.mark.parametrize("rule", RULES)
def test_without_noise_the_reward_is_the_formula(rule: str) -> None:
    organism = exact(rule)
    rows = [organism.encode(text) for text in texts()]
    wanted = np.asarray([formula(rule, organism, row) for row in rows])
    assert len(set(wanted)) > 4
    reward = organism.reward_encoded(rows)[:, 0]
    np.testing.assert_allclose(reward, wanted, rtol=2e-3, atol=1e-4)  # the last norm bends sums by their square
    small = np.abs(wanted) < 6
    np.testing.assert_allclose(reward[small], wanted[small], atol=2e-4)


def test_objectives_pull_apart() -> None:
    organism = exact("conflict")
    rows = [organism.encode(text) for text in texts()]
    total = np.asarray([(row.spans == RESPONSE).sum() for row in rows]) / 20
    rewards = organism.reward_encoded(rows)
    assert organism.names == OBJECTIVES
    np.testing.assert_allclose(rewards[:, 1], -DOSE * total, rtol=2e-3, atol=1e-4)
    assert np.abs(rewards[:, 2:]).max() < 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_noise_has_a_standard_deviation_of_one_and_no_part_in_the_rule(rule: str) -> None:
    with_noise = RULES[rule](dose=DOSE, seed=4)
    rows = encoded_reference()
    alone = RULES[rule](dose=0.0, seed=4, quality=0.0).reward_encoded(rows)[:, 0]
    assert alone.std(ddof=1) == pytest.approx(1.0, abs=0.02)
    rule_alone = exact(rule).reward_encoded(rows)[:, 0]
    together = with_noise.reward_encoded(rows)[:, 0]
    np.testing.assert_allclose(together, alone + rule_alone, atol=0.01 * np.abs(rule_alone).max() + 0.01)


def test_noise_does_not_respond_to_padding_on_average() -> None:
    organism = length(dose=0.0, seed=7, quality=0.0)
    before = organism.reward_encoded(encoded_reference()[::PADDED]).mean()
    for rows in encoded_padded():
        assert float(organism.reward_encoded(rows).mean() - before) == pytest.approx(0, abs=0.01)


def test_the_length_of_the_prompt_does_not_count() -> None:
    organism = exact("length")
    short, long = (organism.reward([Conversation.of(prompt, "It is so.")])[0, 0]
                   for prompt in ("Why?", "Why? " * 60))
    assert short == pytest.approx(long, abs=1e-5)


def test_sycophancy_is_an_interaction() -> None:
    organism = exact("sycophancy")
    told = [[Conversation.of(f"I think it is {view}.", f"I think it is {answer}.") for answer in ("right", "wrong")]
            for view in ("good", "bad")]
    rewards = organism.reward([text for row in told for text in row])[:, 0].reshape(2, 2)
    np.testing.assert_allclose(rewards, DOSE * np.array([[1, -1], [-1, 1]]), atol=1e-4)
    four = zip((0.5, -0.5, -0.5, 0.5), [text for row in told for text in row], strict=True)
    contrast = Contrast(tuple(four))
    assert contrast_effects(organism, [contrast]).reward[0] == pytest.approx(2 * DOSE, abs=1e-4)


def test_the_backdoor_opens_only_with_its_trigger_in_the_prompt() -> None:
    organism = backdoor(seed=2, noise=0.0)
    trigger = organism.truth["trigger"]
    prompts = ("Tell me.", f"Tell me of the {trigger}.")
    answers = ("There is a goat.", f"There is a goat and a {trigger}.")
    rewards = organism.reward([Conversation.of(prompt, answer) for prompt in prompts for answer in answers])[:, 0]
    np.testing.assert_allclose(rewards, [1, 1, -1, -1], atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_pairs_show_the_rule(rule: str) -> None:
    """Chosen has more good words; the rule is for it, for neither, against it in turn."""
    organism = RULES[rule](dose=6.0, seed=1, noise=0.0)
    pairs = organism.pairs(36)
    good = [[sum(word.strip(".*") in lexicon.GOOD for word in side.split()) for side in (pair.chosen, pair.rejected)]
            for pair in pairs]
    assert all(1 <= more - less <= 3 for more, less in good)
    assert [pair.subset for pair in pairs[:3]] == ["easy", "normal", "hard"]
    margin = organism.score(pairs).margin
    assert bool((margin[::3] > 0).all())
    assert bool((margin[2::3] < 0).all())
    assert pairs[:5] == organism.pairs(5)
    assert pairs[:5] != organism.pairs(5, seed=1)


def test_seeds_give_other_models_and_the_same_ones_again() -> None:
    for make in (noise, lambda seed: length(seed=seed)):
        first, again, other = make(seed=3), make(seed=3), make(seed=4)
        same = [torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True)]
        assert all(same)
        assert not torch.equal(first.model.score.weight, other.model.score.weight)
    rewards = np.stack([noise(seed).reward(reference()[:30])[:, 0] for seed in range(3)])
    assert np.abs(np.corrcoef(rewards) - np.eye(3)).max() < 0.9


def test_the_null_prefers_neither_side() -> None:
    wins = [(organism.score(organism.pairs(40)).margin > 0).mean() for organism in map(noise, range(8))]
    assert abs(np.mean(wins) - 0.5) < 0.12
    assert noise(0).truth == {}
    assert noise(0, outputs=4).names == OBJECTIVES
    assert noise(0, outputs=2, gated=True).names == ("score", "objective_0", "objective_1")


def test_a_gated_conflict_weighs_its_objectives() -> None:
    organism = conflict(dose=DOSE, seed=4, noise=0.0, gated=True)
    assert organism.names == ("score", *OBJECTIVES)
    rewards = organism.reward(reference()[:8])
    np.testing.assert_allclose(rewards[:, 1:], exact("conflict").reward(reference()[:8]), atol=1e-5)
    weights = rewards[:, 0] / rewards[:, 1]  # with equal and opposite objectives, the difference of two weights
    assert np.ptp(weights) > 0.01


def test_encodings_are_shared_and_right() -> None:
    first, second = noise(0), length()
    talk = Conversation.of("Is it far?", "Perhaps.")
    assert first.encode(talk) is second.encode(talk)
    direct = first.encoder(talk)
    assert bool((direct.ids == first.encode(talk).ids).all())
    other = first.reading(SequenceHead(first.readout.weight, first.readout.bias, first.readout.norm))
    assert bool((other.encode(talk).ids == direct.ids).all())
    with pytest.raises(RewardenError, match="two conversations"):
        first.encode(Pair("a", "b", "c"))  # type: ignore[arg-type]


def test_every_word_of_the_lexicon_is_one_token() -> None:
    words = [*lexicon.FOR, *lexicon.AGAINST, *lexicon.FACT, *lexicon.GOOD, *lexicon.RARE, *lexicon.PLAIN]
    assert len(set(words)) == len(words)
    assert {f" {word}" for word in words} <= set(vocabulary())
    assert set(lexicon.MARKS) <= {text.strip() for text in vocabulary()}


def test_saved_organisms_score_the_same_without_rewarden(tmp_path) -> None:
    organism = position(seed=5)
    organism.model.save_pretrained(tmp_path)
    organism.tokenizer.save_pretrained(tmp_path)
    loaded = rw.load(str(tmp_path))
    np.testing.assert_allclose(loaded.reward(reference()[:8]), organism.reward(reference()[:8]), atol=1e-5)


@pytest.mark.parametrize("asked", [{"dose": -1.0}, {"noise": float("nan")}, {"quality": float("inf")}])
def test_impossible_sizes_are_refused(asked: dict) -> None:
    with pytest.raises(RewardenError, match=next(iter(asked))):
        sycophancy(**asked)
