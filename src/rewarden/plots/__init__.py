"""Figures and coloured text from Results; nothing here runs a model or estimates a statistic.

Every function takes a `Result` (or a table) and returns a Plotly figure, a `TextBlock` for text, or a table to read.
"""

from __future__ import annotations

from rewarden.plots.agreement import agreement_by_length, agreement_scatter, estimate_scatter
from rewarden.plots.bestof import best_of_n_curves, rise_figure, susceptibility_forest
from rewarden.plots.bias import bias_forest, bias_table, wording_forest
from rewarden.plots.comparison import (
    compare_bias,
    compare_depth,
    compare_layers,
    compare_margins,
    compare_models,
    compare_parts,
)
from rewarden.plots.components import attribution, head_map, ledger
from rewarden.plots.concepts import concept_forest, dose_curve, repair_accuracy, repair_effects
from rewarden.plots.depth import lens, lens_accuracy, lens_tokens
from rewarden.plots.distortion import distortion_forest, distortion_table
from rewarden.plots.distributions import accuracy, length, margins, prompt_exchange, scores, style_grid
from rewarden.plots.divergence import divergence_forest, divergence_table
from rewarden.plots.features import (
    feature_balance,
    feature_card,
    feature_forest,
    feature_histogram,
    feature_scatter,
    feature_table,
)
from rewarden.plots.heads import patch_heads
from rewarden.plots.organisms import grade_power, grade_roc
from rewarden.plots.patching import patch_layers, patch_positions
from rewarden.plots.paths import flip_steps, paths_map
from rewarden.plots.style import style_content, style_forest
from rewarden.plots.text import TextBlock, coloured, side_by_side
from rewarden.plots.tokens import reward_trace
from rewarden.plots.tokens_human import rank_trajectories
from rewarden.plots.tokens_map import framing_map
from rewarden.plots.tokens_models import agreement_heatmap, model_map
from rewarden.plots.tokens_search import search_trajectory
from rewarden.plots.tokens_shape import token_distribution, token_extremes
from rewarden.plots.tokens_words import identity_forest, sentiment_slopes

__all__ = ["TextBlock", "accuracy", "agreement_by_length", "agreement_heatmap", "agreement_scatter", "attribution",
           "best_of_n_curves", "bias_forest", "bias_table", "coloured", "concept_forest", "dose_curve", "repair_accuracy",
           "repair_effects", "compare_bias", "compare_depth", "compare_layers", "compare_margins", "compare_models",
           "compare_parts", "distortion_forest", "distortion_table", "divergence_forest", "divergence_table",
           "estimate_scatter", "feature_balance", "feature_card", "feature_forest", "feature_histogram", "feature_scatter",
           "feature_table", "flip_steps", "framing_map", "grade_power", "grade_roc", "head_map", "identity_forest", "ledger",
           "length", "lens", "lens_accuracy", "lens_tokens", "margins", "model_map", "patch_heads", "patch_layers",
           "patch_positions", "paths_map", "prompt_exchange", "rank_trajectories", "reward_trace", "rise_figure", "scores",
           "search_trajectory", "sentiment_slopes", "side_by_side", "style_content", "style_forest", "style_grid",
           "susceptibility_forest", "token_distribution", "token_extremes", "wording_forest"]
