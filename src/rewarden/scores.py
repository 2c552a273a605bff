"""Rewards and margins of preference pairs, as a Result.

In: a reward model and pairs. Out: the `score` layout (pair × side × scalar), non-finite rows set apart.
Ignorant of accuracy tables and files (see `preferences`, `store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.conversation import Pair
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.ensemble import Ensemble
    from rewarden.reward_model import RewardModel

SIDES = ("chosen", "rejected")


def as_pairs(pairs: Pair | Sequence[Pair]) -> list[Pair]:
    """A non-empty list of pairs.

    Raises:
        RewardenError: no pairs, or something that is not a `Pair`.
    """
    pairs = [pairs] if isinstance(pairs, Pair) else list(pairs)
    if not pairs:
        raise RewardenError("no pairs to work on", where="pairs", why="the list is empty",
                            fix="check the data set, its split, subset and limit")
    wrong = [f"{type(p).__name__} is not a Pair" for p in pairs if not isinstance(p, Pair)]
    if wrong:
        raise RewardenError(wrong[0], where="pairs",
                            fix="pass rewarden.Pair(prompt=..., chosen=..., rejected=...) objects")
    return pairs


def pair_coordinates(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The coordinates every per-pair Result shares: pair ids (row numbers where a pair has none) and subsets."""
    ids = [pair.id or str(index) for index, pair in enumerate(pairs)]
    if len(set(ids)) < len(ids):
        ids = [f"{name}#{index}" for index, name in enumerate(ids)]
    return {"pair": ids, "subset": ("pair", [pair.subset for pair in pairs]), "side": list(SIDES)}


def encode_pairs(rm: RewardModel | Ensemble, pairs: Sequence[Pair]) -> list[tuple[Encoded, Encoded]]:
    """Both sides of every pair, errors naming the pair."""
    out = []
    for index, pair in enumerate(pairs):
        try:
            chosen, rejected = pair.conversations
            out.append((rm.encode(chosen), rm.encode(rejected)))
        except RewardenError as error:
            raise RewardenError(error.what, where=f"pair {pair.id or index}, {error.where}", why=error.why, fix=error.fix
                                ) from error
    return out


def score_pairs(rm: RewardModel | Ensemble, pairs: Pair | Sequence[Pair], *, batch_size: Any = "auto", progress: Any = None
                ) -> Result:
    """How much more a reward model likes the chosen response of each pair.

    Args:
        rm: the reward model.
        pairs: one pair or several.
        batch_size: rows per forward, or "auto".
        progress: called with the number of conversations done.

    Returns:
        Result of kind "score": `reward` (pair, side, scalar), `margin` (pair; NaN where a reward is not finite),
        `finite` (pair), `tokens`, `truncated` (pair, side), `chosen_longer` (pair; response tokens chosen − rejected).

    Raises:
        RewardenError: no pairs, or a pair that cannot be encoded.

    Example:
        >>> import rewarden as rw
        >>> rw.load().score(rw.Pair(prompt="Hi", chosen="Hello!", rejected="Go away.")).margin.shape
        (1,)
    """
    pairs = as_pairs(pairs)
    rows = encode_pairs(rm, pairs)
    flat = [row for both in rows for row in both]
    reward = rm.reward_encoded(flat, batch_size=batch_size, progress=progress).reshape(len(pairs), 2, -1)
    return score_result(rm, pairs, rows, reward)


def score_result(rm: RewardModel | Ensemble, pairs: Sequence[Pair], rows: Sequence[tuple[Encoded, Encoded]],
                 reward: np.ndarray) -> Result:
    """The `score` Result of a model's rewards float32 [pair, side, scalar]."""
    def per_side(measure: Any) -> np.ndarray:
        return np.asarray([[measure(row) for row in both] for both in rows])

    response = per_side(lambda row: int((row.spans == RESPONSE).sum()))
    return assemble(pairs, reward, rm.names, tokens=per_side(lambda row: row.length),
                    truncated=per_side(lambda row: row.truncated), chosen_longer=response[:, 0] - response[:, 1],
                    provenance=rm.provenance(), noise_floor=rm.noise_floor)


def set_apart(finite: np.ndarray) -> tuple[str, ...]:
    """The warning of a Result some of whose pairs (bool [pair]) have a reward that is not finite."""
    if finite.all():
        return ()
    return (f"{int((~finite).sum())} of {len(finite)} pairs have a non-finite reward; they are set apart and count "
            "neither as a win nor as a loss",)


def assemble(pairs: Sequence[Pair], reward: np.ndarray, names: Sequence[str], *, tokens: np.ndarray,
             truncated: np.ndarray, chosen_longer: np.ndarray, provenance: Mapping[str, Any],
             noise_floor: float | None) -> Result:
    """The one constructor of `score` Results, from numbers that were just computed or read back from a run.

    Args:
        pairs: the pairs.
        reward: float32 [pair, side, scalar].
        names: of the scalars; `provenance["output"]` says which one is the reward (else the first).
        tokens: [pair, side].
        truncated: [pair, side].
        chosen_longer: [pair].
    """
    finite = np.isfinite(reward).all((1, 2))
    output = str(provenance.get("output", ""))
    main = reward[:, :, list(names).index(output) if output in names else 0]
    with np.errstate(invalid="ignore"):
        margin = np.where(finite, main[:, 0] - main[:, 1], np.nan)
    data = xr.Dataset({
        "reward": (("pair", "side", "scalar"), reward), "margin": ("pair", margin), "finite": ("pair", finite),
        "tokens": (("pair", "side"), tokens), "truncated": (("pair", "side"), truncated),
        "chosen_longer": ("pair", chosen_longer.astype(float)),
    }, coords={**pair_coordinates(pairs), "scalar": list(names)})
    warnings = [*set_apart(finite)]
    if cut := int((truncated > 0).sum()):
        warnings.append(f"{cut} of {2 * len(pairs)} conversations lost prompt tokens from the left to fit "
                        f"{provenance.get('max_length', 'the limit of')} tokens")
    return Result("score", data, dict(provenance), exact=True, noise_floor=noise_floor, warnings=tuple(warnings))
