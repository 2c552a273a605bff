"""Boxed expressions: where mechreward's verifier fails, what is equal, and what never ends."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from rewarden.errors import RewardenError
from rewarden.training.verifiers import boxed_math, equality, verify_all


@pytest.mark.parametrize(("completion", "gold"), [
    (r"\boxed{1,234}", "1234"), (r"\boxed{1234}", "1,234"), (r"\boxed{1{,}234}", 1234),  # mechreward: False
    (r"\boxed{\frac{1}{2}}", r"\frac12"), (r"\boxed{\dfrac{1}{2}}", "0.5"), (r"\boxed{1/2}", r"\frac{1}{2}"),  # the same
    (r"first \boxed{1}, then \boxed{2}", "2"),  # the same
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}"), (r"\boxed{(x+1)^2}", "x^2 + 2x + 1"),
    (r"\boxed{\{2, 1\}}", r"\{1, 2\}"), (r"\boxed{[1, 2)}", "[1,2)"), (r"\boxed{(-\infty, 3]}", r"(-\infty,3]"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\boxed{x = 5}", "5"), (r"\boxed{50\%}", "50"), (r"\boxed{5\text{ cm}}", "5"), (r"\boxed{\text{(A)}}", "A"),
    (r"\boxed{\text{east}}", r"\text{east}"), (r"\boxed 7", "7"), (r"$\boxed{2\pi}$.", r"$2\pi$"), (r"\boxed{2} \boxed{3", "2"),
    (r"\boxed{10}", r"We add: $4 + 6 = \boxed{10}$."), (r"\boxed{-3}", -3), (r"\boxed{0.5}", 0.5),
])
def test_equal(completion, gold):
    assert boxed_math()(completion, gold) == 1.0


@pytest.mark.parametrize(("completion", "gold"), [
    (r"\boxed{2}, not \boxed{1}", "2"), ("1234", "1234"), ("$x + 1$", "x + 1"), ("", "1"), ("", "x"), (r"\boxed{}", "1"),
    (r"\boxed{1,235}", "1234"), (r"\boxed{\frac{1}{3}}", "1/2"), (r"\boxed{[1, 2]}", "[1,2)"), (r"\boxed{(2, 1)}", "(1,2)"),
    (r"\boxed{5, 6}", "5"), (r"\boxed{\frac{1}{0}}", "1/2"), (r"\boxed{\frac{1}{", "x"), (r"\boxed{1/0}", "2"),
    (r"\boxed{__import__('os').system('true')}", "x"), (r"\boxed{" + "{" * 900 + "}" * 900 + "}", "x^2"),
    (r"\boxed{" + "x+" * 3000 + "1}", "x"), (r"\boxed{\sqrt{x}", "x"),
    (r"\boxed{" + r"\sqrt{" * 300 + "x" + "}" * 300 + "}", "x"),
])
def test_unequal(completion, gold):
    assert boxed_math(seconds=2)(completion, gold) == 0.0


@pytest.mark.parametrize("hard", ["9^{9^{9^9}}", "10^{10^{10}}", r"\int_0^1 x^{x^{x^{x^x}}} \sin(x^x) dx", "999999999!"])
def test_endless_comparisons_end(hard):
    began = time.monotonic()
    assert boxed_math(seconds=1)(rf"\boxed{{{hard}}}", "x^2 + 2") == 0.0
    assert time.monotonic() - began < 10
    assert boxed_math()(r"\boxed{x + x}", "2x") == 1.0  # and the next one is answered


def test_threads_and_batches():
    """math-verify's own timeouts need the main thread; ours do not."""
    completions = [rf"\boxed{{{n} x}}" for n in range(24)]
    golds = [rf"{n - 1}x + x" for n in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(boxed_math(), completions, golds)) == [1.0] * 24
    assert verify_all(boxed_math(), completions, golds).tolist() == [1.0] * 24
    assert verify_all(boxed_math(), completions, golds[1:] + golds[:1]).tolist() == [0.0] * 24


@pytest.mark.parametrize("gold", ["", "$$", None, [1], True, float("nan"), r"so \boxed{1", "}{"])
def test_malformed_golds_are_errors(gold):
    for completion in (r"\boxed{x}", ""):
        with pytest.raises(RewardenError, match="cannot be used") as caught:
            boxed_math()(completion, gold)
        assert caught.value.where == "boxed_math, gold"
        assert caught.value.fix


def test_no_process_is_left():
    def workers() -> list[str]:
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        pids = [pid for file in children for pid in file.read_text().split()]
        return [pid for pid in pids if b"equality_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    boxed_math()(r"\boxed{2x}", "x + x")
    assert 1 <= len(workers()) <= equality.MOST
    equality.end_workers()
    assert workers() == []
    assert boxed_math()(r"\boxed{2x}", "x + x") == 1.0  # and they come back


def test_missing_package_is_said(monkeypatch, tmp_path):
    program = tmp_path / "worker.py"
    answer = json.dumps({"missing": "No module named math_verify"})
    program.write_text(f"import sys\nsys.stdin.readline()\nprint({answer!r})\n")
    equality.end_workers()
    monkeypatch.setattr(equality, "PROGRAM", program)
    with pytest.raises(RewardenError, match="math-verify cannot be used") as caught:
        boxed_math()(r"\boxed{x}", "y")
    assert caught.value.why == "No module named math_verify"
    assert "pip install" in caught.value.fix
