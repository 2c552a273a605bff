"""From options to what the analyses take: a reward model and pairs.

In: `LoadOptions`, `DataOptions`. Out: `RewardModel`, pairs. The one place where a verb waits for a model.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rewarden.cli.flags import with_model
from rewarden.cli.terminal import say
from rewarden.options import DataOptions, LoadOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rewarden.conversation import Pair
    from rewarden.reward_model import RewardModel


def asked_of(model: str | None, load: LoadOptions, data: DataOptions, *, quiet: bool
             ) -> tuple[LoadOptions, RewardModel, list[Pair]]:
    """What a verb is about: load options that name the model, the model, and the pairs that it can be shown.

    Pairs are read first, so that a mistake in them is told before anyone waits for a model.
    """
    load = with_model(load, model)
    pairs = pairs_of(data)
    rm = model_of(load, quiet=quiet)
    return load, rm, readable(rm, pairs)


def model_of(load: LoadOptions, *, quiet: bool) -> RewardModel:
    """The reward model the options name."""
    from transformers.utils import logging

    import rewarden

    logging.disable_progress_bar()  # one line says it; downloads keep their own bars
    if not quiet:
        say(f"loading {load.model or 'the bundled reward model'}")
    settings = asdict(load)
    return rewarden.load(settings.pop("model"), **settings)


def pairs_of(data: DataOptions) -> list[Pair]:
    """The pairs the options name; a limit below 1 is the first share of them."""
    from rewarden.preferences import load_pairs

    count = int(data.limit) if data.limit is not None and data.limit >= 1 else None
    pairs = load_pairs(data.dataset, split=data.split, limit=count, subset=data.subset, columns=data.column_names,
                       format=data.format, on_error=data.on_error)
    return pairs[: math.ceil(data.limit * len(pairs))] if data.limit is not None and count is None else pairs


def readable(rm: RewardModel, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs this model can be shown; how many it cannot, and why, is said."""
    from rewarden.fitting import fitting

    fit = fitting(rm, pairs)
    if fit.left_out:
        say(f"left out {fit.left_out} of {len(pairs)} pairs that do not fit the model; the first: {fit.reason}")
    return list(fit.pairs)
