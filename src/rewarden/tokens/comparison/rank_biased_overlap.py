"""How much do the beginnings of two rankings have in common, when some items are tied?

In: two scores of the same n items. Out: the overlap at each depth and rank-biased overlap (RBO), each with what unrelated
rankings give. Ignorant of what is ranked. Ties are treated as in Corsi & Urbano 2024 (SIGIR, arXiv 2406.07121), who complete
Webber, Moffat & Zobel 2010 (TOIS 28:20).
Letters: n items, D depths (1 is the best item alone).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from rewarden.errors import RewardenError

Ties = Literal["b", "a", "w"]

NEGLIGIBLE = 1e-16
"""Depths whose weights sum to less are not looked at."""


class Ranking(NamedTuple):
    """Places of items, the best first, counted from 1. Each field int64 [n]."""

    first: np.ndarray
    """First place that the item's tie group takes."""
    last: np.ndarray
    """Last place that it takes."""


class Overlap(NamedTuple):
    """Beginnings of two rankings compared. Each field float64 [D]."""

    shared: np.ndarray
    """Items that both beginnings of this length hold, on average over all orders of tied items."""
    agreement: np.ndarray
    """What RBO averages, 0 to 1, by the chosen treatment of ties."""
    chance: np.ndarray
    """The same agreement for unrelated rankings with these ties."""


def ranking(values: np.ndarray) -> Ranking:
    """Places of items by finite values [n], the largest first.

    Example:
        >>> [field.tolist() for field in ranking(np.array([3.0, 9.0, 3.0, 1.0]))]
        [[2, 1, 2, 4], [3, 1, 3, 4]]
    """
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    more = len(values) - np.cumsum(count)  # items with a larger value
    return Ranking((more + 1)[rank], (more + count)[rank])


def depth_needed(p: float, n: int) -> int:
    """Depth below which RBO does not change in double precision.

    Example:
        >>> depth_needed(0.9, 128256), depth_needed(0.9, 30)
        (350, 30)
    """
    return min(n, int(np.ceil(np.log(NEGLIGIBLE) / np.log(p))))


def overlap(x: Ranking, y: Ranking, depth: int, ties: Ties = "b") -> Overlap:
    """Compare beginnings of length 1…depth.

    Args:
        x, y: places of the same n items.
        depth: the longest beginning.
        ties: "a": the average over all orders of tied items, for ties that only say the order is not known; "b": the same over
            its largest possible value, so that a ranking agrees with itself fully, as tau-b does; "w": tied items are equal and
            all enter at their first place, as in Webber et al. 2010.

    Example:
        >>> same = ranking(np.array([3.0, 3.0, 1.0]))
        >>> overlap(same, same, 2, "a").agreement.tolist(), overlap(same, same, 2, "b").agreement.tolist()
        ([0.5, 1.0], [1.0, 1.0])
    """
    n, deep = len(x.first), np.arange(1, depth + 1)
    begun = np.flatnonzero((x.first <= depth) & (y.first <= depth))
    starts, ends = zip(*((one.first[begun], one.last[begun]) for one in (x, y)), strict=True)

    def both(of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
        """[D], items that are in by these places."""
        return _up_to(np.maximum(of_x, of_y), depth)

    (done_x, open_x, share_x), (done_y, open_y, share_y) = (_group(one, depth) for one in (x, y))
    # At each depth at most one tie group of each ranking is cut; its members are in with the probability share.
    shared = ((1 - share_x) * (1 - share_y) * both(*ends) + share_x * (1 - share_y) * both(starts[0], ends[1])
              + (1 - share_x) * share_y * both(ends[0], starts[1]) + share_x * share_y * both(*starts))
    expected = deep * deep / n
    if ties == "w":
        size_x, size_y = done_x + open_x, done_y + open_y
        half = (size_x + size_y) / 2
        return Overlap(shared, both(*starts) / half, size_x * size_y / n / half)
    largest = deep if ties == "a" else np.sqrt((done_x + share_x**2 * open_x) * (done_y + share_y**2 * open_y))
    return Overlap(shared, shared / largest, expected / largest)


def rank_biased_overlap(agreement: np.ndarray, p: float) -> float:
    """RBO of an agreement [D], extrapolated: what the last depth shows is taken to go on.

    Args:
        agreement: at depths 1…D.
        p: persistence, the weight of a depth against the one before; 0.9 gives the first ten places 86 % of the weight.

    Raises:
        RewardenError: p not between 0 and 1.

    Source: Webber, Moffat & Zobel 2010 (RBO_EXT of rankings of one length).

    Example:
        >>> round(rank_biased_overlap(np.array([0.0, 1.0]), 0.9), 3)
        0.9
    """
    if not 0 < p < 1:
        raise RewardenError(f"persistence {p}", where="p=", fix="between 0 and 1, such as p=0.9")
    weight = p ** np.arange(len(agreement))
    return float((1 - p) * (weight @ agreement) + p ** len(agreement) * agreement[-1])


def _up_to(places: np.ndarray, depth: int) -> np.ndarray:
    """float64 [D], places 1…depth reached."""
    return np.cumsum(np.bincount(places[places <= depth], minlength=depth + 1))[1:].astype(np.float64)


def _group(one: Ranking, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each float64 [D]: items of whole tie groups, items of the group that is cut here, and the share of it that is in."""
    done, begun = _up_to(one.last, depth), _up_to(one.first, depth)
    cut = begun - done
    return done, cut, (np.arange(1, depth + 1) - done) / np.where(cut > 0, cut, 1)
