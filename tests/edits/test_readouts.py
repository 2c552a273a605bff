"""Edits under every kind of read-out: several positions, a gate, a middle layer, a language model's verdicts and log-ratios."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import base_of, conversations, counterfactuals
from tests.edits.plain import kinds, plain_run
from tests.families import build, config_of
from tests.tokenizers_tiny import tiny_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site
from rewarden.readout import Gate, GatedHead, SequenceHead, TokenHead, make_judge
from rewarden.readout.options import make_implicit
from rewarden.reward_model import RewardModel

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")
SEED = torch.Generator().manual_seed(11)
REGRESSION, TRANSFORM = torch.randn(5, 32, generator=SEED), torch.eye(5) + 0.2 * torch.randn(5, 5, generator=SEED)
HEAD = torch.randn(2, 32, generator=SEED)
FAMILIES = ("llama", "gpt2", "gemma2", "gptj")  # the light cone, with and without a soft cap, and the walk without a cone

pytestmark = pytest.mark.filterwarnings("ignore")
some = settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))


@cache
def gate() -> Gate:
    layers = [nn.Linear(32, 16), nn.Linear(16, 5)]
    for parameter in [p for layer in layers for p in layer.parameters()]:
        parameter.data = torch.randn(parameter.shape, generator=SEED)
    return Gate(layers, temperature=2.0, scale=1.7).requires_grad_(False)


def head_of(name: str, norm):
    if name == "gated":
        return GatedHead(REGRESSION, gate(), TRANSFORM, norm)
    if name in ("min", "mean", "product"):
        return TokenHead(HEAD, torch.zeros(2), norm, where="response", aggregate=name)
    head = SequenceHead(HEAD, torch.ones(2), norm, ("a", "b"))
    head.layer = int(name.removeprefix("layer "))
    return head


def by_hand(name: str, model, family: str, rm: RewardModel, encoded, edits) -> np.ndarray:
    """The read-out's formula on what plain hooks leave in the residual stream."""
    _, kept = plain_run(model, family, encoded.ids.tolist(), edits, watch=("resid_post",))
    layer = int(name.removeprefix("layer ")) if name.startswith("layer") else -1
    trunk = model.transformer if hasattr(model, "transformer") else model.model
    with torch.no_grad():
        hidden = (trunk.ln_f if hasattr(trunk, "ln_f") else trunk.norm)(kept["resid_post"][layer])
    response = np.flatnonzero(encoded.spans == 2)
    if name == "gated":
        weight, rewards = gate()(hidden[response[0] - 1]), REGRESSION @ hidden[-1]
        return torch.cat([(weight * (rewards @ TRANSFORM)).sum()[None], rewards]).numpy()
    if name.startswith("layer"):
        return (HEAD @ hidden[-1] + 1).numpy()
    steps = (hidden[response] @ HEAD.T).softmax(-1)[:, 1]
    return getattr(steps, {"product": "prod"}.get(name, name))()[None].numpy()


@cache
def with_head(family: str, name: str) -> RewardModel:
    tokenizer = tiny_tokenizer()
    model = build(family, pad_token_id=tokenizer.pad_token_id)
    return RewardModel(model, tokenizer, readout=lambda m, t, a: head_of(name, a.norm), name=family, check=False)


@pytest.mark.parametrize("name", ["gated", "min", "mean", "product", "layer 0", "layer 1"])
@pytest.mark.parametrize("family", FAMILIES)
@some
@given(data=st.data())
def test_every_readout_under_edits_equals_its_formula_on_hooked_residuals(family: str, name: str, data) -> None:
    rm = with_head(family, name)
    base = base_of(rm, data.draw(conversations()))
    rows = data.draw(counterfactuals(base, kinds(family), rows=4))
    plain = np.stack([by_hand(name, rm.model, family, rm, base.encoded, row) for row in rows])
    np.testing.assert_allclose(rm.edit(base, rows), plain, rtol=0, atol=1e-5 * max(1, np.abs(plain).max()), err_msg=str(rows))


def test_what_no_read_position_can_see_is_free() -> None:
    """Of a head over the response and a gate before it: which single positions of which layers cost a run."""
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def run(name: str, kind: str, layer: int) -> list[int]:
        rm = with_head("llama", name)
        length = rm.encode(TALK).length
        batch = EditBatch(Site(kind, layer), noise.expand(length, -1), positions=range(length))
        return sorted(rm.plan(TALK, batch).rows.index.tolist())

    encoded = with_head("llama", "mean").encode(TALK)
    first, last = encoded.response_start, encoded.response_end
    assert last == encoded.length - 1  # the template closes the response with a token that is not read
    assert run("mean", "resid_pre", 0) == list(range(last))  # everything before the last response token
    assert run("mean", "mlp_out", 1) == list(range(last))
    assert run("mean", "mlp_out", 2) == list(range(first, last))  # in the last layer only what is read
    assert run("mean", "resid_post", 2) == list(range(first, last))
    assert run("gated", "mlp_out", 2) == [first - 1, encoded.length - 1]
    assert run("layer 1", "attn_out", 1) == [encoded.length - 1]
    assert run("layer 1", "resid_post", 1) == [encoded.length - 1]
    assert run("layer 1", "mlp_out", 2) == []  # above the layer that is read
    assert run("layer 1", "resid_pre", 2) == [encoded.length - 1]  # the same place as resid_post 1


@cache
def language_model(family: str, seed: int = 0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family)).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@some
@given(data=st.data())
def test_a_judge_under_edits_equals_the_verdict_logits_of_the_hooked_model(family: str, data) -> None:
    model, tokenizer = language_model(family), tiny_tokenizer()
    rm = RewardModel(model, tokenizer, check=False, readout=lambda m, t, a: make_judge(m, t, a.norm, good="yes", bad="no"))
    base = base_of(rm, data.draw(conversations(4)))
    rows = data.draw(counterfactuals(base, kinds(family), rows=4))
    good, bad = tokenizer.convert_tokens_to_ids(["yes", "no"])
    logits = [plain_run(model, family, base.encoded.ids.tolist(), row)[0][-1] for row in rows]
    plain = torch.stack([row[good] - row[bad] for row in logits])[:, None]
    np.testing.assert_allclose(rm.edit(base, rows), plain, rtol=0, atol=1e-5 * max(1, float(plain.abs().max())))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@some
@given(data=st.data())
def test_an_implicit_reward_under_edits_equals_the_log_ratios_of_the_hooked_policy(family: str, data) -> None:
    policy, reference, tokenizer = language_model(family), language_model(family, 5), tiny_tokenizer()
    rm = RewardModel(policy, tokenizer, check=False,
                     readout=lambda m, t, a: make_implicit(m, t, a, reference=reference, beta=0.3))
    base = base_of(rm, data.draw(conversations(6)))
    rows = data.draw(counterfactuals(base, kinds(family), rows=4))
    ids = torch.tensor(base.encoded.ids)
    tokens = torch.arange(base.encoded.response_start, base.encoded.response_end + 1)  # with the end token

    def log_probability(model, row=()):
        scores = plain_run(model, family, ids.tolist(), row)[0].log_softmax(-1)
        return scores[tokens - 1, ids[tokens]].sum()

    plain = np.asarray([[float(0.3 * (log_probability(policy, row) - log_probability(reference)))] for row in rows])
    np.testing.assert_allclose(rm.edit(base, rows), plain, rtol=0, atol=1e-5 * max(1, np.abs(plain).max()))


def test_residual_and_embedding_multipliers_are_counted_once() -> None:
    """Granite multiplies what it writes and embeds: a write is what is added to the stream, an embedding what enters it."""
    config = config_of("granite", embedding_multiplier=3.0, residual_multiplier=0.4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().float().requires_grad_(False)
    tokenizer = tiny_tokenizer()
    rm = RewardModel(model, tokenizer, check=False, readout=lambda m, t, a: make_judge(m, t, a.norm, good="yes", bad="no"))
    base = rm.base(TALK, ("attn_out", "mlp_out", "embed"))
    write = torch.randn(32, generator=torch.Generator().manual_seed(0))
    cases = [("attn_out", Edit(Site("attn_out", 1, 4), write), Edit(Site("attn_out", 1, 4), write / 0.4)),
             ("mlp_out", Edit(Site("mlp_out", 0, 4), write, "add"), Edit(Site("mlp_out", 0, 4), write / 0.4, "add")),
             ("mlp_out", Edit(Site("mlp_out", 2, -1), 0.5, "scale"), Edit(Site("mlp_out", 2, -1), 0.5, "scale")),
             ("embed", Edit(Site("embed", 0, 4), write), Edit(Site("embed", 0, 4), write / 3))]
    good, bad = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for kind, mine, raw in cases:
        logits, _ = plain_run(model, "llama", base.encoded.ids.tolist(), [raw])  # Llama's module names, Granite's units
        np.testing.assert_allclose(rm.edit(base, [mine])[0, 0], logits[-1, good] - logits[-1, bad], rtol=0, atol=1e-5)
        own = base.activation(kind, mine.site.layer)[4]
        assert len(rm.plan(base, [Edit(Site(kind, mine.site.layer, 4), own)]).rows) == 0
