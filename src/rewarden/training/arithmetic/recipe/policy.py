"""How is the policy trained, before any reward?

In: a schedule. Out: a plain transformers causal language model and its tokenizer in a folder. It imitates generated answers,
some of them wrong on purpose: direct answers more often than worked ones, so that a reward has something to improve, and a
feature that only tells the styles apart looks as if it told right from wrong. Ignorant of how well it works.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewarden.training.arithmetic.task import Pair, direct_answer, reverse_prompt, sum_prompt, train_pairs, worked_answer
from rewarden.training.arithmetic.tokenizer import LONGEST, build_tokenizer

IGNORED = -100
"""Label of tokens that are not learned: prompts and padding."""


@dataclass(frozen=True)
class PolicySchedule:
    """Size, texts and training of the policy."""

    layers: int = 4
    width: int = 64
    hidden: int = 128
    heads: int = 4
    steps: int = 1500
    rows: int = 96
    """Texts of one step, drawn afresh each time."""
    rate: float = 2e-3
    """Highest learning rate; one cycle, a twentieth of it rising."""
    reversed: float = 0.25
    """Share of texts that are the unrelated task."""
    worked: float = 0.5
    """Share of sums with a worked answer."""
    wrong_direct: float = 0.6
    """Share of direct answers with one wrong digit."""
    wrong_worked: float = 0.3
    """Share of worked answers whose last three digits have a wrong one, after right steps."""
    seed: int = 0


def corrupted(answer: str, rng: random.Random) -> str:
    """The answer with one digit replaced by another one."""
    place = rng.randrange(len(answer))
    return answer[:place] + str((int(answer[place]) + rng.randrange(1, 10)) % 10) + answer[place + 1:]


def draw_text(schedule: PolicySchedule, pairs: tuple[Pair, ...], rng: random.Random) -> tuple[str, str]:
    """One prompt and the answer to imitate."""
    if rng.random() < schedule.reversed:
        digits = "".join(rng.choice("0123456789") for _ in range(4))
        return reverse_prompt(digits), digits[::-1]
    a, b = rng.choice(pairs)
    worked = rng.random() < schedule.worked
    wrong = rng.random() < (schedule.wrong_worked if worked else schedule.wrong_direct)
    answer = worked_answer(a, b) if worked else direct_answer(a, b)
    return sum_prompt(a, b), answer[:-3] + corrupted(answer[-3:], rng) if wrong else answer


def collate(texts: list[tuple[str, str]], tokenizer: Any) -> dict[str, Tensor]:
    """Right-padded ids, mask and labels [text, token]; labels are the answer and its end."""
    prompts, answers = (tokenizer([text[side] for text in texts])["input_ids"] for side in range(2))
    whole = [[*prompt, *answer, tokenizer.eos_token_id] for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(map(len, whole))
    ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    labels, mask = torch.full((len(texts), width), IGNORED), torch.zeros((len(texts), width), dtype=torch.long)
    for row, (prompt, text) in enumerate(zip(prompts, whole, strict=True)):
        ids[row, :len(text)] = torch.tensor(text)
        labels[row, len(prompt):len(text)] = ids[row, len(prompt):len(text)]
        mask[row, :len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def start_model(schedule: PolicySchedule, tokenizer: Any) -> Any:
    """A Llama with random weights of the schedule's seed; the global generator is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=schedule.width, intermediate_size=schedule.hidden,
        num_hidden_layers=schedule.layers, num_attention_heads=schedule.heads, num_key_value_heads=schedule.heads,
        max_position_embeddings=LONGEST, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        return LlamaForCausalLM(config)


def train(folder: Path, schedule: PolicySchedule) -> None:
    """Train the policy into `folder`."""
    tokenizer, pairs, rng = build_tokenizer(), train_pairs(), random.Random(schedule.seed)
    model = start_model(schedule, tokenizer).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=schedule.steps, pct_start=0.05)
    for step in range(schedule.steps):
        loss = model(**collate([draw_text(schedule, pairs, rng) for _ in range(schedule.rows)], tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        cycle.step()
        if (step + 1) % 100 == 0:
            print(f"policy: step {step + 1}/{schedule.steps} loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # it would only repeat the ids of config.json
    for file in folder.iterdir():
        file.chmod(0o644)  # a package's file is everybody's to read
