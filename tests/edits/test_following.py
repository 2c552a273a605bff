"""A run made from another one is the run itself, in every family that can do it; edits of either give the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of
from tests.edits.test_families import ON_THE_CONE, SLOWER

from rewarden.edits import EditBatch, Site
from rewarden.edits.following import can_follow, following
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.slot import find_slot

PROMPT = "what is the capital of France?"

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


def rows_of(rm) -> tuple[Encoded, Encoded]:
    slot = find_slot(rm, PROMPT)
    return slot.filled([20, 30, 40, 50]), slot.filled([20, 31, 40, 9])


@pytest.mark.parametrize("family", ON_THE_CONE)
def test_it_is_the_run_itself(family: str) -> None:
    rm = model_of(family)
    first, second = rows_of(rm)
    ours, anew = following(rm.base(first), second), rm.base(second)
    assert abs(ours.reward - anew.reward) <= 1e-5
    for mine, right in zip(ours.resid_pre, anew.resid_pre, strict=True):
        assert torch.allclose(mine, right, atol=1e-4, rtol=1e-4)
    assert ours.keys.keys() == anew.keys.keys()
    for module, keys in anew.keys.items():
        assert torch.allclose(ours.keys[module], keys, atol=1e-4, rtol=1e-4)
        assert torch.allclose(ours.vals[module], anew.vals[module], atol=1e-4, rtol=1e-4)
    draw = torch.Generator().manual_seed(0)
    batch = EditBatch(Site("resid_pre", 1), torch.randn(6, rm.architecture.d_model, generator=draw),
                      positions=np.arange(second.length - 6, second.length))
    assert np.abs(rm.edit(ours, batch) - rm.edit(anew, batch)).max() <= 1e-4


def test_the_same_tokens_are_the_same_run() -> None:
    rm = model_of("llama")
    base = rm.base(rows_of(rm)[0])
    assert abs(following(base, base.encoded).reward - base.reward) <= 1e-6


def test_what_cannot_follow_says_so_and_candidates_do_without() -> None:
    rm = model_of("llama")
    with pytest.raises(RewardenError, match="cannot follow a run of"):
        following(rm.base(rows_of(rm)[0]), find_slot(rm, PROMPT).filled([5]))
    slow = model_of(next(iter(SLOWER)))
    assert not can_follow(slow.base(rows_of(slow)[0]))
    repeated = Candidates(slow, find_slot(slow, PROMPT), repeated=True)
    assert repeated.base([20, 30]).reward == slow.base(repeated.slot.filled([20, 30])).reward
