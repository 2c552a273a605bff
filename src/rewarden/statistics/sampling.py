"""How many independent items are there, and are they enough?

In: texts, keys or counts. Out: clusters of equal content, the effective sample size, or a refusal that says how many
are needed. Ignorant of the values measured on the items.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rewarden.errors import RewardenError


class EffectiveSize(NamedTuple):
    """How many items a sample holds, counted in three ways."""

    n: int
    """Items."""
    unique: int
    """Items with content of their own."""
    kish: float
    """Kish's effective size (Σ nᵢ)² / Σ nᵢ², nᵢ = items that share content i; equals `unique` when shares are even."""


def effective_sample_size(keys: Iterable[Hashable]) -> EffectiveSize:
    """How many items there really are when some repeat.

    Args:
        keys: one per item; equal keys mean equal content (see `content_clusters`).

    Returns:
        Items, unique items, and Kish's effective size (Kish 1965, Survey Sampling, §11.7); 0 items give 0.0.

    Example:
        >>> effective_sample_size(["a", "a", "b", "c"])
        EffectiveSize(n=4, unique=3, kish=2.6666666666666665)
    """
    counts: dict[Hashable, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    n = sum(counts.values())
    return EffectiveSize(n, len(counts), n * n / sum(c * c for c in counts.values()) if n else 0.0)


def content_clusters(texts: Iterable[str | Sequence[str]]) -> np.ndarray:
    """Which items have the same content, but for case, white space and Unicode form?

    Args:
        texts: one per item, or several texts per item (prompt, chosen, rejected), which must all agree.

    Returns:
        Cluster id int64 [item], counted from 0 in order of first appearance.

    Example:
        >>> content_clusters(["What is 2+2?", "what  is 2+2? ", "Why?"])
        array([0, 0, 1])
    """
    ids: dict[tuple[str, ...], int] = {}
    keys = (tuple(map(content_key, [text] if isinstance(text, str) else text)) for text in texts)
    return np.array([ids.setdefault(key, len(ids)) for key in keys], dtype=np.int64)


def cluster_codes(values: np.ndarray, clusters: Any) -> np.ndarray:
    """Cluster number of each item [n]; without clusters every item is one."""
    if values.ndim == 0:
        raise RewardenError("this needs values over items", where="values", why="got one number",
                            fix="pass an array whose first axis is the items")
    if clusters is None:
        return np.arange(len(values))
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    if len(codes) != len(values):
        raise RewardenError(f"{len(values)} items but {len(codes)} clusters", where="clusters", fix="one id per item")
    return codes


def content_key(text: str) -> str:
    """The text without case, white space and Unicode form: equal where `content_clusters` puts texts together.

    Example:
        >>> content_key("What  is 2+2? ")
        'what is 2+2?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def require_n(n: int, minimum: int, what: str) -> None:
    """Refuse a statistic on too few items.

    Args:
        n: items at hand, after missing and repeated ones were dropped.
        minimum: items needed.
        what: what is asked for, for the message.

    Raises:
        RewardenError: n < minimum; says how many more are needed.

    Example:
        >>> require_n(12, 10, "an interval of the margin")
    """
    if n < minimum:
        raise RewardenError(f"too few items for {what}", why=f"{n} usable, at least {minimum} needed",
                            fix=f"add {minimum - n} more items with content of their own")
