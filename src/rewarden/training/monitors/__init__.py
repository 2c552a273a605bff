"""Instruments that watch what a policy writes and are never paid out: probes, distances, surprise, reconstruction, text.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "Monitor": "monitor",
    "Calibration": "calibration",
    "conformal_threshold": "calibration",
    "ProbeMonitor": "probe",
    "cross_fitted": "probe",
    "MahalanobisMonitor": "mahalanobis",
    "NllMonitor": "likelihood",
    "ReconstructionMonitor": "reconstruction",
    "TextMonitor": "text",
    "Independence": "independence",
    "load_monitor": "files",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
