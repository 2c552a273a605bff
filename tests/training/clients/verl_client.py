"""verl 0.9.1's own load_reward_manager and RewardLoopManager over given rollouts; runs in an environment of its own.

In, as JSON: the tokenizer's folder, padded ids and masks, golds, settings of the reward. Out: rm_scores and extra information
of verl's naive manager and of ours, called directly, or of ours in Ray's workers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile

import numpy as np
import ray
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils import hf_tokenizer

NAIVE = {"source": "register", "name": "naive", "module": {"path": None, "name": "unused"}}
OURS = {"source": "importlib", "name": "RewardManager", "module": {"path": "pkg://rewarden.training.verl", "name": "unused"}}


def config(question, manager, **settings):
    score = {"path": os.path.join(os.path.dirname(__file__), "verl_naive.py"), "name": "compute_score", "reward_kwargs": {}}
    return OmegaConf.create({
        "reward": {"num_workers": question["workers"] or 1,
                   "custom_reward_function": score if manager is NAIVE else {"path": None},
                   "reward_manager": manager, "reward_model": {"enable": False},
                   "reward_kwargs": {"reward": question["make"], "arguments": question["arguments"], **settings}},
        "actor_rollout_ref": {"model": {"tokenizer_path": question["tokenizer"], "path": question["tokenizer"]}}})


def batch(question):
    count = len(question["golds"])
    return DataProto.from_dict(
        tensors={name: torch.tensor(question[name]) for name in ("prompts", "responses", "attention_mask")},
        non_tensors={"data_source": np.array(["sums"] * count, dtype=object),
                     "extra_info": np.array([{} for _ in range(count)], dtype=object),
                     "reward_model": np.array([{"ground_truth": gold} for gold in question["golds"]], dtype=object)})


async def directly(chosen, tokenizer, data):
    manager = load_reward_manager(chosen, tokenizer)
    found = [await manager.run_single(data[place:place + 1]) for place in range(len(data))]
    scores = type(manager).assemble_rm_scores(data, [one["reward_score"] for one in found])
    return {"rm_scores": scores.tolist(), "extra": [one["reward_extra_info"] for one in found]}


def through_workers(chosen, data):
    found = RewardLoopManager(chosen).compute_rm_score(data)
    return {"rm_scores": found.batch["rm_scores"].tolist(), "keys": list(found.meta_info["reward_extra_keys"]),
            "extra": {name: found.non_tensor_batch[name].tolist() for name in found.meta_info["reward_extra_keys"]}}


def main():
    question = json.load(sys.stdin)
    if question["workers"]:
        # Ray's sockets: a path that is short enough; "local" joins no cluster that runs here
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            ray.init(address="local", _temp_dir=folder, num_cpus=2, include_dashboard=False, log_to_driver=False,
                     object_store_memory=100 * 2**20,
                     runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1"}})
            told = through_workers(config(question, OURS, per_token=question["per_token"]), batch(question))
            ray.shutdown()
    else:
        tokenizer, data = hf_tokenizer(question["tokenizer"]), batch(question)
        told = {name: asyncio.run(directly(chosen, tokenizer, data)) for name, chosen in (
            ("naive", config(question, NAIVE)), ("once", config(question, OURS)),
            ("per_token", config(question, OURS, per_token=True)))}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
