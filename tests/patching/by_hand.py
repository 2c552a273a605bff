"""Both runs of a pair by plain torch hooks, and what the models and pairs of these tests are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from tests.edits.plain import plain_run
from tests.families import cached
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.result import Result
from rewarden.reward_model import RewardModel

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "modernbert")
SHORTER = Pair("what is the capital of France?", "it is Paris, and not the moon", "a red dog")
LONGER = Pair("help me please", "sorry, no", "I can not help you with this: go to bed early")
EQUAL = Pair("Tell me a joke", "the cat did the work tomorrow", "two spiders have eight warm legs")
FAST = {"resamples": 100}
SITES = ("attn_out", "mlp_out", "z")


@cache
def model_of(family: str) -> RewardModel:
    return RewardModel(cached(family), tiny_tokenizer(), name=family)


def shared_by_hand(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two runs begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))


def moves_by_hand(rule: str, ids: Sequence[int], other: Sequence[int], read: int) -> dict[int, int]:
    """Position → its counterpart, for two runs that are both read at `read` (0, or −1 for the last token)."""
    n, m, shared = len(ids), len(other), shared_by_hand(ids, other)
    moves = {"suffix": {p: p if p < shared else p + m - n for p in range(n) if p < shared or p + m - n >= shared},
             "prefix": {p: p for p in range(min(n, m))},
             "equal_only": {p: p for p in range(n)} if n == m else {}, "read_out": {}}[rule]
    if rule == "equal_only" and n != m:
        return {}
    ends = [(n - 1, m - 1)] if read or rule == "prefix" else []  # the closing token is the closing token
    for mine, theirs in [*ends, *([] if read else [(0, 0)])]:
        moves = {p: q for p, q in moves.items() if q != theirs} | {mine: theirs}
    return moves


class ByHand:
    """Both runs of a pair by torch hooks, and the effect of moving some activations from the one to the other."""

    def __init__(self, rm: RewardModel, pair: Pair, mode: str = "noising") -> None:
        self.model, self.family = rm.model, rm.name
        self.ids = [rm.encode(side).ids.tolist() for side in pair.conversations][::1 if mode == "noising" else -1]
        self.sign = 1.0 if mode == "noising" else -1.0
        self.read = 0 if rm.name == "modernbert" else -1
        self.held = plain_run(rm.model, rm.name, self.ids[1], watch=SITES)[1]
        self.reward = float(plain_run(rm.model, rm.name, self.ids[0])[0])

    def effect(self, kind: str, layer: int, values: torch.Tensor, positions: list[int], head: int | None = None) -> float:
        edit = Edit(Site(kind, layer, tuple(positions), head), values)
        return self.sign * (self.reward - float(plain_run(self.model, self.family, self.ids[0], [edit])[0]))

    def moved(self, kind: str, layer: int, moves: dict[int, int], head: int | None = None) -> float:
        values = self.held[kind][layer][list(moves.values())]
        return self.effect(kind, layer, values if head is None else values[:, 8 * head:8 * head + 8], list(moves), head)


def cells(result: Result, number: int = 0) -> tuple[dict[str, np.ndarray], list[tuple]]:
    """(kind, layer, head, index of its effect) of every site of a Result, and its effects by kind."""
    arrays = {kind: result.data["effect"].sel(site=kind).values[number] for kind in ("attn_out", "mlp_out")}
    arrays["z"] = result.data["effect_heads"].values[number]
    layers = range(arrays["z"].shape[0])
    listed = [(kind, layer, None, (layer,)) for kind in ("attn_out", "mlp_out") for layer in layers]
    return arrays, [*listed, *(("z", layer, head, (layer, head)) for layer in layers for head in range(4))]
