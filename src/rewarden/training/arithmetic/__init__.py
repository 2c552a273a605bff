"""The task of the reference experiments: two-digit sums in characters, small enough for a policy of 166,000 parameters.

All texts are generated here by rule, nothing is taken from elsewhere. A name is fetched from its module when it is first used.
"""

from __future__ import annotations

from rewarden.lazy import lazy

_HOME = {
    "train_pairs": "task",
    "held_out_pairs": "task",
    "sum_prompt": "task",
    "direct_answer": "task",
    "worked_answer": "task",
    "sum_columns": "task",
    "reverse_columns": "task",
    "Arithmetic": "verifier",
    "arithmetic": "verifier",
    "read_answer": "verifier",
    "style_codes": "verifier",
    "build_tokenizer": "tokenizer",
    "load_policy": "bundled",
    "load_policy_dictionary": "bundled",
}
"""Module of each public name, below this package."""

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
