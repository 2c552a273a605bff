"""The work that no exact method can avoid: what the light cones of edits hold.

In: sites, a model's shape. Out: token-layers (one token through one layer). Ignorant of engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.models import Shape
    from harness.plain import Site


def limit(sites: Sequence[Site], shape: Shape, tokens: int, shared: int = 0, *, late: bool = False) -> float:
    """Token-layers that the sites' light cones hold: what an exact method has to compute.

    An edit at layer l and position p reaches layers > l at n = T − p positions. Of the last layer, queries, keys and values
    of the n positions are needed (a share κ of a layer), and one whole token: (L − 1 − l)·n + κ·(n − 1) + 1. A position
    before the first difference of the two runs, and a sublayer of the last layer off the read-out, need nothing.

    Args:
        sites: of a sweep.
        shape: of the model.
        tokens: T.
        shared: tokens before the first difference.
        late: count what is known of sublayer outputs as well: they leave the rest of their own layer as it was, so that the
            n positions start one layer later, with one token of their own layer (none after the MLP).
    """
    share, total = shape.key_share(), 0.0
    for kind, layer, position, _ in sites:
        n, above = tokens - position, shape.layers - 1 - layer
        if position < shared or (above == 0 and kind != "resid_pre" and n > 1):
            continue
        after = late and kind != "resid_pre"
        own = float(after and kind != "mlp_out")
        total += own if after and above == 0 else (above - after) * n + share * (n - 1) + 1 + own
    return total
