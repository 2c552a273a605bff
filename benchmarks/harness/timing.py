"""How do two ways of doing the same work compare, on a machine that does other things as well?

In: functions. Out: seconds of every repetition, and ratios taken within a repetition. The functions take turns (A B C,
then C B A), so that a slow minute hits all of them. Ignorant of what they do.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

CLOCKS = ("wall", "cpu")
"""Wall clock, and processor time of this process: with one thread the two differ by what others took from it."""


@dataclass(frozen=True)
class Ratio:
    """A ratio over repetitions."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, above: list[float], below: list[float]) -> Ratio:
        """Minimum, median and maximum of above[i] / below[i].

        Example:
            >>> Ratio.of([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
            Ratio(low=1.0, middle=2.0, high=3.0)
        """
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        return cls(min(ratios), median(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.low:.2f} / {self.middle:.2f} / {self.high:.2f}"


Seconds = dict[str, dict[str, list[float]]]
"""clock → name → one number per repetition."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleave(work: Mapping[str, Callable[[], object]], repetitions: int) -> Seconds:
    """Seconds of each function, taking turns, after one call of each to warm up.

    Example:
        >>> sorted(interleave({"a": int, "b": int}, 3)["wall"])
        ['a', 'b']
    """
    return take_turns({name: lambda call=call: timed(call) for name, call in work.items()}, repetitions)


def take_turns(clocked: Mapping[str, Callable[[], Sequence[float]]], repetitions: int) -> Seconds:
    """As `interleave`, of functions that say themselves how long they took (wall, processor), elsewhere maybe."""
    for call in clocked.values():
        call()
    seconds: Seconds = {clock: {name: [] for name in clocked} for clock in CLOCKS}
    for repetition in range(repetitions):
        for name in (list(clocked) if repetition % 2 == 0 else list(clocked)[::-1]):
            for clock, value in zip(CLOCKS, clocked[name](), strict=True):
                seconds[clock][name].append(value)
    return seconds


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio by both clocks and what it should be, or why it was not measured."""

    name: str
    target: str
    ratios: dict[str, Ratio] = field(default_factory=dict)
    missing: str = ""

    def described(self) -> dict[str, object]:
        """As JSON holds it."""
        spread = {clock: {"min": r.low, "median": r.middle, "max": r.high} for clock, r in self.ratios.items()}
        return {"name": self.name, "target": self.target, **spread, **({"missing": self.missing} if self.missing else {})}


def ratio_row(name: str, target: str, seconds: Seconds, above: str, below: str, factor: float = 1.0) -> Row:
    """Ratio of two functions' seconds, repetition by repetition, times a factor."""
    ratios = {clock: Ratio.of([factor * s for s in seconds[clock][above]], seconds[clock][below]) for clock in CLOCKS}
    return Row(name, target, ratios)


def machine(packages: tuple[str, ...] = ("torch", "transformers", "numpy", "xarray", "rewarden")) -> dict[str, str]:
    """Processor, cores, load, and versions: what a ratio was measured on."""
    model = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = [line for line in listing.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    found = {"processor": model, "cores": str(os.cpu_count()), "system": f"{platform.system()} {platform.machine()}",
             "load average (1, 5, 15 min)": load_average(), "python": platform.python_version()}
    return found | versions(packages)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def load_average() -> str:
    """Processes waiting for a core, over 1, 5 and 15 minutes; empty where the system does not say."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else ""


def peak_megabytes() -> float:
    """Largest resident memory this process ever had; NaN where the system does not say.

    The kernel's high-water mark of this address space: getrusage would also count the parent it was forked from.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def restart_peak() -> None:
    """Let `peak_megabytes` start again from what is resident now, where the system can (Linux): loading a model needs more
    for a moment than it keeps."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
