"""Result: bit-exact files, tidy tables, strict JSON, an escaped notebook view, and refusals that name the file."""

from __future__ import annotations

import copy
import dataclasses
import html
import json
import math
import os
from html.parser import HTMLParser

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rewarden.errors import RewardenError
from rewarden.result import Result

HOSTILE = ["", " ", "\0", "a\0b\0", "\ufeff", "é\u0301", "<script>alert(1)</script>", "日本", "\r\n\t", "x" * 70_000,
           "\U0001f600", '"quoted\\', "\x1b[31m", "\uffff"]


def example() -> Result:
    """Every type a result may hold, with the awkward values of each."""
    n = len(HOSTILE)
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(n, 2)).astype(np.float32)
    floats[0] = [np.nan, -0.0]
    floats[1] = [np.inf, -np.inf]
    data = xr.Dataset(
        {
            "reward": (("pair", "side"), floats, {"unit": "reward", "nested": {"a": [1, None]}}),
            "double": ("pair", rng.normal(size=n) * 1e-300),
            "half": ("layer", np.array([0.5, np.nan, 6e-8], dtype=np.float16)),
            "finite": (("pair", "side"), rng.random((n, 2)) > 0.5),
            "tokens": ("pair", np.full(n, 2**62, dtype=np.int64)),
            "small": ("layer", np.array([0, 255, 7], dtype=np.uint8)),
            "day": ("layer", np.array(["2020-01-01", "NaT", "1969-12-31"], dtype="datetime64[ns]")),
            "note": ("layer", np.array(["", "ä", "long text"])),
            "surrogates": ("layer", np.array(["\ud800", "", "\udfff\0ä"])),
            "nothing": ("empty", np.array([], dtype="<U3")),
            "scalar": ((), np.float64(math.pi)),
            "text": ((), np.array("one", dtype=object)),
        },
        # numpy itself drops NUL at the end of fixed-width text, so these arrays hold objects
        coords={"pair": np.array(HOSTILE, dtype=object), "side": ["chosen", "rejected"],
                "layer": np.array([-1, 0, 1], dtype=np.int32),
                "subset": ("pair", np.array(["s"] * n)),
                "kind": ("layer", np.array(["", "mlp", "head"], dtype=object))},
        attrs={"about": "é\0", "n": 3},
    )
    return Result("score", data, {"model": "demo \0 <b>", "seed": 7, "sd": 0.1 + 0.2, "flag": True, "nan": math.nan},
                  exact=False, noise_floor=1e-7, warnings=("first & last", ""))


def assert_same(a: xr.Dataset, b: xr.Dataset) -> None:
    """Equal names, order, axes, dtypes, bits, coordinates and attributes."""
    assert list(a.data_vars) == list(b.data_vars)
    assert list(a.coords) == list(b.coords)
    assert a.attrs == b.attrs
    for name in a.variables:
        x, y = a[name].variable, b[name].variable
        assert (x.dims, x.dtype, x.attrs) == (y.dims, y.dtype, y.attrs), name
        if x.dtype == object:
            assert x.values.tolist() == y.values.tolist(), name
        else:
            assert x.values.tobytes() == y.values.tobytes(), name


def test_file_gives_everything_back_bit_for_bit(tmp_path):
    result = example()
    loaded = Result.load(result.save(tmp_path / "score.nc"))
    assert_same(result.data, loaded.data)
    assert math.isnan(loaded.provenance["nan"])
    assert {k: v for k, v in loaded.provenance.items() if k != "nan"} == {
        "model": "demo \0 <b>", "seed": 7, "sd": 0.1 + 0.2, "flag": True}
    assert [type(v) for v in loaded.provenance.values()] == [str, int, float, bool, float]
    assert (loaded.kind, loaded.exact, loaded.noise_floor, loaded.warnings) == (
        "score", False, 1e-7, ("first & last", ""))
    assert os.listdir(tmp_path) == ["score.nc"]


@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint16, np.int64, np.bool_]),
                  hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
       st.lists(st.text(st.characters(exclude_categories=())), max_size=5), st.lists(st.text(), max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_array_and_any_text_survive(tmp_path_factory, values, texts, valid):
    path = tmp_path_factory.mktemp("any") / "a.nc"
    dims = [f"d{i}" for i in range(values.ndim)]
    # Text that is no Unicode (lone surrogates) can only be held at fixed width: pandas refuses it in objects.
    data = xr.Dataset({"values": (dims, values), "texts": ("t", np.array(texts, dtype=np.str_)),
                       "objects": ("o", np.array(valid, dtype=object))})
    assert_same(data, Result.load(Result("any", data).save(path)).data)


def test_file_is_netcdf_for_other_tools(tmp_path):
    result = example()
    path = result.save(tmp_path / "a.nc")
    with xr.open_dataset(path, engine="h5netcdf") as other:
        np.testing.assert_array_equal(other["reward"].values, result.reward)
        assert other["note"].values.tolist() == ["", "ä", "long text"]
    with h5py.File(path) as raw:
        assert raw["tokens"][0] == 2**62


def test_same_result_same_bytes(tmp_path):
    a, b = (example().save(tmp_path / name).read_bytes() for name in ("a.nc", "b.nc"))
    assert a == b


def test_torn_changed_foreign_and_missing_files_are_named(tmp_path):
    path = example().save(tmp_path / "a.nc")
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = {
        **{f"cut{n}": content[:n] for n in (0, 1, 8, 100, len(content) // 2, len(content) - 1)},
        **{f"flip{at}": content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]
           for at in rng.integers(len(content), size=60)},
        "longer": content + b"\n", "text": b"margin\n1.5\n", "zeros": bytes(len(content)),
    }
    for name, bad in broken.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(RewardenError) as caught:
            Result.load(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        told = "SHA-256 is " if name.startswith("flip") else f"its last line holds no checksum ({len(bad)} bytes)"
        assert caught.value.why.startswith(told)
        assert caught.value.fix == "compute the result again"
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    for other in ("foreign.nc", "missing.nc", "."):
        with pytest.raises(RewardenError):
            Result.load(tmp_path / other)


def test_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rewarden.result.FORMAT", 2)
    path = example().save(tmp_path / "a.nc")
    monkeypatch.undo()
    with pytest.raises(RewardenError, match="newer rewarden"):
        Result.load(path)


def test_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = example().save(tmp_path / "a.nc")
    before = path.read_bytes()
    refused = {"complex": np.array([1j]), "object": np.array([{}], dtype=object), "mixed": np.array(["a", 1], object),
               "a/b": np.array([1.0])}
    for name, values in refused.items():
        with pytest.raises(RewardenError):
            Result("bad", xr.Dataset({name: ("x", values)})).save(path)
    with pytest.raises(RewardenError):
        Result("bad", xr.Dataset({"a": 1}, attrs={"f": print})).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.nc"]
    with pytest.raises(RewardenError, match=r"cannot write b\.nc"):
        example().save(tmp_path / "no such folder" / "b.nc")


def test_arrays_by_name_and_a_list_of_names_otherwise():
    result = example()
    np.testing.assert_array_equal(result.double, result.data["double"].values)
    np.testing.assert_array_equal(result.layer, [-1, 0, 1])
    assert result.kind == "score"  # a field wins over the coordinate of that name
    with pytest.raises(RewardenError) as caught:
        _ = result.margins
    assert "reward, double" in caught.value.why
    assert not hasattr(result, "margins")
    assert not hasattr(result, "_ipython_display_")
    assert copy.deepcopy(result).noise_floor == 1e-7
    assert dataclasses.replace(result, kind="lens").kind == "lens"


def test_provenance_holds_simple_values_only():
    clean = Result("a", xr.Dataset(), {"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(True)}).provenance
    assert [(k, type(v)) for k, v in clean.items()] == [("n", int), ("x", float), ("b", bool)]
    with pytest.raises(RewardenError, match="layers, none"):
        Result("a", xr.Dataset(), {"layers": [1], "none": None})
    with pytest.raises(RewardenError, match="needs an xarray Dataset"):
        Result("a", {"x": 1})


def test_frame_is_one_row_a_cell():
    data = xr.Dataset(
        {"reward": (("pair", "side"), np.arange(6.0).reshape(3, 2)),
         "tokens": (("side", "pair"), np.arange(6).reshape(2, 3)),
         "margin": ("pair", [1.0, np.nan, 3.0]), "total": ((), 9.0)},
        coords={"pair": ["a", "a", "b"], "side": ["chosen", "rejected"], "subset": ("pair", ["x", "y", "z"]), "run": 5})
    result = Result("score", data)
    expected = pd.DataFrame(
        [{"pair": data.pair.values[i], "side": data.side.values[j], "subset": data.subset.values[i], "run": 5,
          "reward": float(data.reward[i, j]), "tokens": int(data.tokens[j, i])} for i in range(3) for j in range(2)])
    pd.testing.assert_frame_equal(result.frame(), expected, check_dtype=False)
    pd.testing.assert_frame_equal(
        result.frame("margin"), check_dtype=False, right=pd.DataFrame(
            {"pair": ["a", "a", "b"], "subset": ["x", "y", "z"], "run": [5] * 3, "margin": [1.0, np.nan, 3.0]}))
    assert result.frame("total").to_dict("list") == {"run": [5], "total": [9.0]}
    assert result.frame("reward").reward.dtype == np.float64
    with pytest.raises(RewardenError, match="no 'margins'"):
        result.frame("margins")
    with pytest.raises(RewardenError, match="no variables"):
        Result("none", xr.Dataset()).frame()


def test_frame_agrees_with_xarray():
    data = example().data[["reward", "finite"]]
    peer = data.to_dataframe(dim_order=["pair", "side"]).reset_index()
    ours = Result("score", data).frame()
    for name in ("reward", "finite", "subset", "side", "pair"):
        assert repr(ours[name].tolist()) == repr(peer[name].tolist())


def test_summary_is_strict_json_of_the_finite_values():
    result = example()
    summary = json.loads(result.to_json(), parse_constant=pytest.fail)
    assert summary == result.summary()
    finite = result.reward[np.isfinite(result.reward)].astype(float)
    found = summary["variables"]["reward"]
    assert (found["dims"], found["dtype"], found["count"], found["missing"]) == (["pair", "side"], "float32", 28, 3)
    moments = [finite.mean(), finite.std(ddof=1), finite.min(), finite.max()]
    assert [found[k] for k in ("mean", "sd", "min", "max")] == moments
    assert summary["variables"]["nothing"]["count"] == 0
    assert summary["variables"]["note"]["distinct"] == 3
    assert (summary["provenance"]["nan"], summary["provenance"]["seed"]) == ("nan", 7)
    full = json.loads(result.to_json(values=True), parse_constant=pytest.fail)
    assert full["values"]["reward"][0] == [None, 0.0]
    assert full["values"]["reward"][2] == result.reward[2].astype(float).tolist()
    assert full["coords"]["pair"] == HOSTILE
    assert (full["values"]["text"], full["values"]["scalar"]) == ("one", math.pi)


class Tags(HTMLParser):
    """Collects tags, attributes and text of a fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.text, self.attributes = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def test_notebook_view_shows_hostile_text_as_text():
    bad = "<img src=x onerror=alert(1)>&<script>"
    data = xr.Dataset({bad: (("<i>",), [1.0, 3.0]), "text": ("x", [bad])})
    shown = Tags()
    shown.feed(Result(bad, data, {bad: bad, "model": bad}, warnings=(bad,))._repr_html_())
    assert shown.tags == {"div", "p", "b", "table", "tr", "th", "td", "details", "summary"}
    assert shown.attributes == []
    text = "".join(shown.text)
    assert text.count(bad) == 6  # kind, warning, variable, provenance key and two values
    assert "<i> 2" in shown.text  # its axis
    for number in ("2", "1.414", "1", "3"):  # mean, sd, min, max
        assert number in shown.text
    assert html.escape(bad) not in text


def test_repr_is_one_short_line():
    result = Result("score", xr.Dataset({"margin": ("pair", [1.0])}), {"model": "m"}, exact=False, warnings=("w",))
    assert repr(result) == "Result('score', margin[pair 1], model='m', estimate, 1 warnings)"
    assert repr(Result("none", xr.Dataset())) == "Result('none', exact)"
