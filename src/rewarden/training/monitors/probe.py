"""Does a linear probe, of another layer and other data than the reward's, call a rollout suspicious?

In: rollouts with labels, to be fitted on. Out: a `ProbeMonitor`, and how well probes tell prompts apart that they have not
seen. Ignorant of rewards. Letters: n rollouts, N tokens, d width.

A probe made from the reward's own labels at a neighbouring layer is no second opinion: a policy that moved the one has moved
the other in all the reference runs. Data, layer and model are kept with the monitor; `independent_of(reward)` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewarden.concepts.probes import auc, fit_vector
from rewarden.options.checks import resolve
from rewarden.options.training import ProbeOptions
from rewarden.statistics import Interval, require_n
from rewarden.statistics.clustered import auc_interval
from rewarden.training.activations import Activations, Source
from rewarden.training.aggregation import Aggregation
from rewarden.training.monitors.monitor import Monitor, aggregated, prompt_hashes, told
from rewarden.training.rollouts import Rollouts

ROUNDS, MOST = 8, 10_000
"""Alternations of which tokens count and which vector weighs them, and tokens of unsuspicious rollouts in each, at most."""

MEAN = Aggregation("mean")


class ProbeMonitor(Monitor):
    """A linear probe of tokens, fitted as it is read.

    Args:
        layer: resid_post of it is read.
        source: see `Monitor`.
        aggregation: how values of tokens become a score. The largest by default: a mean is the easiest to evade, by spreading
            what is told over more tokens (RL-Obfuscation, arXiv 2506.14261).
        name: in logs.
        options, overrides: see `ProbeOptions`.

    After `fit`, `made.evidence` holds the cross-fitted AUC over prompts with its interval.
    """

    kind: ClassVar[str] = "probe"

    def __init__(self, layer: int, *, source: Source = "reference", aggregation: Aggregation | None = None, name: str = "probe",
                 options: ProbeOptions | None = None, **overrides: Any) -> None:
        super().__init__(name, source)
        self.layers, self.aggregation = (int(layer),), aggregation or Aggregation("max")
        self.options = resolve(ProbeOptions, options, overrides)
        self.vector, self.bias = torch.zeros(0), 0.0

    def describe(self) -> str:
        """Layer, estimator, aggregation."""
        return f"{self.options.method} probe after layer {self.layers[0]}, {self.aggregation} of tokens, {self.source}"

    def _fit(self, held: Activations | None, rollouts: Rollouts, labels: np.ndarray | None) -> dict[str, float]:
        assert held is not None
        labels = np.zeros(len(rollouts), bool) if labels is None else labels
        for number, word in ((int(labels.sum()), "suspicious"), (int((~labels).sum()), "unsuspicious")):
            require_n(number, self.options.least_each, f"a probe (rollouts labelled {word})")
        every = np.arange(len(labels))
        vector, centre = fit_probe(held, self.layers[0], labels, every, self.aggregation, self.options)
        self.vector, self.bias = torch.as_tensor(vector, dtype=torch.float32), -centre
        found = cross_fitted(held, self.layers[0], labels, self.aggregation, self.options)
        return {"auc": float(found.estimate), "auc_low": float(found.low), "auc_high": float(found.high)}

    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        assert held is not None
        states = held.layer(self.layers[0])
        return aggregated(held, states.float() @ self.vector.to(states.device) + self.bias, self.aggregation, states)

    def _width(self) -> int | None:
        return len(self.vector) or None

    def settings(self) -> dict[str, Any]:
        """Of the constructor."""
        return {**super().settings(), "layer": self.layers[0], "aggregation": told(self.aggregation), **vars(self.options)}

    def tensors(self) -> dict[str, Tensor]:
        """Vector, bias, and the query of an attention."""
        own = {"vector": self.vector, "bias": torch.tensor(self.bias, dtype=torch.float64)}
        return own | ({} if self.aggregation.query is None else {"query": self.aggregation.query})

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.vector, self.bias = tensors["vector"], float(tensors["bias"])


def fit_probe(held: Activations, layer: int, labels: np.ndarray, rows: np.ndarray, aggregation: Aggregation,
              options: ProbeOptions) -> tuple[np.ndarray, float]:
    """A unit vector [d] that is fitted as it will be read, and the mean of its aggregate.

    For a maximum, or the mean of the largest values, few tokens decide: then what is fitted is, of a suspicious rollout, those
    that the last vector's aggregate rests on, against all tokens of unsuspicious rollouts, and so on until that tells no more
    apart. A vector that is fitted on means and read by its maximum may rank rollouts the wrong way round, as long completions
    have large maxima. Otherwise the aggregate of states is fitted, once.

    Args:
        held: activations of rollouts that all have a token.
        layer: resid_post of it is read.
        labels: bool [n].
        rows: of those rollouts that fit it.
        aggregation: of tokens.
        options: of the probe.

    Source: MI-SVM (Andrews, Tsochantaridis & Hofmann 2002), for any shares of tokens.
    """
    states = held.each(held.layer(layer).float())
    chosen, mine = [states[row] for row in rows], labels[rows]
    peaked = aggregation.kind in ("max", "top")
    pooled = _shared(chosen, chosen[0].new_zeros(chosen[0].shape[1]), MEAN if peaked else aggregation)
    against = pooled[~mine]
    if peaked:
        tokens = torch.cat([own for own, label in zip(chosen, mine, strict=True) if not label]).double().cpu().numpy()
        against = tokens[::max(1, -(-len(tokens) // MOST))]
    best, found, reached = np.zeros(0), np.zeros(0), -1.0
    for _ in range(ROUNDS if peaked else 1):
        rest = np.concatenate([pooled[mine], against])
        vector = fit_vector(rest, np.arange(len(rest)) < mine.sum(), np.ones(len(rest)), options.method, options.ridge)
        axis = torch.as_tensor(vector, dtype=torch.float32, device=chosen[0].device)
        pooled = _shared(chosen, axis, aggregation)
        values = pooled @ vector
        apart = auc(values, mine, np.zeros(len(mine), np.int64))
        if not apart > reached + 1e-4:
            break
        best, found, reached = vector, values, apart
    return best, float(found.mean())


def _shared(states: list[Tensor], axis: Tensor, aggregation: Aggregation) -> np.ndarray:
    """Mean state of each completion [n, d], its tokens [R, d] weighed by their shares in the aggregate of states · axis."""
    if aggregation.kind == "max":  # what shares would give, without a gradient for each
        rows = [own[int((own @ axis).argmax())] for own in states]
    elif aggregation.kind == "mean":
        rows = [own.double().mean(0) for own in states]
    else:
        rows = [(aggregation.shares((own @ axis)[:, None], own).double() * own.double()).sum(0) for own in states]
    return torch.stack(rows).double().cpu().numpy()


def cross_fitted(held: Activations, layer: int, labels: np.ndarray, aggregation: Aggregation, options: ProbeOptions
                 ) -> Interval:
    """How well probes tell labels on prompts that did not fit them: AUC, within parts, over prompts.

    Args:
        held: activations of rollouts that all have a token.
        layer: resid_post of it is read.
        labels: bool [n].
        aggregation: of tokens.
        options: of the probes.

    Returns:
        Interval; NaN where some part has only one kind of label to fit.
    """
    prompts, states = np.unique(prompt_hashes(held.rollouts), return_inverse=True)[1], held.layer(layer)
    count = int(prompts.max()) + 1
    folds = (np.random.default_rng(options.seed).permutation(count) % min(options.folds, count))[prompts]
    scores = np.full(len(labels), np.nan)
    for part in np.unique(folds):
        rest = folds != part
        if labels[rest].any() and not labels[rest].all():
            vector, _ = fit_probe(held, layer, labels, np.flatnonzero(rest), aggregation, options)
            values = aggregated(held, states.float() @ torch.as_tensor(vector, dtype=torch.float32, device=states.device),
                                aggregation, states)
            scores[~rest] = values[~rest]
    known = np.isfinite(scores)
    return auc_interval(scores[known], labels[known], prompts[known], folds[known], level=options.level)
