"""Which texts have a concept and which have not, and which of them belong together?

In: pairs, contrasts, labelled conversations, or two lists of conversations. Out: `Examples`: encoded texts with labels and
clusters, their parts for cross-fitting, and shuffled labels for control tasks. Ignorant of activations.
Letters: n texts, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden.contrasts import Contrast, prompt_key
from rewarden.conversation import Conversation, Pair
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.statistics import content_clusters, require_n

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

FEWEST = 10
"""Clusters with a text of either kind below which a direction cannot be tested on other ones."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts with and without a concept.

    Attributes:
        rows: n encoded texts.
        labels: bool [n], whether a text has the concept.
        clusters: int64 [n], 0 to K − 1: prompt or seed; texts of one cluster are not independent.
        groups: int64 [n], the pair or contrast a text is of; a number of its own for each labelled text.
        weights: float64 [n], weight of a text in the mean of its kind (sums do not matter).
        kind: "pairs", "contrasts" or "labelled".
    """

    rows: list[Encoded]
    labels: np.ndarray
    clusters: np.ndarray
    groups: np.ndarray
    weights: np.ndarray
    kind: str

    @property
    def n_clusters(self) -> int:
        """K."""
        return int(self.clusters.max()) + 1

    def flipped(self) -> Examples:
        """The same texts with the opposite labels."""
        return Examples(self.rows, ~self.labels, self.clusters, self.groups, self.weights, self.kind)

    def folds(self, count: int, seed: int) -> np.ndarray:
        """Part of each text, int64 [n]: whole clusters, drawn so that parts hold about as many of each kind.

        Raises:
            RewardenError: too few clusters.
        """
        kinds = [np.unique(self.clusters[side]) for side in (self.labels, ~self.labels)]
        require_n(min(map(len, kinds)), max(FEWEST, count), "a direction tested on held-out prompts or seeds of each kind")
        rng = np.random.default_rng((seed, 3))
        # clusters of one kind only are dealt out kind by kind, those of both together
        sort = np.isin(np.arange(self.n_clusters), kinds[0]) + 2 * np.isin(np.arange(self.n_clusters), kinds[1])
        part = np.empty(self.n_clusters, np.int64)
        dealt = 0
        for kind in np.unique(sort):
            members = rng.permutation(np.flatnonzero(sort == kind))
            part[members] = (dealt + np.arange(len(members))) % count
            dealt += len(members)
        return part[self.clusters]

    def shuffles(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Labels of control tasks, bool [n]: clusters with both kinds are swapped or not, those of one kind change theirs."""
        rng = np.random.default_rng((seed, 4))
        first = np.array([self.labels[self.clusters == c][0] for c in range(self.n_clusters)])
        pure = np.array([(self.labels[self.clusters == c] == first[c]).all() for c in range(self.n_clusters)])
        for _ in range(count):
            swap = rng.random(self.n_clusters) < 0.5
            swap[pure] = first[pure] != rng.permutation(first[pure])
            yield self.labels ^ swap[self.clusters]


def examples_of(rm: RewardModel, data: Any) -> Examples:
    """Texts with and without a concept.

    Args:
        rm: encodes them.
        data: `Pair`s (chosen has the concept), `Contrast`s (texts of positive weight have it), a tuple of two lists of
            conversations (with, without), or (conversation, label) items.

    Raises:
        RewardenError: something else, an empty list, or only one kind of text.

    Example:
        >>> import rewarden as rw
        >>> found = examples_of(rw.load(), [rw.Pair("Hi", "Hello!!", "Hello."), rw.Pair("Bye", "See you!!", "See you.")])
        >>> found.labels.tolist(), found.clusters.tolist(), found.kind
        ([True, False, True, False], [0, 0, 1, 1], 'pairs')
    """
    items = _items(data)
    if not items or len({label for _, label, *_ in items}) < 2:
        raise RewardenError("texts with and without the concept are needed", where="data",
                            why=f"{sum(1 for item in items if item[1])} with and {sum(1 for item in items if not item[1])} "
                            "without were given", fix="give pairs, contrasts, (with, without), or (conversation, label) items")
    rows = []
    for number, (conversation, *_) in enumerate(items):
        try:
            rows.append(rm.encode(conversation))
        except RewardenError as error:
            raise RewardenError(error.what, where=f"text {number} of the concept, {error.where}", why=error.why, fix=error.fix
                                ) from error
    _, labels, clusters, groups, weights = zip(*items, strict=True)
    kind = "pairs" if isinstance(data[0], Pair) else "contrasts" if isinstance(data[0], Contrast) else "labelled"
    return Examples(rows, np.asarray(labels, bool), content_clusters(clusters), np.asarray(groups, np.int64),
                    np.asarray(weights, np.float64), kind)


Item = tuple[Conversation, bool, str, int, float]
"""Conversation, label, cluster, group, weight."""


def _items(data: Any) -> list[Item]:
    """One entry a text."""
    two = isinstance(data, tuple) and len(data) == 2 and all(_texts(side) for side in data)
    if two:
        data = [(text, label) for side, label in zip(data, (True, False), strict=True) for text in side]
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise RewardenError(f"no texts with a concept: {type(data).__name__}", where="data",
                            fix="give a list of pairs, contrasts or (conversation, label), or a tuple (with, without)")
    found: list[Item] = []
    for number, item in enumerate(data):
        if isinstance(item, Pair):
            prompt = prompt_key(item.conversations[0])
            found += [(text, label, prompt, number, 1.0) for text, label in zip(item.conversations, (True, False), strict=True)]
        elif isinstance(item, Contrast):
            found += [(text, weight > 0, item.cluster, number, abs(weight)) for weight, text in item.terms if weight]
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], (bool, np.bool_)):
            text = item[0] if isinstance(item[0], Conversation) else Conversation(item[0])
            found.append((text, bool(item[1]), prompt_key(text), number, 1.0))
        else:
            raise RewardenError(f"item {number} is neither a pair, a contrast nor (conversation, label): {item!r:.120}",
                                where="data", fix="give a list of one of these, or a tuple (with, without)")
    return found


def _texts(side: Any) -> bool:
    """Whether this is a list of conversations."""
    return isinstance(side, Sequence) and bool(side) and all(isinstance(text, Conversation) for text in side)
