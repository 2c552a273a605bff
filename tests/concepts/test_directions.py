"""Directions of the bundled model: signs, frames, control tasks, places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rewarden as rw
from rewarden.concepts.directions import corpus_rows, direction, opposite, random_cosines, reward_cosine
from rewarden.concepts.examples import Examples, examples_of
from rewarden.concepts.places import activations, place_of, reward_direction
from rewarden.contrasts import Contrast
from rewarden.errors import RewardenError

PAIRS = [rw.Pair(f"Name {n} things.", f"**{n}** things, and more!", f"{n} things, and {m} more.") for n, m in
         zip(range(20, 44), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8] * 2, strict=True)]


@pytest.fixture(scope="module")
def bold(demo):
    return direction(demo, PAIRS, name="bold", controls=8)


def test_the_vector_is_the_difference_of_means(demo, bold) -> None:
    states = activations(demo, [demo.encode(c) for pair in PAIRS for c in pair.conversations], place_of(demo, "read"))
    gap = (states[::2] - states[1::2]).mean(0)
    np.testing.assert_allclose(bold.vector, gap / np.linalg.norm(gap), atol=1e-9)
    assert bold.gap == pytest.approx(np.linalg.norm(gap))
    found = bold.report
    assert found.auc > 0.9
    assert found.paired == 1.0
    assert found.selectivity > 0.2
    assert found.p == pytest.approx(1 / 9)


@pytest.mark.parametrize("method", ["mean_difference", "lda", "logistic"])
def test_changing_sides_flips_vector_and_cosine(demo, method: str) -> None:
    turned = [rw.Pair(pair.prompt, pair.rejected, pair.chosen) for pair in PAIRS]
    here, there = (direction(demo, pairs, method=method, controls=0) for pairs in (PAIRS, turned))
    np.testing.assert_allclose(there.vector, -here.vector, atol=1e-6)
    assert there.report.auc == pytest.approx(float(here.report.auc), abs=1e-6)
    cosines = [float(one.cosine(demo, PAIRS, heads=99).cosine) for one in (here, there)]
    assert cosines[1] == pytest.approx(-cosines[0], abs=1e-6)
    assert (opposite(here).vector == -here.vector).all()
    assert opposite(here).gap == pytest.approx(here.gap)


@pytest.mark.parametrize("site", ["read", "resid_post.2"])
def test_the_cosine_in_the_frame_is_the_correlation_of_two_read_outs(demo, site: str) -> None:
    found = direction(demo, PAIRS, site=site, controls=0)
    rows, clusters = corpus_rows(demo, PAIRS)
    assert len(set(clusters)) == len(PAIRS)
    states = activations(demo, rows, found.place)
    w = reward_direction(demo, found.place, states, rows)
    cosine = reward_cosine(demo, found, PAIRS, heads=99)
    covariance = np.cov(states.T)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    u_frame, w_frame = root @ found.vector, root @ w
    in_frame = u_frame @ w_frame / np.linalg.norm(u_frame) / np.linalg.norm(w_frame)
    assert float(cosine.cosine) == pytest.approx(in_frame, abs=1e-6)
    assert float(cosine.cosine) == pytest.approx(np.corrcoef(cosine.concept, cosine.reward)[0, 1], abs=1e-9)
    if site == "read":
        rewards = demo.reward_encoded(rows)[:, 0]
        np.testing.assert_allclose(cosine.reward + float(demo.readout.bias[0]), rewards, atol=1e-4)


def test_random_read_outs_are_correlations_too() -> None:
    rng = np.random.default_rng(0)
    states, u = rng.normal(size=(30, 5)) * [5, 1, 1, 1, 1] + 2, np.eye(5)[1]
    found = random_cosines(u, states, 50, seed=3)
    heads = np.random.default_rng((3, 5)).standard_normal((5, 50))
    slow = [np.corrcoef(states @ u, states @ head)[0, 1] for head in heads.T]
    np.testing.assert_allclose(found, slow, atol=1e-9)


def test_a_reward_in_a_random_direction_is_found_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(80, 12)) * np.geomspace(1, 20, 12)
    u, ps = states[:40].mean(0) - states[40:].mean(0), []
    random = np.abs(random_cosines(u, states, 999, 0))
    for _ in range(400):
        w = rng.normal(size=12)
        cosine = np.corrcoef(states @ u, states @ w)[0, 1]
        ps.append((1 + (random >= abs(cosine)).sum()) / 1000)
    share = np.mean(np.array(ps) <= 0.05)
    assert share <= 0.05 + 2.33 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("site", ["resid_post.2", "resid_pre.1", "attn_out.3", "mlp_out.0", "z.4.2", "z.1", "neurons.5"])
def test_activations_are_those_of_a_trace(demo, site: str) -> None:
    place = place_of(demo, site, "response")
    rows = [demo.encode(c) for pair in PAIRS[:3] for c in pair.conversations]
    found = activations(demo, [*rows, rows[0]], place)
    for row, states in zip([*rows, rows[0]], found, strict=True):
        kept = demo.trace(row, [place.site.kind])[place.site.kind][place.site.layer]
        kept = kept if place.site.head is None else kept[:, place.site.head]
        np.testing.assert_allclose(states, kept.flatten(1)[row.spans == 2].double().mean(0).numpy(), atol=2e-5)
    assert np.array_equal(found[0], found[-1])


def test_labels_without_meaning_give_chance(demo) -> None:
    rng = np.random.default_rng(5)
    texts = [(rw.Conversation.of(f"Name {n} things.", f"{n} things."), bool(rng.random() < 0.5)) for n in range(100, 160)]
    found = direction(demo, texts, method="logistic", controls=3).report
    assert found.auc_low < 0.5 < found.auc_high
    assert found.selectivity < 0
    assert float(found.selectivity) == pytest.approx(float(found.auc - found.control_taught.mean()))
    assert found.control_taught.min() > 0.7  # what such a probe can learn by heart
    assert np.isnan(found.paired)


def test_a_direction_is_found_in_contrasts_and_in_two_lists(demo, bold) -> None:
    told = [Contrast.of(pair.prompt, pair.chosen, pair.rejected, axis="bold", seed=str(i)) for i, pair in enumerate(PAIRS)]
    sides = tuple([pair.conversations[side] for pair in PAIRS] for side in (0, 1))
    for data in (told, sides):
        np.testing.assert_allclose(direction(demo, data, controls=0).vector, bold.vector, atol=1e-9)
    assert direction(demo, told, controls=0).name == "bold"


def test_folds_keep_clusters_together_and_shuffles_keep_pairs(demo) -> None:
    examples = examples_of(demo, PAIRS)
    folds = examples.folds(5, 0)
    assert all(len(set(folds[examples.clusters == c])) == 1 for c in range(examples.n_clusters))
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 2
    for labels in examples.shuffles(5, 0):
        assert (labels[::2] != labels[1::2]).all()
    lone = Examples(examples.rows[:10], np.arange(10) < 3, np.arange(10), np.arange(10), np.ones(10), "labelled")
    assert all(labels.sum() == 3 for labels in lone.shuffles(20, 0))


def test_the_direction_of_a_head_that_is_not_linear_is_its_mean_gradient(demo) -> None:
    from rewarden.readout.heads import EncoderHead

    weight = demo.readout.weight
    squared = EncoderHead(lambda h: (h[:, 0] @ weight.T) ** 2, demo.readout.norm)
    squared.read = demo.readout.read
    rm = demo.reading(squared)
    rows, _ = corpus_rows(rm, PAIRS[:4])
    states = activations(rm, rows, place_of(rm, "read"))
    slow = (2 * (states @ weight[0].numpy())[:, None] * weight[0].numpy()).mean(0)
    np.testing.assert_allclose(reward_direction(rm, place_of(rm, "read"), states, rows), slow, rtol=1e-4, atol=1e-5)


def test_the_direction_of_a_gated_head_is_its_mixed_row(demo) -> None:
    from rewarden.concepts import survey
    from rewarden.organisms import noise

    rm = noise(1, outputs=4, gated=True)
    rows, _ = corpus_rows(rm, PAIRS[:4])
    place = place_of(rm, "read")
    states = activations(rm, rows, place)
    slow = []
    for row in rows:
        normed = rm.readout.norm(rm.trace(row, ["resid_post"], "read")["resid_post"][rm.read_layer])
        slow.append(rm.readout.effective_direction(normed).numpy())
    np.testing.assert_allclose(reward_direction(rm, place, states, rows), np.mean(slow, 0), rtol=1e-5, atol=1e-7)
    told = [Contrast.of(p.prompt, p.chosen, p.rejected, axis="bold", seed=str(i)) for i, p in enumerate(PAIRS)]
    assert np.isfinite(survey(rm, told, items=2, randoms=5, heads=99).cosine).all()


def test_a_head_that_adds_up_positions_has_no_one_direction(demo) -> None:
    from rewarden.readout.base import Reading, Readout

    class Sum(Readout):
        norm, names = demo.readout.norm, ("score",)

        def read(self, encoded):
            return Reading(np.array([encoded.length - 2, encoded.length - 1]))

        def apply_normed(self, normed, reading):
            return normed.sum(-2) @ demo.readout.weight.T

    rm = demo.reading(Sum())
    rows, _ = corpus_rows(rm, PAIRS[:2])
    with pytest.raises(RewardenError, match="adds up several positions"):
        reward_direction(rm, place_of(rm, "read"), activations(rm, rows, place_of(rm, "read")), rows)


@pytest.mark.parametrize(("call", "words"), [
    (lambda rm: direction(rm, PAIRS[:5]), "too few items"),
    (lambda rm: direction(rm, []), "with and without"),
    (lambda rm: direction(rm, [1, 2]), "neither a pair"),
    (lambda rm: direction(rm, "text"), "no texts with a concept"),
    (lambda rm: direction(rm, PAIRS, site="resid_post.9"), "layers 0 to 5"),
    (lambda rm: direction(rm, PAIRS, site="mlp"), "no site is called"),
    (lambda rm: direction(rm, PAIRS, site="z.1.3", controls=0).cosine(rm, PAIRS), "no space in common"),
    (lambda rm: direction(rm, PAIRS, method="magic"), "impossible options"),
    (lambda rm: place_of(rm, "read", "response"), "where it reads only"),
    (lambda rm: reward_cosine(rm, direction(rm, PAIRS, controls=0), [PAIRS[0]]), "a frame of 2 texts"),
])
def test_refusals_say_what_to_do(demo, call, words: str) -> None:
    with pytest.raises(RewardenError, match=words) as caught:
        call(demo)
    assert caught.value.fix


def test_non_finite_activations_are_refused(demo) -> None:
    class Broken(type(demo.readout.norm)):  # type: ignore[misc]  # a frozen dataclass
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    norm = demo.readout.norm
    readout = type(demo.readout)(demo.readout.weight, demo.readout.bias, Broken(norm.gain, norm.bias, norm.centre, norm.eps))
    with pytest.raises(RewardenError, match="not finite"):
        direction(demo.reading(readout), PAIRS, controls=0)
