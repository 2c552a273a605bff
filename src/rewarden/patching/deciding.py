"""Does a single component decide the reward?

In: a `patch` Result of heads and MLPs at the read-out. Out: a `Verdict` for each component, flagged where its mean effect
stands apart from those of all others. Ignorant of models and of what the component computes.
"""

from __future__ import annotations

import numpy as np

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import Verdict, require_n
from rewarden.statistics.spacings import outlier_p

FEWEST = 12
"""Components: half of them are the tail that the largest is compared with."""

FIELDS = ("mean", "low", "high", "n", "p", "marked")


def deciding(result: Result) -> dict[str, Verdict]:
    """Which component, if any, has an effect out of proportion to those of all others?

    Many components differ from zero in any model (`marked`); this asks whether one outdoes the rest. The |mean effect| of heads
    and MLPs are a sample with an upper tail, and the largest is an outlier where its spacing to the next is too large for
    the other spacings of the upper half (`statistics.spacings.outlier_p`). Flagged at the result's `alpha`, where the effect
    differs from zero as well.

    Args:
        result: of `rw.patch(rm, pairs, sites=("mlp_out", "z"), positions="read_out")`, of six prompts or more.

    Returns:
        By component ("head.2.1", "mlp.0"): `estimate` is its mean effect with interval; `p` is of the largest, 1 for others;
        evidence is −log10 p.

    Raises:
        RewardenError: effects token by token or without tests, no heads, or too few components or prompts.

    Example:
        >>> import rewarden as rw
        >>> organism = rw.organisms.decisive_head(seed=0)
        >>> found = rw.patch(organism, organism.pairs(8), sites=("mlp_out", "z"), positions="read_out")
        >>> [name for name, verdict in deciding(found).items() if verdict.flag] == [organism.truth["component"]]
        True
    """
    data = result.data
    if not {f"{field}_heads" for field in FIELDS} <= set(data.data_vars) or "position" in data["mean_heads"].dims:
        raise RewardenError("no effects of heads at the read-out", where="deciding(result)",
                            why=f"the result has {', '.join(map(str, data.data_vars))}",
                            fix='run rw.patch(rm, pairs, sites=("mlp_out", "z"), positions="read_out")')
    layers = data["layer"].values.tolist()
    names = [f"head.{layer}.{head}" for layer in layers for head in data["head"].values.tolist()]
    columns = [np.ravel(data[f"{field}_heads"].values) for field in FIELDS]
    if "mlp_out" in data["site"].values:
        names += [f"mlp.{layer}" for layer in layers]
        columns = [np.append(heads, data[field].sel(site="mlp_out").values)
                   for field, heads in zip(FIELDS, columns, strict=True)]
    mean, low, high, n, tested, marked = columns
    require_n(int(np.isfinite(mean).sum()), FEWEST, "one component against the others (components with an effect)")
    if not np.isfinite(tested).any():
        raise RewardenError("no component's effect is tested", where="deciding(result)",
                            why=f"{data.sizes['pair']} pairs have too few prompts", fix="give pairs of six prompts or more")
    size = np.abs(np.nan_to_num(mean))
    p = np.ones(len(size))
    first = int(size.argmax())
    p[first] = float(outlier_p(size, 1, len(size) // 2, float(result.noise_floor or 0.0))[0])
    alpha = float(result.provenance.get("alpha", 0.05))
    return {name: Verdict(name, bool(p[row] <= alpha and marked[row]), -float(np.log10(max(p[row], 1e-300))), mean[row],
                          low[row], high[row], p[row], int(n[row])) for row, name in enumerate(names)}
