"""Can a reward model be gamed? Bias battery, best-of-n preview, distortion, divergence, cascade, conflict, triggers.

A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "bias_battery": "bias.battery",
    "contrasts": "bias.battery",
    "wordings": "bias.result",
    "null_rate": "calibration",
    "best_of_n": "selection.bestof",
    "ScoreTable": "selection.candidates",
    "susceptibility": "selection.covariances",
    "sample_responses": "selection.sampling",
    "score_table": "selection.scoring",
    "pairs_table": "selection.scoring",
    "table_again": "selection.scoring",
    "dictionary_features": "selection.scoring",
    "best_of_n_divergence": "selection.order_statistics",
    "cascade": "misalignment",
    "cascade_items": "misalignment",
    "conflict": "objectives.conflicts",
    "distortion": "off_distribution.distortion_index",
    "style_regression": "styles.regression",
    "style_content": "styles.interaction",
    "divergence": "off_distribution.measure",
    "triggers": "word_triggers",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
