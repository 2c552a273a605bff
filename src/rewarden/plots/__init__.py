"""Figures and coloured text from Results; nothing here runs a model or estimates a statistic.

Every function takes a `Result` (or a table) and returns a Plotly figure, or a `TextBlock` for text.
"""

from __future__ import annotations

from rewarden.plots.agreement import agreement_by_length, agreement_scatter, estimate_scatter
from rewarden.plots.components import attribution, head_map, ledger
from rewarden.plots.depth import lens, lens_accuracy, lens_tokens
from rewarden.plots.distributions import accuracy, length, margins, prompt_exchange, scores, style_grid
from rewarden.plots.patching import patch_heads, patch_layers, patch_positions
from rewarden.plots.paths import flip_steps, paths_map
from rewarden.plots.text import TextBlock, coloured, side_by_side
from rewarden.plots.tokens import reward_trace

__all__ = ["TextBlock", "accuracy", "agreement_by_length", "agreement_scatter", "attribution", "coloured", "estimate_scatter",
           "flip_steps", "head_map", "ledger", "length", "lens", "lens_accuracy", "lens_tokens", "margins", "patch_heads",
           "patch_layers", "patch_positions", "paths_map", "prompt_exchange", "reward_trace", "scores", "side_by_side",
           "style_grid"]
