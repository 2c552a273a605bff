"""Causal analyses: what happens to the reward when activations are other ones."""

from rewarden.patching.agreement import agreement
from rewarden.patching.deciding import deciding
from rewarden.patching.estimates import estimate_effects
from rewarden.patching.flips import flip
from rewarden.patching.paths import patch_paths
from rewarden.patching.sweep import patch

__all__ = ["agreement", "deciding", "estimate_effects", "flip", "patch", "patch_paths"]
