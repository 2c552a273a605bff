"""Repairs: the head's closed form, an organism cured of its bias, and checkpoints that plain transformers loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.concepts.test_directions import PAIRS

import rewarden as rw
from rewarden.concepts import direction, repair, verify
from rewarden.concepts.directions import corpus_rows
from rewarden.concepts.places import activations, place_of
from rewarden.contrasts import Contrast
from rewarden.errors import RewardenError

TOLD = [Contrast.of(pair.prompt, pair.chosen, pair.rejected, axis="bold", seed=str(i)) for i, pair in enumerate(PAIRS)]


def plain_scores(folder, conversations) -> list[float]:
    """Scores of a saved checkpoint by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for conversation in conversations:
        ids = tokenizer.apply_chat_template(list(conversation.messages), return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            found.append(float(model(ids).logits[0, 0]))
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_projection_turns_the_head_off_the_direction(demo, alpha: float) -> None:
    u = direction(demo, PAIRS, controls=0)
    w = demo.readout.weight[0].double().numpy()
    mended = repair(demo, u, alpha=alpha)
    np.testing.assert_allclose(mended.rm.readout.weight[0].numpy(), w - alpha * (w @ u.vector) * u.vector, atol=1e-6)
    assert mended.report is None
    assert mended.rm.noise_floor == demo.noise_floor
    if not alpha:
        assert np.array_equal(mended.rm.score(PAIRS[:4]).margin, demo.score(PAIRS[:4]).margin)
    assert mended.rm.provenance()["head_sha256"] != repair(demo, u, alpha=0.7).rm.provenance()["head_sha256"]


def test_several_concepts_are_taken_out_at_once(demo) -> None:
    other = [rw.Pair(pair.prompt, pair.rejected + " Perhaps.", pair.rejected) for pair in PAIRS]
    found = [direction(demo, pairs, controls=0) for pairs in (PAIRS, other)]
    head = repair(demo, found).rm.readout.weight[0].double().numpy()
    np.testing.assert_allclose([head @ one.vector for one in found], 0, atol=1e-5)


def test_leace_gives_both_kinds_one_mean_at_the_least_change_of_the_corpus(demo) -> None:
    u, corpus = direction(demo, PAIRS, controls=0), rw.load_pairs("demo")[:12]
    mended = repair(demo, u, corpus=corpus, method="leace")
    assert mended.report is None
    head, w = (rm.readout.weight[0].double().numpy() for rm in (mended.rm, demo))
    assert abs(head @ u.difference) < 1e-4 * abs(w @ u.difference)
    states = activations(demo, corpus_rows(demo, corpus)[0], place_of(demo, "read"))
    from sklearn.covariance import ledoit_wolf

    covariance = ledoit_wolf(states)[0]
    change = (head - w) @ covariance @ (head - w)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = head - w + rng.normal(size=len(w)) * 0.01
        other -= u.difference * ((w + other) @ u.difference) / (u.difference @ u.difference)
        assert other @ covariance @ other >= change


@pytest.mark.parametrize(("method", "layer"), [("project", None), ("leace", None), ("steer", 3)])
def test_the_checkpoint_scores_the_same_in_plain_transformers(demo, tmp_path, method: str, layer) -> None:
    mended = repair(demo, TOLD, pairs=PAIRS[:6], method=method, layer=layer)
    assert mended.save(tmp_path / method) == tmp_path / method
    texts = [c for pair in rw.load_pairs("demo")[:3] for c in pair.conversations]
    ours = mended.rm.reward(texts)[:, 0]
    np.testing.assert_allclose(plain_scores(tmp_path / method, texts), ours, atol=1e-5)
    np.testing.assert_allclose(rw.load(str(tmp_path / method)).reward(texts)[:, 0], ours, atol=1e-5)
    assert np.abs(demo.reward(texts)[:, 0] - ours).max() > 1e-3
    assert (tmp_path / method / "repair.json").is_file()


def test_steering_adds_a_constant_to_the_stream(demo) -> None:
    mended = repair(demo, TOLD, method="steer", layer=2, alpha=1.5)
    row = demo.encode(PAIRS[0].conversations[0])
    before, after = (rm.trace(row)["resid_post"][2] for rm in (demo, mended.rm))
    expected = -1.5 * mended.directions[0].difference
    np.testing.assert_allclose((after - before).numpy(), np.broadcast_to(expected, after.shape), atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_organism_is_cured(tmp_path, seed: int) -> None:
    from rewarden.hacking.bias.battery import contrasts
    from rewarden.organisms import length

    organism = length(seed=seed)
    mended = repair(organism, contrasts(["length"]), pairs=organism.pairs(120, seed=3))
    found = mended.report
    assert abs(float(found.kept[0])) <= 0.1
    assert found.kept_high[0] < 0.5
    assert found.effect_low[0, 0] > 0
    change = found.data.sel(split="all")
    assert float(change["change"]) >= -0.01
    assert float(change["change_low"]) > 0  # its pairs are about quality: without the bias it sees more of it
    texts = [c for pair in organism.pairs(2, seed=9) for c in pair.conversations]
    mended.save(tmp_path)
    np.testing.assert_allclose(plain_scores(tmp_path, texts), mended.rm.reward(texts)[:, 0], atol=1e-5 * 10)


def test_found_and_verified_on_different_seeds(demo) -> None:
    mended = repair(demo, TOLD, held_out=0.25)
    assert int(mended.report.seeds[0]) == 6
    assert int(mended.directions[0].report.n_clusters) == 18


def test_without_seeds_a_prompt_is_on_one_side_and_one_cluster(demo) -> None:
    told = [Contrast.of(pair.prompt, text, pair.rejected, axis="bold") for pair in PAIRS for text in (pair.chosen, "**Yes.**")]
    mended = repair(demo, told, held_out=0.25)
    assert (int(mended.report.seeds[0]), int(mended.report.contrasts[0])) == (6, 12)
    assert int(mended.directions[0].report.n_clusters) == 18
    seeded = [Contrast(one.terms, one.axis, str(one.terms[0][1].prompt)) for one in told]
    np.testing.assert_allclose(*(verify(demo, demo, given, []).effect_low for given in (told, seeded)))
    assert np.array_equal(corpus_rows(demo, told)[1], np.repeat(np.arange(len(PAIRS)), 4))


def test_leace_is_verified_with_prompts_that_did_not_make_it(demo) -> None:
    u, pairs = direction(demo, PAIRS, controls=0), rw.load_pairs("demo")[:20]
    mended = repair(demo, u, pairs=pairs, method="leace")
    held = mended.report.margin.shape[1]
    assert 0 < held < len(pairs)
    assert mended.report.provenance["corpus"] == len(pairs) - held
    margins = demo.score(pairs).margin
    verifies = np.isclose(margins[:, None], mended.report.margin[0], atol=1e-5).any(1)
    made = [pair for pair, out in zip(pairs, verifies, strict=True) if not out]
    again = repair(demo, u, corpus=made, pairs=pairs, method="leace")
    np.testing.assert_allclose(again.rm.readout.weight, mended.rm.readout.weight, atol=1e-6)
    assert again.report.margin.shape[1] == len(pairs)
    with pytest.raises(RewardenError, match="needs a corpus"):
        repair(demo, u, pairs=[pairs[0]] * 5, method="leace")


def test_steering_a_repaired_model_keeps_its_head(demo, tmp_path) -> None:
    first = repair(demo, direction(demo, PAIRS, controls=0))
    shift = direction(demo, PAIRS, site="resid_post.2", positions="response", controls=0)
    texts = [c for pair in rw.load_pairs("demo")[:3] for c in pair.conversations]
    nothing = repair(first.rm, shift, method="steer", layer=2, alpha=0.0)
    np.testing.assert_allclose(nothing.rm.reward(texts), first.rm.reward(texts), atol=1e-5)
    both = repair(first.rm, shift, method="steer", layer=2)
    ours = both.rm.reward(texts)[:, 0]
    np.testing.assert_allclose(both.changes.weight, first.rm.readout.weight)
    assert np.abs(ours - first.rm.reward(texts)[:, 0]).max() > 1e-3
    both.save(tmp_path)
    np.testing.assert_allclose(plain_scores(tmp_path, texts), ours, atol=1e-5)
    assert repair(demo, shift, method="steer", layer=2).changes.weight is None


def test_steering_is_no_repair_and_says_so(demo) -> None:
    from rewarden.hacking.bias.battery import contrasts

    found = repair(demo, contrasts(["flattery"])[:100], method="steer").report
    assert found.kept[0] > 0.5
    assert found.kept_low[0] <= 1 <= found.kept_high[0]
    assert "'flattery' is out of the reward" in found.warnings[0]
    assert not repair(demo, TOLD).report.warnings


def test_the_output_that_is_repaired_is_the_one_that_is_read(demo) -> None:
    from rewarden.readout.heads import SequenceHead

    own = demo.readout
    rm = demo.reading(SequenceHead(torch.cat([torch.ones_like(own.weight), own.weight]), torch.zeros(2), own.norm, ("a", "b")))
    rm.main = 1
    mended = repair(rm, direction(demo, PAIRS, controls=0), pairs=PAIRS[:4])
    assert mended.rm.main == 1
    np.testing.assert_allclose(mended.report.margin[0], demo.score(PAIRS[:4]).margin, atol=1e-5)


def test_verification_of_no_change(demo) -> None:
    found = verify(demo, demo, TOLD, rw.load_pairs("demo")[:30])
    np.testing.assert_allclose(found.kept, 1.0)
    assert np.array_equal(found.change, np.zeros_like(found.change))
    assert (found.change_low < 0).all()
    assert found.same == pytest.approx(1.0)
    margins = demo.score(rw.load_pairs("demo")[:30]).margin
    assert found.data["accuracy"].sel(model="before", split="all") == pytest.approx(float((margins > 0).mean()))
    effect = [demo.reward([c.terms[0][1]])[0, 0] - demo.reward([c.terms[1][1]])[0, 0] for c in TOLD[:3]]
    np.testing.assert_allclose(found.contrast_effect[0, :3], effect, atol=1e-5)


def test_refusals_say_what_to_do(demo) -> None:
    from rewarden.readout.heads import HeadEnsemble

    u, deep = direction(demo, PAIRS, controls=0), direction(demo, PAIRS, site="resid_post.2", controls=0)
    for call, words in (
        (lambda: repair(demo, deep), "lies at resid_post.2"), (lambda: repair(demo, u, method="leace"), "needs a corpus"),
        (lambda: repair(demo, []), "nothing to take out"), (lambda: repair(demo, u, alpha=float("nan")), "impossible"),
        (lambda: repair(demo.reading(HeadEnsemble([demo.readout])), u), "cannot be repaired"),
        (lambda: repair(demo, TOLD, method="steer", layer=9), "does not reach"),
        (lambda: repair(demo, TOLD[:1]), "too few items for the direction of 'bold'"),
        (lambda: repair(demo, TOLD, held_out=0.99), "too few items for the direction of 'bold'"),
        (lambda: verify(demo, demo, [], []), "verify with"),
    ):
        with pytest.raises(RewardenError, match=words) as caught:
            call()
        assert caught.value.fix


def test_a_folder_with_something_else_is_left_alone(demo, tmp_path) -> None:
    mended = repair(demo, TOLD)
    mended.save(tmp_path / "mended")
    assert mended.save(tmp_path / "mended") == tmp_path / "mended"  # an earlier repair may be written again
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(RewardenError, match="something else than a repair"):
        mended.save(tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == b"precious"
