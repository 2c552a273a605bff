"""From which tokens the attention of each layer moved the reward to the read-out.

In: a reward model and traced pairs. Out: `source` (pair, side, layer_index, token). A head's write is a weighted sum over the
tokens it attends to, so its line of the ledger splits exactly over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.lens.attribution import read_heads
from rewarden.lens.traces import PairTraces
from rewarden.readout import Reading
from rewarden.trace.attention import recording_attention
from rewarden.trace.capture import Trace

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def source_contributions(rm: RewardModel, runs: PairTraces) -> xr.Dataset:
    """Contribution of every source token through each layer's heads.

    Returns:
        `source` (pair, side, layer_index, token), NaN after a sequence's end; over tokens it sums to the layer's heads.
        `text` (pair, side, token).

    Raises:
        RewardenError: attention that does not run through transformers' interface, or whose heads are not a weighted sum
            of values (gated attention).
    """
    rm.architecture.require("heads", "attribution to source tokens")
    width = max(row.length for both in runs.rows for row in both)
    shape = (len(runs.pairs), 2, rm.architecture.n_layers, width)
    source, text = np.full(shape, np.nan), np.full((*shape[:2], width), "", dtype=object)
    for i, (rows, traces, readings) in enumerate(zip(runs.rows, runs.traces, runs.readings, strict=True)):
        for side in range(2):
            values = _one(rm, rows[side], traces[side], readings[side])
            source[i, side, : len(values), : values.shape[1]] = values.cpu().numpy()
            text[i, side, : rows[side].length] = rows[side].tokens
    return xr.Dataset({"source": (("pair", "side", "layer_index", "token"), source)},
                      coords={"layer_index": np.arange(shape[2]), "text": (("pair", "side", "token"), text.astype(str))})


def _one(rm: RewardModel, row: Encoded, trace: Trace, reading: Reading) -> Tensor:
    """[layer, T] of one conversation."""
    final = trace["final"].float() if rm.readout.layer is None else trace["resid_post"][rm.readout.layer].float()
    weight = rm.readout.frozen(final, reading, rm.main).weight
    with recording_attention(rm.architecture.trunk, reading.positions.tolist()) as record:
        rm.forward([row], [])
    lines = []
    last = rm.read_layer + 1
    for layer in range(last):
        if layer not in record.pattern:
            raise RewardenError("attention of this family cannot be recorded", where=type(rm.model).__name__,
                                why=f"layer {layer} does not call it through transformers' attention interface",
                                fix="leave source_tokens=False")
        heads = read_heads(trace, layer, rm.architecture.blocks[layer], weight)
        moved = torch.einsum("hrt,htd,rhd->t", record.pattern[layer], record.values[layer], heads.direction)
        if not torch.allclose(moved.sum(), heads.values.sum(), rtol=1e-2 if rm.health.get("half") else 1e-3, atol=1e-3):
            raise RewardenError("heads of this family are not weighted sums of values", where=type(rm.model).__name__,
                                why=f"layer {layer}: tokens sum to {float(moved.sum()):.4g}, heads to "
                                f"{float(heads.values.sum()):.4g}", fix="leave source_tokens=False")
        lines.append(moved)
    return torch.stack(lines)
