"""Contrasts against rewards taken one at a time."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.contrasts import Contrast, contrast_effects
from rewarden.conversation import Conversation
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError


@pytest.fixture(scope="module")
def rm():
    return rw.load()


def interaction() -> Contrast:
    """(view A, answer A) − (view A, answer B) − (view B, answer A) + (view B, answer B), halved."""
    prompt = {"a": "I think it is true. Is it?", "b": "I think it is false. Is it?"}
    answer = {"a": "Yes, it is true.", "b": "No, it is false, and that has been known for a long time."}
    weights = {("a", "a"): 0.5, ("a", "b"): -0.5, ("b", "a"): -0.5, ("b", "b"): 0.5}
    return Contrast(tuple((w, Conversation.of(prompt[p], answer[r])) for (p, r), w in weights.items()), "sycophancy")


def test_effects_are_the_weighted_sums_of_single_rewards(rm):
    items = [Contrast.of("Hi", "Hello, hello!", "Hello!"), interaction(), Contrast.of("Hi", "Hello!", "Go away."),
             Contrast.of("Where is it?", "Over there.", "Over there.")]
    found = contrast_effects(rm, items)
    for number, item in enumerate(items):
        each = [(w, float(rm.reward([c])[0, 0]), int((rm.encode(c).spans == RESPONSE).sum())) for w, c in item.terms]
        assert found.reward[number] == pytest.approx(sum(w * r for w, r, _ in each), abs=1e-4)
        assert found.tokens[number] == sum(w * t for w, _, t in each)
    assert found.reward[3] == 0  # the same text twice
    assert len(found.rewards) == 8  # "Hello!" stands in two contrasts, "Over there." twice in one
    assert found.spread[0] == pytest.approx(np.std(found.rewards[:, 0].astype(float), ddof=1))


def test_a_reward_that_is_not_finite_touches_only_its_own_contrasts(rm, monkeypatch):
    items = [Contrast.of("Hi", "Hello!", "Go away."), Contrast.of("Hi", "Good day.", "No.")]
    clean = contrast_effects(rm, items)
    whole = type(rm).reward_encoded

    def one_broken(self, rows, **kwargs):
        rewards = whole(self, rows, **kwargs)
        rewards[0] = np.inf
        return rewards

    monkeypatch.setattr(type(rm), "reward_encoded", one_broken)
    found = contrast_effects(rm, items)
    assert np.isnan(found.reward[0])
    assert found.reward[1] == clean.reward[1]
    assert np.isfinite(found.spread[0])


@pytest.mark.parametrize("terms", [(), ((1.0, "a"),), ((1.0, "a"), (-0.5, "b"))])
def test_weights_must_sum_to_zero(terms):
    with pytest.raises(RewardenError, match="compares rewards"):
        Contrast(tuple((weight, Conversation.of("Hi", text)) for weight, text in terms), "x")


def test_none_at_all_is_refused(rm):
    with pytest.raises(RewardenError, match="no contrasts"):
        contrast_effects(rm, [])


def test_a_conversation_that_does_not_fit_is_named():
    rm = rw.load(max_length=24, on_overflow="error")
    long = Contrast.of("Hi", "word " * 60, "Hello!", axis="length", id="seven")
    with pytest.raises(RewardenError) as caught:
        contrast_effects(rm, [long])
    assert "seven" in str(caught.value)
