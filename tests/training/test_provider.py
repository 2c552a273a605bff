"""Activations of exact ids, against each sequence run by hand; modes, adapters and padding make no difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.training.worlds import DEPTH, by_hand, cut, log_probs_by_hand, policy, rollouts, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.activations import Activations
from rewarden.training.provider import ActivationProvider
from rewarden.training.rollouts import Rollouts


def assert_by_hand(found, model, prompts, completions, layers) -> None:
    for layer in layers:
        for own, prompt, completion in zip(found.each(found.layer(layer)), prompts, completions, strict=True):
            torch.testing.assert_close(own, by_hand(model, prompt, cut(completion), layer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
def test_every_layer_is_what_each_sequence_alone_gives(batch_size):
    model, (prompts, completions) = policy(), rollouts()
    provider = ActivationProvider(model, tokenizer(), batch_size=batch_size)
    provider.require(range(DEPTH), log_probs=True)
    found = provider(provider.rollouts(prompts, completions))
    assert_by_hand(found, model, prompts, completions, range(DEPTH))
    told = torch.cat([log_probs_by_hand(model, p, cut(c)) for p, c in zip(prompts, completions, strict=True)])
    torch.testing.assert_close(found.log_probs, told, atol=1e-5, rtol=1e-5)
    assert provider.forwards["policy"] == {"auto": provider.forwards["policy"], 1: 7, 3: 3}[batch_size]
    assert provider.batches == {"policy": 1}


def test_the_run_ends_at_the_deepest_layer_asked_for():
    model, seen = policy(), []
    handle = model.model.layers[2].register_forward_hook(lambda *_: seen.append(1))
    provider = ActivationProvider(model, tokenizer())
    seen.clear()  # finding the layers ran them
    provider.require([0, 1])
    provider(provider.rollouts(*rollouts()))
    handle.remove()
    assert seen == []
    assert provider.forwards["policy"] >= 1


def test_a_batch_is_run_once_until_ids_weights_or_wishes_change():
    model = policy()
    provider = ActivationProvider(model, tokenizer())
    provider.require([1])
    batch, other = (provider.rollouts(*rollouts(seed=seed)) for seed in (0, 1))
    for _ in range(3):
        provider(provider.rollouts(*rollouts()))
    assert provider.batches["policy"] == 1
    provider(other)
    before = provider(batch).layer(1)
    assert provider.batches["policy"] == 3
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    optimizer.step()
    assert not torch.equal(provider(batch).layer(1), before)
    assert_by_hand(provider(batch), model, *rollouts(), [1])
    provider.require([0])
    assert set(provider(batch).layers) == {0, 1}


def test_ends_and_padding_of_completions_make_no_difference():
    prompts, completions = rollouts(end=False)
    provider = ActivationProvider(policy(), tokenizer())
    provider.require([2])
    plain = provider(provider.rollouts(prompts, completions)).layer(2)
    ended = provider(provider.rollouts(prompts, [[*c, 1] for c in completions])).layer(2)
    filled = provider(provider.rollouts(prompts, [[*c, 1, 0, 0] for c in completions])).layer(2)
    assert torch.equal(plain, ended)
    assert torch.equal(plain, filled)


def test_training_goes_on_as_if_nothing_had_looked():
    model = policy(attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    provider = ActivationProvider(model, tokenizer())
    provider.require([1])
    first = provider(provider.rollouts(*rollouts())).layer(1)
    provider.forget()
    assert torch.equal(provider(provider.rollouts(*rollouts())).layer(1), first), "no dropout"
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wanted
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    probe = torch.randn(first.shape[1], requires_grad=True)
    (first @ probe).sum().backward()
    assert torch.isfinite(probe.grad).all()


def lora(model):
    found = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    found.train()
    return found


def test_adapters_are_the_policy_and_without_them_it_is_the_reference():
    base, adapted = policy(3), lora(policy(3))
    provider = ActivationProvider(adapted, tokenizer(), reference="adapters")
    for source in ("policy", "reference"):
        provider.require([1, 2], source=source)
    batch = provider.rollouts(*rollouts())
    assert_by_hand(provider(batch, "policy"), adapted, *rollouts(), [1, 2])
    assert_by_hand(provider(batch, "reference"), base, *rollouts(), [1, 2])
    assert not torch.allclose(provider(batch, "policy").layer(2), provider(batch, "reference").layer(2))
    assert any(module.active_adapters for module in adapted.modules() if hasattr(module, "active_adapters"))


def test_a_frozen_copy_stays_what_the_policy_was():
    model = policy()
    provider = ActivationProvider(model, tokenizer(), reference="frozen")
    provider.require([2])
    provider.require([2], source="reference")
    batch = provider.rollouts(*rollouts())
    assert torch.equal(provider(batch).layer(2), provider(batch, "reference").layer(2))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.1)
    assert_by_hand(provider(batch), model, *rollouts(), [2])
    assert_by_hand(provider(batch, "reference"), policy(), *rollouts(), [2])


def test_completions_without_a_token_have_none():
    provider = ActivationProvider(policy(), tokenizer())
    provider.require([0], log_probs=True)
    batch = provider.rollouts([[3, 4], [5], [6, 7]], [[1], [8, 9], []])
    found = provider(batch)
    assert batch.sizes.tolist() == [0, 2, 0]
    assert [len(own) for own in found.each(found.layer(0))] == [0, 2, 0]
    torch.testing.assert_close(found.layer(0), by_hand(provider.policy, [5], [8, 9], 0), atol=1e-5, rtol=1e-5)
    assert found.pooled(found.layer(0), lambda rows: rows.mean(0)).isnan().any(1).tolist() == [True, False, True]


def test_activations_of_others_are_refused():
    batch = Rollouts.of([[3], [4]], [[5, 6], [7]])
    with pytest.raises(RewardenError, match="activations of other tokens"):
        Activations(batch, "policy", {1: torch.zeros(4, 2)})
    held = Activations(batch, "policy", {1: torch.zeros(3, 2)})
    assert held.check(Rollouts.of([[3], [4]], [[5, 6], [7]]), "policy") is held
    with pytest.raises(RewardenError, match="of another batch"):
        held.check(Rollouts.of([[3], [4]], [[5], [6, 7]]), "policy")
    with pytest.raises(RewardenError, match="activations of the policy"):
        held.check(batch, "reference")
    with pytest.raises(RewardenError, match="no activations of layer 2"):
        held.layer(2)
    with pytest.raises(RewardenError, match="2 rows for 3 tokens"):
        held.each(torch.zeros(2, 2))


@pytest.mark.parametrize(("prompts", "completions", "match"), [
    ([[1]], [], "1 prompts and 0 completions"), ([], [], "0 prompts"), ([[]], [[3]], "1 prompts are empty"),
    (["12"], [[3]], "no list of token ids"), ([[1.5]], [[3]], "no list of token ids"), ([[1]], [[-3]], "no list of token ids")])
def test_what_is_no_rollout_is_refused(prompts, completions, match):
    with pytest.raises(RewardenError, match=match):
        Rollouts.of(prompts, completions)


def test_wishes_that_cannot_be_met_are_refused():
    provider = ActivationProvider(policy(), tokenizer())
    with pytest.raises(RewardenError, match="no layer 3"):
        provider.require([3])
    with pytest.raises(RewardenError, match="no 'reference' model"):
        provider.require([1], source="reference")
    with pytest.raises(RewardenError, match="nothing was asked for"):
        provider(provider.rollouts([[3]], [[4]]))
    provider.require([1])
    with pytest.raises(RewardenError, match="a rollout of 72 tokens"):
        provider(provider.rollouts([[3] * 32], [[4] * 40]))
    with pytest.raises(RewardenError, match="no adapters"):
        ActivationProvider(policy(), tokenizer(), reference="adapters")


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Qwen2", "GPTNeoX"])
def test_the_layer_convention_holds_in_every_family(family):
    import transformers

    sizes = {"vocab_size": 19, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
             "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    more = {"GPTNeoX": {}, "Gemma2": {"num_key_value_heads": 2, "head_dim": 8}}.get(family, {"num_key_value_heads": 2})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes, **more))
    provider = ActivationProvider(model, tokenizer())
    provider.require([0, 1])
    prompts, completions = rollouts()
    found = provider(provider.rollouts(prompts, completions))
    assert_by_hand(found, model, prompts, completions, [0, 1])
    np.testing.assert_array_equal(found.rollouts.sizes, [len(cut(c)) for c in completions])
