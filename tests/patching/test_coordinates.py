"""Exact effects and estimates of the same question lie on the same axes, made by one function."""

from __future__ import annotations

import pytest
import xarray as xr
from tests.patching.by_hand import EQUAL, FAST, LONGER, SHORTER, model_of

from rewarden.options import PatchOptions
from rewarden.patching import estimate_effects, patch
from rewarden.patching.pair import Sweeper
from rewarden.patching.sweep import coordinates_of

PAIRS = [SHORTER, LONGER, EQUAL]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("positions", ["each", "read_out"])
@pytest.mark.parametrize("sites", [("z", "mlp_out", "k"), ("q",), ("v", "resid_post"), ("attn_out",)])
def test_coordinates_are_those_of_the_sweep(sites: tuple[str, ...], positions: str) -> None:
    rm = model_of("llama")
    exact = patch(rm, PAIRS, sites, positions=positions, **FAST).data
    rough = estimate_effects(rm, PAIRS, sites, positions=positions, budget=0, top=3, sample=3, **FAST).data
    own = {axis: size for axis, size in {"site": 1, "layer": 3, "head": 4, "kv_head": 2}.items() if axis in exact.sizes}
    asked = PatchOptions(sites=sites, positions=positions)  # type: ignore[arg-type]  # a parameter
    expected = xr.Dataset(coords=coordinates_of(Sweeper(rm, PAIRS, asked), own)).coords
    assert expected.identical(exact.coords)
    cells = [name for name in rough.coords if str(name).startswith("cell_")]
    assert expected.identical(rough.drop_vars(cells).coords)
    assert {"site": "site" in own, "head": "head" in own, "kv_head": "kv_head" in own} == {
        "site": bool({"mlp_out", "resid_post", "attn_out"} & set(sites)), "head": bool({"z", "q"} & set(sites)),
        "kv_head": bool({"k", "v"} & set(sites))}
