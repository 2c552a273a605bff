"""How can a reader find one of 100,000 named points of a figure?

In: names and places. Out: JSON that a page holds in about 8 bytes a point and its script unpacks when somebody searches.
Ignorant of what the points are; places keep 1/4,095 of the range, names every character.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewarden.errors import RewardenError
from rewarden.plots.labels import one_line

LEVELS = 4095
"""Steps of a coordinate over its range."""


@dataclass(frozen=True)
class Points:
    """Points of a figure that its reader can look up by name.

    The figure has an empty trace with `meta` "found", in which the page draws what is found.

    Args:
        names: [n], one line each; control characters are made visible here.
        x, y: [n], in the units of the figure's axes; points that are not finite are left out.
        noun: what a point is, such as "token".
        axes: what x and y are, in a few words.
    """

    names: Sequence[str]
    x: np.ndarray
    y: np.ndarray
    noun: str = "point"
    axes: tuple[str, str] = ("x", "y")

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.x) == len(self.y):
            raise RewardenError(f"{len(self.names)} names for {len(self.x)} and {len(self.y)} coordinates", where="Points",
                                fix="pass one name, one x and one y a point")

    def packed(self) -> dict[str, Any]:
        """JSON values: `count`, `noun`, `axes`, the `range` of each coordinate, `levels`, and base64 of gzip of the points.

        The bytes are four planes of `count` bytes (low and high bytes of x, then of y, in steps of the range), then the names
        in UTF-8, sorted, one a line.

        Example:
            >>> sorted(Points(["b", "a"], np.array([0.0, 1.0]), np.array([2.0, 2.0])).packed())
            ['axes', 'count', 'levels', 'noun', 'packed', 'range']
        """
        x, y = (np.asarray(values, dtype=np.float64) for values in (self.x, self.y))
        kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        names = [one_line(str(self.names[row])) for row in kept]
        order = sorted(range(len(names)), key=lambda place: names[place])  # like beside like packs a third smaller
        planes, ranges = [], []
        for values in (x[kept], y[kept]):
            low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
            steps = np.round((values[order] - low) / ((high - low) or 1.0) * LEVELS).astype("<u2")
            planes += [(steps & 255).astype(np.uint8).tobytes(), (steps >> 8).astype(np.uint8).tobytes()]
            ranges.append([low, high])
        text = "\n".join(names[place] for place in order).encode("utf-8", "replace")
        return {"count": len(names), "noun": self.noun, "axes": list(self.axes), "range": ranges, "levels": LEVELS,
                "packed": pack(b"".join(planes) + text)}


def pack(content: bytes) -> str:
    """Bytes as base64 of gzip, the same text for the same bytes at any time.

    Example:
        >>> gzip.decompress(base64.b64decode(pack(b"abc")))
        b'abc'
    """
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
