"""Gradients of every site: equal to autograd by hand and to finite differences of exact edits, in every family."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tests.families import DECODERS, ENCODERS, build
from tests.readout.test_gated import GatedModel
from tests.tokenizers_tiny import tiny_tokenizer
from torch import Tensor

from rewarden.conversation import Conversation
from rewarden.edits import Edit, Site, backend_of
from rewarden.edits.gradients import dropped_gradients, path_gradients, run_gradients
from rewarden.edits.softmax import effects
from rewarden.edits.units import Part
from rewarden.edits.writes import Cells, change_attention
from rewarden.errors import RewardenError
from rewarden.readout import SequenceHead
from rewarden.reward_model import RewardModel
from rewarden.trace.attention import Attention, plain

TALK = Conversation.of("help me please, I have a cold", "sorry, go to bed early: it helps to feel good in the morning")

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def model_of(family: str) -> RewardModel:
    tokenizer = tiny_tokenizer()
    return RewardModel(build(family, pad_token_id=tokenizer.pad_token_id), tokenizer, name=family)


def sites_of(rm: RewardModel) -> list[str]:
    gaps = rm.architecture.gaps
    return ["embed", "resid_pre", "resid_post", *([] if "writes" in gaps else ["attn_out", "mlp_out"]),
            *([] if "heads" in gaps else ["z"]), *(["q", "k", "v"] if rm.base(TALK).keys else [])]


def llama_by_hand(rm: RewardModel, detached: int | None = None) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
    """Reward of a tiny Llama written out, and the tensors on the way; the writes of layer `detached` carry no gradient."""
    trunk, config = rm.architecture.trunk, rm.model.config
    heads, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    ids = torch.as_tensor(rm.encode(TALK).ids)
    x = trunk.embed_tokens.weight[ids].clone().requires_grad_()
    cos, sin = (part[0] for part in trunk.rotary_emb(x[None], torch.arange(len(ids))[None]))
    kept: dict[tuple[str, int], Tensor] = {}

    def norm(module: torch.nn.Module, h: Tensor) -> Tensor:
        return module.weight * h / (h.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()

    def turn(h: Tensor) -> Tensor:  # rotary positions of [head, T, d_head]
        a, b = h.chunk(2, -1)
        return h * cos + torch.cat([-b, a], -1) * sin

    def split(h: Tensor) -> Tensor:
        return h.unflatten(-1, (-1, config.head_dim)).transpose(0, 1)

    for number, layer in enumerate(trunk.layers):
        attention, mlp, entered = layer.self_attn, layer.mlp, x
        h = norm(layer.input_layernorm, x)
        q, k, v = turn(split(attention.q_proj(h))), turn(split(attention.k_proj(h))), split(attention.v_proj(h))
        scores = q @ k.repeat_interleave(groups, 0).transpose(1, 2) / config.head_dim**0.5
        scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), float("-inf"))
        z = (scores.softmax(-1) @ v.repeat_interleave(groups, 0)).transpose(0, 1).flatten(1)
        attn_out = attention.o_proj(z)
        middle = x + attn_out
        h = norm(layer.post_attention_layernorm, middle)
        mlp_out = mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(h)) * mlp.up_proj(h))
        x = entered + (middle + mlp_out - entered).detach() if number == detached else middle + mlp_out
        kept |= {(name, number): value for name, value in (
            ("resid_pre", entered), ("attn_out", attn_out), ("mlp_out", mlp_out), ("z", z), ("q", q), ("k", k), ("v", v))}
    kept["resid_post", len(trunk.layers) - 1] = x
    assert heads == q.shape[0]
    return rm.model.score(norm(trunk.norm, x))[-1, 0], kept


@pytest.mark.parametrize("detached", [None, 0, 1, 2])
def test_gradients_equal_autograd_by_hand(detached: int | None) -> None:
    rm = model_of("llama")
    value, kept = llama_by_hand(rm, detached)
    base = rm.base(TALK)
    assert float(value) == pytest.approx(base.reward, abs=1e-5)
    found = torch.autograd.grad(value, list(kept.values()), allow_unused=True)
    several = dropped_gradients(base, ["resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v"])
    mine = several[0] if detached is None else several[1 + detached]
    for ((kind, layer), tensor), gradient in zip(kept.items(), found, strict=True):
        expected = torch.zeros_like(tensor) if gradient is None else gradient
        expected = expected.transpose(0, 1) if kind in ("q", "k", "v") else expected
        torch.testing.assert_close(mine.at(kind, layer).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_dropping_a_layer_leaves_what_comes_after_it() -> None:
    base = model_of("gpt2").base(TALK)
    whole, *dropped = dropped_gradients(base, ["resid_post", "z"])
    for number, one in enumerate(dropped):
        for layer in range(number, 3):
            assert torch.equal(one.at("resid_post", layer), whole.at("resid_post", layer))
        assert torch.equal(one.at("resid_pre", number), whole.at("resid_post", number))  # past the layer, unchanged
        assert not one.at("z", number).any()


def slope(rm: RewardModel, site: Site, direction: Tensor, size: float) -> float:
    """Derivative of the exact reward along a direction: five-point differences of `rm.edit`."""
    edits = [Edit(site, direction * (size * step), "add") for step in (1, -1, 2, -2)]
    near, back, far, farther = rm.edit(rm.base(TALK), edits)[:, rm.main].astype(np.float64)
    return (8 * (near - back) - (far - farther)) / (12 * size)


def assert_slopes(rm: RewardModel, kinds: list[str], tolerance: float, everywhere: bool = True) -> None:
    recorded = rm.base(TALK, [kind for kind in kinds if kind in ("embed", "attn_out", "mlp_out", "z", "q")])
    gradients = run_gradients(recorded, kinds)
    generator = torch.Generator().manual_seed(0)
    for kind in kinds:
        for layer in range(1 if kind == "embed" else rm.architecture.n_layers):
            gradient, here = gradients.at(kind, layer).flatten(1), recorded.activation(kind, layer).float().flatten(1)
            noise = torch.randn(gradient.shape, generator=generator)
            direction = gradient / gradient.norm() + 0.1 * noise / noise.norm()
            if not everywhere:
                direction[np.setdiff1d(np.arange(recorded.length), recorded.reading.positions)] = 0
            expected = float((gradient * direction).sum())
            size = float(here[direction.any(1)].norm() / direction.norm())
            # the best of several steps: small ones drown in float32, large ones cross kinks and change experts
            errors = [abs(slope(rm, Site(kind, layer), direction, size * share) - expected) for share in (3e-4, 1e-3, 3e-3)]
            assert min(errors) < tolerance * abs(expected), (kind, layer, errors, expected)


@pytest.mark.parametrize(("family", "backend"), [("llama", "light cone"), ("gemma2", "light cone"), ("gpt_oss", "light cone"),
                                                 ("falcon", "resume"), ("bloom", "hooks"), ("bert", "resume"),
                                                 ("modernbert", "resume")])
def test_gradients_equal_finite_differences_of_edits(family: str, backend: str) -> None:
    rm = model_of(family)
    assert backend_of(rm).name.startswith(backend)
    assert_slopes(rm, sites_of(rm), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in DECODERS + ENCODERS if family != "qwen3_next"])
def test_gradients_of_every_family(family: str) -> None:
    # at the position read only: of many tokens some change their experts with the smallest step
    assert_slopes(model_of(family), ["resid_pre"], 1e-3, everywhere=False)


def test_gradients_of_a_chaotic_model() -> None:
    rm = model_of("qwen3_next")  # random weights make its recurrence so steep that only tiny steps are steps along the slope
    gradient = run_gradients(rm.base(TALK), ["resid_post"]).at("resid_post", 2)
    direction = gradient / gradient.norm()
    assert slope(rm, Site("resid_post", 2), direction, 1e-3) == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_a_read_out_in_the_middle_depends_on_nothing_above_it() -> None:
    def head(model, tokenizer, architecture) -> SequenceHead:
        found = SequenceHead(model.score.weight.float(), torch.zeros(1), type(architecture.norm).identity(32))
        found.layer = 1
        return found
    rm = RewardModel(build("llama"), tiny_tokenizer(), readout=head, check=False)
    gradients = run_gradients(rm.base(TALK), ["resid_post", "mlp_out"])
    weight = rm.model.score.weight[0]
    expected = torch.zeros(rm.base(TALK).length, 32).index_put((torch.tensor([-1]),), weight)
    torch.testing.assert_close(gradients.at("resid_post", 1), expected)
    torch.testing.assert_close(gradients.at("mlp_out", 1), expected)
    assert not gradients.at("mlp_out", 2).any()
    assert not gradients.at("resid_post", 2).any()
    assert len(dropped_gradients(rm.base(TALK), ["z"])) == 3


def test_a_gated_read_out_has_a_gradient_where_its_gate_reads() -> None:
    rm = RewardModel(GatedModel(), tiny_tokenizer(), readout="gated", check=False)
    base = rm.base(TALK)
    gradient = run_gradients(base, ["resid_post"]).at("resid_post", 2)
    where = base.reading.positions
    torch.testing.assert_close(gradient[where], rm.readout.direction(base.activation("resid_post", 2)[where], base.reading))
    assert len(where) == 2
    assert gradient.any(1).nonzero()[:, 0].tolist() == where.tolist()


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_integrated_gradients_are_complete(family: str) -> None:
    rm = model_of(family)
    base = rm.base(TALK)
    shift = 0.5 * torch.randn(base.length, 32, generator=torch.Generator().manual_seed(1))
    change = float(rm.edit(base, [Edit(Site("resid_pre", 0), base.activation("resid_pre") + shift)])[0, 0]) - base.reward
    errors = [abs(float((path_gradients(base, ["resid_pre"], shift, steps).at("resid_pre") * shift).sum()) - change)
              for steps in (1, 4, 32)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3 * abs(change)


def called(scale: float, softcap: float | None, sinks: bool, seed: int) -> tuple[Attention, torch.Generator]:
    """A random call of attention: 4 heads on 2 key heads, 7 positions, causal."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, heads, 7, width, generator=generator, dtype=torch.float64)
                         for heads, width in ((4, 5), (2, 5), (2, 3)))
    mask = torch.ones(7, 7).tril().bool()[None, None]
    sink = torch.randn(4, generator=generator, dtype=torch.float64) if sinks else None
    return Attention(torch.nn.Identity(), query, key, value, mask, scale, softcap, sink), generator


@pytest.mark.parametrize(("scale", "softcap", "sinks"), [(0.4, None, False), (0.4, 2.0, False), (0.4, None, True),
                                                         (60.0, None, False)])
@pytest.mark.parametrize("kind", ["q", "k"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_new_queries_and_keys_equal_attention_made_again(kind: str, together: bool, whole: bool, scale: float,
                                                         softcap: float | None, sinks: bool) -> None:
    call, generator = called(scale, softcap, sinks, seed=3)
    gradients = torch.randn(2, 7, 4, 3, generator=generator, dtype=torch.float64)
    heads = {"q": 4, "k": 2}[kind]
    positions = np.asarray([[1, 4, 6]] * heads) if together else np.arange(7 * heads)[:, None] % 7
    n, which = len(positions), np.arange(len(positions)) // (1 if together else 7)
    values = 3 * torch.randn(n, positions.shape[1], 5 * (heads if whole else 1), generator=generator, dtype=torch.float64)
    part = Part(kind, 0, "replace", positions, values, None if whole else which)
    mine = effects(call, part, gradients)
    for row in range(n):
        places = torch.as_tensor(positions[row])
        cells = Cells(kind, "replace", torch.zeros_like(places), places, values[row],
                      None if whole else torch.full_like(places, int(which[row])))
        change = (exactly(change_attention(call, [cells])) - exactly(call))[0].transpose(0, 1)  # [T, head, d_value]
        expected = (gradients * change).sum((1, 2, 3))
        torch.testing.assert_close(mine[:, row], expected, rtol=1e-8, atol=1e-8)


def exactly(call: Attention) -> Tensor:
    """Attention in float64, written out."""
    scores = call.query @ call.key.repeat_interleave(2, 1).transpose(-1, -2) * call.scale
    scores = scores if call.softcap is None else call.softcap * torch.tanh(scores / call.softcap)
    scores = scores.masked_fill(~call.mask, float("-inf"))
    if call.sinks is None:
        return scores.softmax(-1) @ call.value.repeat_interleave(2, 1)
    sink = call.sinks.view(1, -1, 1, 1).expand(1, 4, 7, 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ call.value.repeat_interleave(2, 1)


def test_written_out_attention_is_attention() -> None:
    call, _ = called(0.4, None, False, seed=3)
    torch.testing.assert_close(exactly(call), plain(call))


def test_the_model_is_as_before() -> None:
    model = build("llama")
    learns = {name: "mlp" in name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns[name])
    rm = RewardModel(model, tiny_tokenizer())
    expected = run_gradients(rm.base(TALK), ["resid_pre", "q"]).at("resid_pre", 1)
    model.train()
    with torch.no_grad():
        found = run_gradients(rm.base(TALK), ["resid_pre"])
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inside = run_gradients(rm.base(TALK), ["resid_pre"])
        assert torch.is_inference_mode_enabled()
    for one in (found, inside):
        assert torch.equal(one.at("resid_pre", 1), expected)
        assert not any(tensor.requires_grad for tensor in one.kept.values())
    assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == learns
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_stays_behind_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rm = RewardModel(build("llama").requires_grad_(True), tiny_tokenizer())
    base = rm.base(TALK)
    attention = rm.model.config._attn_implementation

    def fail(hidden: Tensor) -> Tensor:
        raise RuntimeError("mlp failed")

    monkeypatch.setattr(rm.model.model.layers[2].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="mlp failed"):
        dropped_gradients(base, ["resid_pre", "q", "z"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in rm.model.modules())
    assert rm.model.config._attn_implementation == attention
    assert all(parameter.requires_grad for parameter in rm.model.parameters())
    assert torch.is_grad_enabled()


def test_sites_a_model_lacks_are_refused() -> None:
    with pytest.raises(RewardenError, match="attn_out"):
        run_gradients(model_of("bert").base(TALK), ["attn_out"])
    with pytest.raises(RewardenError, match="cannot be edited"):
        run_gradients(model_of("bloom").base(TALK), ["q"])
    with pytest.raises(RewardenError, match="no gradient was taken at 'z'"):
        run_gradients(model_of("llama").base(TALK), ["resid_pre"]).at("z", 0)
    with torch.inference_mode():
        frozen = build("llama")
        rm = RewardModel(frozen, tiny_tokenizer())
    with pytest.raises(RewardenError, match="made in inference mode"):
        run_gradients(rm.base(TALK), ["resid_pre"])
