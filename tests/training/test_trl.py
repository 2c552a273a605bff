"""What TRL receives is what is computed offline, from the ids and the weights of that moment, each sequence alone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.training.test_feature_reward import LAYER, dictionary, made, probes
from tests.training.worlds import by_hand, cut, policy, saved, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.arithmetic.task import train_pairs
from rewarden.training.composition import OutcomeReward
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Latents
from rewarden.training.monitors import NllMonitor
from rewarden.training.schedules import Schedule
from rewarden.training.trl import TRLReward, bind, reward_funcs, token_terms, token_trainer

trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def data(count: int = 64):
    from datasets import Dataset

    asked = list(train_pairs())[:count]
    return Dataset.from_dict({"prompt": [f"{a:02d}+{b:02d}:" for a, b in asked], "gold": [a + b for a, b in asked]})


def settings(folder, **more: Any):
    usual = {"output_dir": str(folder), "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6,
             "max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False,
             "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, "temperature": 1.0, "seed": 0}
    return trl.GRPOConfig(**{**usual, **more})


class Seen:
    """What was rewarded: ids and rewards, with a model of its own that has the weights of that moment."""

    def __init__(self, trainer: Any, fresh: Any = policy) -> None:
        self.batches: list[tuple[Any, list, list, np.ndarray]] = []
        inner = trainer._calculate_rewards

        def watched(inputs, prompts, completions, completion_ids):
            found = inner(inputs, prompts, completions, completion_ids)
            model = fresh()
            model.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
            self.batches.append((model, [tokenizer()(p)["input_ids"] for p in prompts], completion_ids, found.cpu().numpy()))
            return found

        trainer._calculate_rewards = watched


def offline(model, prompts, completions, features, kind="top") -> np.ndarray:
    out = []
    for prompt, completion in zip(prompts, completions, strict=True):
        own = cut(list(completion))
        if not own:
            out.append(-3.0)
            continue
        values = np.sort(features(by_hand(model, prompt, own, LAYER)).double().numpy(), axis=0)[::-1]
        out.append(values[: int(np.ceil(len(values) / 4))].mean(0) @ [1.0, -0.5])
    return np.asarray(out)


CASES = {"default": {}, "beta": {"beta": 0.1}, "two iterations": {"num_iterations": 2},
         "accumulation": {"gradient_accumulation_steps": 2}, "several generations a step": {"steps_per_generation": 2},
         "checkpointing": {"gradient_checkpointing": True}}


@pytest.mark.parametrize("case", [*CASES, "lora"])
def test_rewards_received_are_those_computed_offline(tmp_path, case):
    from transformers import LlamaForCausalLM

    def fresh():
        model = LlamaForCausalLM.from_pretrained(saved(tmp_path / "policy"))
        adapters = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        return get_peft_model(model, adapters) if case == "lora" else model

    model = fresh()
    rewards = [FeatureReward(made(probes()), name="probes"), FeatureReward(made(Latents(dictionary(), [7, 2])), name="latents")]
    trainer = trl.GRPOTrainer(model=model, reward_funcs=reward_funcs(rewards), args=settings(tmp_path, **CASES.get(case, {})),
                              train_dataset=data(), processing_class=tokenizer())
    provider, seen = bind(trainer), Seen(trainer, fresh)
    trainer.train()
    assert len(seen.batches) >= 2 or case in ("two iterations", "several generations a step")
    for at, prompts, completions, received in seen.batches:
        for column, features in enumerate((probes(), Latents(dictionary(), [7, 2]))):
            np.testing.assert_allclose(received[:, column], offline(at, prompts, completions, features), atol=1e-5)
    assert provider.batches["policy"] == len(seen.batches), "one forward a batch for both"
    logged = [row for row in trainer.state.log_history if "probes/value" in row]
    assert len(logged) >= 1
    assert {"rewards/probes/mean", "rewards/latents/mean", "probes/one", "latents/latent 7"} <= set(logged[0])
    if len(seen.batches) > 1:
        first, last = (at.state_dict() for at, *_ in (seen.batches[0], seen.batches[-1]))
        assert any(not torch.equal(first[name], last[name]) for name in first), "the policy has moved between batches"


def test_offline_and_later_the_same_reward_comes_out(tmp_path):
    reward = FeatureReward(made(probes()), name="probes")
    trainer = trl.GRPOTrainer(model=policy(), reward_funcs=reward_funcs([reward]), args=settings(tmp_path),
                              train_dataset=data(), processing_class=tokenizer())
    bind(trainer)
    seen = Seen(trainer)
    trainer.train()
    from rewarden.training.provider import ActivationProvider

    at, prompts, completions, received = seen.batches[-1]
    again = FeatureReward(made(probes()), ActivationProvider(at, tokenizer()))
    np.testing.assert_allclose(again(prompts, completions), received[:, 0], atol=1e-5)


def test_schedules_count_in_the_course_of_training(tmp_path):
    reward = FeatureReward(made(probes()), name="probes")
    trainer = trl.GRPOTrainer(model=policy(), reward_funcs=reward_funcs([reward], {"probes": Schedule("linear", 0.0, 1.0)}),
                              args=settings(tmp_path, max_steps=4), train_dataset=data(), processing_class=tokenizer())
    bind(trainer)
    seen = Seen(trainer)
    trainer.train()
    for step, (at, prompts, completions, received) in enumerate(seen.batches):
        np.testing.assert_allclose(received[:, 0], step / 4 * offline(at, prompts, completions, probes()), atol=1e-5)
    assert [row["probes/factor"] for row in trainer.state.log_history if "probes/factor" in row] == [0, 0.25, 0.5, 0.75]


def test_an_outcome_is_judged_by_its_column(tmp_path):
    class Sum:
        name = "sum"

        def __call__(self, completion, gold):
            return float(completion.startswith(str(gold)[0]))

    outcome = OutcomeReward(Sum(), tokenizer().decode)
    trainer = trl.GRPOTrainer(model=policy(), reward_funcs=reward_funcs([outcome]), args=settings(tmp_path),
                              train_dataset=data(), processing_class=tokenizer())
    bind(trainer)
    seen = Seen(trainer)
    trainer.train()
    for _, prompts, completions, received in seen.batches:
        golds = [str(int(tokenizer().decode(p)[:2]) + int(tokenizer().decode(p)[3:5])) for p in prompts]
        said = [tokenizer().decode(c) for c in completions]
        np.testing.assert_array_equal(received[:, 0], [float(text.startswith(gold[0]))
                                                       for text, gold in zip(said, golds, strict=True)])


def losses(trainer) -> list[float]:
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo"])
def test_token_rewards_of_weight_zero_leave_the_loss_as_it_is(tmp_path, loss_type):
    def trained(make, reward) -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(0)
        trainer = make(model=policy(), reward_funcs=reward_funcs([reward]), processing_class=tokenizer(), train_dataset=data(),
                       args=settings(tmp_path, loss_type=loss_type))
        bind(trainer)
        found = losses(trainer)
        return found, [parameter.detach().clone() for parameter in trainer.model.parameters()]

    results = []
    for weight in (None, 0.0, 0.5):
        reward = FeatureReward(made(probes()), name="probes")
        results.append(trained(trl.GRPOTrainer if weight is None else token_trainer(reward, weight), reward))
    (plain, weights), (same, same_weights), (other, other_weights) = results
    assert plain == same
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))
    assert len(other) == len(plain)


def test_token_terms_are_shares_less_the_prompts_mean():
    from rewarden.training.provider import ActivationProvider

    reward = FeatureReward(made(probes(), "mean"), ActivationProvider(policy(), tokenizer()))
    prompts, completions = [[3, 4], [3, 4], [5, 6]], [[7, 8, 9], [10, 1], [11, 12]]
    found = token_terms(reward, prompts, completions, 4).numpy()
    tokens = reward.values(reward.provider.rollouts(prompts, completions)).tokens
    spread = np.std(np.concatenate(tokens))
    expected = np.zeros((3, 4))
    for rows in ([0, 1], [2]):
        mean = np.concatenate([tokens[row] for row in rows]).mean()
        for row in rows:
            expected[row, :len(tokens[row])] = (tokens[row] - mean) / spread
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[1, 1:] == 0).all(), "the end is not paid"


def test_two_processes_reward_their_own_rows(tmp_path):
    saved(tmp_path / "policy")
    context = torch.multiprocessing.get_context("spawn")
    port = 29500 + os.getpid() % 2000
    workers = [context.Process(target=_worker, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for rank in range(2):
        found = np.load(tmp_path / f"rank{rank}.npz")
        assert len(found["received"]) > 0
        np.testing.assert_allclose(found["received"], found["offline"], atol=1e-5)


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                      ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)
    reward = FeatureReward(made(probes()), name="probes")
    trainer = trl.GRPOTrainer(model=LlamaForCausalLM.from_pretrained(f"{folder}/policy"), reward_funcs=reward_funcs([reward]),
                              args=settings(f"{folder}/out{rank}", max_steps=2, ddp_backend="gloo"), train_dataset=data(),
                              processing_class=tokenizer())
    bind(trainer)
    seen = Seen(trainer)
    trainer.train()
    own = [(received[rank * len(prompts):(rank + 1) * len(prompts), 0], offline(at, prompts, completions, probes()))
           for at, prompts, completions, received in seen.batches]
    np.savez(f"{folder}/rank{rank}.npz", received=np.concatenate([a for a, _ in own]),
             offline=np.concatenate([b for _, b in own]))


def test_what_would_be_wrong_silently_is_refused(tmp_path):
    reward = FeatureReward(made(probes()), name="probes")
    with pytest.raises(RewardenError, match="bound to no trainer"):
        TRLReward(reward)(["1+1:"], ["2"], [[3]])
    with pytest.raises(RewardenError, match="cannot be told apart"):
        reward_funcs([reward, FeatureReward(made(probes()), name="probes")])
    with pytest.raises(RewardenError, match="is no reward"):
        reward_funcs([reward, NllMonitor()])
    with pytest.raises(RewardenError, match="no reward is called 'other'"):
        reward_funcs([reward], {"other": Schedule()})
    plain = trl.GRPOTrainer(model=policy(), reward_funcs=lambda completions, **_: [0.0] * len(completions),
                            args=settings(tmp_path), train_dataset=data(), processing_class=tokenizer())
    with pytest.raises(RewardenError, match="no reward to bind"):
        bind(plain)
    with pytest.raises(RewardenError, match="cannot be bound") as refused:
        bind(object())
    assert "reward_funcs" in refused.value.why

    class Sharded:
        reward_funcs, _tokenize_prompts, accelerator, processing_class = [], None, None, None
        is_deepspeed_enabled = True

    with pytest.raises(RewardenError, match="cannot be bound") as refused:
        bind(Sharded())
    assert "sharded" in refused.value.why
