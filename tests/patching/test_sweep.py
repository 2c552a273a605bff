"""Every effect of a sweep equals plain torch hooks on the family's own modules, and what must hold of any sweep holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.plain import plain_run
from tests.families import build
from tests.patching.by_hand import EQUAL, FAMILIES, FAST, LONGER, SHORTER, SITES, ByHand, cells, model_of, moves_by_hand
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.lens import attribute
from rewarden.patching import patch
from rewarden.reward_model import RewardModel

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("mode", ["noising", "denoising"])
@pytest.mark.parametrize("rule", ["suffix", "prefix", "read_out", "equal_only"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_position_equals_plain_hooks_under_every_alignment(family: str, rule: str, mode: str) -> None:
    rm, pairs = model_of(family), [SHORTER, LONGER, EQUAL]
    found = patch(rm, pairs, SITES, mode, "each", rule, **FAST)
    rng = np.random.default_rng(FAMILIES.index(family))
    for number, pair in enumerate(pairs):
        hand = ByHand(rm, pair, mode)
        n, m = map(len, hand.ids)
        moves = moves_by_hand(rule, *hand.ids, hand.read)
        assert found.reward_base[number] == pytest.approx(hand.reward, abs=1e-5)
        aligned = found.data["aligned"].values[number]
        assert {p + n: q + m for p, q in zip(found.data["position"].values, aligned, strict=True) if q} == moves
        arrays, every = cells(found, number)
        for array in arrays.values():
            missing = np.isnan(array[..., -n:])
            assert (missing == ~np.isin(np.arange(n), list(moves))).all()
            assert np.isnan(array[..., :-n]).all()
        for _ in range(8 if moves else 0):
            kind, layer, head, index = every[rng.integers(len(every))]
            position = int(rng.choice(list(moves)))
            theirs = hand.moved(kind, layer, {position: moves[position]}, head)
            mine = arrays[kind][index][position - n]
            assert mine == pytest.approx(theirs, abs=1e-5 * max(1, abs(hand.reward))), (kind, layer, head)


@pytest.mark.parametrize("positions", ["read_out", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_together_equal_plain_hooks(family: str, positions: str) -> None:
    rm = model_of(family)
    for pair, rule in ((SHORTER, "suffix"), (LONGER, "prefix")):
        hand = ByHand(rm, pair)
        moves = moves_by_hand(rule if positions == "all" else "read_out", *hand.ids, hand.read)
        found = patch(rm, pair, SITES, positions=positions, alignment=rule, **FAST)
        arrays, every = cells(found)
        theirs = np.asarray([hand.moved(kind, layer, moves, head) for kind, layer, head, _ in every])
        mine = np.asarray([arrays[kind][index] for kind, _, _, index in every])
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * max(1, np.abs(theirs).max(), abs(hand.reward)))
        assert np.abs(theirs).max() > 1e-3  # there was something to find


def test_diff_moves_equal_tokens_at_both_ends() -> None:
    rm = model_of("llama")
    hand, found = ByHand(rm, SHORTER), patch(rm, SHORTER, SITES, positions="each", alignment="diff", **FAST)
    n, m = map(len, hand.ids)
    prefix = next(i for i in range(m) if hand.ids[0][i] != hand.ids[1][i])
    moves = {p: p for p in range(prefix)} | {n - 1: m - 1}  # the responses share no token but the closing one
    assert (np.isfinite(found.effect[0, 0, 0]) == np.isin(np.arange(n), list(moves))).all()
    assert (found.effect[0, :, :, :prefix] == 0).all()
    assert found.effect[0, 1, 1, -1] == pytest.approx(
        hand.moved("mlp_out", 1, {n - 1: m - 1}), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "modernbert"])
@pytest.mark.parametrize("positions", ["read_out", "all", "each"])
def test_zero_mean_and_resample_equal_hand_made_hooks(family: str, positions: str) -> None:
    rm, pairs = model_of(family), [SHORTER, LONGER, EQUAL]
    hands = [[ByHand(rm, pair, mode) for mode in ("denoising", "noising")] for pair in pairs]  # held: chosen, rejected
    every_run = [hand.held for both in hands for hand in both]
    rng = np.random.default_rng(5)
    for mode in ("zero", "mean", "resample"):
        found = patch(rm, pairs, SITES, mode, positions, seed=3, **FAST)
        if mode == "resample":
            donors = [next(j for j in range(3) if found.reward_source[i] == pytest.approx(hands[j][1].reward, abs=1e-5))
                      for i in range(3)]
            assert sorted(donors) == [0, 1, 2]
            assert all(i != j for i, j in enumerate(donors))
        for number in range(3):
            hand = hands[number][1]
            n = len(hand.ids[0])
            arrays, every = cells(found, number)
            for _ in range(5):
                kind, layer, head, index = every[rng.integers(len(every))]
                moves, place = {p: p for p in range(n)}, ()
                if mode == "resample":
                    donor = hands[donors[number]][0]
                    moves = moves_by_hand("suffix", hand.ids[0], donor.ids[1], hand.read)
                if positions != "all":
                    position = n - 1 if hand.read else 0
                    if positions == "each":
                        position = int(rng.choice(list(moves)))
                        place = (position - n,)
                    moves = {position: moves[position]}
                if mode == "resample":
                    values = donor.held[kind][layer][list(moves.values())]
                elif mode == "mean":
                    seen = [held[kind][layer] if positions != "read_out" else held[kind][layer][hand.read][None]
                            for held in every_run]
                    values = torch.cat(seen).mean(0).expand(len(moves), -1)
                else:
                    values = torch.zeros(len(moves), 32)
                values = values if head is None else values[:, 8 * head:8 * head + 8]
                theirs = hand.effect(kind, layer, values, list(moves), head)
                mine = arrays[kind][(*index, *place)]
                assert mine == pytest.approx(theirs, abs=2e-5 * max(1, abs(hand.reward))), (mode, kind, layer, head)


def test_queries_keys_and_values_are_patched_by_head() -> None:
    """GPT-2 encodes no position in them, so they are thirds of one linear map's output."""
    rm = model_of("gpt2")
    found = patch(rm, EQUAL, ("q", "k", "v"), positions="all", **FAST)
    ids = [rm.encode(side).ids.tolist() for side in EQUAL.conversations]
    reward = float(plain_run(rm.model, "gpt2", ids[0])[0])
    for layer in range(3):
        module, held = rm.model.transformer.h[layer].attn.c_attn, []
        handle = module.register_forward_hook(lambda module, args, out, held=held: held.append(out.clone()))
        plain_run(rm.model, "gpt2", ids[1])
        handle.remove()
        for part, name in enumerate(("q", "k", "v")):
            for head in range(4):
                columns = slice(32 * part + 8 * head, 32 * part + 8 * head + 8)

                def put(module, args, out, columns=columns, held=held):
                    out = out.clone()
                    out[..., columns] = held[0][..., columns]
                    return out
                handle = module.register_forward_hook(put)
                theirs = reward - float(plain_run(rm.model, "gpt2", ids[0])[0])
                handle.remove()
                assert found.data[f"effect_{name}"].values[0, layer, head] == pytest.approx(theirs, abs=1e-5)
    assert found.data["effect_k"].dims == ("pair", "layer", "kv_head")


def test_key_heads_are_as_many_as_the_model_has() -> None:
    found = patch(model_of("llama"), EQUAL, ("q", "v"), **FAST)
    assert (found.data.sizes["head"], found.data.sizes["kv_head"]) == (4, 2)


# invariants of the published method's own study (numbers as there)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["read_out", "each", "all"])
def test_7_identical_sides_have_no_effect_bit_for_bit(family: str, positions: str) -> None:
    same = Pair(EQUAL.prompt, EQUAL.chosen, EQUAL.chosen)
    for mode in ("noising", "denoising"):
        found = patch(model_of(family), same, ("embed", "resid_post", *SITES), mode, positions, **FAST)
        assert not np.nan_to_num(found.effect).any()
        assert not found.effect_heads.any()
        assert np.isfinite(found.effect_heads).all()
        assert found.margin[0] == 0
        assert np.isnan(found.normalized).all()
        assert found.provenance["forwards"] == 1  # one run, and nothing to compute


@pytest.mark.parametrize("family", FAMILIES)
def test_8_and_9_the_whole_state_is_the_other_run(family: str) -> None:
    rm = model_of(family)
    margin = rm.score(EQUAL).margin[0]
    everywhere = patch(rm, EQUAL, ("embed", "resid_pre", "resid_post"), positions="all", **FAST)
    np.testing.assert_allclose(everywhere.effect[0, 1:], margin, atol=1e-5)
    assert everywhere.effect[0, 0, 0] == pytest.approx(margin, abs=1e-5)  # positions are equal, so the token says all
    assert np.isnan(everywhere.effect[0, 0, 1:]).all()
    assert everywhere.effect[0, 1, 0] == everywhere.margin[0]
    assert everywhere.provenance["edits"] == 1
    for pair in (SHORTER, LONGER):
        last = patch(rm, pair, "resid_post", **FAST)
        assert last.effect[0, 0, -1] == pytest.approx(last.margin[0], abs=1e-5)
        back = patch(rm, pair, "resid_post", "denoising", **FAST)
        assert back.effect[0, 0, -1] == pytest.approx(last.margin[0], abs=1e-5)
    base, other = (rm.base(side, ("embed", "position", "attn_out", "mlp_out")) for side in EQUAL.conversations)
    kinds = [("embed", 0), *((kind, layer) for layer in range(3) for kind in ("attn_out", "mlp_out"))]
    swapped = rm.edit(base, [[Edit(Site(kind, layer), other.activation(kind, layer)) for kind, layer in kinds]])
    assert swapped[0, 0] == pytest.approx(other.reward, abs=1e-5)


def test_the_whole_state_is_not_taken_for_the_other_run_where_it_is_not() -> None:
    """At unequal lengths every token of the shorter run has a counterpart, and yet its reward is not that of the longer."""
    rm = model_of("llama")
    hand, found = ByHand(rm, LONGER), patch(rm, LONGER, "resid_pre", positions="all", **FAST)
    moves = moves_by_hand("suffix", *hand.ids, hand.read)
    assert list(moves) == list(range(len(hand.ids[0])))
    held = plain_run(rm.model, "llama", hand.ids[1], watch=("resid_pre",))[1]["resid_pre"]
    theirs = [hand.effect("resid_pre", layer, held[layer][list(moves.values())], list(moves)) for layer in range(3)]
    np.testing.assert_allclose(found.effect[0, 0], theirs, atol=1e-5)
    assert np.abs(found.effect[0, 0] - found.margin[0]).max() > 1e-3


@pytest.mark.parametrize("positions", ["read_out", "each", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_10_exchanging_roles_changes_the_sign(family: str, positions: str) -> None:
    rm, turned = model_of(family), Pair(SHORTER.prompt, SHORTER.rejected, SHORTER.chosen)
    noise = patch(rm, SHORTER, SITES, "noising", positions, **FAST)
    denoise = patch(rm, turned, SITES, "denoising", positions, **FAST)
    for name in ("effect", "effect_heads"):
        np.testing.assert_array_equal(noise.data[name].values, -denoise.data[name].values)
    np.testing.assert_array_equal(noise.normalized, denoise.normalized)
    assert noise.data["token"].values.tolist() == denoise.data["token"].values.tolist()


def test_12_the_read_out_meets_the_read_out_at_any_length() -> None:
    """The published convention, index by index from the left, leaves the scored token alone where the rejected side is shorter:
    last-layer effects are exactly 0. Here it is aligned under every rule, and the map is in the Result."""
    rm = model_of("llama")
    found = {rule: patch(rm, SHORTER, alignment=rule, **FAST) for rule in ("suffix", "prefix", "diff", "read_out")}
    for result in found.values():
        assert abs(result.effect[0, 1, -1]) > 1e-3
        assert result.data["aligned"].values[0, -1] == -1
        np.testing.assert_array_equal(result.effect, found["suffix"].effect)
    left = found["prefix"].data["aligned"].values[0]
    n, m = (rm.encode(side).length for side in SHORTER.conversations)
    assert left.tolist() == [*range(-m, -1), *[0] * (n - m), -1]
    assert "".join(found["suffix"].data["token"].values[0]) == "".join(rm.encode(SHORTER.conversations[0]).tokens)
    assert found["suffix"].data["span"].values[0].tolist() == rm.encode(SHORTER.conversations[0]).spans.tolist()


def test_13_what_writes_nothing_has_no_effect_and_the_only_writer_has_its_attribution() -> None:
    model = build("llama", seed=1)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.weight.zero_()
        if index != 1:
            layer.mlp.down_proj.weight.zero_()
    model.model.norm.variance_epsilon = 1e8  # beside it the stream is nothing: the norm divides by 1e4, its gain undoes that
    model.model.norm.weight.fill_(1e4)
    rm = RewardModel(model, tiny_tokenizer())
    found, ledger = patch(rm, SHORTER, mode="zero", **FAST), attribute(rm, SHORTER, **FAST)
    assert found.below_noise_heads.all()
    assert np.abs(found.effect_heads).max() < 1e-6
    assert not found.effect[0, 0].any()
    assert not found.effect[0, 1, [0, 2]].any()
    mine = ledger.data["contribution"].sel(component="mlp.1", side="chosen").item()
    assert found.effect[0, 1, 1] == pytest.approx(mine, abs=1e-5)
    assert abs(mine) > 1e-3
    assert np.isnan(found.reward_source[0])
    assert not found.data["aligned"].any()
