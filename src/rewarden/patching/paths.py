"""Path patching: what does one component tell another, and what is that worth to the reward?

In: a reward model and pairs. Out: a `paths` Result with one exact effect per edge. The change of a sender's write is added to
what one receiver reads, before its norm, and to nothing else; one plan of the edit engine per pair. Source: Wang et al., arXiv
2211.00593; Goldowsky-Dill et al., arXiv 2304.05969.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.edits import backend_of
from rewarden.options import PathOptions, resolve
from rewarden.patching.pair_paths import Edges, PairPaths
from rewarden.patching.sources import require_one_model
from rewarden.patching.summary import Variables, prompt_clusters, summarise
from rewarden.patching.sweep import pairs_alone, token_coordinates, warnings_of
from rewarden.result import Result
from rewarden.scores import as_pairs

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def patch_paths(rm: RewardModel, pairs: Pair | Sequence[Pair], senders: Sequence[str] | str | None = None,
                receivers: Sequence[str] | str | None = None, mode: str | None = None, positions: str | None = None,
                alignment: str | None = None, *, progress: Callable[[int], object] | None = None,
                options: PathOptions | None = None, **overrides: Any) -> Result:
    """What does each component tell each later one, and what is that worth to the reward?

    The base run is that of the chosen response (mode "denoising": of the rejected one), the source the other. An edge: what the
    sender writes in the source and not in the base is added to what the receiver reads, before its norm, at aligned
    positions; every other reader of the stream sees the base run. What the receiver then writes flows on freely. A head as
    receiver: the other heads of its layer are held at their base values. Edges exist to receivers that read after the
    sender has written: later layers, and the MLP of the same layer after its attention, but for parallel blocks.

    Args:
        rm: the reward model.
        pairs: one pair or several.
        senders, receivers, mode, positions, alignment: as the fields of `PathOptions`, whose defaults hold where they are
            not given.
        progress: called with the number of pairs finished.
        options: `PathOptions`; single fields may be given as keywords (alpha=, level=, resamples=, seed=).

    Returns:
        Result of kind "paths".
        `effect` (pair, sender, receiver): reward of the base run − reward with the edge patched (denoising: the reverse);
        NaN where there is no such edge, or no position has a counterpart.
        `direct` (pair, sender): the edge to the read-out, all between frozen, the final norm moving; also the receiver
        "read_out" of `effect`. `direct_base_scale`: the same with the norm's scale held at the base run's, so that it adds up
        over senders. `direct_frozen`: with each run's own scale, contribution in the chosen run − in the rejected run: the
        line of this name in `rewarden.attribute` ("attn.l": its heads and `attn_bias.l` together).
        `normalized`, `normalized_direct`: ÷ `margin`, NaN where the margin is within the noise.
        `mean`, `low`, `high`, `n`, `p`, `p_adjusted`, `marked`, `below_noise` of `effect`, and with suffix `_direct` of
        `direct`, and `tests`, the number of edges tested together: see `rewarden.patching.summary`.
        `reward_base`, `reward_source`, `margin` (pair).
        Coordinates `token`, `span`, `aligned` (pair, position) as in `patch`; `sender_kind`, `sender_layer`, `sender_head`,
        and the same of receivers.

    Raises:
        RewardenError: names this model lacks, a model whose residual stream is not a sum of writes, no pairs, unknown options.

    Example:
        >>> import rewarden as rw
        >>> rm, pair = rw.load(), rw.Pair("Hi", "Hello!", "Go away.")
        >>> paths = rw.patch_paths(rm, pair, senders=("mlp.4",), receivers=("attn.5", "mlp.4", "mlp.5", "read_out"))
        >>> np.isfinite(paths.effect[0, 0]).tolist()  # its own layer has read before it writes
        [True, False, True, True]
        >>> ledger = rw.attribute(rm, pair).data["difference"].sel(component="mlp.4")
        >>> bool(np.isclose(paths.direct_frozen[0, 0], ledger.item(), atol=1e-5))
        True
    """
    require_one_model(rm)
    rm.architecture.require("writes", "path patching")
    given = {"senders": senders, "receivers": receivers, "mode": mode, "positions": positions, "alignment": alignment}
    chosen = resolve(PathOptions, options, {**{k: v for k, v in given.items() if v is not None}, **overrides})
    edges = Edges(rm, as_pairs(pairs), chosen)
    found = []
    for index in range(len(edges.pairs)):
        found.append(edges.run(index))
        if progress:
            progress(1)
    return assemble(edges, found)


def assemble(edges: Edges, found: Sequence[PairPaths]) -> Result:
    """The `paths` Result of all pairs."""
    rm, options = edges.rm, edges.options
    floor = max(rm.noise_floor, *(pair.noise_floor for pair in found))
    coordinates = {**pairs_alone(edges.pairs), **token_coordinates(edges.sweeper)}
    for axis, nodes in zip(("sender", "receiver"), edges.asked, strict=True):
        coordinates[axis] = [node.name for node in nodes]
        coordinates |= {f"{axis}_{what}": (axis, [getattr(node, what) for node in nodes]) for what in ("kind", "layer", "head")}
    asked = {"mode": options.mode, "positions": options.positions, "alignment": options.alignment}
    cost = {"backend": backend_of(rm).name, "forwards": round(1 + sum(pair.forwards for pair in found), 6),  # 1: `is_parallel`
            "edits": sum(pair.edits for pair in found)}
    data = xr.Dataset(_variables(edges, found, floor), coords=coordinates)
    warnings = warnings_of([pair.apart for pair in found], sum(pair.lost for pair in found))
    return Result("paths", data, {**rm.provenance(), **asked, **cost}, noise_floor=floor, warnings=warnings)


def _variables(edges: Edges, found: Sequence[PairPaths], floor: float) -> Variables:
    """Effects in the order asked, and their summaries; an edge to the read-out is tested once and shown twice."""
    rows = [edges.senders.index(node) for node in edges.asked[0]]
    columns = [edges.receivers.index(node) for node in edges.asked[1]]
    effect = np.stack([pair.effect for pair in found])[:, rows]
    base, source = (np.asarray([getattr(pair, f"reward_{side}") for pair in found]) for side in ("base", "source"))
    with np.errstate(invalid="ignore"):
        margin = edges.sign * (base - source)
        divisor = np.where(np.abs(margin) > floor, margin, np.nan)[:, None]
    axes, short = ("pair", "sender", "receiver"), ("pair", "sender")
    direct = effect[..., -1]
    inside = {"": (axes, effect[..., :-1]), "_direct": (short, direct)}
    data: Variables = {"effect": (axes, effect), "direct": (short, direct), "normalized": (axes, effect / divisor[..., None]),
                       "normalized_direct": (short, direct / divisor)}
    summary = summarise(inside, prompt_clusters(edges.pairs), edges.options, floor)
    for name, (names, values) in summary.items():
        data[name] = (names, values) if name == "tests" or name.endswith("_direct") else (
            names, np.concatenate([values, summary[f"{name}_direct"][1][..., None]], -1))
    data = {name: (names, values[..., columns] if "receiver" in names else values)
            for name, (names, values) in data.items()}
    for name in ("frozen", "base_scale"):
        data[f"direct_{name}"] = (short, np.stack([getattr(pair, name) for pair in found])[:, rows])
    return data | {"reward_base": (("pair",), base), "reward_source": (("pair",), source), "margin": (("pair",), margin)}
