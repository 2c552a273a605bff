"""How is the policy's dictionary trained, and how well does it reconstruct?

In: the policy's folder. Out: a TopK dictionary of its residual stream on its own completions, and its fidelity on completions
of held-out sums. Ignorant of what the features are used for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rewarden.conversation import Conversation
from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.fidelity import Fidelity
from rewarden.dictionaries.harvesting.harvest import Harvest, harvest
from rewarden.dictionaries.harvesting.trunks import load_trunk
from rewarden.dictionaries.training import train_dictionary
from rewarden.edits import Site
from rewarden.encoding import Encoded
from rewarden.reward_model import RewardModel
from rewarden.training.arithmetic.task import Pair, sum_columns, train_pairs
from rewarden.training.arithmetic.tokenizer import END
from rewarden.training.sampling import roll_out


@dataclass(frozen=True)
class DictionarySchedule:
    """Place, size and training of the dictionary."""

    layer: int = 2
    """resid_post of this layer: the third of four."""
    latents: int = 256
    k: int = 8
    rollouts: int = 2400
    """Sums of the training side that are answered once, at temperature 1."""
    steps: int = 1500
    batch: int = 1024
    rate: float = 2e-3
    seed: int = 0


def open_policy(folder: Path) -> RewardModel:
    """The policy in float32, under the name that users know it by."""
    trunk = load_trunk(str(folder), dtype="float32", device="cpu", check=False)
    trunk.name = "demo:policy"
    return trunk


def completion_positions(encoded: Encoded) -> np.ndarray:
    """Tokens of the completion, its end included."""
    return np.arange(encoded.response_start, encoded.length)


def completions(policy: RewardModel, pairs: list[Pair], seed: int) -> list[Conversation]:
    """Sums with an answer drawn at temperature 1; what the policy did not end is left out, as a conversation has an end."""
    columns = sum_columns(pairs)
    rolled = roll_out(policy.model, policy.tokenizer(columns["prompt"])["input_ids"], seed=seed)
    texts = [text.removesuffix(END) for text in rolled.texts(policy.tokenizer)]
    return [Conversation.of(prompt, text) for prompt, text, ended in
            zip(columns["prompt"], texts, rolled.finished, strict=True) if ended and text]


def states(policy: RewardModel, conversations: list[Conversation], layer: int) -> Harvest:
    """Residuals of all completion tokens."""
    return harvest(policy, conversations, sites=[Site("resid_post", layer)], positions=completion_positions)


def train(policy: RewardModel, schedule: DictionarySchedule) -> Dictionary:
    """The dictionary of completions of training sums."""
    pairs = random.Random(schedule.seed).sample(train_pairs(), schedule.rollouts)
    rows = states(policy, completions(policy, pairs, schedule.seed), schedule.layer).source()
    trained = train_dictionary(rows, d_sae=schedule.latents, k=schedule.k, steps=schedule.steps, batch=schedule.batch,
                               lr=schedule.rate, aux_every=1, device="cpu", seed=schedule.seed)
    known = {name: policy.provenance()[name] for name in ("model", "weights_sha256")}
    return replace(trained.dictionary, site=Site("resid_post", schedule.layer), provenance=known)


def fidelity(policy: RewardModel, dictionary: Dictionary, conversations: list[Conversation]) -> Fidelity:
    """Counts over all completion tokens of some conversations."""
    assert dictionary.site is not None  # train sets it
    rows = states(policy, conversations, int(dictionary.site.layer)).rows()[:].float()
    indices, values = dictionary.encode(rows)
    found = Fidelity.of(dictionary.d_sae)
    with torch.no_grad():
        found.add(rows, indices, values, dictionary.decode(indices, values, rows))
    return found
