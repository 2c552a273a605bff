"""Path patching against three passes by hand, the ledger, and cases where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from tests.families import build, cached
from tests.patching.by_hand import moves_by_hand
from tests.patching.planted import planted, random_pairs
from tests.patching.three_passes import ThreePasses, place_of
from tests.tokenizers_tiny import WORDS, tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.errors import RewardenError
from rewarden.lens import attribute
from rewarden.patching import pair_paths
from rewarden.patching.paths import patch_paths
from rewarden.readout import Reading, Readout
from rewarden.result import Result
from rewarden.reward_model import RewardModel

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "phi")
PARALLEL = ("gpt_neox", "phi")
UNEQUAL = Pair("what is the capital of France?", "Paris.", "it is a red dog, and you should not question it")
EQUAL = Pair("help me please", "sorry I can not", "yes you could see")
FAST = {"resamples": 100}
EVERYONE = {"senders": ("embed", "head", "attn", "mlp"), "receivers": ("attn", "head", "mlp", "read_out"), **FAST}

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def model_of(family: str) -> RewardModel:
    return RewardModel(cached(family), tiny_tokenizer(), name=family)


def suffix_pairs(base: Sequence[int], source: Sequence[int], only_last: bool) -> np.ndarray:
    """(base, source) positions: what both begin with, the rest counted from the end."""
    moves = {len(base) - 1: len(source) - 1} if only_last else moves_by_hand("suffix", list(base), list(source), -1)
    return np.asarray(list(moves.items()))


def is_edge(sender: str, receiver: str, parallel: bool) -> bool:
    (kind, layer, _), (to, later, _) = place_of(sender), place_of(receiver)
    inside = layer == later and kind in ("attn", "head") and to == "mlp" and not parallel
    return to == "read_out" or layer < later or inside


@pytest.mark.parametrize("mode", ["noising", "denoising"])
@pytest.mark.parametrize("positions", ["read_out", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_equal_three_passes_by_hand(family: str, positions: str, mode: str) -> None:
    rm = model_of(family)
    pair = UNEQUAL if mode == "noising" else EQUAL
    senders = ("embed", "position", "head", "attn", "mlp") if family == "gpt2" else EVERYONE["senders"]
    paths = patch_paths(rm, pair, **{**EVERYONE, "senders": senders}, mode=mode, positions=positions)
    rows = [rm.encode(side).ids for side in pair.conversations]
    ids, other = rows if mode == "noising" else rows[::-1]
    hand = ThreePasses(rm.model, family)
    clean, base = hand.plain(ids)
    _, source = hand.plain(other)
    pairs = suffix_pairs(ids, other, positions == "read_out")
    effect, names = paths.effect[0], list(paths.data["receiver"].values)
    cells = [(s, r) for s in range(effect.shape[0]) for r in range(effect.shape[1])]
    for s, r in cells:
        sender, receiver = str(paths.data["sender"].values[s]), names[r]
        assert np.isfinite(effect[s, r]) == is_edge(sender, receiver, family in PARALLEL), (sender, receiver)
    known = [cell for cell in cells if np.isfinite(effect[cell])]
    drawn = np.random.default_rng(0).permutation(len(known))[:25]
    sign = 1 if mode == "noising" else -1
    for s, r in [known[i] for i in drawn]:
        sender = str(paths.data["sender"].values[s])
        expected = sign * (clean - hand.edge(sender, names[r], ids, base, source, pairs))
        assert effect[s, r] == pytest.approx(expected, abs=1e-5 * max(1, abs(clean))), (sender, names[r])
    assert np.nanmax(np.abs(effect)) > 1e-2
    np.testing.assert_array_equal(paths.direct[0], effect[:, names.index("read_out")])


@pytest.mark.parametrize("family", [*FAMILIES, "opt", "glm4", "mixtral"])
def test_frozen_direct_effect_is_the_attribution_difference(family: str) -> None:
    """Invariant 25: with the norm frozen, the edge to the read-out is the component's line of the ledger."""
    rm = model_of(family)
    pairs = [UNEQUAL, EQUAL]
    paths = patch_paths(rm, pairs, senders=("embed", "head", "attn", "mlp"), receivers="read_out", **FAST)
    ledger = attribute(rm, pairs, **FAST)
    size = max(1, np.abs(ledger.reward).max())
    lines = dict(zip(ledger.data["component"].values, ledger.difference.T, strict=True))
    for name, frozen in zip(paths.data["sender"].values, paths.direct_frozen.T, strict=True):
        kind, layer, _ = place_of(name)
        parts = [name] if kind != "attn" else [n for n in lines if n.startswith(f"head.{layer}.") or n == f"attn_bias.{layer}"]
        np.testing.assert_allclose(frozen, sum(lines[part] for part in parts), atol=1e-5 * size, err_msg=name)
    reverse = patch_paths(rm, pairs, senders=("embed", "head", "attn", "mlp"), receivers="read_out", mode="denoising", **FAST)
    np.testing.assert_allclose(reverse.direct_frozen, paths.direct_frozen, atol=1e-6 * size)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_direct_effect_at_the_base_scale_is_the_difference_of_writes_seen_through_one_norm(family: str) -> None:
    rm = model_of(family)
    paths = patch_paths(rm, UNEQUAL, senders=("head", "attn", "mlp", "embed"), receivers="read_out", **FAST)
    hand = ThreePasses(rm.model, family)
    final = rm.architecture.final_norm
    inputs = []
    for side in UNEQUAL.conversations:
        handle = final.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0, -1].clone()))
        hand.plain(rm.encode(side).ids)
        handle.remove()
    centre = isinstance(final, torch.nn.LayerNorm)
    x = inputs[0] - inputs[0].mean() if centre else inputs[0]
    eps = final.eps if centre else final.variance_epsilon
    direction = rm.model.score.weight[0] * final.weight / torch.sqrt(x.pow(2).mean() + eps)
    direction = direction - direction.mean() if centre else direction
    runs = [rm.base(side, ("attn_out", "mlp_out")) for side in UNEQUAL.conversations]
    found = dict(zip(paths.data["sender"].values, paths.direct_base_scale[0], strict=True))
    for layer in range(3):
        for name, site in ((f"attn.{layer}", "attn_out"), (f"mlp.{layer}", "mlp_out")):
            written = [run.activation(site, layer)[-1] for run in runs]
            assert found[name] == pytest.approx(float(direction @ (written[0] - written[1])), abs=1e-5)
        heads = sum(found[f"head.{layer}.{head}"] for head in range(4))
        assert heads == pytest.approx(found[f"attn.{layer}"], abs=1e-5)  # no post-norm: a sum
    total = found["embed"] + sum(found[f"{kind}.{layer}"] for kind in ("attn", "mlp") for layer in range(3))
    moved = inputs[0] - inputs[1]
    if family == "gpt2":  # the position embedding is a sender of its own
        position = rm.model.transformer.wpe.weight[[len(rm.encode(side).ids) - 1 for side in UNEQUAL.conversations]]
        moved = moved - (position[0] - position[1])
    assert total == pytest.approx(float(direction @ moved), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["read_out", "all"])
def test_an_edge_with_nothing_to_tell_is_clean_to_the_bit(family: str, positions: str) -> None:
    same = Pair("help me please", "sorry I can not", "sorry I can not")
    effect = patch_paths(model_of(family), same, positions=positions, **EVERYONE).effect
    assert set(np.unique(effect[np.isfinite(effect)])) == {0.0}
    if positions == "read_out":  # both texts end with the same token
        embed = patch_paths(model_of(family), UNEQUAL, **{**EVERYONE, "senders": "embed"})
        assert set(np.unique(embed.effect[np.isfinite(embed.effect)])) == {0.0}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_receiver_that_writes_nothing_has_edges_worth_nothing(family: str) -> None:
    model = build(family)
    layer = (model.model.layers if family == "llama" else model.transformer.h)[1]
    attention, mlp = ((layer.self_attn.o_proj, layer.mlp.down_proj) if family == "llama" else
                      (layer.attn.c_proj, layer.mlp.c_proj))
    with torch.no_grad():
        attention.weight.zero_(), mlp.weight.zero_()
    paths = patch_paths(RewardModel(model, tiny_tokenizer()), UNEQUAL, positions="all", **EVERYONE)
    dead = np.asarray([str(name).split(".")[1:2] == ["1"] for name in paths.data["receiver"].values])
    into = paths.effect[0][:, dead]
    assert np.nanmax(np.abs(into)) <= 1e-6
    assert paths.below_noise[0][:, dead][np.isfinite(into)].all()
    assert np.nanmax(np.abs(paths.effect[0][:, ~dead])) > 1e-2


def affine_model() -> RewardModel:
    """A GPT-2 that is an affine map: norms whose scale does not move, uniform attention, MLPs without a bend."""
    model = build("gpt2", layer_norm_epsilon=1e8, activation_function="linear")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                parameter.mul_(1e4)
            if ".attn.c_attn." in name:
                parameter[..., :64] = 0.0  # queries and keys
    return RewardModel(model, tiny_tokenizer())


def test_in_an_affine_model_edges_sum_to_the_total_effect_and_direct_effects_are_attributions() -> None:
    rm = affine_model()
    for pair in (EQUAL, UNEQUAL):
        paths = patch_paths(rm, pair, senders=("mlp", "attn", "head", "embed"), positions="all", **FAST)
        np.testing.assert_allclose(paths.direct, paths.direct_frozen, atol=1e-5)  # invariants 13, 14
        np.testing.assert_allclose(paths.direct, paths.direct_base_scale, atol=1e-5)
        chosen, rejected = (rm.base(side, ("attn_out", "mlp_out", "z")) for side in pair.conversations)
        pairs = suffix_pairs(chosen.encoded.ids, rejected.encoded.ids, False)
        for sender, edges in zip(paths.data["sender"].values, paths.effect[0], strict=True):
            kind, layer, head = place_of(sender)
            if kind == "embed":
                continue
            site = {"attn": "attn_out", "mlp": "mlp_out", "head": "z"}[kind]
            value = rejected.activation(site, layer)[pairs[:, 1]]
            where = Site(site, layer, tuple(pairs[:, 0].tolist()), head if kind == "head" else None)
            edited = rm.edit(chosen, [Edit(where, value[:, head] if kind == "head" else value)])
            total = chosen.reward - float(edited[0, 0])
            assert np.nansum(edges) == pytest.approx(total, abs=2e-5 * max(1, abs(total))), sender


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_exchanging_the_roles_of_the_two_responses_turns_the_sign(family: str) -> None:
    swapped = Pair(UNEQUAL.prompt, UNEQUAL.rejected, UNEQUAL.chosen)
    noising = patch_paths(model_of(family), UNEQUAL, **EVERYONE)
    denoising = patch_paths(model_of(family), swapped, mode="denoising", **EVERYONE)
    np.testing.assert_array_equal(noising.effect, -denoising.effect)


class TwoPlaces(Readout):
    """The sum of one direction's reading after layer 1, at the fourth token and at the last."""

    layer = 1

    def __init__(self, weight: torch.Tensor, norm) -> None:
        self.weight, self.norm = weight, norm

    def read(self, encoded) -> Reading:
        return Reading(np.asarray([3, encoded.length - 1]))

    def apply_normed(self, normed: torch.Tensor, reading: Reading) -> torch.Tensor:
        return (normed.sum(-2) @ self.weight)[..., None]


@pytest.mark.parametrize("positions", ["read_out", "all"])
def test_a_read_out_of_two_positions_in_the_middle_of_the_model(positions: str) -> None:
    model = cached("llama")
    weight = model.score.weight[0].clone()
    rm = RewardModel(model, tiny_tokenizer(), readout=lambda m, t, arch: TwoPlaces(weight, arch.norm), check=False)
    norm = model.model.norm

    def read(hidden) -> float:
        return float(norm(hidden[2][0, [3, -1]]).sum(0) @ weight)

    hand = ThreePasses(model, "llama", read=read)
    pair = Pair("red sun moon", "good dog you see it", "bad")
    ids, other = (rm.encode(side).ids for side in pair.conversations)
    clean, base = hand.plain(ids)
    _, source = hand.plain(other)
    pairs = suffix_pairs(ids, other, False)
    pairs = pairs[pairs[:, 1] != 3]  # the token that is read there stands for the one that is read here
    pairs = np.concatenate([pairs[pairs[:, 0] != 3], [[3, 3]]])
    pairs = pairs if positions == "all" else np.asarray([[3, 3], [len(ids) - 1, len(other) - 1]])
    paths = patch_paths(rm, pair, positions=positions, **EVERYONE)
    assert not any(".2" in str(name)[-4:] and place_of(str(name))[1] == 2 for name in paths.data["sender"].values)
    assert rm.reward([pair.conversations[0]])[0, 0] == pytest.approx(clean, abs=1e-5)
    for s, sender in enumerate(paths.data["sender"].values):
        for r, receiver in enumerate(paths.data["receiver"].values):
            if np.isfinite(paths.effect[0, s, r]):
                expected = clean - hand.edge(str(sender), str(receiver), ids, base, source, pairs)
                assert paths.effect[0, s, r] == pytest.approx(expected, abs=1e-5), (sender, receiver)


def test_plans_cut_for_memory_give_the_same_effects(monkeypatch) -> None:
    whole = patch_paths(model_of("gpt2"), UNEQUAL, positions="all", **EVERYONE)
    monkeypatch.setattr(pair_paths, "HELD", 1000)
    cut = patch_paths(model_of("gpt2"), UNEQUAL, positions="all", **EVERYONE)
    for name in ("effect", "direct_base_scale"):
        np.testing.assert_allclose(cut.data[name], whole.data[name], atol=1e-5)
    assert cut.provenance["edits"] == whole.provenance["edits"]


def test_order_and_choice_of_names_do_not_change_an_edge() -> None:
    rm, pairs = model_of("llama"), [UNEQUAL, EQUAL]
    whole = patch_paths(rm, pairs, **EVERYONE).data["effect"]
    some = patch_paths(rm, pairs, ("mlp.1", "head.0.2", "embed"), ("read_out", "mlp.2", "attn.1", "head.2"), **FAST).data
    assert some["sender"].values.tolist() == ["mlp.1", "head.0.2", "embed"]
    assert some["receiver"].values.tolist() == ["read_out", "mlp.2", "attn.1", *(f"head.2.{h}" for h in range(4))]
    np.testing.assert_allclose(some["effect"], whole.sel(sender=some["sender"], receiver=some["receiver"]), atol=1e-5)
    assert np.isnan(some["effect"].sel(sender="mlp.1", receiver="attn.1")).all()


def test_labels_without_meaning_mark_no_edges() -> None:
    """Random weights and random texts: across models, hardly any result has a marked edge (5 % at most by design)."""
    with_marks = []
    for seed in range(8):
        rm = RewardModel(build("llama", seed=seed), tiny_tokenizer(), check=False)
        paths = patch_paths(rm, random_pairs(14, seed), senders=("attn", "mlp"), **FAST)
        assert np.isfinite(paths.p).sum() == np.isfinite(paths.effect).all(0).sum()
        with_marks.append(bool(paths.marked.any() or paths.marked_direct.any()))
    assert sum(with_marks) <= 2  # P(3 or more of 8 at 5 %) = 0.6 %


def test_a_planted_edge_is_marked_and_few_pairs_are_not_tested() -> None:
    rm = model_of("llama")
    pairs = [Pair(f"see {word}", f"{word} good", "no bad") for word in WORDS[:12]]
    paths = patch_paths(rm, pairs, senders="mlp.0", receivers=("mlp.2", "read_out"), **FAST)
    np.testing.assert_array_equal(paths.data["mean"].sel(receiver="read_out"), paths.mean_direct)
    np.testing.assert_allclose(paths.data["mean"].values[0], paths.effect.mean(0)[0])
    few = patch_paths(rm, pairs[:3], senders="mlp.0", receivers="mlp.2", **FAST)
    assert np.isnan(few.p).all()
    assert not few.marked.any()


def strongest(values: np.ndarray) -> np.ndarray:
    """Position of the largest mean size of an effect; its sign goes with the labels, which are random."""
    size = np.abs(values).mean(0)
    return np.unravel_index(np.nanargmax(size), size.shape)


def test_a_planted_head_has_the_strongest_direct_effect() -> None:
    found = []
    for seed in range(20):
        rm = planted(seed, heads={(1, 2): 30.0, (0, 1): 1.0, (2, 3): 1.0}, mlps={0: 1.0, 2: 1.0}, check=False)
        paths = patch_paths(rm, random_pairs(3, seed), receivers="read_out", **FAST)
        found.append(str(paths.data["sender"].values[strongest(paths.direct)[0]]))
    assert np.mean([name == "head.1.2" for name in found]) >= 0.95


def test_a_planted_path_is_the_strongest_edge_of_its_sender() -> None:
    found = []
    for seed in range(20):  # a loud head tells the last MLP, which is louder; all others hear and speak quietly
        rm = planted(seed, heads={(1, 2): 10.0, (0, 1): 0.3, (2, 0): 0.3}, mlps={1: 0.3, 2: 100.0}, check=False)
        paths = patch_paths(rm, random_pairs(3, seed), senders="head", **FAST)
        sender, receiver = strongest(paths.effect)
        found.append((str(paths.data["sender"].values[sender]), str(paths.data["receiver"].values[receiver])))
    assert np.mean([edge == ("head.1.2", "mlp.2") for edge in found]) >= 0.95


def test_the_result_keeps_its_alignment_and_survives_the_disk(tmp_path) -> None:
    rm = model_of("llama")
    paths = patch_paths(rm, [UNEQUAL, EQUAL], **FAST)
    ids = [rm.encode(side).ids.tolist() for side in UNEQUAL.conversations]
    aligned = paths.data["aligned"].values[0]
    wanted = np.zeros(max(len(ids[0]), rm.encode(EQUAL.conversations[0]).length))
    for mine, theirs in moves_by_hand("suffix", *ids, -1).items():
        wanted[mine - len(ids[0])] = theirs - len(ids[1])
    np.testing.assert_array_equal(aligned, wanted)
    margin = rm.score([UNEQUAL, EQUAL]).margin
    np.testing.assert_allclose(paths.margin, margin, atol=1e-5)
    np.testing.assert_allclose(paths.normalized_direct, paths.direct / paths.margin[:, None])
    path = paths.save(tmp_path / "paths.nc")
    assert Result.load(path).data.identical(paths.data)


def test_pairs_that_cannot_be_compared_are_missing_not_zero() -> None:
    paths = patch_paths(model_of("llama"), [UNEQUAL, EQUAL], alignment="equal_only", **FAST)
    assert np.isnan(paths.effect[0]).all()
    assert np.isnan(paths.direct_frozen[0]).all()
    assert np.isfinite(paths.direct[1]).all()
    assert "1 of 2 pairs" in paths.warnings[0]


def test_errors_name_what_is_wrong_and_what_there_is() -> None:
    rm = model_of("llama")
    with pytest.raises(RewardenError, match=r"no senders 'head.9', 'mlp.7'.*(?s:.*)layers 0 to 2"):
        patch_paths(rm, EQUAL, senders=("head.9", "attn.0", "mlp.7"))
    with pytest.raises(RewardenError, match="impossible options") as error:
        patch_paths(rm, EQUAL, senders="read_out", receivers="embed", mode="zero")
    assert [name for name in ("senders", "receivers", "mode") if name not in error.value.what] == []
    with pytest.raises(RewardenError, match="path patching is not defined"):
        patch_paths(RewardModel(build("bert"), tiny_tokenizer()), EQUAL)
