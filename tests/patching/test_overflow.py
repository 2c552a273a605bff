"""Edits that overflow the reward: `rm.edit` returns what came out; the analyses count such cells as missing.

The model is a linear head whose reward is infinite above a limit that no conversation reaches and many edits do, so that every
finite number is that of the same model without a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from tests.families import build, cached
from tests.patching.by_hand import EQUAL, FAST, LONGER, SHORTER
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.edits import Edit, EditBatch, Site
from rewarden.patching import agreement, estimate_effects, patch, patch_paths
from rewarden.patching.sweep import warnings_of
from rewarden.readout import SequenceHead
from rewarden.reward_model import RewardModel

PAIRS = [SHORTER, LONGER, EQUAL]
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(eq=False)
class Limited(SequenceHead):
    """Overflows above the limit."""

    limit: float = np.inf

    def apply_normed(self, normed, reading):
        found = super().apply_normed(normed, reading)
        return torch.where(found > self.limit, torch.inf, found)

    def native(self, model, inputs, reading):
        return None


def limited(limit: float) -> RewardModel:
    model = cached("llama")
    return RewardModel(model, tiny_tokenizer(), check=False, readout=lambda model, tokenizer, architecture: Limited(
        model.score.weight.float(), torch.zeros(1), architecture.norm, limit=limit))


@cache
def both() -> tuple[RewardModel, RewardModel, float]:
    """The model, the same with a limit just above the reward of every side, and the limit."""
    plain = limited(np.inf)
    limit = float(plain.score(PAIRS).data["reward"].max()) + 1e-3
    return plain, limited(limit), limit


def told(lost: int) -> str:
    return f"{lost} counterfactuals have a reward that is not finite; their effects are missing"


@pytest.mark.parametrize(("family", "overflows"), [("gpt2", True), ("llama", False)])
@pytest.mark.parametrize("backend", ["auto", "hooks"])
def test_an_overflow_is_returned_as_it_is_and_no_other_row_sees_it(family: str, overflows: bool, backend: str) -> None:
    """A layer norm of 3e38 is not a number; an RMS norm divides by infinity, and what it leaves is a finite reward."""
    rm = RewardModel(build(family), tiny_tokenizer(), check=False)
    generator = torch.Generator().manual_seed(0)
    fine = [Edit(Site("mlp_out", layer, p), torch.randn(32, generator=generator)) for layer in (0, 1) for p in (2, 5, -1)]
    huge = [Edit(edit.site, torch.full((32,), 3e38)) for edit in fine]
    base = rm.base(SHORTER.conversations[0], ("mlp_out",))
    plan = rm.plan(base, [edit for two in zip(huge, fine, strict=True) for edit in two], backend=backend)
    found, alone = plan.run(), rm.plan(base, fine, backend=backend).run()
    assert bool(found.values[::2].isnan().all()) == overflows
    np.testing.assert_allclose(found.values[1::2], alone.values, atol=1e-6)
    assert found.noise_floor < 1e-5
    np.testing.assert_allclose(rm.edit(base, huge), rm.plan(base, huge, backend="hooks").run().values, atol=1e-6)


def test_rewards_beyond_the_limit_are_returned_as_they_are() -> None:
    plain, capped, limit = both()
    values = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    edits = EditBatch(Site("resid_post", 2, -1), values)
    expected, found = (rm.edit(SHORTER.conversations[0], edits) for rm in (plain, capped))
    beyond = expected > limit
    assert 0 < beyond.sum() < 20
    np.testing.assert_array_equal(found, np.where(beyond, np.inf, expected))


@pytest.mark.parametrize("positions", ["each", "read_out"])
def test_patched_cells_that_overflow_are_missing_and_counted(positions: str) -> None:
    plain, capped, limit = both()
    expected, found = (patch(rm, PAIRS, positions=positions, **FAST) for rm in (plain, capped))
    lost = 0
    for suffix in ("", "_heads"):
        effect = expected.data[f"effect{suffix}"]
        hybrid = (expected.data["reward_base"] - effect).transpose(*effect.dims).values
        beyond = hybrid > limit
        effect = np.where(beyond, np.nan, effect.values)
        lost += int(beyond.sum())
        np.testing.assert_array_equal(found.data[f"effect{suffix}"].values, effect)
        np.testing.assert_array_equal(found.data[f"n{suffix}"].values, np.isfinite(effect).sum(0))
        n = np.isfinite(effect).sum(0)
        mean = np.where(n > 0, np.nansum(effect, 0) / np.maximum(n, 1), np.nan)
        np.testing.assert_allclose(found.data[f"mean{suffix}"].values, mean, atol=1e-12)
    assert lost > 0
    assert found.warnings == (told(lost),)
    assert expected.warnings == ()


def test_paths_that_overflow_are_missing_and_counted() -> None:
    plain, capped, limit = both()
    expected, found = (patch_paths(rm, PAIRS, **FAST) for rm in (plain, capped))
    beyond = expected.reward_base[:, None, None] - expected.effect > limit
    np.testing.assert_array_equal(found.effect, np.where(beyond, np.nan, expected.effect))
    assert beyond.any()
    assert found.warnings == (told(beyond.sum()),)


def test_components_that_overflow_are_missing_from_the_agreement_and_counted() -> None:
    plain, capped, limit = both()
    expected, found = (agreement(rm, PAIRS, sequences=False, permutations=19, **FAST) for rm in (plain, capped))
    lost = 0
    for name in ("direct", "total"):
        effect = expected.data[name].values
        beyond = expected.reward[:, :1] - effect > limit
        np.testing.assert_array_equal(found.data[name].values, np.where(beyond, np.nan, effect))
        lost += int(beyond.sum())
    assert lost > 0
    assert found.warnings == (told(lost),)


def test_exact_effects_that_overflow_are_neither_verified_nor_part_of_the_mass() -> None:
    plain, capped, limit = both()
    few = {"budget": 0, "top": 12, "sample": 20, **FAST}
    expected, found = (estimate_effects(rm, PAIRS, **few) for rm in (plain, capped))
    base = dict(zip(expected.data["pair"].values, expected.reward_base, strict=True))
    rewards = np.array([base[pair] for pair in expected.cell_pair]) - expected.exact_effect
    beyond = rewards > limit
    assert beyond[expected.drawn == "top"].any()
    np.testing.assert_array_equal(found.estimate, expected.estimate)
    np.testing.assert_array_equal(found.exact_effect, np.where(beyond, np.nan, expected.exact_effect))
    assert told(beyond.sum()) in found.warnings
    for suffix in ("", "_heads"):
        verified, above, below = (found.data[f"{name}{suffix}"].values for name in ("verified", "above_noise", "below_noise"))
        np.testing.assert_array_equal(verified, above | below)
    random, top = found.drawn == "random", np.nansum(np.abs(found.exact_effect[found.drawn == "top"]))
    size, names = np.abs(found.exact_effect), found.data["pair"].values
    rest = dict(zip(names, found.rest, strict=True))
    drawn = {name: (random & (found.cell_pair == name)).sum() for name in names}
    weight = np.array([rest[name] / max(1, drawn[name]) for name in found.cell_pair])
    known = random & np.isfinite(size)
    outside = found.rest.sum() * (weight * size)[known].sum() / weight[known].sum()
    assert found.data["missed_mass"].item() == pytest.approx(outside / (outside + top))


def test_warnings_count_pairs_and_cells() -> None:
    assert warnings_of(["", ""], 0) == ()
    assert warnings_of(["unequal length", "not finite", "", "unequal length"], 3) == (
        "1 of 4 pairs have a non-finite reward; they are set apart and count neither as a win nor as a loss",
        "2 of 4 pairs have runs of unequal length, which alignment='equal_only' leaves out; their effects are missing",
        told(3))
