"""Score pairs into a run folder that resumes, and get pairs and scores back from such a folder.

In: reward model, pairs, `Run`. Out: rows on disk, one a pair with its texts and numbers; the score Result; the pairs.
A killed run loses at most the chunk it was computing. Rewards are computed by `RewardModel.score`, never here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rewarden.conversation import Pair
from rewarden.store import Run, row_key

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from rewarden.result import Result
    from rewarden.reward_model import RewardModel

CHUNK = 64
"""Pairs scored between two commits: what a kill can cost."""

SIDES = ("chosen", "rejected")
PER_PAIR, PER_SIDE = ("margin", "chosen_longer"), ("tokens", "truncated")
"""Numbers a row keeps beside the rewards."""

NOT_IDENTITY = ("device", "noise_floor", "torch")
"""Provenance that may change between two parts of one run: it moves rewards by rounding only."""

SAMPLED = 64
"""Numbers of each weight that tell a model from another, or from itself before it was changed in memory."""


def pair_keys(pairs: Sequence[Pair]) -> list[str]:
    """A stable key for each pair, from its content; a pair that occurs again gets a counted one.

    Example:
        >>> first, again = pair_keys([Pair("2+2?", "4", "5")] * 2)
        >>> again == first + "-2"
        True
    """
    seen: dict[str, int] = {}
    keys = []
    for pair in pairs:
        sides = [[(m["role"], m["content"]) for m in conversation.messages] for conversation in pair.conversations]
        key = row_key(json.dumps(sides), pair.id, pair.subset)
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return keys


def identity_of(rm: RewardModel, pairs: Sequence[Pair]) -> dict[str, object]:
    """What the rows of these pairs depend on: all that is known of the model but where it runs, and the pairs."""
    model = {key: value for key, value in rm.provenance().items() if key not in NOT_IDENTITY}
    return {**model, "pairs": hashlib.sha256("\n".join(pair_keys(pairs)).encode()).hexdigest()}


def sample_of_weights(model: nn.Module) -> str:
    """A hash of some numbers of every weight: that of the files says nothing of models made or changed in memory."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // SAMPLED)].cpu().double().numpy()
        digest.update(name.encode() + repr(tuple(weight.shape)).encode() + some.tobytes())
    return digest.hexdigest()


def score_into(run: Run, rm: RewardModel, pairs: Sequence[Pair], *, batch_size: int | Literal["auto"] = "auto",
               advance: Callable[[int], object] = lambda done: None) -> None:
    """Score the pairs the run does not hold yet, committing every chunk.

    Args:
        run: where rows go; its identity must include that of `identity_of`.
        rm: the reward model.
        pairs: all pairs of the run.
        batch_size: conversations in one forward pass.
        advance: called with the number of pairs done since the last call.
    """
    keys = pair_keys(pairs)
    done = run.done_keys()
    advance(sum(key in done for key in keys))
    # Longest first: if memory does not suffice it shows in the first batch, and chunks are of even length.
    todo = sorted((i for i, key in enumerate(keys) if key not in done),
                  key=lambda i: -len(pairs[i].chosen) - len(pairs[i].rejected))
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        scored = rm.score([pairs[i] for i in chunk], batch_size=batch_size)
        run.append(_rows(rm, scored, [pairs[i] for i in chunk], chunk), [keys[i] for i in chunk])
        advance(len(chunk))


def _rows(rm: RewardModel, scored: Result, pairs: Sequence[Pair], indices: Sequence[int]) -> list[dict[str, Any]]:
    """One row a pair: its texts, and its numbers under `name`, `name.side` or `reward.side.scalar`."""
    data = scored.data
    columns = {name: data[name].values for name in PER_PAIR}
    for side in SIDES:
        here = data.sel(side=side)
        columns |= {f"{name}.{side}": here[name].values for name in PER_SIDE}
        columns |= {f"reward.{side}.{name}": here["reward"].values[:, k]
                    for k, name in enumerate(data["scalar"].values)}
    return [{"index": index, **_texts(rm, pair), **{name: values[row] for name, values in columns.items()}}
            for row, (index, pair) in enumerate(zip(indices, pairs, strict=True))]


def _texts(rm: RewardModel, pair: Pair) -> dict[str, str]:
    """The pair, so that it can be shown and exported without its data set, and the text the model was shown."""
    chosen, rejected = pair.conversations
    other = "" if pair.rejected_prompt is None else _json(pair.rejected_prompt)
    return {"id": pair.id, "subset": pair.subset, "prompt": _json(pair.prompt), "chosen": pair.chosen,
            "rejected": pair.rejected, "rejected_prompt": other, "metadata": _json(dict(pair.metadata)),
            "text.chosen": rm.encode(chosen).text, "text.rejected": rm.encode(rejected).text}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_number_or_text)


def _number_or_text(value: Any) -> Any:
    """JSON form of messages, and of what data sets put into metadata: NumPy numbers and arrays, dates."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def rows_of(run: Run) -> pd.DataFrame:
    """The rows of a scoring run in the order of the pairs."""
    rows = run.rows()
    return rows.sort_values("index", ignore_index=True) if len(rows) else rows


def pairs_of(rows: pd.DataFrame) -> list[Pair]:
    """The pairs behind rows of a scoring run.

    Args:
        rows: as `rows_of` returns.
    """
    return [Pair(prompt=json.loads(row["prompt"]), chosen=row["chosen"], rejected=row["rejected"], id=row["id"],
                 subset=row["subset"], metadata=json.loads(row["metadata"]),
                 rejected_prompt=json.loads(row["rejected_prompt"]) if row["rejected_prompt"] else None)
            for row in rows.to_dict("records")]


def main_rewards(rows: pd.DataFrame, provenance: Mapping[str, Any]) -> np.ndarray:
    """Rewards float [n, 2] (chosen, rejected) of the scalar that counts as the reward.

    Args:
        rows: as `rows_of` returns.
        provenance: of the run; `output` names the scalar.
    """
    scalars = scalars_of(rows)
    main = provenance.get("output")
    scalar = main if main in scalars else scalars[0]
    return rows[[f"reward.{side}.{scalar}" for side in SIDES]].to_numpy(float)


def scalars_of(rows: pd.DataFrame) -> list[str]:
    """Names of the scalars that rows hold."""
    return [name.removeprefix("reward.chosen.") for name in rows.columns if name.startswith("reward.chosen.")]


def result_of(rows: pd.DataFrame, provenance: Mapping[str, Any], *, noise_floor: float | None = None) -> Result:
    """The score Result that rows of a run hold, as `RewardModel.score` would have returned it for all pairs.

    Args:
        rows: as `rows_of` returns.
        provenance: of the run.
        noise_floor: of the model, in units of the reward.
    """
    import numpy as np

    from rewarden.scores import assemble

    scalars = scalars_of(rows)
    rewards = [rows[[f"reward.{side}.{scalar}" for scalar in scalars]].to_numpy(np.float32) for side in SIDES]
    sides = {name: np.stack([rows[f"{name}.{side}"].to_numpy() for side in SIDES], axis=1) for name in PER_SIDE}
    return assemble(pairs_of(rows), np.stack(rewards, axis=1), scalars, **sides,
                    chosen_longer=rows["chosen_longer"].to_numpy(), provenance=provenance, noise_floor=noise_floor)
