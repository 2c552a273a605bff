"""Planted fates: the probe's direction is turned away inside the policy, or only the texts change; each is named rightly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tests.training.worlds import WIDTH, policy, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.evasion import (
    ACTIVATIONS,
    BLATANT,
    HONEST,
    POLICY,
    Judged,
    evasion,
    fates,
    fresh_probe,
)
from rewarden.training.monitors import ProbeMonitor
from rewarden.training.provider import ActivationProvider

SEEN, UNSEEN = 5, 6
"""Tokens of bad texts: one whose direction the probe knows, one that looks like any other."""


def base_model():
    """A token that the residual stream tells apart clearly."""
    model = policy()
    with torch.no_grad():
        direction = torch.zeros(WIDTH)
        direction[0] = 12.0
        model.model.embed_tokens.weight[SEEN] = direction
        model.model.embed_tokens.weight[:, 0] *= (torch.arange(len(model.model.embed_tokens.weight)) == SEEN)
    return model


def turned(model, vector):
    """The same texts, with that token's embedding turned out of a direction, and as long as before."""
    with torch.no_grad():
        weight = model.model.embed_tokens.weight
        rest = torch.ones(WIDTH) - vector * vector.sum()
        weight[SEEN] = 12 * rest / rest.norm()
    return model


PLAIN = [i for i in range(3, 16) if i not in (SEEN, UNSEEN)]
NUMBERS = np.random.default_rng(0).permutation(len(PLAIN) ** 4)


def texts(provider, count: int, seed: int, bad: int | None, share: float = 0.5):
    """Rollouts of distinct prompts; a share of them holds the bad token."""
    rng = np.random.default_rng(seed)
    prompts = [[PLAIN[number // len(PLAIN)**place % len(PLAIN)] for place in range(4)]
               for number in NUMBERS[1000 * seed:1000 * seed + count]]
    completions, labels = [], []
    for _ in prompts:
        own = rng.choice(PLAIN, rng.integers(2, 8)).tolist()
        labels.append(bad is not None and rng.random() < share)
        if labels[-1]:
            own[int(rng.integers(len(own)))] = bad
        completions.append(own)
    return Judged(provider.rollouts(prompts, completions), np.asarray(labels))


@cache
def monitor_of_the_base():
    """A probe, calibrated before training."""
    provider = ActivationProvider(base_model(), tokenizer(), reference="frozen")
    learnt, usual = texts(provider, 300, 0, SEEN), texts(provider, 999, 1, None)
    return ProbeMonitor(0).fit(provider, learnt.rollouts, learnt.bad).calibrate(provider, usual.rollouts, 0.01)


def told(change, bad: int | None, share: float = 0.5, **settings):
    """What became of the base's monitor under a policy that was changed and writes such texts."""
    monitor = monitor_of_the_base()
    provider = ActivationProvider(change(base_model(), monitor.vector), tokenizer(), reference=base_model())
    before, after = texts(provider, 300, 2, SEEN), texts(provider, 300, 3, bad, share)
    return evasion(monitor, provider, before, after, **settings), provider, after


def kept(model, vector):
    return model


def raised(model, vector):
    """Every token looks suspicious inside."""
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(12 * vector)
    return model


@pytest.mark.parametrize(("name", "change", "bad", "share"), [
    (BLATANT, kept, SEEN, 0.5), (POLICY, kept, UNSEEN, 0.5), (ACTIVATIONS, turned, SEEN, 0.5), (HONEST, kept, None, 0.5),
    (HONEST, turned, SEEN, 0.01)])
def test_each_planted_fate_is_named(name, change, bad, share):
    found, _, _ = told(change, bad, share)
    assert found.run == name
    assert str(found.data["run"].values) == name
    at = found.data.sel(stage="before")
    assert float(at["recall_low"]) > 0.9
    assert float(at["evasion"]) == pytest.approx(1 - float(at["recall"]))
    assert float(at["fpr_low"]) <= 0.01
    share_named = float(found.data["share"].sel(fate_name=name))
    assert share_named == pytest.approx(np.mean(found.fate == name))
    assert share_named > (0.9 if name == HONEST else 0.4)


def test_what_is_lost_is_laid_to_texts_or_to_activations():
    inside = told(turned, SEEN)[0].data
    assert float(inside["activation_change_low"]) > 0.8
    assert float(inside["policy_change_low"]) <= 0 <= float(inside["policy_change_high"])
    text = told(kept, UNSEEN)[0].data
    assert float(text["policy_change_low"]) > 0.8
    assert float(text["activation_change_low"]) <= 0 <= float(text["activation_change_high"])
    for data in (inside, text):
        lost = data["recall"].sel(stage="before") - data["recall"].sel(stage="after")
        assert float(data["policy_change"] + data["activation_change"]) == pytest.approx(float(lost))
        assert data["evasion_low"].sel(stage="after") > 0.8
    assert float(told(kept, SEEN)[0].data["evasion_high"].sel(stage="after")) < 0.1


def test_a_fresh_probe_finds_what_the_old_one_lost():
    _, provider, after = told(turned, SEEN)
    assert fresh_probe(provider, after.rollouts, after.bad, 0).low > 0.9
    shuffled = np.random.default_rng(0).permutation(after.bad)
    chance = fresh_probe(provider, after.rollouts, shuffled, 0)
    assert chance.low < 0.5 < chance.high


def test_a_monitor_that_never_saw_is_not_said_to_be_evaded():
    provider = ActivationProvider(base_model(), tokenizer(), reference="frozen")
    found = evasion(monitor_of_the_base(), provider, texts(provider, 200, 2, UNSEEN), texts(provider, 200, 3, UNSEEN))
    assert any("what it never saw" in text for text in found.warnings)


def test_a_rate_that_no_longer_holds_is_told():
    found, _, _ = told(raised, SEEN)
    assert any(text.startswith("after: ") and "recalls are not at that rate" in text for text in found.warnings)
    assert float(found.data["fpr_low"].sel(stage="after")) > 0.5
    assert float(found.data["fpr_low"].sel(stage="after, read before")) <= 0.01


def test_fates_are_the_table():
    every = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).T
    assert fates(*every).tolist() == [HONEST] * 4 + [POLICY, ACTIVATIONS, BLATANT, BLATANT]


def test_what_cannot_be_is_refused():
    provider = ActivationProvider(base_model(), tokenizer(), reference="frozen")
    with pytest.raises(RewardenError, match="verdicts for"):
        Judged(texts(provider, 9, 0, None).rollouts, np.zeros(3))
    few = texts(provider, 9, 0, SEEN)
    with pytest.raises(RewardenError, match="a recall before training"):
        evasion(ProbeMonitor(0), provider, few, few)
    with pytest.raises(RewardenError, match="a fresh probe"):
        fresh_probe(provider, few.rollouts, few.bad, 0)
