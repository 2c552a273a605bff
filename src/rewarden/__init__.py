"""The public names, nothing else.

Importing this package imports neither torch nor any other heavy library: a name is fetched from its module when it
is first used (PEP 562). What each name answers is said in its own module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewarden.alignment import Alignment
    from rewarden.comparison import compare
    from rewarden.conversation import Conversation, Pair
    from rewarden.dictionaries import Dictionary, feature_effects, train_dictionary
    from rewarden.edits import Edit, EditBatch, Site
    from rewarden.encoding import Encoded
    from rewarden.ensemble import Ensemble
    from rewarden.errors import RewardenError, RewardenWarning
    from rewarden.hacking import best_of_n, bias_battery
    from rewarden.lens import attribute, lens_tokens, reward_lens, reward_trace, trace_pairs
    from rewarden.loading import load
    from rewarden.patching import agreement, estimate_effects, flip, patch, patch_paths
    from rewarden.preferences import load_pairs
    from rewarden.readout import register_readout
    from rewarden.report import audit, register_section
    from rewarden.result import Result
    from rewarden.reward_model import RewardModel
    from rewarden.tokens.responses import score_responses
    from rewarden.tokens.scan import score_vocabulary
    from rewarden.tokens.search import search

__version__ = "0.1.0"

_HOME = {
    "load": "loading",
    "RewardModel": "reward_model",
    "Pair": "conversation",
    "Conversation": "conversation",
    "Alignment": "alignment",
    "Encoded": "encoding",
    "Result": "result",
    "reward_lens": "lens",
    "attribute": "lens",
    "reward_trace": "lens",
    "lens_tokens": "lens",
    "trace_pairs": "lens",
    "audit": "report",
    "load_pairs": "preferences",
    "Site": "edits",
    "Edit": "edits",
    "EditBatch": "edits",
    "patch": "patching",
    "patch_paths": "patching",
    "estimate_effects": "patching",
    "agreement": "patching",
    "flip": "patching",
    "bias_battery": "hacking",
    "score_vocabulary": "tokens",
    "score_responses": "tokens",
    "search": "tokens.search",
    "Dictionary": "dictionaries",
    "train_dictionary": "dictionaries",
    "feature_effects": "dictionaries",
    "compare": "comparison.side_by_side",
    "best_of_n": "hacking",
    "Ensemble": "ensemble",
    "register_readout": "readout",
    "register_section": "report",
    "RewardenError": "errors",
    "RewardenWarning": "errors",
}
"""Module of each public name."""

PACKAGES = ("comparison", "concepts", "demo", "dictionaries", "hacking", "organisms", "sarm", "tokens")
"""Packages with public names of their own: rewarden.tokens.rank_agreement(...)."""

__all__ = [
    "load",
    "RewardModel",
    "Pair",
    "Conversation",
    "Alignment",
    "Encoded",
    "Result",
    "reward_lens",
    "attribute",
    "reward_trace",
    "lens_tokens",
    "trace_pairs",
    "audit",
    "load_pairs",
    "Site",
    "Edit",
    "EditBatch",
    "patch",
    "patch_paths",
    "estimate_effects",
    "agreement",
    "flip",
    "bias_battery",
    "hacking",
    "organisms",
    "score_vocabulary",
    "score_responses",
    "search",
    "tokens",
    "demo",
    "Dictionary",
    "train_dictionary",
    "feature_effects",
    "dictionaries",
    "concepts",
    "sarm",
    "compare",
    "comparison",
    "best_of_n",
    "Ensemble",
    "register_readout",
    "register_section",
    "RewardenError",
    "RewardenWarning",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return import_module(f"rewarden.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'rewarden' has no attribute {name!r}")
    value = getattr(import_module(f"rewarden.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
