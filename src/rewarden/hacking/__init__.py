"""Can a reward model be gamed? Bias battery, best-of-n preview, distortion, divergence, cascade, conflict.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "bias_battery": "battery",
    "contrasts": "battery",
    "wordings": "bias_result",
    "null_rate": "calibration",
    "best_of_n": "bestof",
    "ScoreTable": "candidates",
    "susceptibility": "covariances",
    "sample_responses": "sampling",
    "score_table": "scoring",
    "pairs_table": "scoring",
    "table_again": "scoring",
    "dictionary_features": "scoring",
    "best_of_n_divergence": "order_statistics",
    "cascade": "misalignment",
    "cascade_items": "misalignment",
    "conflict": "objectives",
    "distortion": "distortion_index",
    "style_regression": "style",
    "style_content": "style_interaction",
    "divergence": "off_distribution.measure",
    "triggers": "word_triggers",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
