"""A monitor on disk: with the threshold it was calibrated to, and refused when anything in it has changed.

In: a monitor, a folder. Out: the same monitor, bit for bit. Layout: monitor.json (kind, settings, what it was made from,
calibration, hashes), monitor.safetensors, dictionary/ where it has one. Ignorant of what monitors compute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.dictionaries.formats.writing import folder, write_json, write_safetensors
from rewarden.errors import RewardenError
from rewarden.sarm.hashes import dictionary_sha256
from rewarden.statistics import Interval
from rewarden.store.files import canonical, plain
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.calibration import Calibration
from rewarden.training.monitors.likelihood import NllMonitor
from rewarden.training.monitors.mahalanobis import MahalanobisMonitor
from rewarden.training.monitors.monitor import Made, Monitor
from rewarden.training.monitors.probe import ProbeMonitor
from rewarden.training.monitors.reconstruction import ReconstructionMonitor
from rewarden.training.monitors.text import TextMonitor
from rewarden.training.packs.reading import read_json

CONFIG, TENSORS, DICTIONARY = "monitor.json", "monitor.safetensors", "dictionary"
FORMAT, VERSION = "rewarden monitor", 1
KINDS: dict[str, Callable[..., Monitor]] = {one.kind: one for one in (
    ProbeMonitor, MahalanobisMonitor, NllMonitor, ReconstructionMonitor, TextMonitor)}


def save_monitor(monitor: Monitor, path: str | os.PathLike[str]) -> Path:
    """Write a monitor into a folder, made if needed.

    Raises:
        RewardenError: a kind that `load_monitor` does not know, or the disk refuses.
    """
    if KINDS.get(monitor.kind) is not type(monitor):
        raise RewardenError(f"monitors of kind {monitor.kind!r} cannot be saved", where=type(monitor).__name__,
                            why=f"known: {', '.join(KINDS)}", fix="save its numbers yourself")
    root, made = folder(Path(path)), monitor.made
    tensors = monitor.tensors() | ({} if made is None else {"seen": torch.as_tensor(made.seen)})
    content = write_safetensors(root / TENSORS, tensors)
    body: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "kind": monitor.kind, "settings": monitor.settings(),
        "made": None if made is None else {name: value for name, value in asdict(made).items() if name != "seen"},
        "calibration": None if monitor.calibration is None else asdict(monitor.calibration),
        "tensors_sha256": hashlib.sha256(content).hexdigest(), "dictionary_sha256": None}
    if isinstance(monitor, ReconstructionMonitor):
        monitor.dictionary.save(root / DICTIONARY)
        body["dictionary_sha256"] = dictionary_sha256(monitor.dictionary)
    body = dict(plain(_no_nan(body)))  # type: ignore[call-overload]  # a mapping stays one
    write_json(root / CONFIG, {**body, "sha256": hashlib.sha256(canonical(body).encode()).hexdigest()})
    return root


def load_monitor(path: str | os.PathLike[str], *, decode: Callable[[Sequence[int]], str] | None = None) -> Monitor:
    """A monitor that was saved, with its threshold.

    Args:
        path: the folder.
        decode: of a `TextMonitor` that was made with one; functions are not saved.

    Raises:
        RewardenError: files are missing, of another format, or not those that were saved.
    """
    root = Path(path)
    body = read_json(root / CONFIG)
    if not isinstance(body, dict) or body.get("format") != FORMAT or body.get("version") != VERSION:
        raise RewardenError("this is no monitor", where=str(root / CONFIG),
                            why=f"{FORMAT!r} of version {VERSION} is expected",
                            fix="name the folder of monitor.save, or update rewarden")
    stated = body.pop("sha256", None)
    if stated != hashlib.sha256(canonical(body).encode()).hexdigest():
        raise _changed(root / CONFIG)
    try:
        content = (root / TENSORS).read_bytes()
    except OSError as error:
        raise RewardenError(f"{TENSORS} cannot be read", where=str(root), why=str(error), fix="copy it again") from error
    if body["tensors_sha256"] != hashlib.sha256(content).hexdigest():
        raise _changed(root / TENSORS)
    tensors = load(content)
    monitor = _made(body, tensors, root, decode)
    if body["made"] is not None:
        monitor.take(tensors)
        monitor.made = Made(**body["made"], seen=tensors["seen"].numpy())
    if body["calibration"] is not None:
        held_out = body["calibration"].pop("held_out")
        monitor.calibration = Calibration(**body["calibration"], held_out=None if held_out is None else Interval(
            **{name: float("nan") if value is None else value for name, value in held_out.items()}))
    return monitor


def _made(body: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], root: Path,
          decode: Callable[[Sequence[int]], str] | None) -> Monitor:
    settings = dict(body["settings"])
    if body["kind"] not in KINDS:
        raise RewardenError(f"a monitor of kind {body['kind']!r:.40}", where=str(root), why=f"known: {', '.join(KINDS)}",
                            fix="update rewarden")
    if "aggregation" in settings:
        settings["aggregation"] = Aggregation(**settings["aggregation"], query=tensors.get("query"))
    if body["kind"] == "text":
        if settings.pop("decodes") != (decode is not None):
            raise RewardenError("the text monitor counts style of decoded text" if decode is None else
                                "the text monitor counts tokens only", where=str(root),
                                why="its numbers fit the counts it was made with",
                                fix="pass decode=" if decode is None else "leave out decode=")
        settings["decode"] = decode
    if body["kind"] == "reconstruction":
        settings["dictionary"] = Dictionary.load(root / DICTIONARY)
        if dictionary_sha256(settings["dictionary"]) != body["dictionary_sha256"]:
            raise _changed(root / DICTIONARY)
    return KINDS[body["kind"]](**settings)


def _no_nan(value: Any) -> Any:
    """Missing ends of intervals become null, and numpy numbers plain ones."""
    if isinstance(value, Mapping):
        return {name: _no_nan(one) for name, one in value.items()}
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


def _changed(path: Path) -> RewardenError:
    return RewardenError(f"{path.name} is not what was saved", where=str(path), why="its SHA-256 is another one",
                         fix="copy the folder again, or fit and calibrate the monitor again")
