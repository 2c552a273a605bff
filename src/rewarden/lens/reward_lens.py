"""The reward lens: what the reward would be if the model stopped after each layer, and where the preference forms.

In: a reward model and pairs. Out: a `lens` Result. Three variants: norm applied (equals the reward at the last layer),
frozen scale (the last layer's norm scale everywhere: telescopes), and the published raw projection with its gap.
Source: reward-lens, arXiv 2604.26130; the raw variant is theirs, without the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rewarden.conversation import Conversation, Message, Pair
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.lens.traces import PairTraces, given_or_traced
from rewarden.options import LensOptions, resolve
from rewarden.readout import Reading
from rewarden.result import Result
from rewarden.scores import pair_coordinates, set_apart
from rewarden.statistics import bootstrap_interval
from rewarden.trace.capture import Trace

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def reward_lens(rm: RewardModel, pairs: Pair | Sequence[Pair], *, traces: PairTraces | None = None,
                options: LensOptions | None = None, **overrides: Any) -> Result:
    """Where in depth does the preference form?

    Args:
        rm: the reward model.
        pairs: one pair or several; both sides are run once.
        traces: `trace_pairs(rm, pairs)`, to share the runs with `attribute`.
        options: `LensOptions`; single fields may be given as keywords (level=, resamples=, seed=, noise_multiple=).

    Returns:
        Result of kind "lens". Layers −1 (embedding) … L−1.
        `lens`, `frozen`, `raw` (pair, side, layer); `raw_gap` (pair, side): raw projection at the last layer minus the
        reward; `margin` (pair, layer): lens of chosen − rejected; `marginal` (pair, layer): its increase at each layer;
        `mean`, `low`, `high` (layer): mean margin with a bootstrap interval clustered by prompt; `accuracy` (layer), ties
        ½, pairs with a reward that is not finite set apart; `crystallization_first`, `crystallization_stable` (pair):
        first layer with at least half of the final margin,
        and the first from which it stays so; NaN where the final margin is within the noise;
        `crystallization` (rule, statistic) mean, low, high over pairs where defined; `reward` (pair, side).

    Raises:
        RewardenError: no pairs, unknown options, traces of other pairs.

    Example:
        >>> import rewarden as rw
        >>> rm, pair = rw.load(), rw.Pair(prompt="Hi", chosen="Hello!", rejected="Go away.")
        >>> result = rw.reward_lens(rm, [pair])
        >>> bool(abs(result.data["lens"].sel(layer=rm.architecture.n_layers - 1) - result.data["reward"]).max() < 1e-5)
        True
    """
    chosen = resolve(LensOptions, options, overrides)
    runs = given_or_traced(rm, pairs, traces)
    curves = np.asarray([[_curves(rm, trace, reading) for trace, reading in zip(*both, strict=True)]
                         for both in zip(runs.traces, runs.readings, strict=True)])  # [pair, side, variant, layer]
    lens, frozen, raw = curves[:, :, 0], curves[:, :, 1], curves[:, :, 2]
    reward = np.asarray([[_reward(rm, trace, reading) for trace, reading in zip(*both, strict=True)]
                         for both in zip(runs.traces, runs.readings, strict=True)])
    margin = lens[:, 0] - lens[:, 1]
    noise = chosen.noise_multiple * rm.noise_floor
    finite = np.isfinite(margin).all(1)
    first, stable = crystallization(margin, noise)
    spread = {"level": chosen.level, "n_resamples": chosen.resamples, "seed": chosen.seed, "clusters": runs.clusters}
    mean = bootstrap_interval(margin, **spread)
    data = xr.Dataset({
        "lens": (("pair", "side", "layer"), lens), "frozen": (("pair", "side", "layer"), frozen),
        "raw": (("pair", "side", "layer"), raw), "raw_gap": (("pair", "side"), raw[:, :, -1] - reward),
        "margin": (("pair", "layer"), margin),
        "marginal": (("pair", "layer"), np.diff(margin, axis=1, prepend=0.0)),
        "mean": ("layer", np.asarray(mean.estimate)), "low": ("layer", np.asarray(mean.low)),
        "high": ("layer", np.asarray(mean.high)),
        "accuracy": ("layer", ((margin > noise) + 0.5 * (np.abs(margin) <= noise))[finite].mean(0) if finite.any()
                     else np.full(margin.shape[1], np.nan)),
        "crystallization_first": ("pair", first), "crystallization_stable": ("pair", stable),
        "crystallization": (("rule", "statistic"), np.asarray([_summary(first, spread), _summary(stable, spread)])),
        "reward": (("pair", "side"), reward),
    }, coords={**pair_coordinates(runs.pairs), "layer": np.arange(-1, lens.shape[-1] - 1),
               "rule": ["first", "stable"], "statistic": ["mean", "low", "high"]})
    return Result("lens", data, rm.provenance(), exact=True, noise_floor=rm.noise_floor, warnings=set_apart(finite))


def crystallization(margin: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """First and stable crystallization layers.

    Args:
        margin: [pair, layer], layers −1 … L−1.
        noise: a final margin up to this size has no sign.

    Returns:
        Two float [pair] arrays of layers; NaN where undefined. Swapping the two responses changes neither.

    Example:
        >>> first, stable = crystallization(np.array([[0.0, 3.0, 1.0, 4.0]]), noise=0.0)
        >>> first.tolist(), stable.tolist()
        ([0.0], [2.0])
    """
    final = margin[:, -1:]
    reached = margin * np.sign(final) >= 0.5 * np.abs(final)
    first = reached.argmax(1) - 1.0
    held = np.flip(np.minimum.accumulate(np.flip(reached, 1), 1), 1)  # reached here and at every later layer
    stable = held.argmax(1) - 1.0
    undefined = ~(np.abs(final[:, 0]) > noise)
    return np.where(undefined, np.nan, first), np.where(undefined, np.nan, stable)


def _summary(layers: np.ndarray, spread: dict[str, Any]) -> tuple[float, float, float]:
    defined = np.isfinite(layers)
    if not defined.any():
        return (np.nan, np.nan, np.nan)
    found = bootstrap_interval(layers[defined], **{**spread, "clusters": spread["clusters"][defined]})
    return float(found.estimate), float(found.low), float(found.high)


def _stack(rm: RewardModel, trace: Trace) -> Tensor:
    """Residuals [L + 1, R, d] from the embedding to the layer the read-out reads."""
    last = rm.read_layer + 1
    return torch.cat([trace["resid_pre"][:1], trace["resid_post"][:last]]).float()


def _curves(rm: RewardModel, trace: Trace, reading: Reading) -> np.ndarray:
    """Norm-applied, frozen-scale and raw lens of the main scalar, [3, L + 1]."""
    residual = _stack(rm, trace)
    readout, scale = rm.readout, rm.readout.norm.scale(residual[-1])
    with torch.no_grad():
        values = [readout.apply(residual, reading), readout.apply_at_scale(residual, scale, reading),
                  readout.apply_normed(residual, reading)]
    return torch.stack([value[..., rm.main] for value in values]).cpu().numpy()


def _reward(rm: RewardModel, trace: Trace, reading: Reading) -> float:
    residual = trace["final"] if rm.readout.layer is None else trace["resid_post"][rm.readout.layer]
    with torch.no_grad():
        return float(rm.readout.apply(residual, reading)[rm.main])


def lens_tokens(rm: RewardModel, conversation: Conversation | Sequence[Message] | Encoded) -> Result:
    """The lens at every token: what the read-out would say there, after each layer.

    Args:
        rm: a reward model whose read-out reads the last token (other read positions, a gate say, stay where they are).
        conversation: what is read.

    Returns:
        Result of kind "lens_tokens": `lens` (layer, token), norm applied; `reward` (); coordinates `text`, `span` (token).

    Raises:
        RewardenError: a bidirectional model, or a read-out that does not read the last token.

    Example:
        >>> import rewarden as rw
        >>> pair = rw.Pair(prompt="Hi", chosen="Hello!", rejected="Go away.")
        >>> rw.lens_tokens(rw.load(), pair.conversations[0]).data["lens"].dims
        ('layer', 'token')
    """
    row = conversation if isinstance(conversation, Encoded) else rm.encode(conversation)
    reading = rm.readout.read(row)
    if not rm.architecture.causal or reading.targets is not None or reading.positions[-1] != row.length - 1:
        raise RewardenError("a running read-out is not defined for this model", where=type(rm.readout).__name__,
                            why="it needs a causal model read at the last token: only then is the state at a token "
                            "what would be read if the text ended there", fix="use reward_lens, which reads where it reads")
    residual = _stack(rm, rm.trace(row, ("resid_pre", "resid_post", "final")))  # [L + 1, T, d]
    fixed = residual[:, torch.as_tensor(reading.positions[:-1])]
    stack = torch.cat([fixed[:, None].expand(-1, row.length, -1, -1), residual[:, :, None]], 2)  # [L + 1, T, R, d]
    with torch.no_grad():
        values = rm.readout.apply(stack, reading)[..., rm.main].cpu().numpy()
    data = xr.Dataset({"lens": (("layer", "token"), values), "reward": ((), values[-1, -1])},
                      coords={"layer": np.arange(-1, len(values) - 1), "text": ("token", list(row.tokens)),
                              "span": ("token", row.spans)})
    return Result("lens_tokens", data, rm.provenance(), exact=True, noise_floor=rm.noise_floor)


def reward_trace(rm: RewardModel, conversation: Conversation | Sequence[Message] | Encoded) -> Result:
    """How the reward moves as the text is read: the read-out at each token, as if the text ended there.

    Returns:
        Result of kind "reward_trace": `reward` (token), `difference` (token; change from the token before), coordinates
        `text`, `span` (token).

    Raises:
        RewardenError: as `lens_tokens`.

    Example:
        >>> import rewarden as rw
        >>> pair = rw.Pair(prompt="Hi", chosen="Hello!", rejected="Go away.")
        >>> trace = rw.reward_trace(rw.load(), pair.conversations[0])
        >>> bool(np.isclose(trace.difference.sum(), trace.reward[-1], atol=1e-5))
        True
    """
    found = lens_tokens(rm, conversation)
    running = found.data["lens"].values[-1]
    data = xr.Dataset({"reward": ("token", running), "difference": ("token", np.diff(running, prepend=0.0))},
                      coords={name: found.data[name] for name in ("text", "span")})
    return Result("reward_trace", data, found.provenance, exact=True, noise_floor=found.noise_floor)
