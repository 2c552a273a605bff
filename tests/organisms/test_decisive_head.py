"""The organism of one decisive head: its truth by plain hooks on the model, then the instruments that must find it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from rewarden.edits import Edit, Site
from rewarden.errors import RewardenError
from rewarden.lens import attribute
from rewarden.organisms import Organism, decisive_head, noise
from rewarden.organisms.llama import D_HEAD, HEADS, LAYERS
from rewarden.patching import patch, patch_paths
from rewarden.patching.agreement import agreement
from rewarden.patching.estimates import estimate_effects

SEEDS = range(24)
COMPONENTS = [*[f"head.{layer}.{head}" for layer in range(LAYERS) for head in range(HEADS)],
              *[f"mlp.{layer}" for layer in range(LAYERS)]]


@cache
def organism_of(seed: int, dose: float = 0.5) -> Organism:
    return decisive_head(seed, dose)


def plain_margins(organism: Organism, silent: set[str]) -> np.ndarray:
    """Margins of the transformers model itself, with some components' outputs set to zero by hooks."""
    model, handles = organism.model, []

    def silence(module, args, kept):
        return (args[0] * kept,)

    for number, block in enumerate(model.model.layers):
        kept = torch.ones(HEADS * D_HEAD)
        for head in range(HEADS):
            if f"head.{number}.{head}" in silent:
                kept[head * D_HEAD:(head + 1) * D_HEAD] = 0
        handles.append(block.self_attn.o_proj.register_forward_pre_hook(lambda m, a, kept=kept: silence(m, a, kept)))
        loud = 0.0 if f"mlp.{number}" in silent else 1.0
        handles.append(block.mlp.down_proj.register_forward_pre_hook(lambda m, a, loud=loud: silence(m, a, loud)))
    try:
        with torch.no_grad():
            rewards = [[model(torch.tensor(organism.encode(side).ids)[None]).logits.item() for side in pair.conversations]
                       for pair in organism.pairs(10)]
    finally:
        for handle in handles:
            handle.remove()
    return np.diff(np.asarray(rewards)[:, ::-1], axis=1)[:, 0]


@pytest.mark.parametrize("seed", range(6))
def test_the_planted_head_alone_decides(seed: int) -> None:
    organism = organism_of(seed)
    planted = organism.truth["component"]
    whole = plain_margins(organism, set())
    np.testing.assert_allclose(organism.score(organism.pairs(10)).margin, whole, atol=1e-5)
    assert (whole > 0.5).all()
    assert np.abs(plain_margins(organism, {planted})).max() < 0.4  # without it, noise
    alone = plain_margins(organism, set(COMPONENTS) - {planted})
    np.testing.assert_allclose(alone, alone.mean(), rtol=0.05)  # with nothing else, the same for every pair
    assert alone.mean() > 1
    for other in COMPONENTS:
        if other != planted:
            assert plain_margins(organism, {other}).min() > 0.4 * whole.min()


@pytest.mark.parametrize("seed", range(6))
def test_the_planted_head_attends_to_the_marker_and_writes_the_reward_direction(seed: int) -> None:
    organism = organism_of(seed)
    layer, head, model = organism.truth["layer"], organism.truth["head"], organism.model
    direction = model.score.weight[0] / model.score.weight[0].norm()
    marker = organism.tokenizer.convert_tokens_to_ids(organism.truth["marker"])
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for pair in organism.pairs(6):
            for side, marked in zip(pair.conversations, (True, False), strict=True):
                ids = organism.encode(side).ids
                assert int((ids == marker).sum()) == int(marked)
                weights = model.model(torch.tensor(ids)[None], output_attentions=True).attentions[layer][0, head, -1]
                trace = organism.trace(side, ("z",), [-1])["z"][layer, 0, head]
                write = model.model.layers[layer].self_attn.o_proj.weight[:, head * D_HEAD:(head + 1) * D_HEAD] @ trace
                if marked:
                    assert weights[int(np.flatnonzero(ids == marker)[0])] > 0.999
                    assert float(write @ direction) == pytest.approx(1, abs=0.35)
                    assert float((write - (write @ direction) * direction).norm()) < 1e-5
                else:
                    assert float(write.norm()) < 1e-5
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("dose", [0.1, 0.5, 4.0])
def test_all_else_writes_noise_of_the_dose(dose: float) -> None:
    organism = organism_of(1, dose)
    traces = [organism.trace(side, ("z", "mlp_out")) for pair in organism.pairs(12) for side in pair.conversations]
    for layer, block in enumerate(organism.model.model.layers):
        for head in range(HEADS):
            if (layer, head) == (organism.truth["layer"], organism.truth["head"]):
                continue
            weight = block.self_attn.o_proj.weight[:, head * D_HEAD:(head + 1) * D_HEAD]
            writes = torch.cat([trace["z"][layer, :, head] @ weight.T for trace in traces])
            assert float(writes.pow(2).sum(-1).mean().sqrt()) == pytest.approx(dose, rel=0.35)
        writes = torch.cat([trace["mlp_out"][layer] for trace in traces])
        assert float(writes.pow(2).sum(-1).mean().sqrt()) == pytest.approx(dose, rel=0.35)


def test_without_noise_the_reward_is_a_closed_form() -> None:
    """r = |w| / rms(embedding of the end token + the reward direction), and 0 without the marker."""
    organism = organism_of(5, 0.0)
    model = organism.model
    direction = model.score.weight[0] / model.score.weight[0].norm()
    last = model.model.embed_tokens.weight[organism.tokenizer.eos_token_id] + direction
    score = organism.score(organism.pairs(8))
    np.testing.assert_allclose(score.reward[:, 1, 0], 0, atol=1e-6)
    formula = float(model.score.weight[0].norm() / last.pow(2).mean().sqrt())
    np.testing.assert_allclose(score.reward[:, 0, 0], formula, rtol=0.05)


def test_seeds_draw_the_place_and_give_the_same_model_again() -> None:
    truths = [organism_of(seed).truth for seed in SEEDS]
    assert {truth["layer"] for truth in truths} == set(range(LAYERS))
    assert {truth["head"] for truth in truths} == set(range(HEADS))
    assert len({truth["marker"] for truth in truths}) > 12
    again = decisive_head(2)
    for mine, theirs in zip(organism_of(2).model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert again.pairs(5, seed=3) == organism_of(2).pairs(5, seed=3)
    assert again.pairs(5, seed=3) != again.pairs(5, seed=4)
    assert again.pairs(9)[:5] == again.pairs(5)


def test_pairs_are_of_equal_and_unequal_lengths() -> None:
    organism = organism_of(0)
    pairs = organism.pairs(40)
    marker = organism.truth["marker"]
    shift = np.asarray([len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs])
    assert [pair.subset for pair in pairs] == ["equal", "unequal"] * 20
    assert (shift[::2] == 0).all()
    assert (shift[1::2] != 0).all()
    assert {-1, 1} <= set(np.sign(shift).tolist())
    for pair in pairs:
        assert (pair.chosen.split().count(marker), pair.rejected.split().count(marker)) == (1, 0)
        assert marker not in str(pair.prompt).split()
    for pair in pairs[::2]:
        assert sum(a != b for a, b in zip(pair.chosen.split(), pair.rejected.split(), strict=True)) == 1


@pytest.mark.parametrize(("call", "what", "fix"), [
    (lambda: decisive_head(dose=-1), "dose=-1", "give a number from 0 on; 0.5 is the default"),
    (lambda: decisive_head(dose=float("inf")), "dose=inf", "give a number from 0 on; 0.5 is the default"),
    (lambda: decisive_head(dose=float("nan")), "dose=nan", "give a number from 0 on; 0.5 is the default"),
    (lambda: organism_of(0).pairs(0), "0 pairs", "ask for at least one")])
def test_impossible_requests_are_refused(call, what: str, fix: str) -> None:
    with pytest.raises(RewardenError, match=what) as error:
        call()
    assert error.value.fix == fix


def swept(organism: Organism, n: int = 6) -> np.ndarray:
    """Mean |effect| of noising each component at the read-out, by `rm.edit`; in the order of `COMPONENTS`."""
    effects = []
    for pair in organism.pairs(n):
        base, other = (organism.base(side, ("z", "mlp_out")) for side in pair.conversations)
        edits = [Edit(Site("z", layer, -1, head), other.activation("z", layer)[-1, head])
                 for layer in range(LAYERS) for head in range(HEADS)]
        edits += [Edit(Site("mlp_out", layer, -1), other.activation("mlp_out", layer)[-1]) for layer in range(LAYERS)]
        effects.append(base.reward - organism.edit(base, edits)[:, 0])
    return np.abs(effects).mean(0)


def strongest(values: np.ndarray) -> str:
    return COMPONENTS[int(np.argmax(values))]


def rank_one(found: list[str], organisms: list[Organism]) -> float:
    return float(np.mean([name == organism.truth["component"] for name, organism in zip(found, organisms, strict=True)]))


def test_a_sweep_at_the_read_out_finds_the_head() -> None:
    organisms = [organism_of(seed) for seed in SEEDS]
    assert rank_one([strongest(swept(organism)) for organism in organisms], organisms) >= 0.95


def test_the_grade_falls_with_the_dose() -> None:
    """So the test above could have failed: among writes 32 times as long as the planted one, noise wins."""
    grades = []
    for dose in (0.5, 4.0, 32.0):
        organisms = [decisive_head(seed, dose) for seed in SEEDS[:12]]
        grades.append(rank_one([strongest(swept(organism, 3)) for organism in organisms], organisms))
    assert grades[0] >= grades[1] >= grades[2]
    assert grades[2] < 0.6


def test_patch_finds_the_head() -> None:
    organisms = [organism_of(seed) for seed in SEEDS]
    found = []
    for organism in organisms:
        result = patch(organism, organism.pairs(6), sites=("mlp_out", "z"), resamples=100).data
        mlp, heads = np.abs(result["effect"]).mean("pair"), np.abs(result["effect_heads"]).mean("pair")
        values = np.concatenate([heads.values.ravel(), mlp.sel(site="mlp_out").values])
        np.testing.assert_allclose(values, swept(organism), atol=1e-5)
        found.append(strongest(values))
    assert rank_one(found, organisms) >= 0.95


def test_patch_marks_the_head_and_says_how_large_it_is() -> None:
    organism = organism_of(7)
    result = patch(organism, organism.pairs(24), sites=("z",), resamples=200).data
    here = {"layer": organism.truth["layer"], "head": organism.truth["head"]}
    assert bool(result["marked_heads"].sel(here))
    assert 0.6 < float(result["low_heads"].sel(here)) < float(result["high_heads"].sel(here)) < 1.4
    assert float(np.abs(result["mean_heads"]).max()) == float(result["mean_heads"].sel(here))


def test_path_patching_finds_the_edge_from_the_head_to_the_read_out() -> None:
    organisms = [organism_of(seed) for seed in SEEDS]
    found, edges = [], []
    for organism in organisms:
        result = patch_paths(organism, organism.pairs(4), senders=("head", "mlp"), receivers=("attn", "mlp", "read_out"),
                             resamples=100).data
        direct = np.abs(result["direct"]).mean("pair").sel(sender=COMPONENTS)
        found.append(strongest(direct.values))
        mean = np.abs(result["effect"]).mean("pair")
        best = mean.where(mean == mean.max(), drop=True)
        edges.append((best["sender"].item(), best["receiver"].item()))
    assert rank_one(found, organisms) >= 0.95
    right = [edge == (organism.truth["component"], "read_out") for edge, organism in zip(edges, organisms, strict=True)]
    assert np.mean(right) >= 0.95


def test_agreement_and_attribution_find_the_head() -> None:
    organisms = [organism_of(seed) for seed in SEEDS]
    found: dict[str, list[str]] = {"attribution": [], "direct": [], "total": []}
    for organism in organisms:
        result = agreement(organism, organism.pairs(4), sequences=False, resamples=100, permutations=19).data
        for name, names in found.items():
            names.append(strongest(np.abs(result[name]).mean("pair").sel(component=COMPONENTS).values))
        ledger = attribute(organism, organism.pairs(4), resamples=100).data["difference"]
        assert strongest(np.abs(ledger).mean("pair").sel(component=COMPONENTS).values) == found["attribution"][-1]
    assert {name: rank_one(names, organisms) >= 0.95 for name, names in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize("method", ["attribution", "integrated", "atp_star"])
def test_estimates_find_the_head(method: str) -> None:
    """Estimates alone, before any of them is checked."""
    organisms = [organism_of(seed) for seed in SEEDS]
    found = []
    for organism in organisms:
        result = estimate_effects(organism, organism.pairs(4), sites=("mlp_out", "z"), method=method, steps=4, budget=0,
                                  top=0, sample=2, resamples=100).data
        mlp, heads = np.abs(result["effect"]).mean("pair"), np.abs(result["effect_heads"]).mean("pair")
        found.append(strongest(np.concatenate([heads.values.ravel(), mlp.sel(site="mlp_out").values])))
    assert rank_one(found, organisms) >= 0.95


@pytest.fixture(scope="module")
def nulls() -> list[Organism]:
    return [noise(seed) for seed in SEEDS]


def test_in_the_null_the_grade_is_that_of_chance(nulls: list[Organism]) -> None:
    """The same grading, held against the place that the same seed would have planted; chosen wins about half the time."""
    found = [strongest(swept(organism, 4)) for organism in nulls]
    assert rank_one(found, [organism_of(seed) for seed in SEEDS]) <= 0.25  # chance: 1 of 20; seven of 24 would be p < 0.001
    wins = [np.mean(organism.score(organism.pairs(40)).margin > 0) for organism in nulls]
    assert abs(np.mean(wins) - 0.5) < 0.1
    assert all(organism.truth == {} for organism in nulls)


def test_patch_marks_nothing_in_the_null(nulls: list[Organism]) -> None:
    marked = []
    for organism in nulls[:12]:
        result = patch(organism, organism.pairs(16), sites=("mlp_out", "z"), resamples=100).data
        marked.append(bool(result["marked"].any()) or bool(result["marked_heads"].any()))
    assert np.mean(marked) <= 0.25  # 5 % of families are allowed one
