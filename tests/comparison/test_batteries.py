"""The battery on several models at once: each as alone, the gap their difference, and tokens of shared vocabularies."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.comparison.worlds import PAIRS, tiny

import rewarden as rw
from rewarden.comparison import batteries, compare
from rewarden.comparison.members import members_of
from rewarden.errors import RewardenError
from rewarden.hacking.bias.battery import bias_battery
from rewarden.options import GREATEST, WORST


def test_a_panel_gives_rewards_in_sd_and_their_differences():
    models = [tiny(), tiny(seed=1), tiny("gpt2")]
    members = members_of(models, PAIRS, None, each_scalar=False)
    panel = batteries.Panel(members)
    texts = [side for pair in PAIRS for side in pair.conversations]
    found = panel.reward_encoded([panel.encode(text) for text in texts])
    unit = [rm.reward(texts)[:, 0] / member.spread for rm, member in zip(models, members, strict=True)]
    expected = [*unit, unit[0] - unit[1], unit[0] - unit[2], unit[1] - unit[2]]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-5)
    assert panel.names == ("llama-0", "llama-1", "gpt2-0", "llama-0 − llama-1", "llama-0 − gpt2-0", "llama-1 − gpt2-0")


def test_each_model_reads_its_own_text(demo):
    """The first model's tokenizer writes both words as one unknown token; the second model knows them."""
    models, texts = [tiny(), demo], [rw.Conversation.of("is it good", f"the {word}") for word in ("river", "weather", "river")]
    members = members_of(models, PAIRS, None, each_scalar=False)
    panel = batteries.Panel(members)
    rows = [panel.encode(text) for text in texts]
    assert rows[0].ids.tolist() == rows[1].ids.tolist()
    assert rows[0].key() == rows[2].key() != rows[1].key()
    found = panel.reward_encoded(rows)
    np.testing.assert_allclose(found[:, 1], demo.reward(texts)[:, 0] / members[1].spread, atol=1e-5)
    np.testing.assert_allclose(found[:, 0], tiny().reward(texts)[:, 0] / members[0].spread, atol=1e-5)
    assert found[0, 1] != found[1, 1]


@pytest.mark.slow
def test_every_model_is_asked_as_alone_and_gaps_are_differences(demo, monkeypatch):
    quick = partial(bias_battery, axes=["hedging", "identity_age"], per_seed=1, calibration="off")
    monkeypatch.setattr(batteries, "bias_battery", quick)
    models, pairs = [demo, rw.load("demo:reward_model_b")], rw.load_pairs("demo", limit=8)
    data = compare(models, pairs, bias=True, inside_pairs=0, resamples=100).data
    for place, rm in enumerate(models):
        alone = quick(rm).data
        unit = float(data["spread"].values[place])
        for ours, theirs in (("bias", "estimate"), ("bias_low", "low"), ("bias_high", "high")):
            np.testing.assert_allclose(data[ours].values[place], alone[theirs].values[:, 0] / unit, atol=1e-5)
    own, gap = data["bias"].values, data["bias_gap"].values
    assert gap[0, 1, 0] == pytest.approx(own[0, 0] - own[1, 0], abs=1e-5)
    assert gap[1, 0, 0] == -gap[0, 1, 0]
    assert data["bias_gap_low"].values[1, 0, 0] == -data["bias_gap_high"].values[0, 1, 0]
    assert gap[1, 0, 1] == gap[0, 1, 1]  # how far terms differ between models has no sign
    assert (data["bias_gap_p"].values[0, 1] <= 1).all()


def test_scores_have_no_battery():
    with pytest.raises(RewardenError, match="no bias battery of"):
        compare([tiny(), tiny().score(PAIRS)], PAIRS, bias=True, inside_pairs=0, resamples=100)


def test_vocabularies_are_compared_on_shared_tokens():
    models = [tiny(), tiny(seed=1)]
    data = compare(models, PAIRS, vocabulary=True, inside_pairs=0, resamples=100).data
    scans = [rw.score_vocabulary(rm, [GREATEST, WORST]) for rm in models]
    expected = rw.tokens.rank_agreement(rw.tokens.shared_vocabulary(scans, names=["a", "b"]), k=[10], blocks=0).data
    np.testing.assert_allclose(data["vocabulary_tau"].values, expected["tau"].values)
    assert data["vocabulary_prompt"].values.tolist() == [GREATEST, WORST]
    assert (data["vocabulary_tau_low"] < data["vocabulary_tau"]).values[:, 0, 1].all()
