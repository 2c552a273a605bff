"""Estimated effects: exact where the model is affine, measured where it is not, and replaced by the truth where it is cheap."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr
from tests.families import build
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits.gradients import dropped_gradients, run_gradients
from rewarden.errors import RewardenError
from rewarden.options import EstimateOptions, PatchOptions, resolve
from rewarden.patching.estimates import estimate_effects
from rewarden.patching.sweep import patch
from rewarden.patching.verification import Verified, measured
from rewarden.result import Result
from rewarden.reward_model import RewardModel

PAIRS = [Pair("what is the capital of France?", "Paris.", "it is a red dog, and you should not question it"),
         Pair("help me please", "sorry, I can not help you with this", "yes."),
         Pair("Tell me a joke", "it is very red", "no one can see")]
EQUAL = PAIRS[2]  # both sides have as many tokens
FAST = {"resamples": 200}
SITES = ("resid_pre", "attn_out", "mlp_out", "z")

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def llama() -> RewardModel:
    return RewardModel(build("llama"), tiny_tokenizer())


class Ones(torch.nn.Module):
    """An activation that makes a gated MLP linear."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(hidden)


@cache
def linear(layers: int, attending: bool) -> RewardModel:
    """A Llama without norms and with linear MLPs; without `attending` every head takes the mean of what it may read."""
    model = build("llama", num_hidden_layers=layers)
    trunk = model.model
    del trunk._modules["norm"]
    trunk.norm = lambda hidden: hidden
    for layer in trunk.layers:
        layer.input_layernorm = layer.post_attention_layernorm = torch.nn.Identity()
        layer.mlp.act_fn = Ones()
        layer.self_attn.q_proj.weight.mul_(400 if attending else 0)
    return RewardModel(model, tiny_tokenizer())


def effects_of(result: Result) -> list[str]:
    return [str(name) for name in result.data.data_vars if str(name) == "effect" or str(name).startswith("effect_")]


@pytest.mark.parametrize("positions", ["read_out", "each", "all"])
@pytest.mark.parametrize("mode", ["noising", "denoising", "zero", "mean", "resample"])
@pytest.mark.parametrize("method", ["attribution", "integrated"])
def test_in_an_affine_model_estimates_are_effects(positions: str, mode: str, method: str) -> None:
    rm, sites = linear(3, False), (*SITES, "embed", "resid_post", "v")
    asked = {"positions": positions, "mode": mode, **FAST}
    found = estimate_effects(rm, PAIRS, sites, method=method, budget=0, steps=2, **asked)
    exact = patch(rm, PAIRS, sites, **asked)
    assert found.exact is False
    assert effects_of(found) == effects_of(exact)
    for name in effects_of(exact):
        assert found.data[name].dims == exact.data[name].dims
        np.testing.assert_allclose(found.data[name], exact.data[name], rtol=1e-3, atol=1e-5)
    assert float(found.data["rank_correlation"]) > 0.99
    assert float(found.data["error"]) < 1e-3


@pytest.mark.parametrize("positions", ["read_out", "each", "all"])
@pytest.mark.parametrize("mode", ["noising", "zero"])
def test_new_queries_and_keys_are_exact_where_only_attention_bends(positions: str, mode: str) -> None:
    rm = linear(1, True)
    asked = {"positions": positions, "mode": mode, "sites": ("q", "k", "v"), **FAST}
    fixed, plain = (estimate_effects(rm, PAIRS, method=method, budget=0, **asked) for method in ("atp_star", "attribution"))
    exact = patch(rm, PAIRS, **asked)
    for name in effects_of(exact):
        np.testing.assert_allclose(fixed.data[name], exact.data[name], rtol=1e-3, atol=1e-6)
    for name in ("effect_q", "effect_k"):  # and the softmax did bend
        assert np.nanmax(np.abs(plain.data[name] - exact.data[name])) > 0.3 * np.nanmax(np.abs(exact.data[name]))


def test_attribution_is_difference_times_gradient() -> None:
    rm = llama()
    found = estimate_effects(rm, EQUAL, SITES, positions="each", budget=0, **FAST).data.isel(pair=0)
    base, source = (rm.base(side, SITES[1:]) for side in EQUAL.conversations)
    gradients = run_gradients(base, SITES)
    assert base.length == source.length
    for layer in range(3):
        for kind in SITES:
            change = source.activation(kind, layer) - base.activation(kind, layer)
            expected = -(change * gradients.at(kind, layer)).sum(-1).numpy()
            mine = found["effect_heads"][layer].values.T if kind == "z" else found["effect"].sel(site=kind)[layer].values
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)


def test_graddrop_is_the_mean_size_past_each_layer() -> None:
    rm = llama()
    found = estimate_effects(rm, EQUAL, SITES, method="atp_star", positions="each", budget=0, **FAST).data.isel(pair=0)
    base, source = (rm.base(side, SITES[1:]) for side in EQUAL.conversations)
    whole, *dropped = dropped_gradients(base, SITES)
    for layer in range(3):
        for kind, divisor in (("resid_pre", 3), ("attn_out", 2), ("z", 2)):
            change = source.activation(kind, layer) - base.activation(kind, layer)
            size = sum((change * one.at(kind, layer)).sum(-1).abs() for one in dropped) / divisor
            expected = (-size * (change * whole.at(kind, layer)).sum(-1).sign()).numpy()
            mine = found["effect_heads"][layer].values.T if kind == "z" else found["effect"].sel(site=kind)[layer].values
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_sum_to_the_margin() -> None:
    rm, asked = llama(), {"sites": "resid_pre", "method": "integrated", "positions": "each", "budget": 0, **FAST}
    margin = rm.score(EQUAL).margin[0]
    errors = [abs(float(estimate_effects(rm, EQUAL, steps=steps, **asked).data["effect"].isel(layer=0).sum()) - margin)
              for steps in (1, 8, 64)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3 * abs(margin)
    for pair in PAIRS[:2]:  # unequal lengths: the sum is the effect of the site at all positions with a counterpart
        total = estimate_effects(rm, pair, steps=64, **asked).data["effect"].isel(layer=0).sum()
        together = patch(rm, pair, "resid_pre", positions="all", **FAST).data["effect"].isel(layer=0)
        assert total.item() == pytest.approx(together.item(), rel=2e-2)


def test_the_budget_decides() -> None:
    rm, asked = llama(), {"sites": SITES, "positions": "each", "pairs": PAIRS[:1], **FAST}
    truth = patch(rm, **asked)
    found = estimate_effects(rm, budget=0, **asked)
    cost = truth.provenance["forwards"] - 2  # less the runs of both sides
    assert found.provenance["forwards_exact"] == pytest.approx(truth.provenance["forwards"])
    enough, short = (estimate_effects(rm, budget=cost + more, **asked) for more in (1e-3, -1e-3))
    assert enough.exact is True
    assert enough.kind == "estimate"
    xr.testing.assert_identical(enough.data, truth.data)
    assert enough.provenance["forwards_exact"] == enough.provenance["forwards"] == truth.provenance["forwards"]
    assert short.exact is False
    xr.testing.assert_identical(short.data, found.data)
    dearer = found.provenance["forwards"] >= found.provenance["forwards_exact"]
    assert any("would have cost" in warning for warning in found.warnings) == dearer
    few = estimate_effects(rm, PAIRS[:1], "attn_out", budget=0, **FAST)  # three cells: dearer than the truth
    assert few.provenance["forwards"] > few.provenance["forwards_exact"]
    assert any("raise budget=" in warning for warning in few.warnings)


def test_pairs_within_the_budget_are_exact_beside_pairs_beyond_it() -> None:
    rm, asked = llama(), {"sites": SITES, "positions": "each", **FAST}
    truth = patch(rm, PAIRS, **asked)
    costs = [patch(rm, pair, **asked).provenance["forwards"] - 2 for pair in PAIRS]
    middle = float(np.sort(costs)[1]) + 1e-3  # provenance is rounded
    found = estimate_effects(rm, PAIRS, budget=middle, **asked)
    beyond = np.asarray(costs) > middle
    assert beyond.sum() == 1
    np.testing.assert_array_equal(found.data["screened"], beyond)
    for name in effects_of(truth):
        np.testing.assert_array_equal(found.data[name][~beyond], truth.data[name][~beyond])
        assert not np.array_equal(found.data[name][beyond], truth.data[name][beyond], equal_nan=True)
    assert set(found.data["cell_pair"].values) == set(found.data["pair"].values[beyond])


@cache
def screened(seed: int = 0) -> tuple[Result, Result]:
    asked = {"sites": SITES, "positions": "each", **FAST}
    return (estimate_effects(llama(), PAIRS, budget=0, top=7, sample=30, seed=seed, **asked),
            patch(llama(), PAIRS, **asked))


def cells(found: Result, variables: xr.Dataset) -> np.ndarray:
    """Values of a Result's effects at the verified cells, one by one."""
    values = []
    for cell in range(found.data.sizes["cell"]):
        at = {name: found.data[f"cell_{name}"].values[cell] for name in ("pair", "site", "layer", "head", "position")}
        held = variables[str(found.data["cell_variable"].values[cell])]
        values.append(float(held.sel({name: value for name, value in at.items() if name in held.dims})))
    return np.asarray(values)


def test_verified_cells_hold_the_exact_effects() -> None:
    found, truth = screened()
    np.testing.assert_allclose(found.data["exact_effect"], cells(found, truth.data), atol=1e-5)
    np.testing.assert_array_equal(found.data["estimate"], cells(found, found.data))
    for pair in found.data["pair"].values:
        mine = found.data["cell_pair"].values == pair
        assert (found.data["drawn"].values[mine] == "top").sum() == 7
        assert (found.data["drawn"].values[mine] == "random").sum() == 30
        every = np.concatenate([np.abs(found.data[name].sel(pair=pair).values).ravel() for name in effects_of(found)])
        top = found.data["estimate"].values[mine & (found.data["drawn"].values == "top")]
        np.testing.assert_array_equal(np.sort(np.abs(top)), np.sort(every[np.isfinite(every)])[-7:])


def test_statistics_are_those_of_the_random_cells() -> None:
    data = screened()[0].data
    random = data["drawn"].values == "random"
    estimate, exact = data["estimate"].values[random], data["exact_effect"].values[random]
    floor = screened()[0].noise_floor
    assert int(data["sampled"]) == random.sum() == 90
    assert float(data["rank_correlation"]) == pytest.approx(spearmanr(estimate, exact)[0])
    large = np.abs(exact) > floor
    assert float(data["sign_agreement"]) == pytest.approx((estimate * exact > 0)[large].mean())
    assert float(data["error"]) == pytest.approx(np.abs(estimate - exact).mean() / np.abs(exact).mean())
    outside = sum(rest * np.abs(data["exact_effect"].values[random & (data["cell_pair"].values == pair)]).mean()
                  for pair, rest in zip(data["pair"].values, data["rest"].values, strict=True))
    top = np.abs(data["exact_effect"].values[~random]).sum()
    assert float(data["missed_mass"]) == pytest.approx(outside / (outside + top))
    for name in ("rank_correlation", "sign_agreement", "error", "missed_mass"):
        assert float(data[f"{name}_low"]) < float(data[name]) < float(data[f"{name}_high"])


def test_missed_mass_estimates_what_lies_outside_the_top() -> None:
    found, truth = screened()
    total = sum(float(np.abs(truth.data[name]).sum()) for name in effects_of(truth))
    top = np.abs(found.data["exact_effect"].values[found.data["drawn"].values == "top"]).sum()
    assert float(found.data["missed_mass_low"]) < 1 - top / total < float(found.data["missed_mass_high"])
    for index, rest in enumerate(found.data["rest"].values):  # cells that may change the read-out
        moved = sum((np.abs(truth.data[name][index].values) > 0).sum() for name in effects_of(truth))
        assert moved <= rest + 7
    # 30 draws that all miss a share s of the cells have probability (1 − s)^30 = 0.05
    np.testing.assert_allclose(found.data["share_larger"], 1 - 0.05 ** (1 / 30))


def test_the_draw_follows_the_seed() -> None:
    again = estimate_effects(llama(), PAIRS, SITES, positions="each", budget=0, top=7, sample=30, **FAST)
    xr.testing.assert_identical(again.data, screened()[0].data)
    other = screened(seed=1)[0].data
    assert not np.array_equal(other["estimate"].values[other["drawn"].values == "random"],
                              again.data["estimate"].values[again.data["drawn"].values == "random"])


def test_only_verified_cells_are_set_beside_the_noise() -> None:
    found, truth = screened()
    for name in effects_of(found):
        suffix = name.removeprefix("effect")
        verified, below, above = (found.data[f"{mark}{suffix}"].values for mark in ("verified", "below_noise", "above_noise"))
        exact = np.abs(truth.data[name].values)
        assert not (below | above)[~verified].any()
        np.testing.assert_array_equal((below | above)[verified], True)
        # half a noise floor of slack: both sides are computed in other batches
        assert (exact[above] > 0.5 * found.noise_floor).all()
        assert (exact[below] < 1.5 * found.noise_floor).all()
        untouched = found.data[name].values == 0
        assert (exact[untouched] == 0).all()
        assert verified[untouched].all()
        np.testing.assert_array_equal(np.isnan(found.data[name]), np.isnan(truth.data[name]))
        with np.errstate(invalid="ignore"):
            expected = np.nansum(found.data[name], 0) / np.isfinite(found.data[name].values).sum(0)
        np.testing.assert_allclose(found.data[f"mean{suffix}"], expected)
    assert "marked" not in found.data
    assert "p" not in found.data


@pytest.mark.parametrize("family", ["bert", "bloom"])
def test_families_without_a_light_cone(family: str) -> None:
    rm = RewardModel(build(family), tiny_tokenizer())
    found = estimate_effects(rm, PAIRS[:2], "resid_pre", positions="each", budget=0, sample=20, top=5, **FAST)
    truth = patch(rm, PAIRS[:2], "resid_pre", positions="each", **FAST)
    np.testing.assert_allclose(found.data["exact_effect"], cells(found, truth.data), atol=1e-5)
    # the last layer of an encoder is nearly its read-out, and there a first order must be near
    last = found.data["effect"].isel(layer=-1).values.ravel(), truth.data["effect"].isel(layer=-1).values.ravel()
    moved = np.nan_to_num(last[1]) != 0
    assert spearmanr(last[0][moved], last[1][moved])[0] > 0.6


def test_a_pair_set_apart_has_no_estimates() -> None:
    found = estimate_effects(llama(), PAIRS, "attn_out", alignment="equal_only", budget=0, **FAST)
    assert np.isnan(found.data["effect"][:2]).all()
    assert np.isfinite(found.data["effect"][2]).all()
    assert any("unequal length" in warning for warning in found.warnings)
    assert any("drawn cells only" in warning for warning in found.warnings)
    with pytest.raises(RewardenError, match="no pair has sides of equal length"):
        estimate_effects(llama(), PAIRS[:2], "attn_out", alignment="equal_only")


def test_unrelated_estimates_have_a_rank_correlation_around_zero() -> None:
    inside = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        estimate, exact = generator.standard_normal((2, 40))
        one = Verified(np.arange(40), estimate, exact, np.full(40, True), 400)
        statistics = measured([one], 0.0, EstimateOptions(resamples=200, seed=seed))
        found = {name: float(value) for name, (axes, value) in statistics.items() if not axes}
        inside += found["rank_correlation_low"] < 0 < found["rank_correlation_high"]
        assert found["missed_mass"] == 1.0  # nothing in the top
    assert 0.85 * 60 <= inside < 60


def test_agreement_of_nothing_is_not_a_number() -> None:
    found = estimate_effects(llama(), EQUAL, "attn_out", budget=0, top=99, **FAST).data  # every cell is in the top
    for name in ("rank_correlation", "sign_agreement", "error", "missed_mass"):
        assert np.isnan(found[name])
    assert int(found["rest"][0]) == 0
    assert float(found["share_larger"][0]) == 0


def test_a_result_is_saved_and_loaded(tmp_path: Path) -> None:
    found = screened()[0]
    again = Result.load(found.save(tmp_path / "estimate.nc"))
    xr.testing.assert_identical(again.data, found.data)
    assert again.provenance == found.provenance
    assert (again.exact, again.provenance["method"], again.provenance["edits"]) == (False, "attribution", 111)


def test_options_are_checked_together_with_those_of_patch() -> None:
    with pytest.raises(RewardenError) as error:
        EstimateOptions(method="magic", steps=0, budget=float("nan"))  # type: ignore[arg-type]
    assert all(name in error.value.what for name in ("method", "steps", "budget"))
    with pytest.raises(RewardenError, match="sites"):
        EstimateOptions(sites=("nothing",))
    with pytest.raises(RewardenError, match="did you mean 'method'"):
        estimate_effects(llama(), EQUAL, metod="attribution")
    with pytest.raises(RewardenError, match="not defined for this model"):
        estimate_effects(RewardModel(build("bert"), tiny_tokenizer()), EQUAL, "z")
    shared = resolve(PatchOptions, None, {})
    assert all(getattr(EstimateOptions(), name) == getattr(shared, name) for name in vars(shared))
