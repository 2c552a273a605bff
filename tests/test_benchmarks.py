"""The benchmarks run, compare like with like, and their clocks and tables do the arithmetic they say. No speed is asserted:
it is measured by people, as ratios, on machines they know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
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
