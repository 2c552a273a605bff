"""What can be told from the text alone, without any model?

In: ids, maybe a function that decodes them. Out: a `TextMonitor`, the baseline of every table: where it sees as much as a
probe, the probe adds nothing to reading the output. Ignorant of rewards. Letters: n rollouts, F numbers counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewarden.concepts.probes import fit_vector
from rewarden.errors import RewardenError
from rewarden.hacking.off_distribution.reference import Reference
from rewarden.hacking.styles.features import STYLE_FEATURES, count_style
from rewarden.options.checks import resolve
from rewarden.options.training import ProbeOptions
from rewarden.statistics import require_n
from rewarden.training.activations import Activations
from rewarden.training.monitors.mahalanobis import reference_of, reference_tensors
from rewarden.training.monitors.monitor import Monitor
from rewarden.training.rollouts import Rollouts

TOKENS = ("tokens", "distinct share", "longest run", "repeated pairs", "commonest share", "copied share", "rareness")
"""What is counted of ids: see `token_counts`."""


def token_counts(rollouts: Rollouts, known: Mapping[int, float] | None = None) -> np.ndarray:
    """Counts of ids, float64 [n, 7]; NaN without a token.

    Tokens; share of distinct ones; longest run of one token, as a share; share of adjacent pairs that stood there before;
    share of the commonest token; share of tokens that are in the prompt as well; mean negative log frequency of tokens.

    Args:
        rollouts: whose completions.
        known: id -> log frequency among base completions; what is not in it counts as rare as the rarest, and once more.

    Example:
        >>> token_counts(Rollouts.of([[1, 2]], [[5, 5, 5, 2]])).round(2).tolist()
        [[4.0, 0.5, 0.75, 0.33, 0.75, 0.25, 0.0]]
    """
    rarest = min(known.values(), default=0.0) - np.log(2) if known else 0.0
    out = np.full((len(rollouts), len(TOKENS)), np.nan)
    for row, (prompt, ids) in enumerate(zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True)):
        if ids:
            size, pairs, there = len(ids), list(pairwise(ids)), set(prompt)
            out[row] = (size, len(set(ids)) / size, max(len(list(run)) for _, run in groupby(ids)) / size,
                        1 - len(set(pairs)) / len(pairs) if pairs else 0.0, Counter(ids).most_common(1)[0][1] / size,
                        sum(i in there for i in ids) / size,
                        -float(np.mean([known.get(i, rarest) for i in ids])) if known else 0.0)
    return out


class TextMonitor(Monitor):
    """Style, length and repetition.

    Without labels the score is the distance of these counts from those of base rollouts; with labels, a linear probe of them.

    Args:
        decode: ids of a completion -> text, whose style is counted beside its tokens; None counts tokens only.
        name: in logs.
        options, overrides: of the probe, see `ProbeOptions`.

    Example:
        >>> import rewarden as rw
        >>> monitor = TextMonitor()
        >>> monitor.describe()
        'counts of tokens'
    """

    kind: ClassVar[str] = "text"
    reads_model: ClassVar[bool] = False

    def __init__(self, decode: Callable[[Sequence[int]], str] | None = None, *, name: str = "text",
                 options: ProbeOptions | None = None, **overrides: Any) -> None:
        super().__init__(name, "reference")
        self.decode, self.options = decode, resolve(ProbeOptions, options, overrides)
        self.centre, self.spread = np.zeros(0), np.ones(0)
        self.known: dict[int, float] = {}
        self.reference: Reference | None = None
        self.vector: np.ndarray | None = None

    def describe(self) -> str:
        """What is counted."""
        return "counts of tokens" + (" and of style" if self.decode is not None else "")

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the numbers counted [F]."""
        return TOKENS + (() if self.decode is None else tuple(one.name for one in STYLE_FEATURES))

    def counts(self, rollouts: Rollouts) -> np.ndarray:
        """Float64 [n, F]; NaN without a token."""
        found = token_counts(rollouts, self.known)
        if self.decode is None:
            return found
        return np.column_stack([found, count_style([self.decode(list(ids)) for ids in rollouts.completion_ids])])

    def _fit(self, held: Activations | None, rollouts: Rollouts, labels: np.ndarray | None) -> dict[str, float]:
        tally = Counter(i for ids in rollouts.completion_ids for i in ids)
        self.known = {i: float(np.log(count / tally.total())) for i, count in tally.items()}
        found = self.counts(rollouts)
        self.centre, spread = found.mean(0), found.std(0)
        self.spread = np.where(spread > 1e-9 * (1 + np.abs(self.centre)), spread, 1.0)
        scaled = (found - self.centre) / self.spread
        self.reference, self.vector = None, None
        if labels is None:
            self.reference = Reference.fit(scaled)
            return {}
        for number, word in ((int(labels.sum()), "suspicious"), (int((~labels).sum()), "unsuspicious")):
            require_n(number, self.options.least_each, f"a text baseline (rollouts labelled {word})")
        self.vector = fit_vector(scaled, labels, np.ones(len(labels)), self.options.method, self.options.ridge)
        return {}

    def _score(self, held: Activations | None, rollouts: Rollouts) -> np.ndarray:
        scaled = (self.counts(rollouts) - self.centre) / self.spread
        if self.vector is not None:
            return scaled @ self.vector
        assert self.reference is not None  # Monitor.score
        return np.sqrt(self.reference.squares(scaled)[:, -1])

    def settings(self) -> dict[str, Any]:
        """Of the constructor; a function is not saved, only that there was one."""
        return {"name": self.name, "decodes": self.decode is not None, **vars(self.options)}

    def tensors(self) -> dict[str, Tensor]:
        """Centre, spread, frequencies, and the distance or the probe."""
        own = {"centre": torch.as_tensor(self.centre), "spread": torch.as_tensor(self.spread),
               "ids": torch.tensor(list(self.known), dtype=torch.int64),
               "frequencies": torch.tensor(list(self.known.values()), dtype=torch.float64)}
        if self.vector is not None:
            own["vector"] = torch.as_tensor(self.vector)
        return own | ({} if self.reference is None else reference_tensors(self.reference))

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.centre, self.spread = tensors["centre"].numpy(), tensors["spread"].numpy()
        self.known = dict(zip(tensors["ids"].tolist(), tensors["frequencies"].tolist(), strict=True))
        self.vector = tensors["vector"].numpy() if "vector" in tensors else None
        self.reference = reference_of(tensors) if "axes" in tensors else None
        if len(self.centre) != len(self.counted):
            raise RewardenError(f"{len(self.centre)} numbers were counted, not {len(self.counted)}", where=self.name,
                                why="style features were added or removed since", fix="fit the monitor again")
