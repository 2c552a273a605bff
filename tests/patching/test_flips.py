"""Minimal flips against every subset tried by hand, planted deciders, and the controls as direct edits."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families import build, cached
from tests.patching.by_hand import moves_by_hand
from tests.patching.planted import planted, random_pairs
from tests.patching.three_passes import ThreePasses, place_of
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.errors import RewardenError
from rewarden.options import FlipOptions
from rewarden.patching import subsets
from rewarden.patching.flips import flip
from rewarden.patching.pair_flips import Flips
from rewarden.patching.subsets import smallest_subset
from rewarden.readout import SequenceHead
from rewarden.result import Result
from rewarden.reward_model import RewardModel

FAST = {"resamples": 100, "draws": 4}
EVERY = [*(f"head.{layer}.{head}" for layer in range(3) for head in range(4)), *(f"mlp.{layer}" for layer in range(3))]
"""Candidates of a tiny model, in order."""
UNEQUAL = Pair("what is the capital of France?", "Paris.", "it is a red dog, and you should not question it")

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def model_of(family: str) -> RewardModel:
    return RewardModel(cached(family), tiny_tokenizer(), name=family)


class Hand:
    """One pair, edited at its last token by plain hooks."""

    def __init__(self, rm: RewardModel, family: str, pair: Pair) -> None:
        self.hand = ThreePasses(rm.model, family)
        self.ids = [rm.encode(side).ids for side in pair.conversations]
        runs = [self.hand.plain(ids) for ids in self.ids]
        self.reward, self.seen = [run[0] for run in runs], [run[1] for run in runs]
        self.names = EVERY

    def patched(self, names, into: int = 0) -> float:
        """Reward of side `into` with these components' outputs at its last token taken from the other side."""
        places = [self.hand.place(name, self.seen[into]) for name in names]

        def change(key, hidden: torch.Tensor) -> torch.Tensor:
            hidden = hidden.clone()
            for columns in (columns for place, columns in places if place == key):
                hidden[-1, columns] = self.seen[1 - into][key][-1, columns]
            return hidden

        return self.hand.run(self.ids[into], change)[0]

    def flipping(self, size: int) -> list[tuple[str, ...]]:
        """All sets of this size that flip the pair."""
        sign = np.sign(self.reward[0] - self.reward[1])
        return [names for names in combinations(self.names, size) if sign * (self.patched(names) - self.reward[1]) < -1e-5]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sizes_up_to_two_equal_every_subset_tried_by_hand(family: str) -> None:
    rm, sizes = model_of(family), []
    pairs = random_pairs(6, 3)
    exact, greedy = flip(rm, pairs, exhaustive=2, **FAST), flip(rm, pairs, **FAST)
    for row, pair in enumerate(pairs):
        hand = Hand(rm, family, pair)
        size = next((size for size in (1, 2) if hand.flipping(size)), 3)
        sizes.append(size)
        assert exact.size[row] == size if size <= 2 else not exact.size[row] < 3
        assert greedy.size[row] == 1 if size == 1 else not greedy.size[row] < size
        for found in (exact, greedy):
            names = [str(name) for name in found.site[row] if name]
            along = [hand.patched(names[:k + 1]) - hand.reward[1] for k in range(len(names))]
            np.testing.assert_allclose(found.margin_after[row, :len(names)], along, atol=1e-5)
            if found.status[row] == "flipped":  # no edit of the set can be left out
                sign = np.sign(hand.reward[0] - hand.reward[1])
                assert sign * along[-1] < 0
                assert all(
                    sign * (hand.patched([n for n in names if n != name]) - hand.reward[1]) > -1e-5 for name in names)
    assert len(set(sizes)) > 1  # the pairs are not all alike


PLANTED = {"head": ("head.1.2", {"heads": {(1, 2): 30.0, (2, 1): 3.0}, "mlps": {}}),
           "mlp": ("mlp.1", {"heads": {}, "mlps": {1: 30.0}, "ends_bare": True})}
"""Decider → its name, and what it is planted beside: a later head that speaks quietly, or the embedding at the read-out."""


@pytest.mark.parametrize("kind", ["head", "mlp"])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_decider_is_the_whole_set(seed: int, kind: str) -> None:
    decider, model = PLANTED[kind]
    rm = planted(seed, **model)
    pairs = random_pairs(10, seed)
    found = flip(rm, pairs, **FAST)
    opposed = 0
    for row, pair in enumerate(pairs):
        hand = Hand(rm, "llama", pair)
        after = hand.patched([decider]) - hand.reward[1]
        if np.sign(hand.reward[0] - hand.reward[1]) * after < -1e-4:  # what is left speaks for the other side
            opposed += 1
            assert (found.size[row], found.site[row, 0]) == (1, decider)
            assert found.margin_after[row, 0] == pytest.approx(after, abs=1e-4)
    assert opposed >= 2
    assert set(found.site[found.status == "flipped"].ravel().tolist()) == {decider, ""}


def test_the_set_turns_a_negative_margin_too_and_a_tie_has_no_sign() -> None:
    rm = model_of("llama")
    pair = next(pair for pair in random_pairs(20, 5) if abs(rm.score(pair).margin[0]) > 0.2)
    swapped = Pair(pair.prompt, pair.rejected, pair.chosen)
    found = flip(rm, [pair, swapped, Pair("see", "good", "good")], exhaustive=2, **FAST)
    assert found.margin[0] == pytest.approx(-found.margin[1])
    for row in np.flatnonzero(found.status[:2] == "flipped"):
        steps = int(found.size[row])
        assert np.sign(found.margin_after[row, steps - 1]) == -np.sign(found.margin[row])
        assert np.sign(found.knockout[row]) == np.sign(found.margin[row])
    assert (found.status[:2] == "flipped").any()
    assert found.status[2] == "the margin is within the noise"
    assert np.isnan(found.size[2])
    assert found.warnings == ("1 of 3 pairs are skipped: the margin is within the noise",)
    assert found.flipped[0] == (found.status == "flipped").sum() / 2


@pytest.mark.parametrize("mode", ["noising", "zero"])
def test_controls_equal_direct_edits(mode: str) -> None:
    rm = model_of("llama")
    pairs = random_pairs(4, 7)
    found = flip(rm, pairs, mode=mode, max_size=4, **FAST)
    kinds = ("z", "mlp_out")
    assert (found.status == "flipped").any()
    for row in np.flatnonzero(found.status == "flipped"):
        bases = [rm.base(side, kinds) for side in pairs[row].conversations]
        names = [str(name) for name in found.site[row] if name]

        def edits(names, into: int, bases=bases, zero: bool = False) -> list[Edit]:
            out = []
            for name in names:
                kind, layer, head = place_of(name)
                value = bases[1 - into].activation("z" if kind == "head" else "mlp_out", layer)[-1]
                value = value[head] if kind == "head" else value
                where = Site("z", layer, -1, head) if kind == "head" else Site("mlp_out", layer, -1)
                out.append(Edit(where, torch.zeros_like(value) if zero else value))
            return out

        knocked = rm.edit(bases[0], [edits(names, 0, zero=mode == "zero")])[0, 0]
        rescued = rm.edit(bases[1], [edits(names, 1)])[0, 0]
        assert found.knockout[row] == pytest.approx(bases[0].reward - float(knocked), abs=1e-5)
        assert found.rescue[row] == pytest.approx(float(rescued) - bases[1].reward, abs=1e-5)
        if mode == "noising":
            assert Hand(rm, "llama", pairs[row]).patched(names, into=1) == pytest.approx(float(rescued), abs=1e-5)
        flips = Flips(rm, pairs, FlipOptions(draws=4, mode=mode), kinds)
        drawn = flips._random_sets(int(row), 15, tuple(EVERY.index(name) for name in names))
        assert all(len(set(s)) == len(names) and not {EVERY[i] for i in s} & set(names) for s in drawn)
        random = rm.edit(bases[0], [edits([EVERY[i] for i in s], 0, zero=mode == "zero") for s in drawn])[:, 0]
        back = rm.edit(bases[1], [edits([EVERY[i] for i in s], 1) for s in drawn])[:, 0]
        np.testing.assert_allclose(found.knockout_random[row], bases[0].reward - random, atol=1e-5)
        np.testing.assert_allclose(found.rescue_random[row], back - bases[1].reward, atol=1e-5)
        np.testing.assert_allclose(found.knockout_random_mean[row], found.knockout_random[row].mean(), atol=1e-7)
        turned = np.sign(found.margin[row]) * (random - bases[1].reward) < 0
        assert found.random_flips[row] == turned.mean()


def test_one_token_at_a_time_equals_all_of_them_by_whole_forwards() -> None:
    rm = model_of("qwen2")
    pair = Pair("red sun moon", "good dog you see it", "bad cold night and so on")
    found = flip(rm, pair, positions="each", sites=("resid_post", "embed"), **FAST)
    chosen, rejected = (rm.base(side, ("embed",)) for side in pair.conversations)
    names, edits = [], []
    ids = [run.encoded.ids.tolist() for run in (chosen, rejected)]
    for mine, theirs in moves_by_hand("suffix", *ids, -1).items():
        back = chosen.length - mine
        for layer in range(3):
            kind = "embed" if layer == 2 else "resid_post"
            names.append(f"embed@-{back}" if kind == "embed" else f"resid_post.{layer}@-{back}")
            edits.append(Edit(Site(kind, layer % 2, -back), rejected.activation(kind, layer % 2)[theirs]))
    margins = rm.plan(chosen, edits, backend="hooks").run().values[:, 0].numpy() - rejected.reward
    best = int(np.argmin(np.sign(found.margin[0]) * margins))
    assert found.site[0, 0] == names[best]
    assert found.margin_after[0, 0] == pytest.approx(float(margins[best]), abs=1e-5)
    assert found.candidates[0] <= len(names)  # tokens of a shared beginning cannot differ


def test_scaling_the_head_scales_margins_and_leaves_the_sets() -> None:
    """Invariant 15."""
    def with_head(scale: float, constant: float) -> RewardModel:
        def head(model, tokenizer, architecture) -> SequenceHead:
            return SequenceHead(scale * model.score.weight.float(), torch.full((1,), constant), architecture.norm)
        return RewardModel(cached("llama"), tiny_tokenizer(), readout=head, check=False)
    pairs = random_pairs(4, 9)
    one, other = flip(with_head(1.0, 0.0), pairs, **FAST), flip(with_head(4.0, 2.0), pairs, **FAST)
    np.testing.assert_array_equal(one.site, other.site)
    np.testing.assert_allclose(4 * one.margin_after, other.margin_after, atol=1e-4)


def test_a_reward_that_is_not_finite_is_set_apart() -> None:
    def head(model, tokenizer, architecture) -> SequenceHead:
        return SequenceHead(torch.full((1, 32), float("inf")), torch.zeros(1), architecture.norm)
    rm = RewardModel(cached("llama"), tiny_tokenizer(), readout=head, check=False)
    found = flip(rm, random_pairs(2, 0), **FAST)
    assert found.status.tolist() == ["a reward is not finite"] * 2
    assert np.isnan(found.size).all()


def test_the_result_survives_the_disk_and_summarises_what_it_holds(tmp_path) -> None:
    pairs = random_pairs(6, 3)
    found = flip(model_of("llama"), pairs, exhaustive=2, **FAST)
    assert Result.load(found.save(tmp_path / "flip.nc")).data.identical(found.data)
    done = np.isfinite(found.size)
    summary = found.data["summary"].sel(statistic="mean")
    assert summary.sel(quantity="size").item() == pytest.approx(found.size[done].mean())
    assert summary.sel(quantity="knockout").item() == pytest.approx((np.sign(found.margin) * found.knockout)[done].mean())
    assert summary.sel(quantity="knockout").item() > summary.sel(quantity="margin").item()
    assert found.n.tolist()[0] == done.sum()


def test_choices_that_cannot_be_are_refused(monkeypatch) -> None:
    with pytest.raises(RewardenError, match="impossible options") as error:
        FlipOptions(mode="mean", sites="q", max_size=2, exhaustive=3, draws=1)
    assert [name for name in ("mode", "sites", "exhaustive", "draws") if name not in error.value.what] == []
    monkeypatch.setattr(subsets, "MOST", 100)
    with pytest.raises(RewardenError, match=r"too many sets of 2 out of 15 edits(?s:.*)exhaustive=1"):
        flip(model_of("llama"), random_pairs(6, 3), exhaustive=2)
    with pytest.raises(RewardenError, match="not defined for this model"):
        flip(RewardModel(build("bert"), tiny_tokenizer()), UNEQUAL)


def test_pruning_leaves_out_what_a_later_choice_made_needless() -> None:
    worth = {(0,): 2.0, (1,): 2.5, (2,): 2.6, (0, 1): 1.0, (0, 2): 1.1, (1, 2): -1.0, (0, 1, 2): -2.0}

    def values(sets):
        return np.array([worth[tuple(sorted(members))] for members in sets])

    found = smallest_subset(values, 3, 4.0, 0.0, max_size=3)
    assert (found.members, found.values, found.pruned) == ((1, 2), (2.5, -1.0), 1)
    assert smallest_subset(values, 3, 4.0, 0.0, max_size=2).reason == "not within 2 edits"
    assert smallest_subset(values, 3, 4.0, 0.0, max_size=3, exhaustive=2).members == (1, 2)
    assert smallest_subset(values, 3, 4.0, 0.0, max_size=3, least=1.0).reason.startswith("no further edit")
    assert smallest_subset(values, 3, 1.0, 0.0, max_size=3).members == ()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_search_against_every_subset(n: int, seed: int, exhaustive: int) -> None:
    rng = np.random.default_rng(seed)
    table = {frozenset(s): float(rng.normal(1, 2)) for size in range(1, n + 1) for s in combinations(range(n), size)}
    asked = []

    def values(sets):
        asked.extend(map(frozenset, sets))
        return np.array([table[frozenset(members)] for members in sets])

    found = smallest_subset(values, n, 3.0, 0.0, max_size=n, exhaustive=exhaustive)
    smallest = min((len(s) for s, value in table.items() if value < 0), default=99)
    assert len(asked) == len(set(asked))  # each set once
    if smallest <= exhaustive:
        best = min((value, sorted(s)) for s, value in table.items() if len(s) == smallest)
        assert found.reached
        assert sorted(found.members) == best[1]
    elif found.reached:
        members = frozenset(found.members)
        assert len(members) >= smallest
        assert table[members] < 0
        assert all(table[members - {one}] >= 0 for one in members if len(members) > 1)
    assert list(found.values) == [table[frozenset(found.members[:k + 1])] for k in range(len(found.members))]
