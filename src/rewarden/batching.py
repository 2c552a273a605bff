"""How many sequences go through the model at once: length buckets, padding, and what to do when memory runs out.

In: token sequences. Out: padded tensors and index groups. Ignorant of models and rewards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError, RewardenWarning

Side = Literal["right", "left"]

CPU_TOKENS, GPU_TOKENS = 2048, 32768
"""Padded tokens of one automatic batch: about where throughput is flat on a CPU's caches, and on one accelerator."""

CPU_PADDING = 48
"""Padding tokens of an automatic CPU batch that cost less than one more forward; an eighth of its tokens may be too."""


def pad(rows: Sequence[Encoded], pad_id: int, device: torch.device, side: Side = "right") -> dict[str, Tensor]:
    """Input tensors [batch, T] of several sequences.

    Right padding keeps every token at its own index, so learned positions and causal attention see what they would
    see unpadded; left padding exists for the self-check.
    """
    width = max(row.length for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        where = slice(0, row.length) if side == "right" else slice(width - row.length, width)
        ids[index, where], mask[index, where] = row.ids, 1
        if row.type_ids is not None:
            types[index, where] = row.type_ids
    inputs = {"input_ids": ids, "attention_mask": mask}
    if any(row.type_ids is not None for row in rows):
        inputs["token_type_ids"] = types
    if side == "left":
        inputs["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)
    return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}


def plan_batches(lengths: Sequence[int], batch_size: int | Literal["auto"], device: torch.device) -> list[np.ndarray]:
    """Groups of similar length, longest first (so that memory trouble shows at once).

    Args:
        lengths: tokens per sequence.
        batch_size: rows in a group, or "auto" for a budget of padded tokens.

    Example:
        >>> [group.tolist() for group in plan_batches([3, 9, 4, 8], 2, torch.device("cpu"))]
        [[1, 3], [2, 0]]
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise RewardenError(f"batch_size={batch_size!r}", where="batch_size=", fix="use 'auto' or a whole number from 1")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    groups, start = [], 0
    while start < len(order):
        rows = _automatic(np.asarray(lengths)[order[start:]], device) if batch_size == "auto" else batch_size
        groups.append(order[start:start + rows])
        start += rows
    return groups


def _automatic(lengths: np.ndarray, device: torch.device) -> int:
    """Rows of the next automatic batch, lengths descending: within the budget, and on a CPU, where a padded token costs
    as much as a real one, without much padding."""
    rows = max(1, (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS) // max(1, int(lengths[0])))
    if device.type != "cpu":
        return rows
    tokens = np.cumsum(lengths[:rows])
    padding = np.arange(1, len(tokens) + 1) * lengths[0] - tokens  # grows with every row
    return int((padding <= np.maximum(CPU_PADDING, tokens // 8)).cumprod().sum())


def same_count(group: np.ndarray, positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows of a batch that read equally many positions, so that they can be stacked."""
    counts = np.asarray([len(positions[i]) for i in group])
    return [group[counts == count] for count in dict.fromkeys(counts.tolist())]


def run_groups(groups: list[np.ndarray], run: Callable[[np.ndarray], None],
               progress: Callable[[int], None] | None = None, names: Sequence[int] | np.ndarray | None = None) -> int:
    """Run every group; on out-of-memory halve it and go on. Returns how often memory ran out.

    Raises:
        RewardenError: one single sequence does not fit.
    """
    waiting, backoffs = list(groups), 0
    while waiting:
        group = waiting.pop(0)
        try:
            run(group)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(group) == 1:
                row = int(group[0] if names is None else names[group[0]])
                raise RewardenError("one sequence does not fit into memory", where=f"row {row}",
                                    why=str(error).splitlines()[0],
                                    fix="lower max_length, load in bfloat16, or use a larger device") from error
            backoffs += 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            half = (len(group) + 1) // 2
            waiting[:0] = [group[:half], group[half:]]
            # the groups still waiting are of the same cost: split them before they fail too
            waiting = [part for g in waiting for part in ([g] if len(g) <= half else [g[:half], g[half:]])]
            continue
        if progress:
            progress(len(group))
    if backoffs:
        warnings.warn(f"memory ran out {backoffs} time(s); batches were halved, no row was lost", RewardenWarning,
                      stacklevel=3)
    return backoffs


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate" in text
