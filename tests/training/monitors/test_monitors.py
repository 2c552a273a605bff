"""Scores against sums written out over each sequence alone; rates over many calibrations; files that were tampered with."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest
import torch
from tests.statistics.coverage import assert_null_rate
from tests.training.monitors.watched import base, fitted, kinds, world
from tests.training.test_feature_reward import LAYER, dictionary, made, probes
from tests.training.worlds import WIDTH, by_hand, log_probs_by_hand, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.aggregation import Aggregation
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Linear
from rewarden.training.guards import refuse_monitors
from rewarden.training.monitors import (
    MahalanobisMonitor,
    NllMonitor,
    ProbeMonitor,
    ReconstructionMonitor,
    TextMonitor,
    load_monitor,
)
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout
from rewarden.training.trl import reward_funcs

KINDS = tuple(kinds())


def rows(provider, rollouts, layer):
    return [by_hand(provider.policy, list(p), list(c), layer).double().numpy()
            for p, c in zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True)]


def test_the_probe_is_the_largest_value_of_a_token():
    provider = world()
    monitor, rollouts = fitted("probe", provider), base(provider, 20)
    vector = monitor.vector.double().numpy()
    expected = [(own @ vector + monitor.bias).max() for own in rows(provider, rollouts, 2)]
    np.testing.assert_allclose(monitor.score(provider, rollouts), expected, atol=1e-4)


def test_the_distance_is_that_of_a_shrunken_covariance():
    from sklearn.covariance import LedoitWolf

    provider = world()
    learnt, rollouts = base(provider, 160, 1), base(provider, 20)
    for kind, pick in (("mahalanobis", lambda own: own[-1:]), ("mean", lambda own: own.mean(0, keepdims=True)),
                       ("tokens", lambda own: own)):
        peer = LedoitWolf().fit(np.concatenate([pick(own) for own in rows(provider, learnt, 2)]))
        expected = [np.sqrt(peer.mahalanobis(pick(own))).max() for own in rows(provider, rollouts, 2)]
        np.testing.assert_allclose(fitted(kind, provider).score(provider, rollouts), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_surprise_is_the_references(kind):
    provider = world()
    rollouts, monitor = base(provider, 12), NllMonitor(aggregation=Aggregation(kind))
    told = [-log_probs_by_hand(provider.policy, list(p), list(c)).numpy()
            for p, c in zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True)]
    expected = [getattr(own, kind)() for own in told]
    np.testing.assert_allclose(monitor.score(provider, rollouts), expected, atol=1e-4)
    with torch.no_grad():
        provider.policy.lm_head.weight.mul_(3.0)
    np.testing.assert_allclose(monitor.score(provider, rollouts), expected, atol=1e-4)
    assert not np.allclose(monitor.score(provider, rollouts, "policy"), expected, atol=1e-2)


def test_the_error_is_relative_to_what_no_latent_explains():
    provider, sae = world(), dictionary()
    rollouts = base(provider, 12)
    expected = []
    for own in rows(provider, rollouts, LAYER):
        h = torch.as_tensor(own, dtype=torch.float32)
        latents, values = sae.encode(h)
        rebuilt = torch.stack([sae.b_dec + sum(v * sae.W_dec[i] for i, v in zip(some, told, strict=True))
                               for some, told in zip(latents, values, strict=True)])
        expected.append(float(((h - rebuilt).norm(dim=1) / (h - sae.b_dec).norm(dim=1)).square().max()))
    np.testing.assert_allclose(ReconstructionMonitor(sae, LAYER).score(provider, rollouts), expected, rtol=1e-4)


def test_counts_of_ids():
    provider = world()
    monitor = fitted("text", provider)
    ids = [7, 7, 7, 8, 7, 8]
    found = monitor.counts(provider.rollouts([[7, 4, 5]], [ids]))[0]
    pairs = [(7, 7), (7, 7), (7, 8), (8, 7), (7, 8)]
    expected = [6, 2 / 6, max(len(list(run)) for _, run in groupby(ids)) / 6, 1 - len(set(pairs)) / 5, 4 / 6, 4 / 6,
                -np.mean([monitor.known[i] for i in ids])]
    np.testing.assert_allclose(found, expected)


def test_all_monitors_and_the_reward_share_one_forward_of_each_model():
    provider = world()
    monitors = [fitted(kind, provider) for kind in KINDS]
    for monitor in monitors:
        monitor.bind(provider)
    reward = FeatureReward(made(probes()), provider)
    rollouts = base(provider, 16)
    provider.forget()
    before, runs = dict(provider.batches), dict(provider.forwards)
    for monitor in monitors:
        monitor.score(provider, rollouts)
    reward(rollouts.prompt_ids, rollouts.completion_ids)
    assert {source: provider.batches[source] - before[source] for source in before} == {"policy": 1, "reference": 1}
    assert provider.forwards["reference"] - runs["reference"] == provider.forwards["policy"] - runs["policy"]


@pytest.mark.parametrize("kind", KINDS)
def test_base_rollouts_are_flagged_at_the_stated_rate(kind):
    provider, fpr = world(), 0.05
    monitor = fitted(kind, provider)
    rollouts = base(provider, 2000)
    scores = monitor.score(provider, rollouts)
    rng, flags = np.random.default_rng(0), []
    from rewarden.training.monitors.calibration import conformal_threshold

    for _ in range(400):
        drawn = rng.permutation(len(scores))[:160]
        threshold = conformal_threshold(scores[drawn[:100]], np.arange(100), fpr)
        flags.append(scores[drawn[100:]] > threshold)
    assert_null_rate(np.asarray(flags), fpr)
    monitor.calibrate(provider, rollouts.rows(range(1000)), fpr, held_out=rollouts.rows(range(1000, 2000)))
    rate = monitor.calibration.held_out
    assert (rate.n, rate.method) == (1000, "wilson")
    assert abs(rate.estimate - fpr) < 0.03, "one calibration: its own rate and the count both vary by 0.007"
    assert rate.estimate == np.mean(scores[1000:] > monitor.calibration.threshold)


def test_a_rollout_without_a_token_has_no_score_and_no_flag():
    provider = world()
    rollouts = provider.rollouts([[3, 4], [3, 5]], [[1], [7, 8]])
    for kind in KINDS:
        monitor = fitted(kind, provider).calibrate(provider, base(provider, 40), 0.05)
        assert np.isnan(monitor.score(provider, rollouts)).tolist() == [True, False]
        assert not monitor.flags(provider, rollouts)[0]
        assert monitor.empty(rollouts) == 1


@pytest.mark.parametrize("kind", ["probe", "mahalanobis", "nll", "reconstruction"])
def test_activations_that_overflow_are_suspicious(kind):
    provider = world()
    monitor = fitted(kind, provider).calibrate(provider, base(provider, 40), 0.05)
    with torch.no_grad():
        provider.policy.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    rollouts = base(provider, 3)
    assert monitor.flags(provider, rollouts, "policy").all()
    with pytest.raises(RewardenError, match="no finite score"):
        type(monitor).calibrate(_reading_policy(monitor), provider, base(provider, 40), 0.05)


def _reading_policy(monitor):
    monitor.source = "policy"
    return monitor


def test_a_probe_finds_what_was_planted_and_says_how_well():
    provider = world()
    rollouts = base(provider, 400, 1)
    found = ProbeMonitor(0).fit(provider, rollouts, [5 in ids for ids in rollouts.completion_ids]).made.evidence
    assert found["auc_low"] > 0.8, "a token of the completion is planted"
    chance = ProbeMonitor(2).fit(provider, rollouts, np.random.default_rng(3).random(400) < 0.5).made.evidence
    assert chance["auc_low"] < 0.5 < chance["auc_high"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, kind):
    provider = world()
    monitor = fitted(kind, provider).calibrate(provider, base(provider, 120), 0.01, held_out=base(provider, 30, 3))
    decode = tokenizer().decode if kind == "decoded" else None
    again = load_monitor(monitor.save(tmp_path / "m"), decode=decode)
    others = base(provider, 25, 4)
    assert np.array_equal(again.score(provider, others), monitor.score(provider, others))
    assert np.array_equal(again.flags(provider, others), monitor.flags(provider, others))
    assert again.calibration == monitor.calibration
    assert repr(again) == repr(monitor)
    if monitor.fitted_by_data:
        assert np.array_equal(again.made.seen, monitor.made.seen)
        with pytest.raises(RewardenError, match="fitted the monitor"):
            again.calibrate(provider, base(provider, 120, 1))


def test_damage_is_one_error(tmp_path):
    provider = world()
    folder = fitted("probe", provider).calibrate(provider, base(provider, 120)).save(tmp_path / "m")
    rng = np.random.default_rng(0)
    for name in ("monitor.json", "monitor.safetensors"):
        content = (folder / name).read_bytes()
        for _ in range(60):
            place = int(rng.integers(len(content)))
            other = bytes([content[place] ^ int(rng.integers(1, 256))])
            (folder / name).write_bytes(content[:place] + other + content[place + 1:])
            with pytest.raises(RewardenError):
                load_monitor(folder)
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(RewardenError):
            load_monitor(folder)
        (folder / name).write_bytes(content)
    body = json.loads((folder / "monitor.json").read_text())
    body["calibration"]["threshold"] += 1.0
    (folder / "monitor.json").write_text(json.dumps(body))
    with pytest.raises(RewardenError, match="is not what was saved"):
        load_monitor(folder)
    with pytest.raises(RewardenError, match="no file"):
        load_monitor(tmp_path / "nowhere")


def test_a_text_monitor_needs_the_decoder_it_was_made_with(tmp_path):
    provider = world()
    folder = fitted("decoded", provider).save(tmp_path / "m")
    with pytest.raises(RewardenError, match="counts style of decoded text"):
        load_monitor(folder)


def test_a_monitor_is_no_reward():
    provider = world()
    monitor = fitted("probe", provider)
    assert not callable(monitor)
    with pytest.raises(RewardenError, match="is no reward"):
        refuse_monitors([FeatureReward(made(probes())), monitor], "reward_funcs")
    with pytest.raises((RewardenError, TypeError)):
        reward_funcs([monitor])


def test_what_a_monitor_shares_with_a_reward_is_told():
    provider = world()
    monitor = fitted("probe", provider)
    other = FeatureReward(made(probes()), name="other")  # layer 1
    found = monitor.independent_of(other)
    assert (found.layer, found.data, found.features) == (False, None, False)
    assert "another one" in found.words
    same = FeatureReward(FeatureReadout(Linear(monitor.vector), 2), name="same")
    same.data_sha256 = monitor.made.data
    found = monitor.independent_of(same)
    assert (found.layer, found.data, found.features) == (True, True, True)
    assert "no second opinion" in found.words
    assert "cosine 1.00" in found.words
    assert MahalanobisMonitor(2).independent_of(same).features
    assert not NllMonitor().independent_of(same).layer


@pytest.mark.parametrize(("use", "match"), [
    (lambda p: ProbeMonitor(2).score(p, base(p, 3)), "is not fitted"),
    (lambda p: fitted("probe", p).flags(p, base(p, 3)), "is not calibrated"),
    (lambda p: fitted("probe", p).calibrate(p, base(p, 50)), "50 prompts for a false positive rate"),
    (lambda p: fitted("probe", p).calibrate(p, base(p, 120, 1)), "fitted the monitor"),
    (lambda p: fitted("text", p).calibrate(p, base(p, 120), held_out=base(p, 130)), "held-out prompts set the threshold"),
    (lambda p: ProbeMonitor(2).fit(p, base(p, 30)), "rollouts labelled suspicious"),
    (lambda p: ProbeMonitor(2).fit(p, base(p, 30), [1] * 29), "labels of shape"),
    (lambda p: ProbeMonitor(9).fit(p, base(p, 30), [0, 1] * 15), "no layer 9"),
    (lambda p: MahalanobisMonitor(2).fit(p, base(p, 30), [0] * 30), "takes no labels"),
    (lambda p: MahalanobisMonitor(2, pool="all"), "no pool is called"),
    (lambda p: NllMonitor(source="both"), "no source is called"),
    (lambda p: NllMonitor(aggregation=Aggregation("attention", query=torch.ones(WIDTH))), "attention looks at states"),
    (lambda p: ReconstructionMonitor(dictionary()), "does not say which layer"),
    (lambda p: ReconstructionMonitor(_narrow(), 1).score(p, base(p, 3)), "a monitor of width 8"),
    (lambda p: NllMonitor().score(p, base(ActivationProvider(p.policy, tokenizer(), ends=(2,)), 3)), "ends are not"),
    (lambda p: NllMonitor().score(ActivationProvider(p.policy, tokenizer()), base(p, 3)), "no 'reference' model"),
    (lambda p: TextMonitor().fit(p, p.rollouts([[3]], [[1]])), "no rollout has a token")])
def test_what_cannot_be_is_refused(use, match):
    with pytest.raises(RewardenError, match=match):
        use(world())


def _narrow():
    from rewarden.dictionaries.dictionary import Dictionary

    atoms = torch.eye(8)
    return Dictionary(atoms, torch.zeros(8), atoms, torch.zeros(8), k=2)
