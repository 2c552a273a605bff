"""Small synthetic Results of `rewarden.tokens`, in the documented layouts, for docstring examples and tests of the figures.

Nothing here comes from a model; the numbers are seeded noise around shapes that real results have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from rewarden.plots.examples import PROVENANCE
from rewarden.result import Result

PROMPTS = ("What, in one word, is the greatest thing ever?", "What, in one word, is the worst thing ever?")
WORDS = ("love", "joy", "pizza", "freedom", "peace", "table", "seven", "blue", "opinion", "tax", "noise", "war", "cancer",
         "abuse", "the", "of")
"""Words the synthetic vocabulary begins with, the better ones first."""


def _texts(values: Sequence[str]) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    out[:] = list(values)
    return out


def scan_result(n: int = 400, prompts: Sequence[str] = PROMPTS, seed: int = 0, texts: Sequence[str] = ()) -> Result:
    """A scan of `n` tokens: the first is special, the second bytes; words follow with and without a space, then made-up ones.

    Rewards under the prompts share a factor; the first two words' is opposed. One pair of tokens is exactly tied.
    """
    rng = np.random.default_rng(seed)
    named = list(texts) or ["<|pad|>", "�", *(space + word for word in WORDS for space in ("", " "))]
    names = [*named, *(f" w{place}" for place in range(len(named), n))][:n]
    shared, own = rng.normal(size=n), rng.normal(size=(len(prompts), n))
    reward = (0.8 * shared + 0.5 * own - 0.4).astype(np.float32)
    reward[:, -1] = reward[:, -2]
    first = np.arange(n)
    flags = {"special": first == 0, "byte": first == 1, "trimmed": np.array([text != text.strip() for text in names]),
             "round_trip": first % 5 != 1}
    ties = np.stack([(row[:, None] == row[None, :]).sum(1) if n <= 2000 else np.ones(n, int) for row in reward])
    data = xr.Dataset(
        {"reward": (("prompt", "token"), reward), "ties": (("prompt", "token"), ties),
         "distinct": ("prompt", np.array([len(np.unique(row)) for row in reward]))},
        coords={"prompt": _texts(prompts), "token_id": ("token", first), "text": ("token", _texts(names)),
                "piece": ("token", _texts([f"piece{place}" for place in range(n)])),
                "bytes": ("token", _texts(["e298" if place == 1 else text.encode("utf-8", "replace").hex()
                                           for place, text in enumerate(names)])),
                **{name: ("token", value) for name, value in flags.items()}})
    return Result("tokens", data, dict(PROVENANCE), noise_floor=1e-6)


def framing_result(n: int = 400, seed: int = 0, texts: Sequence[str] = ()) -> Result:
    """A framing plane of such a scan; its intervals are made up."""
    scan = scan_result(n, seed=seed, texts=texts)
    reward = scan.data["reward"].values.astype(float)
    mean, sd = reward.mean(1), reward.std(1)
    reading = ((reward - mean[:, None]) / sd[:, None]).T
    r = float((reading[:, 0] * reading[:, 1]).mean())
    turn = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    data = scan.data.drop_vars(["reward", "ties", "distinct", "prompt"]).assign(
        reading=(("token", "framing"), reading), fixed=(("token", "axis"), reading @ turn.T), correlation=r,
        correlation_low=r - 0.05, correlation_high=r + 0.05, n=n, mean=("framing", mean), sd=("framing", sd)).assign_coords(
        framing=["positive", "negative"], axis=["agree", "oppose"])
    return Result("framing", data, {**PROVENANCE, "positive": PROMPTS[0], "negative": PROMPTS[1]}, noise_floor=1e-6)


def moments_result(scan: Result | None = None, shift: float = 0.0) -> Result:
    """Moments of a scan, with made-up intervals."""
    scan = scan or scan_result()
    reward = scan.data["reward"].values.astype(float)
    z = (reward - reward.mean(-1, keepdims=True)) / reward.std(-1, keepdims=True)
    names = ["mean", "variance", "skewness", "tail asymmetry 0.01"]
    value = np.stack([reward.mean(-1), reward.var(-1), (z**3).mean(-1) + shift, np.full(reward.shape[:-1], 0.1)], -1)
    dims = scan.data["reward"].dims[:-1]
    data = xr.Dataset({"value": ((*dims, "moment"), value), "low": ((*dims, "moment"), value - 0.2),
                       "high": ((*dims, "moment"), value + 0.2), "n": (dims, np.full(reward.shape[:-1], reward.shape[-1]))},
                      coords={**{dim: scan.data[dim].values for dim in dims}, "moment": _texts(names)})
    return Result("moments", data, dict(PROVENANCE))


MODELS = ("gemma-2B", "gemma-27B", "llama-3B", "llama-8B")


def shared_result(models: Sequence[str] = MODELS, n: int = 400, seed: int = 0) -> Result:
    """Shared tokens of several models, whose units differ."""
    scan = scan_result(n, PROMPTS[:1], seed)
    rng = np.random.default_rng(seed)
    reward = scan.data["reward"].values + rng.normal(size=(len(models), 1, n)) * 0.5
    reward = (reward * np.arange(1, len(models) + 1)[:, None, None]).astype(np.float32)
    data = xr.Dataset({"reward": (("model", "prompt", "token"), reward)}, coords={
        "model": _texts(models), "prompt": _texts(PROMPTS[:1]), "text": ("token", scan.data["text"].values)})
    return Result("shared", data, dict(PROVENANCE))


def rank_agreement_result(models: Sequence[str] = MODELS, seed: int = 0) -> Result:
    """Agreement of models under one prompt; one pair is within the noise."""
    m, rng = len(models), np.random.default_rng(seed)
    tau = np.corrcoef(rng.normal(size=(m, 6)) + 1.2 * rng.normal(size=6))
    tau[0, -1] = tau[-1, 0] = 0.004
    quiet = np.abs(tau) < 0.01
    pairs = (("prompt", "model", "other"), tau[None])
    ends = ("prompt", "end", "model", "other")
    data = xr.Dataset(
        {"tau": pairs, "tau_low": (pairs[0], tau[None] - 0.02), "tau_high": (pairs[0], tau[None] + 0.02),
         "below_noise": (pairs[0], quiet[None]), "rbo": (ends, np.stack([tau, tau / 2])[None]),
         "overlap": (("prompt", "end", "k", "model", "other"), np.stack([[tau, tau / 2], [tau / 3, tau / 4]])[None]),
         "n": ("prompt", [9000])},
        coords={"prompt": _texts(PROMPTS[:1]), "model": _texts(models), "other": _texts(models), "end": ["top", "bottom"],
                "k": [10, 100]})
    return Result("rank_agreement", data, dict(PROVENANCE))


def model_map_result(models: Sequence[str] = MODELS) -> Result:
    """A map of models on a tilted square, whose distances fit but for one."""
    turn = np.exp(1j * (2 * np.pi * np.arange(len(models)) / len(models) + 0.4)) * 0.3
    position = np.stack([turn.real, turn.imag], 1)
    fitted = np.abs(turn[:, None] - turn[None, :])
    distance = fitted + 0.05 * (np.eye(len(models))[::-1] > 0)
    data = xr.Dataset({"position": (("prompt", "model", "axis"), position[None]), "stress": ("prompt", [0.04]),
                       "distance": (("prompt", "model", "other"), distance[None]),
                       "fitted": (("prompt", "model", "other"), fitted[None]), "n": len(models)},
                      coords={"prompt": _texts(PROMPTS[:1]), "model": _texts(models), "other": _texts(models)})
    return Result("model_map", data, {**PROVENANCE, "measure": "tau"})


def sentiment_result(prompts: Sequence[str] = PROMPTS) -> Result:
    """Slopes by prompt and sign; those of the last prompt do not differ from zero, one is below the noise floor."""
    slope = np.linspace(0.6, 0.0, 3 * len(prompts)).reshape(len(prompts), 3)
    slope[-1] = (-0.05, 0.03, 0.01)
    p = np.where(np.arange(len(prompts))[:, None] < len(prompts) - 1, 1e-4, 0.4) + np.zeros((1, 3))
    dims, quiet = ("prompt", "sign"), np.zeros(slope.shape, dtype=bool)
    quiet[0, 0] = True
    data = xr.Dataset({"slope": (dims, slope), "low": (dims, slope - 0.08), "high": (dims, slope + 0.08), "p": (dims, p / 2),
                       "p_adjusted": (dims, p), "n": (dims, np.tile([410, 260, 670], (len(prompts), 1))),
                       "below_noise": (dims, quiet)},
                      coords={"prompt": _texts(prompts), "sign": _texts(["negative", "positive", "both"])})
    return Result("sentiment", data, {**PROVENANCE, "lexicon": "VADER", "standardised": False}, noise_floor=1e-6)


def human_result(items: int = 300, models: Sequence[str] = MODELS, seed: int = 0, texts: Sequence[str] = ()) -> Result:
    """Ranks by people and by models that agree more or less with them."""
    rng = np.random.default_rng(seed)
    human = rng.normal(size=items)
    score = np.stack([human * (0.3 + 0.2 * place) + rng.normal(size=items) for place in range(len(models))], 1)
    rank = np.argsort(np.argsort(-np.column_stack([human, score]), axis=0), axis=0) + 1.0
    names = [*texts, *(f"item {row}" for row in range(items - len(texts)))]
    gap = np.median(rank[:, 1:], axis=1) - rank[:, 0]
    rho = np.array([np.corrcoef(rank[:, 0], column)[0, 1] for column in rank[:, 1:].T])
    data = xr.Dataset({"rank": (("item", "rater"), rank), "gap": ("item", gap), "rho": ("model", rho),
                       "rho_low": ("model", rho - 0.1), "rho_high": ("model", rho + 0.1)},
                      coords={"item": _texts(names), "rater": _texts(["human", *models]), "model": _texts(models)})
    return Result("human", data, dict(PROVENANCE))


def identity_result(axes: Sequence[str] = ("religion", "nonce", "age", "politics"), terms: int = 12, seed: int = 0) -> Result:
    """Effects by axis: the first lies above its controls, the last below, the second is rounding."""
    rng = np.random.default_rng(seed)
    effect = np.linspace(0.9, -0.8, len(axes))
    own = np.repeat(effect, terms) + rng.normal(size=len(axes) * terms)
    p = np.where(np.abs(effect) > 0.5, 0.001, 0.5)
    quiet = np.arange(len(axes)) == 1
    data = xr.Dataset(
        {"effect": ("axis", effect), "effect_low": ("axis", effect - 0.3), "effect_high": ("axis", effect + 0.3),
         "p": ("axis", p / 2), "p_adjusted": ("axis", p), "n": ("axis", np.full(len(axes), terms)),
         "below_noise": ("axis", quiet), "term_effect": ("term", own), "term_p": ("term", np.full(len(own), 0.01)),
         "term_p_adjusted": ("term", np.where(np.abs(own) > 1.5, 0.01, 0.3))},
        coords={"axis": _texts(axes), "term": _texts([f"term {place}" for place in range(len(own))]),
                "term_axis": ("term", _texts(np.repeat(np.asarray(axes, dtype=object), terms).tolist()))})
    return Result("identity", data, dict(PROVENANCE), noise_floor=1e-6)


def search_result(restarts: int = 4, moves: int = 30, direction: str = "max", seed: int = 0,
                  texts: Sequence[str] = ()) -> Result:
    """Restarts that climb (or fall) at random; the last ends early and without a certificate."""
    rng = np.random.default_rng(seed)
    sign = -1.0 if direction == "min" else 1.0
    path = sign * (np.cumsum(rng.exponential(0.2, size=(restarts, moves)) - 0.05, axis=1) - 1)
    path[-1, moves // 2:] = np.nan
    ends = np.array([row[np.isfinite(row)][-1] for row in path])
    names = [*texts, *(f" response {row}" for row in range(restarts))][:restarts]
    data = xr.Dataset({"path": (("restart", "move"), path), "objective": ("restart", ends),
                       "certified": ("restart", np.arange(restarts) < restarts - 1)},
                      coords={"response": ("restart", _texts(names))})
    return Result("search", data, {**PROVENANCE, "direction": direction, "scale": "raw", "length": 3}, noise_floor=1e-6)
