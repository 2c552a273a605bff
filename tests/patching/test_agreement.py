"""Agreement graded by hand-written hooks, a linear model, planted heads, scipy, and labels that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.families import build, cached
from tests.patching.by_hand import moves_by_hand
from tests.tokenizers_tiny import WORDS, tiny_tokenizer
from torch import nn

from rewarden.conversation import Pair
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError
from rewarden.lens import attribute
from rewarden.patching import patch
from rewarden.patching.agreement import COMPARISONS, RELATIONS, TYPES, agreement
from rewarden.patching.paths import patch_paths
from rewarden.patching.ranks import permutation_p, unit_ranks
from rewarden.readout import Reading, SequenceHead
from rewarden.result import Result
from rewarden.reward_model import RewardModel
from rewarden.statistics import bootstrap_interval

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")

SHORTER = Pair("help me please", "sorry, I can not help you with this work", "yes, I can.")
LONGER = Pair("what is the capital of France?", "Paris.", "it is a red dog, and you should not question it")
EQUAL = Pair("Tell me a joke", "no sun today", "ten blue legs")
PAIRS = [SHORTER, LONGER, EQUAL]
FAST = {"resamples": 100, "permutations": 19}
# family -> modules whose output is added to the stream (attention, MLP), and the out-projection
MODULES = {
    "llama": ("self_attn", "mlp", "self_attn.o_proj"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj"),
    "gpt2": ("attn", "mlp", "attn.c_proj"),
}


def random_pairs(n: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(3, 12)))
    return [Pair(f"{text()} {i}", text(), text()) for i in range(n)]


class ByHand:
    """reward-lens 1.0.0's loop with plain hooks: one forward per component, the first min(T+, T−) positions replaced."""

    def __init__(self, family: str, rm: RewardModel) -> None:
        self.rm, self.model, self.names = rm, rm.model, MODULES[family]
        self.layers = rm.model.transformer.h if family == "gpt2" else rm.model.model.layers
        self.heads = rm.architecture.n_heads

    def module(self, kind: str, layer: int) -> nn.Module:
        return self.layers[layer].get_submodule(self.names[("attn", "mlp", "head").index(kind)])

    def reward(self, ids: np.ndarray) -> float:
        with torch.no_grad():
            return float(self.model(input_ids=torch.tensor(ids)[None]).logits[0, 0])

    def cache(self, ids: np.ndarray) -> dict:
        kept, handles = {}, []
        for layer in range(len(self.layers)):
            for kind in ("attn", "mlp"):
                def keep(_m, _i, out, key=(kind, layer)):
                    kept[key] = (out[0] if isinstance(out, tuple) else out)[0].clone()
                handles.append(self.module(kind, layer).register_forward_hook(keep))

            def keep_in(_m, args, key=("head", layer)):
                kept[key] = args[0][0].clone()
            handles.append(self.module("head", layer).register_forward_pre_hook(keep_in))
        kept["reward"] = self.reward(ids)
        for handle in handles:
            handle.remove()
        return kept

    def patched(self, ids: np.ndarray, kind: str, layer: int, head: int, source: torch.Tensor, pairs: np.ndarray) -> float:
        """Reward when positions pairs[:, 0] hold what the source has at pairs[:, 1]."""
        def change(hidden: torch.Tensor) -> torch.Tensor:
            hidden = hidden.clone()
            width = hidden.shape[-1] // self.heads
            part = slice(None) if kind != "head" else slice(head * width, (head + 1) * width)
            hidden[0, pairs[:, 0], part] = source[pairs[:, 1], part]
            return hidden

        def after(_m, _i, out):
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        module = self.module(kind, layer)
        handle = (module.register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:])) if kind == "head"
                  else module.register_forward_hook(after))
        try:
            return self.reward(ids)
        finally:
            handle.remove()


def parts(found: Result) -> list[tuple[str, str, int, int]]:
    """Name, kind, layer and head of every component."""
    return list(zip(*(found.data[name].values.tolist() for name in ("component", "kind", "layer", "head")), strict=True))


def aligned(ids: Sequence[int], other: Sequence[int], rule: str) -> np.ndarray:
    moves = {"left": {p: p for p in range(min(len(ids), len(other)))}, "read": {len(ids) - 1: len(other) - 1},
             "end": moves_by_hand("suffix", list(ids), list(other), -1)}
    return np.asarray(list(moves[rule].items()))


@pytest.mark.parametrize("family", MODULES)
def test_total_effects_equal_plain_hooks_and_the_published_rule(family: str) -> None:
    rm = RewardModel(cached(family), tiny_tokenizer())
    found = agreement(rm, PAIRS, sequence_heads=True, **FAST)
    hand = ByHand(family, rm)
    for number, pair in enumerate(PAIRS):
        ids = [rm.encode(side).ids for side in pair.conversations]
        base, other = (hand.cache(each) for each in ids)
        for name, rule in (("total", "read"), ("total_all", "end"), ("total_left", "left")):
            places = aligned(*ids, rule)
            wanted = [base["reward"] - hand.patched(ids[0], kind, layer, head, other[kind, layer], places)
                      for _, kind, layer, head in parts(found)]
            size = max(1.0, np.abs(wanted).max())
            np.testing.assert_allclose(getattr(found, name)[number], wanted, atol=2e-5 * size, err_msg=f"{name} {number}")


@pytest.mark.parametrize("family", MODULES)
def test_attribution_is_the_ledger_and_the_raw_one_has_no_norm(family: str) -> None:
    rm = RewardModel(cached(family), tiny_tokenizer())
    found, ledger = agreement(rm, PAIRS, sequences=False, **FAST), attribute(rm, PAIRS, resamples=100)
    lines = {"head": ("head",), "attn": ("head", "attn_bias"), "mlp": ("mlp", "mlp_bias")}
    for component, kind, layer, head in parts(found):
        mine = np.isin(ledger.data["kind"].values, lines[kind]) & (ledger.data["layer"].values == layer)
        if kind == "head":
            mine &= ledger.data["head"].values == head
        wanted = ledger.difference[:, mine].sum(1)
        np.testing.assert_allclose(found.data["attribution"].sel(component=component), wanted, atol=2e-5, err_msg=component)
    hand, weight = ByHand(family, rm), rm.model.score.weight[0]
    for number, pair in enumerate(PAIRS):
        base, other = (hand.cache(rm.encode(side).ids) for side in pair.conversations)
        for kind in ("attn", "mlp"):
            raw = [float(weight @ (base[kind, layer][-1] - other[kind, layer][-1])) for layer in range(3)]
            np.testing.assert_allclose(found.attribution_raw[number, found.data["kind"].values == kind], raw, atol=1e-4)


@pytest.mark.parametrize("family", MODULES)
def test_direct_effect_is_the_read_out_of_the_final_residual_with_one_write_exchanged(family: str) -> None:
    rm = RewardModel(cached(family), tiny_tokenizer())
    found, hand = agreement(rm, PAIRS, sequences=False, **FAST), ByHand(family, rm)
    norm = rm.architecture.final_norm
    for number, pair in enumerate(PAIRS):
        rows = [rm.encode(side) for side in pair.conversations]
        base, other = (hand.cache(row.ids) for row in rows)
        final = rm.trace(rows[0], ("final",), "read")["final"][0]
        wanted = []
        for _, kind, layer, head in parts(found):
            now, then = base[kind, layer][-1], other[kind, layer][-1]
            if kind == "head":  # the attention write recomputed by the family's own modules
                mixed, part = now.clone(), slice(8 * head, 8 * head + 8)
                mixed[part] = then[part]
                write = hand.module("head", layer)
                now, then = write(now[None])[0], write(mixed[None])[0]
                if family == "gemma2":
                    now, then = (hand.module("attn", layer)(value) for value in (now, then))
            wanted.append(base["reward"] - float(rm.model.score(norm(final - now + then))))
        np.testing.assert_allclose(found.direct[number], wanted, atol=5e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_direct_effects_are_those_of_path_patching(family: str) -> None:
    rm = RewardModel(cached(family), tiny_tokenizer())
    found = agreement(rm, PAIRS, sequences=False, **FAST)
    paths = patch_paths(rm, PAIRS, senders=found.data["component"].values.tolist(), receivers=("read_out",), resamples=100)
    np.testing.assert_allclose(found.direct, paths.direct, atol=1e-5)


def test_total_effects_are_those_of_patch() -> None:
    rm = RewardModel(cached("qwen2"), tiny_tokenizer())
    found, swept = agreement(rm, PAIRS, sequence_heads=True, **FAST), patch(rm, PAIRS, resamples=100)
    everywhere = patch(rm, PAIRS, positions="all", resamples=100)
    for name, result in (("total", swept), ("total_all", everywhere)):
        wanted = [result.effect_heads.reshape(3, -1), result.effect[:, 0], result.effect[:, 1]]
        np.testing.assert_allclose(getattr(found, name), np.concatenate(wanted, 1), atol=1e-6)
    np.testing.assert_allclose(found.margin, rm.score(PAIRS).margin, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi", "mixtral"])
def test_the_published_convention_gives_exact_zeros_where_the_rejected_side_is_shorter(family: str) -> None:
    rm = RewardModel(cached(family), tiny_tokenizer())
    found = agreement(rm, [SHORTER, LONGER], sequence_heads=True, **FAST)
    last = found.data.isel(component=found.data["layer"].values == rm.architecture.n_layers - 1)
    assert (last["total_left"].values[0] == 0.0).all()
    assert (np.abs(last["total"].values) > found.noise_floor).all()
    assert (np.abs(last["total_left"].values[1]) > found.noise_floor).all()  # the read-out got a token of mid-response
    lengths = found.tokens
    assert found.read_out_source.tolist() == [0, lengths[1, 0] - 1 - lengths[1, 1]]
    assert found.warnings == ("published convention: in 1 of 2 pairs it never patches the read-out, and every effect in the "
                              "last layer is exactly 0 there; read its correlations by length",)


def test_at_equal_length_the_conventions_patch_the_same_positions() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    found = agreement(rm, [EQUAL], sequence_heads=True, **FAST)
    np.testing.assert_array_equal(found.total_left, found.total_all)
    assert (found.read_out_source.tolist(), found.shorter.tolist(), found.warnings) == ([-1], [0.0], ())


class Mean(nn.Module):
    """Attention without queries: every position reads the mean of what came so far, through linear maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.v_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(1, hidden.shape[1] + 1)[None, :, None]
        return self.o_proj(self.v_proj(hidden).cumsum(1) / steps)


class LinearLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Mean(width), nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor, **_kwargs) -> torch.Tensor:
        middle = hidden + self.self_attn(hidden)
        return middle + self.mlp(middle)


class LinearModel(nn.Module):
    """No norm and no nonlinearity anywhere."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_hidden_layers=depth, num_attention_heads=4, hidden_size=width, num_labels=1)
        self.embed, self.score = nn.Embedding(300, width), nn.Linear(width, 1, bias=False)
        self.layers = nn.ModuleList([LinearLayer(width) for _ in range(depth)])
        self.requires_grad_(False).eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(last_hidden_state=hidden, logits=self.score(hidden[:, -1]))


def test_on_a_linear_model_attribution_is_the_direct_effect_and_ranks_agree_exactly() -> None:
    rm = RewardModel(LinearModel(), tiny_tokenizer())
    assert rm.architecture.norm.is_identity
    found = agreement(rm, PAIRS, sequence_heads=True, **FAST)
    np.testing.assert_allclose(found.direct, found.attribution, atol=1e-6)
    np.testing.assert_allclose(found.attribution_raw, found.attribution, atol=1e-7)
    np.testing.assert_allclose(found.data["rho"].sel(comparison="attribution vs direct"), 1.0, atol=1e-12)
    np.testing.assert_allclose(found.data["rho_mean"].sel(comparison="attribution vs direct"), 1.0, atol=1e-12)
    # the total effect in closed form: what is written at the last token goes through every later layer's maps there
    model, tokens = rm.model, found.tokens[:, 0]
    direction, eye = model.score.weight[0].clone(), torch.eye(16)
    for layer in reversed(range(3)):
        block = model.layers[layer]
        for kind in ("mlp", "attn"):
            if kind == "attn":
                direction = direction @ (eye + block.mlp.weight)  # this layer's MLP reads what attention wrote
            component = f"{kind}.{layer}"
            for number, pair in enumerate(PAIRS):
                rows = [rm.trace(rm.encode(side), (f"{kind}_out", "resid_pre"), "read") for side in pair.conversations]
                change = rows[0][f"{kind}_out"][layer, 0] - rows[1][f"{kind}_out"][layer, 0]
                reached = direction if layer == 2 else self_reading(model, layer, kind, int(tokens[number]))
                effect = found.data["total"].sel(component=component)[number]
                np.testing.assert_allclose(effect, float(reached @ change), atol=1e-6)


def self_reading(model: LinearModel, layer: int, kind: str, length: int) -> torch.Tensor:
    """Gradient of the score with respect to a write at the last of `length` tokens."""
    direction, eye = model.score.weight[0].clone(), torch.eye(16)
    for later in reversed(model.layers[layer + 1:]):
        direction = direction @ (eye + later.mlp.weight)
        direction = direction + direction @ later.self_attn.o_proj.weight @ later.self_attn.v_proj.weight / length
    return direction if kind == "mlp" else direction @ (eye + model.layers[layer].mlp.weight)


def test_rho_is_scipys() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    found = agreement(rm, PAIRS, **FAST)
    assert (np.abs(found.attribution) > found.noise_floor).all()  # nothing is set equal here
    for number, (first, second, _) in enumerate(COMPARISONS):
        for place, kinds in enumerate(TYPES.values()):
            chosen = np.isin(found.data["kind"].values, kinds)
            for pair in range(len(PAIRS)):
                x, y = (getattr(found, name)[pair, chosen] for name in (first, second))
                wanted = stats.spearmanr(x, y).statistic if np.isfinite(y).all() and np.ptp(y) > 0 else np.nan
                np.testing.assert_allclose(found.rho[pair, number, place], wanted, atol=1e-12)
    assert np.isnan(found.data["rho"].sel(comparison="attribution vs total_all", type="head")).all()  # not asked for


def test_ranks_by_hand() -> None:
    x, y = np.array([[1.0, 2.0, 2.0, 4.0]]), np.array([[2.0, 1.0, 3.0, 4.0]])  # ranks 1 2.5 2.5 4 and 2 1 3 4
    assert float((unit_ranks(x) * unit_ranks(y)).sum()) == pytest.approx(3.0 / np.sqrt(4.5 * 5.0))
    assert np.isnan(unit_ranks(np.array([[3.0, 3.0], [1.0, np.nan]]))).all()
    assert np.isnan(unit_ranks(np.zeros((2, 1)))).all()
    assert unit_ranks(np.zeros((2, 0))).shape == (2, 0)


def test_permutation_p_equals_counting_all_permutations_of_one_pair() -> None:
    from itertools import permutations as orders

    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((1, 5)), rng.standard_normal((1, 5))
    observed = abs(stats.spearmanr(x[0], y[0]).statistic)
    exact = np.mean([abs(stats.spearmanr(x[0, list(order)], y[0]).statistic) >= observed - 1e-12 for order in orders(range(5))])
    for together in (False, True):
        p = permutation_p(unit_ranks(x)[None], unit_ranks(y)[None], np.ones((1, 1), bool), together=together, seed=0,
                          permutations=4000)
        assert p[0, 0] == pytest.approx(exact, abs=0.03)


def test_p_is_uniform_when_the_attributions_of_a_random_model_are_shuffled() -> None:
    rm = RewardModel(build("llama", num_hidden_layers=6), tiny_tokenizer(), check=False)
    found = agreement(rm, random_pairs(12, 2), sequences=False, **FAST)
    blocks = found.data["kind"].values != "head"
    x, y = unit_ranks(found.attribution[:, blocks]), unit_ranks(found.total[:, blocks])[None]
    rng = np.random.default_rng(0)
    for together in (False, True):
        p = []
        for seed in range(150):
            shuffled = x[:, rng.permutation(12)] if together else rng.permuted(x, axis=1)
            p.append(permutation_p(shuffled[None], y, np.ones((1, 12), bool), together=together, seed=seed,
                                   permutations=99)[0, 0])
        assert stats.kstest(p, "uniform").pvalue > 0.01


def test_two_unrelated_patterns_that_all_pairs_share_fool_one_p_and_not_the_other() -> None:
    rng = np.random.default_rng(1)
    false = {False: 0, True: 0}
    for seed in range(100):
        first, second = (unit_ranks(rng.standard_normal((1, 12)) + 0.3 * rng.standard_normal((40, 12)))[None] for _ in range(2))
        for together in false:
            p = permutation_p(first, second, np.ones((1, 40), bool), together=together, seed=seed, permutations=59)
            false[together] += int(p[0, 0] <= 0.05)
    assert false[False] > 60  # of 100, where nothing is related
    assert false[True] <= 12


def test_summaries_are_those_of_the_pairs_in_each_group() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    pairs = [*random_pairs(18, 3), EQUAL, SHORTER]
    found = agreement(rm, pairs, apart=3, **FAST)
    difference = found.tokens[:, 0] - found.tokens[:, 1]
    np.testing.assert_array_equal(found.length_difference, difference)
    groups = {"rejected shorter": difference >= 3, "equal": difference == 0, "rejected longer": difference <= -3}
    assert list(groups) == list(RELATIONS)
    assert sum(map(np.sum, groups.values())) < len(pairs)  # some are nearly equal, and in no group
    assert np.isnan(found.shorter[~np.logical_or.reduce(list(groups.values()))]).all()
    for name, chosen in groups.items():
        part = found.data.sel(length=name)
        np.testing.assert_array_equal(part["n_by_length"], np.isfinite(found.rho[chosen]).sum(0))
        mean = bootstrap_interval(found.rho[chosen], n_resamples=100)
        np.testing.assert_allclose(part["rho_by_length"], mean.estimate, atol=1e-12)
        np.testing.assert_allclose(part["low_by_length"], mean.low, atol=1e-12)
        alone = agreement(rm, [pair for pair, inside in zip(pairs, chosen, strict=True) if inside], **FAST)
        np.testing.assert_allclose(part["rho_by_length"], alone.rho_mean, atol=1e-9)
    known = np.isfinite(found.rho_mean)
    np.testing.assert_allclose(found.rho_mean[known], np.nanmean(found.rho[:, known], 0), atol=1e-12)
    again = agreement(rm, pairs, apart=3, **FAST)
    np.testing.assert_array_equal(again.p, found.p)


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_head_is_first_in_every_quantity(seed: int) -> None:
    model = build("llama", seed=seed)
    for index, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.weight.mul_(0.02)
        kept = layer.self_attn.o_proj.weight.clone()
        layer.self_attn.o_proj.weight.mul_(0.02)
        if index == 1:
            layer.self_attn.o_proj.weight[:, 16:24] = 10 * kept[:, 16:24]
    found = agreement(RewardModel(model, tiny_tokenizer(), check=False), random_pairs(8, seed), sequences=False, **FAST)
    heads = found.data["kind"].values == "head"
    for name in ("attribution", "direct", "total"):
        strongest = found.data["component"].values[heads][np.abs(getattr(found, name)[:, heads]).mean(0).argmax()]
        assert (name, strongest) == (name, "head.1.2")


def test_a_larger_head_scales_everything_and_moves_no_rank() -> None:
    model = build("llama")
    before = agreement(RewardModel(model, tiny_tokenizer()), PAIRS, **FAST)
    model.score.weight.mul_(4.0)  # an exact factor
    after = agreement(RewardModel(model, tiny_tokenizer()), PAIRS, **FAST)
    for name in ("attribution", "direct", "total", "total_all", "attribution_raw", "total_left"):
        np.testing.assert_allclose(getattr(after, name), 4 * getattr(before, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.p, before.p)
    np.testing.assert_allclose(after.rho, before.rho, atol=1e-12)


def test_equal_sides_have_no_effect_and_no_rho() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    same = Pair("Tell me a joke", "no", "no")
    found = agreement(rm, [same, SHORTER], **FAST)
    for name in ("attribution", "direct", "total", "total_all", "total_left"):
        np.testing.assert_array_equal(getattr(found, name)[0][np.isfinite(getattr(found, name)[1])], 0.0)
    assert np.isnan(found.rho[0]).all()
    assert found.below_noise[0].all()
    assert found.data["n"].sel(comparison="attribution vs total").values.tolist() == [1, 1, 1, 1]


def test_rounding_is_not_ranked() -> None:
    """An MLP that hardly writes: its effects are below the noise floor, and count as equal to those of one that is silent."""
    model = build("llama").bfloat16()
    for layer in model.model.layers[:2]:
        layer.mlp.down_proj.weight.mul_(1e-6)
    rm = RewardModel(model, tiny_tokenizer())
    found = agreement(rm, PAIRS, **FAST)
    small = found.data["below_noise"].sel(component=["mlp.0", "mlp.1"])
    assert small.values.all()
    assert found.noise_floor >= rm.noise_floor > 0
    mlps = found.data["kind"].values == "mlp"
    told, ranked = (np.where(np.abs(value) <= found.noise_floor, 0.0, value)[:, mlps]
                    for value in (found.attribution, found.total))
    wanted = [stats.spearmanr(x, y).statistic if np.ptp(x) and np.ptp(y) else np.nan for x, y in zip(told, ranked, strict=True)]
    np.testing.assert_allclose(found.data["rho"].sel(comparison="attribution vs total", type="mlp"), wanted, atol=1e-12)


def test_a_reward_that_is_not_finite_is_set_apart() -> None:
    model, tokenizer = build("llama"), tiny_tokenizer()
    model.model.embed_tokens.weight[tokenizer.get_vocab()["moon"]] = float("nan")
    bad = Pair("Tell me a joke", "no moon", "ten")
    rm = RewardModel(model, tokenizer)
    found = agreement(rm, [bad, *PAIRS], **FAST)
    assert np.isnan(found.total[0]).all()
    assert np.isnan(found.rho[0]).all()
    assert "1 of 4 pairs have a non-finite reward" in found.warnings[0]
    np.testing.assert_allclose(found.rho_mean, agreement(rm, PAIRS, **FAST).rho_mean, atol=1e-9)


def test_a_read_out_in_the_middle_has_the_components_up_to_it() -> None:
    full = RewardModel(cached("llama"), tiny_tokenizer())

    class Early(SequenceHead):
        layer = 1

        def native(self, model, inputs, reading):
            return None
    head = Early(full.readout.weight, full.readout.bias, full.readout.norm)
    rm = RewardModel(cached("llama"), tiny_tokenizer(), readout=head)
    found = agreement(rm, PAIRS, **FAST)
    assert set(found.data["layer"].values) == {0, 1}
    last = found.data.sel(component="mlp.1")
    np.testing.assert_allclose(last["total"], last["direct"], atol=1e-6)
    assert float(last["total_left"][0]) == 0.0


class MeanOverResponse(SequenceHead):
    """Reads every response token, so that the two sides are read at different numbers of positions."""

    def read(self, encoded):
        return Reading(np.flatnonzero(encoded.spans == RESPONSE))

    def apply_normed(self, normed, reading):
        return (normed @ self.weight.T + self.bias).mean(-2)

    def weights_normed(self, normed, reading, output):
        return self.weight[output].expand(normed.shape[-2], -1) / normed.shape[-2], self.bias[output]

    def native(self, model, inputs, reading):
        return None


def test_a_reward_read_at_many_tokens() -> None:
    plain = RewardModel(cached("llama"), tiny_tokenizer()).readout
    rm = RewardModel(cached("llama"), tiny_tokenizer(), readout=MeanOverResponse(plain.weight, plain.bias, plain.norm))
    found, ledger = agreement(rm, PAIRS, **FAST), attribute(rm, PAIRS, resamples=100)
    swept = patch(rm, PAIRS, resamples=100)
    for layer in range(3):
        part = found.data.sel(component=f"mlp.{layer}")
        np.testing.assert_allclose(part["attribution"], ledger.data["difference"].sel(component=f"mlp.{layer}"), atol=1e-5)
        np.testing.assert_allclose(part["total"], swept.data["effect"].sel(site="mlp_out", layer=layer), atol=1e-5)
    last = found.data.sel(component="mlp.2")
    np.testing.assert_allclose(last["total"], last["direct"], atol=1e-5)  # nothing comes after it


def test_an_encoder_reads_its_first_token_on_both_sides() -> None:
    rm = RewardModel(cached("modernbert"), tiny_tokenizer())
    found = agreement(rm, [SHORTER, LONGER], **FAST)
    last = found.data.sel(component="mlp.2")
    for name in ("total", "total_all", "total_left"):
        np.testing.assert_allclose(last[name], last["direct"], atol=1e-5)
    assert found.warnings == ()  # the left rule always meets a read-out that stands first


def test_parts_can_be_left_out_and_cost_is_told() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    seen: list[int] = []
    found = agreement(rm, PAIRS, heads=False, sequences=False, progress=seen.append, **FAST)
    assert seen == [1, 1, 1]
    assert found.data["component"].values.tolist() == ["attn.0", "attn.1", "attn.2", "mlp.0", "mlp.1", "mlp.2"]
    assert np.isnan(found.total_left).all()
    assert np.isnan(found.total_all).all()
    assert found.warnings == ()
    assert found.provenance["edits"] == 3 * (6 + 6)
    everything = agreement(rm, PAIRS, **FAST)
    np.testing.assert_allclose(everything.total[:, 12:], found.total, atol=1e-5)
    assert everything.provenance["forwards"] > found.provenance["forwards"] > 6.0


def test_all_components_and_heads_cost_at_most_three_and_a_half_forwards(demo) -> None:
    import rewarden as rw

    found = agreement(demo, rw.load_pairs("demo", limit=4), sequences=False, **FAST)
    assert found.provenance["forwards"] / 4 <= 3.5


def test_on_the_bundled_model_the_alignment_alone_turns_the_sign(demo) -> None:
    import rewarden as rw

    lengths = [[demo.encode(side).length for side in pair.conversations] for pair in rw.load_pairs("demo")]
    shorter = [pair for pair, (chosen, rejected) in zip(rw.load_pairs("demo"), lengths, strict=True) if rejected < chosen][::7]
    rho = agreement(demo, shorter, heads=False, **FAST).data["rho"].sel(type="block")
    left, end = (rho.sel(comparison=f"attribution_raw vs {name}").values for name in ("total_left", "total_all"))
    assert len(shorter) > 20
    assert left.mean() < 0 < end.mean()
    assert bootstrap_interval(end - left).low > 0.2


def test_what_cannot_be_compared_is_refused() -> None:
    encoder = RewardModel(cached("bert"), tiny_tokenizer())
    with pytest.raises(RewardenError, match="agreement is not defined for this model"):
        agreement(encoder, PAIRS)
    rm = RewardModel(cached("llama"), tiny_tokenizer())
    with pytest.raises(RewardenError, match="unknown option 'head'"):
        agreement(rm, PAIRS, head=True)
    with pytest.raises(RewardenError) as error:
        agreement(rm, PAIRS, apart=0, sequences=False, sequence_heads=True, permutations=3)
    assert all(name in error.value.what for name in ("apart=0", "sequence_heads=True", "permutations=3"))
    with pytest.raises(RewardenError, match="no pairs"):
        agreement(rm, [])
