"""The benchmarks run, compare like with like, and their clocks and tables do the arithmetic they say. No speed is asserted:
it is measured by people, as ratios, on machines they know."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.harness.limits import limit
from benchmarks.harness.models import Shape
from benchmarks.harness.tables import judged, table
from benchmarks.harness.timing import Ratio, interleave

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[str, dict]:
    """What a run at toy sizes, without the peer, prints and writes."""
    out = tmp_path_factory.mktemp("results")
    done = subprocess.run([sys.executable, "benchmarks/scoring.py", "--smoke", "--peer", "none", "--out", str(out)],
                          cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    (numbers,) = out.glob("scoring-*-cpu.json")
    (page,) = out.glob("scoring-*-cpu.md")
    assert page.read_text(encoding="utf-8") == done.stdout.removesuffix("\n")
    return done.stdout, json.loads(numbers.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_ratio_is_printed_in_order_of_size(smoke):
    text, found = smoke
    triples = re.findall(r"(\d+\.\d\d) / (\d+\.\d\d) / (\d+\.\d\d)", text)
    assert len(triples) == 2 * len(found["ratios"])
    assert all(float(low) <= float(middle) <= float(high) for low, middle, high in triples)
    asked = ("scoring", "tracing", "lens + attribution")
    assert {name for name in asked for row in found["ratios"] if row["name"].startswith(name)} == set(asked)


@pytest.mark.slow
def test_both_sides_compute_the_same(smoke):
    *differences, tokens = smoke[1]["checks"].values()
    assert len(differences) == 3
    assert max(differences) < 1e-5
    assert tokens is True


@pytest.fixture(scope="module")
def patching(tmp_path_factory) -> dict:
    """The same of the patching sweeps."""
    out = tmp_path_factory.mktemp("results")
    subprocess.run([sys.executable, "benchmarks/patching.py", "--smoke", "--peer", "none", "--out", str(out)], cwd=ROOT,
                   check=True, stdout=subprocess.DEVNULL)
    (numbers,) = out.glob("patching-*-cpu.json")
    assert str(ROOT) not in numbers.read_text(encoding="utf-8")
    return json.loads(numbers.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_sweeps_agree_with_hooks_and_say_who_did_not_run(patching):
    differences = [value for name, value in patching["checks"].items() if name.endswith("largest difference to hooks")]
    assert len(differences) == 4
    assert max(differences) < 1e-5
    assert min(value for name, value in patching["checks"].items() if "largest effect" in name) > 1e-3
    absent = {row["name"].split(": ")[-1] for row in patching["ratios"] if row.get("missing") == "not run: left out"}
    assert absent == {"transformer-lens 4.3.0 / rewarden", "nnsight 0.8.1 / rewarden", "pyvene 0.1.8 / rewarden",
                      "reward-lens 1.0.0"}
    assert all({"min", "median", "max"} <= set(row["cpu"]) for row in patching["ratios"] if "missing" not in row)


@pytest.mark.slow
def test_no_sweep_does_less_than_its_light_cones_hold(patching):
    work = {row["name"]: row["value"] for row in patching["counts"]}
    assert all(value >= 1 for name, value in work.items() if name.endswith("what is known of sublayer outputs"))


def test_the_limit_of_one_edit_is_its_light_cone():
    shape = Shape(layers=4, width=8, heads=2, kv_heads=2, inner=12)
    share = shape.key_share()
    assert share == 3 * 64 / (4 * 64 + 3 * 8 * 12)
    first = ("resid_pre", 1, 6, None)  # 4 of 10 positions, two whole layers above its own input, then the last
    assert limit([first], shape, 10) == pytest.approx(2 * 4 + 3 * share + 1)
    assert limit([("mlp_out", 0, 6, None)], shape, 10, late=True) == pytest.approx(limit([first], shape, 10))
    assert limit([("attn_out", 3, 6, None)], shape, 10) == limit([first], shape, 10, shared=7) == 0
    assert limit([("z", 3, 9, 1)], shape, 10) == limit([("resid_pre", 3, 9, None)], shape, 10) == 1


@pytest.mark.slow
def test_machine_versions_and_memory_are_told(smoke):
    text, found = smoke
    assert {"processor", "cores", "python", "torch", "transformers", "rewarden"} <= set(found["machine"])
    assert all(value in text for value in found["machine"].values())
    assert [row["work"] for row in found["memory"]] == ["lens: lens + attribution"]
    assert str(ROOT) not in text + json.dumps(found)


def test_functions_take_turns_and_ratios_are_per_repetition():
    calls: list[str] = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # one warm-up each, then both orders
    assert {clock: {name: len(values) for name, values in by.items()} for clock, by in seconds.items()} == {
        clock: {"a": 3, "b": 3} for clock in ("wall", "cpu")}
    assert Ratio.of([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == Ratio(2.0, 3.0, 4.0)


@pytest.mark.parametrize(("target", "wall", "cpu", "expected"), [
    ("<= 2.6", 2.6, 2.1, "met"), ("<= 2.6", 2.7, 2.61, "missed"), (">= 0.95", 0.95, 1.2, "met"), ("", 9.0, 9.0, ""),
    (">= 0.95", 0.9, 0.97, "met by processor time, missed by wall clock"),
])
def test_targets_are_judged_by_the_medians(target, wall, cpu, expected):
    assert judged({"target": target, "wall": {"median": wall}, "cpu": {"median": cpu}}) == expected


def test_tables_are_markdown():
    assert table(["x", "long"], [["123", "4"]]) == "| x   | long |\n|-----|------|\n| 123 | 4    |"


@pytest.mark.slow
def test_the_accelerators_benchmark_runs_at_toy_sizes():
    done = subprocess.run([sys.executable, "benchmarks/patching_gpu.py", "--smoke"], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    assert (found["read-out sweep"]["sites"], found["half-shared sweep"]["sites"]) == (2 * (3 + 4), 3 * 2 * 24)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> dict:
    """The same of scans, phrases and search steps."""
    out = tmp_path_factory.mktemp("results")
    subprocess.run([sys.executable, "benchmarks/vocabulary.py", "--smoke", "--out", str(out)], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    (numbers,) = out.glob("vocabulary-*-cpu.json")
    assert str(ROOT) not in numbers.read_text(encoding="utf-8")
    return json.loads(numbers.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_scans_phrases_and_steps_are_those_of_whole_rows(vocabulary):
    differences = {name: value for name, value in vocabulary["checks"].items() if "largest difference" in name}
    assert len(differences) == 2 + 1 + 2 * 4
    assert max(differences.values()) < 1e-5
    spread, same = (value for name, value in vocabulary["checks"].items() if name not in differences)
    assert spread > 0.1
    assert same is True
    assert [row["work"].split(": ")[-1] for row in vocabulary["memory"]] == ["rewarden", "rewarden"]
    assert all(0 < row["cpu"]["min"] <= row["cpu"]["median"] <= row["cpu"]["max"] for row in vocabulary["ratios"])


@pytest.mark.slow
def test_one_batch_of_each_kind_carries_the_target(vocabulary, in_benchmarks):
    script = in_benchmarks("vocabulary")
    names = [row["name"] for row in vocabulary["ratios"]]
    assert {row["target"] for row in vocabulary["ratios"]} == {""}  # none at toy sizes
    assert sum("search step" in name and name.endswith("/ rewarden") for name in names) == 2 * 4
    seconds = {"cpu": {"a": [3.0, 9.0, 1.0], "b": [2.0, 2.0, 8.0]}}
    assert script.fastest(seconds, ["a", "b"]) == "b"


@pytest.mark.slow
def test_the_accelerators_scan_runs_at_toy_sizes_and_counts_the_weights(in_benchmarks):
    done = subprocess.run([sys.executable, "benchmarks/vocabulary_gpu.py", "--smoke", "--peak", "2"], cwd=ROOT, check=True,
                          text=True, stdout=subprocess.PIPE)
    scan = json.loads(done.stdout)["scan, base run included"]
    assert scan["fraction of the stated peak"] == pytest.approx(scan["TFLOP/s"] / 2)
    assert scan["candidates per second"] * scan["seconds"] == pytest.approx(486)
    shape, models = Shape(layers=3, width=32, heads=4, kv_heads=2, inner=48), in_benchmarks("harness.models")
    layers = models.random_model(shape).model.layers
    weights = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    work = in_benchmarks("vocabulary_gpu").work
    assert work(shape, 5, 1) == pytest.approx(2e-12 * 5 * weights)  # one token goes through everything
    behind = weights / 3 * (2 + shape.key_share())  # one before it leaves its key and value in the last layer
    assert work(shape, 5, 2) - work(shape, 5, 1) == pytest.approx(2e-12 * 5 * behind)


@pytest.fixture
def in_benchmarks(monkeypatch):
    """Imports a module as the scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_a_cache_that_is_cropped_back_gives_what_whole_rows_give(in_benchmarks):
    models, tokens = in_benchmarks("harness.models"), in_benchmarks("harness.tokens")
    model = models.random_model(models.Shape(2, 32, 4, 2, 48)).requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    before, responses, after = (torch.randint(6, 480, size, generator=draw) for size in ((7,), (10, 3), (2,)))
    with torch.no_grad():
        expected = torch.cat([model(torch.cat([before, row, after])[None]).logits[0] for row in responses])
    assert torch.allclose(tokens.whole(model, tokens.rows_of(before, responses, after), 4), expected, atol=1e-5)
    rest = tokens.rows_of(before[:0], responses, after)
    for expanded in (tokens.Expanded(model, before), tokens.Expanded(model, before, anew=True)):
        for batch in (4, 10, 4):  # the last batch of four has two rows; the second time its cache has been used
            assert torch.allclose(expanded(rest, batch), expected, atol=1e-5)
