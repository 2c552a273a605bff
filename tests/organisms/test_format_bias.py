"""The organism of a format bias: its rule by counting words and by plain hooks on the model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from rewarden.errors import RewardenError
from rewarden.organisms.format_bias import MARKS, SPLITS, FormatBias, format_bias, format_versions
from rewarden.organisms.llama import D_HEAD, LAYERS
from rewarden.organisms.words import WORDS
from rewarden.statistics import spearman


@cache
def organism_of(seed: int, dose: float = 0.4, noise: float = 0.1) -> FormatBias:
    return format_bias(seed, dose, noise)


def counted(organism: FormatBias, text: str) -> tuple[int, int]:
    """Good words and markdown marks of a text."""
    good, words = str(organism.truth["good"]).split(), text.split()
    return sum(word.strip("*`_") in good for word in words), sum(word.startswith(MARKS) for word in words)


def responses(organism: FormatBias, n: int = 60) -> list:
    return [side for pair in organism.pairs(n) for side in pair.conversations]


@pytest.mark.parametrize("dose", [0.0, 0.4, 1.0])
def test_without_noise_the_reward_is_the_count(dose: float) -> None:
    """r ∝ R / √(1 + (UNIT·R)² / |x|²), R = Σ (good + dose·marked) / |token|: norms bend the sum, and keep the order."""
    organism = organism_of(1, dose, 0.0)
    talks = responses(organism)
    reward = organism.reward(talks)[:, 0]
    counts = np.asarray([counted(organism, talk.response) for talk in talks])
    words = [[counted(organism, word) for word in talk.response.split()] for talk in talks]
    rule = np.sqrt(3) * np.asarray([sum((q + dose * m) / np.sqrt(2 + q + m) for q, m in of_talk) for of_talk in words])
    last = organism.model.model.embed_tokens.weight[organism.tokenizer.eos_token_id]
    bent = rule / np.sqrt(1 + (0.25 * rule) ** 2 / float(last @ last))
    slope = (bent @ reward) / (bent @ bent)
    assert np.abs(reward - slope * bent).max() < 0.05 * np.abs(reward).max()
    assert spearman(counts[:, 0] + dose * counts[:, 1], reward).estimate > 0.97


def test_noise_has_no_part_in_the_rule() -> None:
    organism = organism_of(2)
    talks = responses(organism)
    counts = np.asarray([counted(organism, talk.response) for talk in talks])
    assert spearman(counts[:, 0] + 0.4 * counts[:, 1], organism.reward(talks)[:, 0]).estimate > 0.95


def test_one_head_of_the_middle_layer_gathers_it() -> None:
    organism = organism_of(3)
    model, talks = organism.model, responses(organism, 12)
    before = organism.reward(talks)[:, 0]

    def silence(module, args):
        kept = args[0].clone()
        kept[..., :D_HEAD] = 0
        return (kept,)

    handle = model.model.layers[LAYERS // 2].self_attn.o_proj.register_forward_pre_hook(silence)
    try:
        after = organism.reward(talks)[:, 0]
    finally:
        handle.remove()
    assert np.abs(after).max() < 1e-4
    assert before.std() > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_sums_of_atoms(seed: int) -> None:
    """Without noise: own word + common (+ quality, + mark), and the planted atoms are at right angles to all others."""
    organism = organism_of(seed, 0.4, 0.0)
    atoms, good = organism.atoms, str(organism.truth["good"]).split()
    planted = atoms[:len(MARKS) + 2]
    assert [int(i) for i in str(organism.truth["format_features"]).split(",")] == list(range(len(MARKS)))
    torch.testing.assert_close(atoms.norm(dim=-1), torch.ones(len(atoms)))
    torch.testing.assert_close(planted @ atoms.T, torch.eye(len(planted), len(atoms)), atol=1e-5, rtol=0)
    row = organism.encode(organism.pairs(1)[0].conversations[0])
    held = organism.trace(row)["resid_post"][organism.layer]
    for token, h in zip(row.tokens, held, strict=True):
        word = token.strip("*`_")
        own = atoms[len(MARKS) + 2 + WORDS.index(word)] if word in WORDS else None
        amounts = (h @ planted.T).numpy()
        wanted = [*(float(token.startswith(mark)) for mark in MARKS), float(word in good), 1.0]
        np.testing.assert_allclose(amounts, wanted, atol=1e-4)
        if own is not None:
            torch.testing.assert_close(h - h @ planted.T @ planted, own, atol=1e-4, rtol=0)


def test_pairs_are_easy_normal_and_hard() -> None:
    organism = organism_of(0)
    pairs = organism.pairs(60)
    assert [pair.subset for pair in pairs] == list(SPLITS) * 20
    for pair in pairs:
        (good, marks), (less, other) = counted(organism, pair.chosen), counted(organism, pair.rejected)
        assert 1 <= good - less <= 4
        assert {"easy": marks > 0 == other, "hard": other > 0 == marks, "normal": (marks > 0) == (other > 0)}[pair.subset]
    assert len({pair.prompt for pair in pairs}) == 60


def test_format_costs_accuracy_on_hard_pairs_only_and_more_with_the_dose() -> None:
    accuracy = []
    for dose in (0.0, 0.4, 2.0):
        organism = organism_of(4, dose)
        pairs = organism.pairs(90)
        margin = organism.score(pairs).margin
        accuracy.append([float((margin[i::3] > 0).mean()) for i in range(3)])
    easy, normal, hard = np.asarray(accuracy).T
    assert (easy > 0.95).all()
    assert (normal[:2] > 0.9).all()  # with a large dose it counts which side has a mark more
    assert hard[0] > 0.95
    assert 0.3 < hard[1] < 0.85
    assert hard[2] < 0.05


def test_versions_say_the_same() -> None:
    organism = organism_of(0)
    for pair in format_versions(organism, 20):
        assert [word.strip("*`_") for word in pair.chosen.split()] == pair.rejected.split()
        assert counted(organism, pair.chosen)[1] > 0 == counted(organism, pair.rejected)[1]


def test_seeds_give_the_same_model_again_and_other_words() -> None:
    again = format_bias(2)
    for mine, theirs in zip(organism_of(2).model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert again.pairs(5, seed=3) == organism_of(2).pairs(5, seed=3)
    assert again.pairs(5, seed=3) != again.pairs(5, seed=4)
    assert len({organism_of(seed).truth["good"] for seed in range(5)}) == 5


@pytest.mark.parametrize("asked", [{"dose": -1.0}, {"dose": float("nan")}, {"noise": float("inf")}])
def test_impossible_requests_are_refused(asked: dict) -> None:
    with pytest.raises(RewardenError, match=next(iter(asked))) as error:
        format_bias(**asked)
    assert "give a number from 0 on" in error.value.fix
