"""A model with suppressed features, against plain hooks on the transformers model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from tests.dictionaries.contrast.formatted import organism_of, planted
from tests.dictionaries.random_dictionaries import by_hand, random_dictionary
from tests.edits.drawing import model_of
from tests.tokenizers_tiny import WORDS

from rewarden.conversation import Conversation, Pair
from rewarden.dictionaries.contrast.repair import repair_report
from rewarden.dictionaries.contrast.suppression import SuppressedModel, only, suppressed
from rewarden.dictionaries.dictionary import Dictionary, Gate
from rewarden.edits import Edit, Site, backend_of
from rewarden.encoding import RESPONSE
from rewarden.ensemble import Ensemble
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.lens import attribute
from rewarden.organisms.format_bias import format_bias
from rewarden.readout import SequenceHead
from rewarden.result import Result


def talks(n: int = 6, seed: int = 0) -> list[Conversation]:
    """Conversations of unequal length."""
    rng = np.random.default_rng(seed)
    return [Conversation.of(" ".join(rng.choice(WORDS, rng.integers(2, 7))), " ".join(rng.choice(WORDS, rng.integers(1, 9))))
            for _ in range(n)]


def less(dictionary: Dictionary, features: list[int], h: torch.Tensor, factor: float) -> torch.Tensor:
    """One activation [d] without the features, latent by latent."""
    values, unit = by_hand(dictionary, h.numpy())
    out = h.double().clone()
    for latent in features:
        out -= (1 - factor) * values.get(latent, 0.0) * unit * dictionary.W_dec[latent].double()
    return out.float()


@contextmanager
def hooked(rm, dictionary: Dictionary, features: list[int], at: list[int] | None, factor: float) -> Iterator[None]:
    """The transformers model with the formula in a hook of our own."""
    site, block = dictionary.site, rm.architecture.blocks[dictionary.site.layer]
    module = {"resid_pre": block.layer, "resid_post": block.layer, "attn_out": block.attn, "mlp_out": block.mlp,
              "z": block.out_projection}[site.kind]

    def changed(hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1]).clone()
        for position in range(len(rows)) if at is None else at:
            rows[position] = less(dictionary, features, rows[position], factor)
        return rows.reshape(hidden.shape)

    def after(module, args, output):
        return changed(output) if isinstance(output, torch.Tensor) else (changed(output[0]), *output[1:])

    def before(module, args, kwargs):
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed(kwargs["hidden_states"])}

    handle = (module.register_forward_pre_hook(before, with_kwargs=True) if site.kind in ("resid_pre", "z")
              else module.register_forward_hook(after))
    try:
        yield
    finally:
        handle.remove()


def logits(rm, talk: Conversation) -> float:
    with torch.no_grad():
        return float(rm.model(torch.as_tensor(rm.encode(talk).ids)[None]).logits[0, 0])


FEATURES = [0, 3, 5, 8, 13, 21]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon"])
@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "mlp_out", "z"])
def test_rewards_are_those_of_plain_hooks(family: str, kind: str) -> None:
    rm = model_of(family)
    layers = (0, 1) if kind == "resid_pre" else (1,)
    for layer, (activation, factor) in zip(layers, (("topk", 0.0), ("jumprelu", 0.25)), strict=False):
        dictionary = random_dictionary(32, site=Site(kind, layer), activation=activation, standardised=activation == "topk",
                                       size=0.5, seed=layer)
        view = suppressed(rm, dictionary, FEATURES, factor=factor)
        found, plain = view.reward(talks(), batch_size=3)[:, 0], []
        for talk in talks():
            with hooked(rm, dictionary, FEATURES, None, factor):
                plain.append(logits(rm, talk))
        np.testing.assert_allclose(found, plain, atol=2e-5)
        assert np.abs(found - rm.reward(talks())[:, 0]).max() > 1e-3  # something was taken out


def test_only_some_positions() -> None:
    rm = model_of("llama")
    dictionary = random_dictionary(32, site=Site("resid_post", 0), standardised=True)
    view = suppressed(rm, dictionary, FEATURES, positions="response")
    for talk, found in zip(talks(), view.reward(talks())[:, 0], strict=True):
        with hooked(rm, dictionary, FEATURES, np.flatnonzero(rm.encode(talk).spans == RESPONSE).tolist(), 0.0):
            assert found == pytest.approx(logits(rm, talk), abs=2e-5)


def test_a_reward_without_the_features_is_the_same_bit_for_bit() -> None:
    organism = organism_of(0)
    view = suppressed(organism, planted(organism), [0, 1, 2])
    pairs = [pair for pair in organism.pairs(60) if pair.subset == "hard"]
    plain, formatted = ([pair.conversations[side] for pair in pairs] for side in range(2))
    assert (view.reward(plain) == organism.reward(plain)).all()
    assert (view.reward(formatted) < organism.reward(formatted)).all()
    assert (suppressed(organism, planted(organism), [0, 1], factor=1.0).reward(formatted)
            == organism.reward(formatted)).all()


def test_rewards_do_not_depend_on_batch_and_side_of_padding() -> None:
    rm = model_of("llama")
    view = suppressed(rm, random_dictionary(32, site=Site("resid_post", 1), standardised=True), FEATURES)
    rows = [view.encode(talk) for talk in talks()]
    alone = view.reward_encoded(rows, batch_size=1)
    for side in ("right", "left"):
        np.testing.assert_allclose(view.reward_encoded(rows, batch_size=4, side=side), alone, atol=2e-5)


def test_views_can_be_stacked() -> None:
    rm = model_of("llama")
    first, second = (random_dictionary(32, site=Site("resid_post", layer), standardised=True, seed=layer) for layer in (0, 1))
    view = suppressed(suppressed(rm, first, FEATURES), second, [1, 2])
    for talk, found in zip(talks(4), view.reward(talks(4))[:, 0], strict=True):
        with hooked(rm, first, FEATURES, None, 0.0), hooked(rm, second, [1, 2], None, 0.0):
            assert found == pytest.approx(logits(rm, talk), abs=2e-5)


def test_the_view_is_traced_and_edited_like_any_model() -> None:
    rm = model_of("llama")
    dictionary = random_dictionary(32, site=Site("resid_post", 1), standardised=True)
    view, talk = suppressed(rm, dictionary, FEATURES), talks()[0]
    before, after = rm.trace(talk)["resid_post"], view.trace(talk)["resid_post"]
    torch.testing.assert_close(after[0], before[0])
    for h, found in zip(before[1], after[1], strict=True):
        torch.testing.assert_close(found, less(dictionary, FEATURES, h, 0.0), atol=2e-5, rtol=0)
    with pytest.warns(RewardenWarning, match="features are suppressed in every run"):
        assert backend_of(view).name == "hooks on whole forwards"
    base = view.base(talk)
    assert base.reward == pytest.approx(float(view.reward([talk])[0, 0]), abs=1e-6)
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
    edits = [Edit(Site("resid_post", 0, 2), noise), Edit(Site("resid_post", 2, -1), noise)]
    found = view.edit(base, edits)[:, 0]

    def put(position: int):
        def hook(module, args, output):
            held = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            held[:, position] = noise
            return held if isinstance(output, torch.Tensor) else (held, *output[1:])
        return hook

    for (layer, position), value in zip(((0, 2), (2, -1)), found, strict=True):
        handle = rm.architecture.blocks[layer].layer.register_forward_hook(put(position))
        try:
            with hooked(rm, dictionary, FEATURES, None, 0.0):
                assert value == pytest.approx(logits(rm, talk), abs=2e-5)
        finally:
            handle.remove()


def test_read_in_another_way_it_is_still_suppressed() -> None:
    rm = model_of("llama")
    view = suppressed(rm, random_dictionary(32, site=Site("resid_post", 1), standardised=True), FEATURES)
    head = SequenceHead(torch.ones(1, 32), torch.zeros(1), rm.architecture.norm, ("sum",))
    other = view.reading(head)
    final = view.trace(talks()[0], ("final",), "read")["final"]
    assert float(other.reward(talks()[:1])[0, 0]) == pytest.approx(float(head.apply(final, head.read(view.encode(
        talks()[0])))[0]), abs=1e-4)
    assert other.provenance()["suppressed"] == "0,3,5,8,13,21"
    assert other.names == ("sum",)
    assert view.original is rm


@pytest.mark.parametrize("activation", ["jumprelu", "relu", "identity", "gated"])
def test_encoding_the_suppressed_latents_alone_is_enough(activation: str) -> None:
    rng = torch.Generator().manual_seed(1)
    gate = Gate(torch.randn(24, generator=rng), 0.1 * torch.randn(24, generator=rng)) if activation == "gated" else None
    whole = replace(random_dictionary(16, activation="jumprelu"), activation=activation, gate=gate)
    h, kept = torch.randn(9, 16, generator=rng), np.array([2, 7, 11])
    torch.testing.assert_close(only(whole, kept).dense(h), whole.dense(h)[:, kept])


def test_what_needs_writes_to_sum_refuses_the_view() -> None:
    organism = format_bias(5)
    view = suppressed(organism, planted(organism), [0])
    with pytest.raises(RewardenError, match="not defined for this model") as error:
        attribute(view, organism.pairs(2), resamples=100)
    assert "taken out" in error.value.why
    assert "writes" not in organism.architecture.gaps
    with pytest.raises(RewardenError, match="no gradients") as error:
        view.forward([view.encode(organism.pairs(1)[0].conversations[0])], [], gradients=True)
    assert error.value.fix


def test_what_cannot_be_suppressed_is_refused() -> None:
    rm = model_of("llama")
    dictionary = random_dictionary(32, site=Site("resid_post", 1), standardised=True)
    for features in ([], [24], [-1], [0.5]):
        with pytest.raises(RewardenError, match="features") as error:
            suppressed(rm, dictionary, features)
        assert error.value.fix
    with pytest.raises(RewardenError, match="factor=2"):
        suppressed(rm, dictionary, [0], factor=2)
    with pytest.raises(RewardenError, match="selects no features"):
        suppressed(rm, dictionary, Result("score", xr.Dataset()))
    with pytest.raises(RewardenError, match="transcoder"):
        suppressed(rm, replace(dictionary, target=Site("mlp_out", 1)), [0])
    with pytest.raises(RewardenError, match="one model"):
        suppressed(Ensemble([rm, rm]), dictionary, [0])  # type: ignore[arg-type]
    with pytest.raises(RewardenError, match="where it reads"):
        suppressed(rm, replace(dictionary, site=None), [0])


def test_the_report_by_hand() -> None:
    organism = organism_of(1)
    pairs = organism.pairs(90)
    view = suppressed(organism, planted(organism), [0, 1, 2], factor=0.5)
    found = repair_report(organism, view, pairs, resamples=100)
    won = np.stack([model.score(pairs).margin > 0 for model in (organism, view)]).astype(float)
    for number, name in enumerate(("easy", "normal", "hard")):
        np.testing.assert_allclose(found.data["accuracy"].sel(split=name), won[:, number::3].mean(1))
    np.testing.assert_allclose(found.data["accuracy"].sel(split="all"), won.mean(1))
    gap = won[:, 0::3].mean(1) - won[:, 2::3].mean(1)
    np.testing.assert_allclose(found.data["gap"], gap)
    assert float(found.data["gap_cut"]) == pytest.approx(1 - abs(gap[1]) / abs(gap[0]))
    assert float(found.data["gap_cut_low"]) <= float(found.data["gap_cut"]) <= float(found.data["gap_cut_high"])
    np.testing.assert_allclose(found.data["change"].sel(split="hard"), won[1, 2::3].mean() - won[0, 2::3].mean())
    assert found.provenance["suppressed"] == "0,1,2"
    assert isinstance(view, SuppressedModel)
    with pytest.raises(RewardenError, match="subset 'easy'"):
        repair_report(organism, view, [Pair("a", "b", "c", subset="hard")])
    with pytest.raises(RewardenError, match="hard="):
        repair_report(organism, view, pairs, hard="easy")
