"""Rows that start apart share a call where a call of their own would cost more than what is recomputed for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of

import rewarden as rw
from rewarden.edits import EditBatch, Site
from rewarden.edits.groups import Rows, grouped
from rewarden.edits.plan import Plan


def rows_at(starts: list[int], layer: int = 0) -> Rows:
    n = len(starts)
    return Rows(np.zeros(n, np.int64), np.arange(n), np.asarray(starts), np.full(n, layer))


def shared(layer: int, call: float, budget: int = 1000) -> list[int]:
    """Starts of the groups of ten rows from each of four positions, ends at 14; a row runs 4 − layer layers."""
    return [group.start for group in grouped(rows_at(sorted([10, 11, 12, 13] * 10), layer), 14, budget, 13, 4, call)]


@pytest.mark.parametrize("layer", [0, 2])
def test_a_position_joins_while_the_waste_is_less_than_a_call(layer: int) -> None:
    # the second position wastes 10 tokens, the third 20 more, the fourth 30 more; calls run as many layers as the rows do
    assert shared(layer, 9) == [10, 11, 12, 13]
    assert shared(layer, 10) == [10, 12]
    assert shared(layer, 30) == [10, 13]
    assert shared(layer, 60) == shared(layer, math.inf) == [10]
    assert shared(layer, math.inf, budget=79) == [10, 11, 13]  # 20 rows of 4 tokens are too many, of 3 they are not


def test_rows_that_join_late_waste_less() -> None:
    early, late = rows_at([10] * 10), rows_at([11] * 10, layer=3)
    both = late.after(early)  # the late rows run one layer of four: 10 of a call's 4 × 5 token-layers
    assert [group.start for group in grouped(both, 14, 1000, 13, 4, 5.0)] == [10]
    assert [group.start for group in grouped(both, 14, 1000, 13, 4, 2.0)] == [10, 11]


def test_grouping_changes_no_reward(monkeypatch) -> None:
    rm = model_of("llama")
    base = rm.base(rw.Pair("what is it that", "one two three four five six", "x").conversations[0])
    draw = torch.Generator().manual_seed(0)
    positions = np.arange(40) % (base.length - 1)
    edits = EditBatch(Site("resid_pre", 0), torch.randn(40, rm.architecture.d_model, generator=draw), positions=positions)
    found = []
    for call in (0.0, math.inf):
        monkeypatch.setattr(Plan, "call_cost", property(lambda plan, call=call: call))
        plan = rm.plan(base, edits)
        found.append((len(plan.groups), plan.run().values))
    assert found[0][0] == len(np.unique(positions))
    assert found[1][0] < found[0][0]
    assert (found[0][1] - found[1][1]).abs().max() < 1e-5

