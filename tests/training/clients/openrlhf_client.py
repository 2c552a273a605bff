"""OpenRLHF 0.11.2's own SingleTurnAgentExecutor, with an engine that writes given ids; runs in an environment of its own.

In, as JSON: the tokenizer's folder, endpoints (URLs or a .py file), rollouts of ids with labels. Out: what the executor puts
into each response of each endpoint.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import sys
from importlib.metadata import distribution
from types import SimpleNamespace

import torch
from transformers import AutoTokenizer


def agent_module():
    """openrlhf/utils/agent.py alone: its package imports DeepSpeed and flash-attn, of which it uses nothing."""
    sys.modules["openrlhf.utils.logging_utils"] = SimpleNamespace(init_logger=logging.getLogger)
    path = distribution("openrlhf").locate_file("openrlhf/utils/agent.py")
    spec = importlib.util.spec_from_file_location("openrlhf_agent", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Engine:
    """Writes the completion that it is told."""

    def __init__(self, ids):
        self.ids = ids

    async def generate(self, prompt_ids, params, **settings):
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.ids, text="", finish_reason="stop", logprobs=None)])


def number(value):
    """What becomes of a reward or a log in OpenRLHF's samples_generator.py: torch.tensor([value]), of one element."""
    return None if value is None else torch.tensor([value]).flatten().double().item()


async def ask(agent, tokenizer, endpoint, rollouts):
    executor = agent.SingleTurnAgentExecutor(endpoint)
    params = SimpleNamespace(max_tokens=16, logprobs=None)
    told = []
    for rollout in rollouts:
        prompt = tokenizer.decode(rollout["prompt"])
        found = await executor.execute(prompt, rollout["label"], params, 64, tokenizer, Engine(rollout["completion"]))
        told.append({"reward": number(found["reward"]), "scores": number(found["scores"]), "ids": found["observation_tokens"],
                     "extra_logs": {name: number(value) for name, value in found["extra_logs"].items()}})
    return told


if __name__ == "__main__":
    question = json.load(sys.stdin)
    agent, written = agent_module(), AutoTokenizer.from_pretrained(question["tokenizer"])
    print(json.dumps([asyncio.run(ask(agent, written, endpoint, question["rollouts"])) for endpoint in question["endpoints"]]))
