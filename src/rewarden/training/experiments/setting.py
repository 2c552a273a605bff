"""What do all reference experiments share: policy, feature reward, monitors, and how a trained policy is measured?

In: a seed. Out: a `Setting`, made of base rollouts alone before anything is trained, and `measure`: what became of a policy.
The task is two-digit sums, see `rewarden.training.arithmetic`. Ignorant of how policies are trained (see `arms`).
Letters: n rollouts, M latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from rewarden.statistics import wilson
from rewarden.training.aggregation import Aggregation
from rewarden.training.arithmetic import (
    arithmetic,
    held_out_pairs,
    load_policy,
    load_policy_dictionary,
    read_answer,
    reverse_columns,
    style_codes,
    sum_columns,
    train_pairs,
)
from rewarden.training.composition import OutcomeReward
from rewarden.training.discovery import contrastive
from rewarden.training.feature_reward import FeatureReward
from rewarden.training.features import Latents
from rewarden.training.monitors import MahalanobisMonitor, Monitor, NllMonitor, ProbeMonitor
from rewarden.training.provider import ActivationProvider
from rewarden.training.readout import FeatureReadout
from rewarden.training.rollouts import Rollouts
from rewarden.training.sampling import roll_out

FEATURE_LAYER, MONITOR_LAYER = 2, 3
BASE, EACH = 3000, 5
"""Base rollouts, one a prompt, that features, monitors and thresholds are made of; features rewarded and punished."""

FPR = 0.01


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that is fixed before training.

    Attributes:
        readout: which features are rewarded, in the sum of a completion's tokens that mechreward uses (mean).
        centre, spread: mean and standard deviation of its value over base rollouts.
        monitors: calibrated at `FPR` on base rollouts, none of which is ever a reward.
        n: held-out sums that policies are measured on.
        base: of the base policy what `measure` says of a trained one.
    """

    readout: FeatureReadout
    centre: float
    spread: float
    monitors: tuple[Monitor, ...]
    n: int
    base: dict[str, float]


def answers(columns: dict[str, list[str]], model: Any, tokenizer: Any, **settings: Any) -> tuple[Any, list[str], np.ndarray]:
    """Completions of prompts, their texts, and whether they are right, float64 [n]."""
    rolled = roll_out(model, tokenizer(columns["prompt"])["input_ids"], **settings)
    texts = rolled.texts(tokenizer)
    return rolled, texts, np.asarray([arithmetic(text, gold) for text, gold in zip(texts, columns["gold"], strict=True)])


def outcome_reward(tokenizer: Any) -> OutcomeReward:
    """Whether a sum is right; the end must be written."""
    return OutcomeReward(arithmetic, lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False), name="outcome")


@cache
def make_setting(seed: int = 0, count: int = BASE, n: int = 400) -> Setting:
    """Discover features, fit and calibrate monitors, measure the base.

    Args:
        seed: of prompts and draws.
        count: base rollouts: a third finds features, a third their scale and the monitors, a third the thresholds.
        n: held-out sums that policies are measured on.
    """
    model, tokenizer = load_policy()
    dictionary = load_policy_dictionary()
    pairs = np.random.default_rng((seed, 1)).permutation(np.asarray(list(train_pairs())))[:count]
    columns = sum_columns([tuple(map(int, pair)) for pair in pairs])
    rolled, _, right = answers(columns, model, tokenizer, seed=seed)
    provider = ActivationProvider(model, tokenizer, reference="frozen")
    parts = np.array_split(np.arange(count), 3)
    batches = [provider.rollouts([rolled.prompt_ids[i] for i in part], [rolled.completion_ids[i] for i in part])
               for part in parts]
    provider.require([FEATURE_LAYER])
    held = provider(batches[0])
    values = dense(dictionary, held.layer(FEATURE_LAYER))
    means = held.pooled(values, lambda rows: rows.mean(0)).double().numpy()
    ids, weights = chosen(means, right[parts[0]])
    readout = FeatureReadout(Latents(dictionary, ids), FEATURE_LAYER, torch.tensor(weights), aggregation=Aggregation("mean"))
    raw = FeatureReward(readout, provider)(*_ids(batches[1]))
    monitors = make_monitors(provider, batches, right[parts[1]])
    setting = Setting(readout, float(np.nanmean(raw)), float(np.nanstd(raw)), monitors, n, {})
    return replace(setting, base=measure(model, setting))


def chosen(means: np.ndarray, right: np.ndarray) -> tuple[list[int], list[float]]:
    """The latents that are largest in right answers (+1) and in wrong ones (−1), by contrast of means [n, M]."""
    alive = np.flatnonzero((means > 0).mean(0) > 0.05)
    found = contrastive(means[:, alive], right, top=2 * EACH)
    order = np.argsort(-found.data["score"].values)
    best, worst = alive[order[:EACH]], alive[order[-EACH:]]
    return [*map(int, best), *map(int, worst)], [1.0] * EACH + [-1.0] * EACH


def dense(dictionary: Any, states: torch.Tensor) -> torch.Tensor:
    """Values of all latents [N, M]."""
    latents, values = dictionary.encode(states.float())
    return torch.zeros(len(states), dictionary.d_sae).scatter_(1, latents, values)


def make_monitors(provider: ActivationProvider, batches: Sequence[Rollouts], right: np.ndarray) -> tuple[Monitor, ...]:
    """Three monitors of the reference: a probe of another layer on other rollouts, distance from the base, surprise."""
    probe = ProbeMonitor(MONITOR_LAYER)
    distance = MahalanobisMonitor(MONITOR_LAYER, pool="mean", name="distance")
    surprise = NllMonitor(aggregation=Aggregation("mean"), name="surprise")
    for monitor in (probe, distance, surprise):
        monitor.bind(provider)
    probe.fit(provider, batches[1], right < 1)
    distance.fit(provider, batches[1])
    surprise.fit(provider, batches[1])
    return tuple(monitor.calibrate(provider, batches[2], FPR) for monitor in (probe, distance, surprise))


def measure(model: Any, setting: Setting, *, seed: int = 123) -> dict[str, float]:
    """What a policy does on held-out sums at temperature 1, and beside them.

    Returns:
        `accuracy` with ends (Wilson), `greedy`, `worked` and `well_formed` shares; `feature` on the policy's own activations,
        `feature_frozen` on the base's (in standard deviations of base rollouts), `reverse` (capability), each monitor's flag
        rate (completions without a token counted as flagged; their share is `empty`), and `length` in tokens.
    """
    tokenizer, base = load_policy()[1], load_policy()[0]
    n, turned_prompts = setting.n, reverse_columns(setting.n // 2, seed=seed)
    pairs = np.random.default_rng((seed, 2)).permutation(np.asarray(list(held_out_pairs())))[:n]
    columns = sum_columns([tuple(map(int, pair)) for pair in pairs])
    rolled, texts, right = answers(columns, model, tokenizer, seed=seed)
    _, _, greedy = answers(columns, model, tokenizer, seed=seed, temperature=0.0)
    _, _, turned = answers(turned_prompts, model, tokenizer, seed=seed, temperature=0.0)
    provider = ActivationProvider(model, tokenizer, reference=base)
    batch = provider.rollouts(rolled.prompt_ids, rolled.completion_ids)
    reward = FeatureReward(setting.readout, provider, source="both", centre=setting.centre, spread=setting.spread)
    for monitor in setting.monitors:
        monitor.bind(provider)
    told = reward.values(batch)
    share = wilson(right.sum(), len(right))
    read = [read_answer(text) for text in texts]
    found = {"accuracy": float(share.estimate), "accuracy_low": float(share.low), "accuracy_high": float(share.high),
             "greedy": float(greedy.mean()), "worked": float(style_codes(texts).mean()),
             "well_formed": float(np.mean([one.well_formed and one.ended for one in read])),
             "feature": float(np.nanmean(told.reward)), "reverse": float(turned.mean()),
             "feature_frozen": float(np.nanmean(told.reward - np.asarray(told.drift))), "length": float(batch.sizes.mean()),
             "n": float(n)}
    # a completion without a token has no activation to be suspicious of, and the base writes none: it counts as flagged
    nothing = batch.sizes == 0
    return found | {"empty": float(nothing.mean())} | {
        f"flag_{monitor.name}": float(np.mean(monitor.flags(provider, batch) | nothing)) for monitor in setting.monitors}


def _ids(batch: Rollouts) -> tuple[Any, Any]:
    return batch.prompt_ids, batch.completion_ids
