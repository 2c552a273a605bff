"""bfloat16 models: what is below the noise floor is rounding, what is above it is the effect. Adapters inside a model."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from tests.edits.plain import plain_run
from tests.families import build
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site, backend_of
from rewarden.reward_model import RewardModel

TALKS = [Conversation.of("what is the capital of France?", "Paris. it is not red"),
         Conversation.of("help me please, I have a cold", "sorry, go to bed early: it helps to feel good, and not to work")]
FAMILIES = ("llama", "gpt2", "gemma2", "qwen3", "gptj")

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def both(family: str, seed: int) -> tuple[RewardModel, RewardModel]:
    """A bfloat16 model, and the same weights computed in float32."""
    half = build(family, seed=seed).to(torch.bfloat16)
    return RewardModel(half, tiny_tokenizer()), RewardModel(copy.deepcopy(half).float(), tiny_tokenizer(), check=False)


def effects(rm: RewardModel, talk: Conversation, size: float, seed: int) -> tuple[np.ndarray, float]:
    """Effects of adding a random vector at every layer and position, and the floor they are to be held against."""
    length = rm.encode(talk).length
    noise = torch.randn(3, length, 32, generator=torch.Generator().manual_seed(seed))
    batches = [EditBatch(Site(kind, layer), size * noise[layer], "add", positions=range(length))
               for kind in ("resid_pre", "attn_out", "mlp_out") for layer in range(3)]
    edited = rm.plan(talk, batches).run()
    return (edited.values - edited.base)[:, rm.main].numpy(), max(edited.noise_floor, rm.noise_floor)


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_tiny_effects_are_below_the_noise_floor(family: str) -> None:
    shares, ratios = [], []
    for seed in range(2):
        half, full = both(family, seed)
        assert half.noise_floor > 1e-4
        for talk in TALKS:
            tiny, floor = effects(half, talk, 1e-6, seed)
            truth, _ = effects(full, talk, 1e-6, seed)
            assert 0 < np.abs(truth).max() < floor / 50  # there is an effect, and bfloat16 cannot tell it
            shares.append(np.mean(np.abs(tiny) > floor))
            ratios.append(np.abs(tiny).max() / floor)
    assert np.mean(shares) < 0.02
    assert max(ratios) < 2


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_above_the_floor_are_those_of_float32(family: str) -> None:
    for seed in range(2):
        half, full = both(family, seed)
        for talk in TALKS:
            mine, floor = effects(half, talk, 1.0, seed)
            truth, exact = effects(full, talk, 1.0, seed)
            assert exact < floor / 100
            assert np.median(np.abs(mine - truth)) < floor
            clear = np.abs(mine) > 4 * floor
            assert clear.any()
            assert (np.sign(mine) == np.sign(truth))[clear].all()


def test_free_rows_of_a_bfloat16_model_are_bitwise_its_base_run() -> None:
    half, _ = both("llama", 0)
    base = half.base(TALKS[0], ("mlp_out", "z"))
    own = [Edit(Site("mlp_out", 1, 4), base.activation("mlp_out", 1)[4]),
           Edit(Site("z", 1, 4, 2), base.activation("z", 1)[4, 2].float()), Edit(Site("resid_pre", 0), torch.zeros(32), "add")]
    plan = half.plan(base, own)
    assert len(plan.rows) == 0
    assert torch.equal(plan.run().values, base.values.expand(3, -1))
    assert plan.run().noise_floor == 0.0


def test_a_model_with_lora_inside_equals_plain_hooks() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = peft.get_peft_model(build("llama"), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first: the adapter would change nothing
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    inner = model.base_model.model.requires_grad_(False)
    rm = RewardModel(inner, tiny_tokenizer(), check=False)
    assert backend_of(rm).name == "light cone"
    values = torch.randn(3, 48, generator=generator)
    edits = [Edit(Site(kind, layer, 3 + layer), values[layer, :32]) for kind in ("resid_pre", "attn_out", "mlp_out", "z")
             for layer in range(3)]
    edits += [Edit(Site("z", 1, 2, 1), values[0, :8]), Edit(Site("neurons", 1, 2), values[1]),
              Edit(Site("v", 0, 2, 1), values[2, :8], "add")]
    ids = rm.encode(TALKS[0]).ids
    mine = rm.edit(TALKS[0], edits)
    plain = np.stack([plain_run(inner, "llama", ids, [edit])[0].numpy() for edit in edits[:-1]])
    np.testing.assert_allclose(mine[:-1], plain, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mine[-1:], rm.plan(TALKS[0], edits[-1:], backend="hooks").run().values, rtol=0, atol=1e-5)
    with model.disable_adapter():
        assert np.abs(rm.edit(TALKS[0], edits[:1]) - mine[:1]).max() > 1e-3  # the adapter was in it
