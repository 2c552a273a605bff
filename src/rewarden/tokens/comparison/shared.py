"""Which tokens do several models have in common, and what does each of them give for these?

In: scans of several models (`TokenScores`). Out: `SharedScores`, one reward for each model, prompt and shared token, with a
list of every token that was left out and why. Ignorant of models and of what is done with the rewards.
Letters: M models, T tokens of one model, K different keys (bytes or texts) over all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import FLAGS, TokenScores, token_scores

REASONS = ("special", "no bytes", "no text", "duplicate", "absent")
"""Why a token is left out. Of several reasons the first in this order is told."""


@dataclass(frozen=True, repr=False)
class SharedScores(Result):
    """Rewards of several models for the tokens that all of them have exactly once.

    Variables: `reward` (model, prompt, token) float32; `token_id` and `own_text` (model, token), and the flags `special`,
    `byte`, `trimmed`, `round_trip` (model, token); `floor` (model), the noise floor of each scan, NaN where not measured;
    `vocabulary` (model), tokens before matching; what was left out, on axis `dropped`: `dropped_model`, `dropped_id`,
    `dropped_text`, `dropped_bytes`, `dropped_reason`, `dropped_where`. Coordinates: `model`, `prompt`, and of `token` `key`
    (what was matched) with `text` and `bytes` of the first model.
    """

    prompt_index = TokenScores.prompt_index

    def at_prompt(self, prompt: int | str) -> np.ndarray:
        """float64 [model, token], the rewards under one prompt, given by number or text.

        Raises:
            RewardenError: no such prompt.
        """
        return self.data["reward"].values[:, self.prompt_index(prompt)].astype(np.float64)

    def of(self, model: int | str) -> TokenScores:
        """One model's scan, cut to the shared tokens.

        Args:
            model: its number or name.

        Raises:
            RewardenError: no such model.

        Example:
            >>> a = token_scores([[1.0, 2.0]], token_id=[0, 1], text=["x", "y"], prompts=["Hi"])
            >>> b = token_scores([[5.0, 4.0]], token_id=[7, 8], text=["y", "z"], prompts=["Hi"])
            >>> shared_vocabulary([a, b], names=["a", "b"]).of("b").reward
            array([[5.]], dtype=float32)
        """
        names = self.data["model"].values.tolist()
        if model not in names and not (isinstance(model, int) and -len(names) <= model < len(names)):
            raise RewardenError(f"no model {model!r}", where="of(model)", why=f"there are {names}", fix="use one of these")
        at = names.index(model) if isinstance(model, str) else model
        data = self.data.isel(model=at)
        floor = float(data["floor"])
        same = self.provenance["by"] == "bytes"  # otherwise the bytes may be another model's; they follow from the text
        return token_scores(data["reward"].values, token_id=data["token_id"].values, text=data["own_text"].values,
                            prompts=data["prompt"].values, bytes_=data["bytes"].values if same else None,
                            flags={flag: data[flag].values for flag in FLAGS}, exact=self.exact, warnings=self.warnings,
                            provenance={**self.provenance, "model": str(names[at])},
                            noise_floor=None if np.isnan(floor) else floor)

    def dropped(self) -> pd.DataFrame:
        """One row for each token that was left out: model, token_id, text, bytes, reason, where (the models it is said of)."""
        columns = {"model": "model", "token_id": "id", "text": "text", "bytes": "bytes", "reason": "reason", "where": "where"}
        return pd.DataFrame({name: self.data[f"dropped_{held}"].values for name, held in columns.items()})

    def counts(self) -> pd.DataFrame:
        """One row for each model: tokens of its vocabulary, shared, and left out by reason."""
        names = self.data["model"].values
        tally = self.dropped().groupby(["model", "reason"]).size()
        rows = [{"vocabulary": int(total), "shared": self.data.sizes["token"],
                 **{reason: int(tally.get((name, reason), 0)) for reason in REASONS}}
                for name, total in zip(names, self.data["vocabulary"].values, strict=True)]
        return pd.DataFrame(rows, index=pd.Index(names, name="model"))


def shared_vocabulary(scores: Sequence[TokenScores], by: Literal["bytes", "text"] = "bytes", *,
                      names: Sequence[str] | None = None, strip: bool = False, casefold: bool = False,
                      special: bool = False) -> SharedScores:
    """Match the tokens of several models.

    A token is kept when every model has exactly one token with its key. The published analyses match decoded strings
    (by="text" without normalisation); bytes also tell apart tokens whose bytes are no whole text.

    Args:
        scores: two or more scans under the same prompts, in any order of prompts.
        by: "bytes", the hexadecimal bytes of the token; or "text", its decoded text.
        names: [model]; by default `provenance["model"]` of each scan.
        strip: with by="text", ignore white space at both ends, so that " love" and "love" are one key. A model that has
            both then has a duplicate, and the key is dropped.
        casefold: with by="text", ignore case, with the same consequence.
        special: match control tokens like any other; otherwise they are dropped.

    Returns:
        SharedScores, tokens in the order of the first model. Reasons, of which the first that applies is told: "special",
        it is a control token (in `where`); "no bytes", none are known; "no text", its bytes are no whole text or nothing
        remains of it; "duplicate", several ids of the models in `where` share its key; "absent", the models in `where` do
        not have it.

    Raises:
        RewardenError: fewer than two scans, other prompts, missing or equal names, or no shared token.

    Source: Christian et al. 2025, arXiv 2506.07326 (intersection of decoded strings, repeated ones dropped).

    Example:
        >>> a = token_scores([[1.0, 2.0, 3.0]], token_id=[0, 1, 2], text=["x", "y", "y"], prompts=["Hi"])
        >>> b = token_scores([[5.0, 4.0]], token_id=[7, 8], text=["y", "x"], prompts=["Hi"])
        >>> both = shared_vocabulary([a, b], names=["a", "b"])
        >>> both.text.tolist(), both.reward.tolist()
        (['x'], [[[1.0]], [[4.0]]])
        >>> both.dropped()[["model", "token_id", "reason", "where"]].values.tolist()
        [['a', 1, 'duplicate', 'a'], ['a', 2, 'duplicate', 'a'], ['b', 7, 'duplicate', 'a']]
    """
    named = _names(scores, names)
    _check_matching(by, strip, casefold)
    order = _prompt_order(scores, named)
    own, keys, codes = _keys(scores, by, strip, casefold, special)
    counts, controls = (_tally(codes, [reason == which for reason in own], len(keys)) for which in ("", "special"))
    told, where = _verdicts(counts, controls, named)  # of each key; the same for every model
    kept = [np.flatnonzero((reason == "") & (told[code] == "")) for reason, code in zip(own, codes, strict=True)]
    if not len(kept[0]):
        raise RewardenError(f"{', '.join(named)} share no token", where=f"by={by!r}",
                            why="; ".join(f"{name} has {len(code)} tokens" for name, code in zip(named, codes, strict=True)),
                            fix="match by='text', strip=True, casefold=True" if by == "bytes" else "match by='bytes'")
    # Every other model's tokens in the order of the first.
    place = np.full(len(keys), -1)
    place[codes[0][kept[0]]] = np.arange(len(kept[0]))
    rows = [index[np.argsort(place[code[index]])] for index, code in zip(kept, codes, strict=True)]
    floors = [np.nan if one.noise_floor is None else one.noise_floor for one in scores]
    data = _matched(scores, rows, order).assign_coords(model=("model", np.array(named, dtype=object)),
                                                       key=("token", keys[codes[0][rows[0]]]))
    data = data.assign(floor=("model", floors), vocabulary=("model", [len(code) for code in codes]),
                       **_dropped(scores, named, own, codes, told, where))
    notes = [f"{name}: {note}" for name, one in zip(named, scores, strict=True) for note in one.warnings]
    provenance = {f"{name}.{key}": value for name, one in zip(named, scores, strict=True)
                  for key, value in one.provenance.items()}
    provenance |= {"by": by, "strip": strip, "casefold": casefold, "special": special}
    return SharedScores("shared_tokens", data, provenance, all(one.exact for one in scores),
                        None if np.isnan(floors).any() else max(floors), tuple(notes))


def _names(scores: Sequence[TokenScores], names: Sequence[str] | None) -> list[str]:
    if len(scores) < 2:
        raise RewardenError(f"{len(scores)} scan", where="shared_vocabulary", why="sharing takes at least two models",
                            fix="pass [scores_of_a, scores_of_b]")
    found = [one.provenance.get("model") for one in scores] if names is None else list(names)
    if len(found) != len(scores) or None in found or len(set(found)) < len(found):
        raise RewardenError(f"the models are named {found}", where="names=", why=f"{len(scores)} different names are needed",
                            fix=f"names={[f'model {i}' for i in range(len(scores))]}")
    return [str(name) for name in found]


def _check_matching(by: str, strip: bool, casefold: bool) -> None:
    if by not in ("bytes", "text") or (by == "bytes" and (strip or casefold)):
        raise RewardenError(f"cannot match by={by!r}, strip={strip}, casefold={casefold}", where="shared_vocabulary",
                            why="bytes are compared as they are", fix="by='bytes', or by='text' with strip= and casefold=")


def _prompt_order(scores: Sequence[TokenScores], names: Sequence[str]) -> list[list[int]]:
    """Of each scan, where the prompts of the first one are."""
    prompts = [one.data["prompt"].values.tolist() for one in scores]
    wrong = [name for name, own in zip(names, prompts, strict=True) if sorted(own) != sorted(prompts[0])]
    if wrong:
        raise RewardenError(f"{', '.join(wrong)} scanned other prompts than {names[0]}", where="shared_vocabulary",
                            why=f"{names[0]} has {prompts[0]}", fix="scan every model with the same prompts")
    return [list(range(len(own))) if own == prompts[0] else [own.index(prompt) for prompt in prompts[0]] for own in prompts]


def _keys(scores: Sequence[TokenScores], by: str, strip: bool, casefold: bool,
          special: bool) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """A token's own reason to be left out [T] ("" for none), the different keys [K], and each token's key number [T]."""
    own, texts = [], []
    for one in scores:
        text = one.data[by].values
        if strip or casefold:
            text = [(t.strip() if strip else t) for t in text]
            text = [t.casefold() for t in text] if casefold else text
        keys = np.empty(len(text), dtype=object)
        keys[:] = text
        reason = np.full(len(keys), "", dtype=object)
        reason[keys == ""] = f"no {by}"
        if by == "text":
            reason[one.data["byte"].values] = "no text"
        if not special:
            reason[one.data["special"].values] = "special"
        own.append(reason)
        texts.append(keys)
    codes, found = pd.factorize(np.concatenate(texts))
    return own, np.asarray(found, dtype=object), np.split(codes, np.cumsum([len(keys) for keys in texts])[:-1])


def _tally(codes: Sequence[np.ndarray], chosen: Sequence[np.ndarray], n_keys: int) -> np.ndarray:
    """[M, K], how many of a model's chosen tokens have each key."""
    return np.stack([np.bincount(code[rows], minlength=n_keys) for code, rows in zip(codes, chosen, strict=True)])


def _verdicts(counts: np.ndarray, controls: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each key [K]: why it is left out ("" for kept), and the models that this is said of."""
    said = {"absent": (counts == 0) & (controls == 0), "duplicate": counts > 1, "special": (counts == 0) & (controls > 0)}
    reason = np.full(counts.shape[1], "", dtype=object)
    blamed = np.zeros(counts.shape, dtype=bool)
    for name, of in said.items():  # the last one that applies is told
        hit = of.any(axis=0)
        reason[hit], blamed[:, hit] = name, of[:, hit]
    patterns, which = np.unique(blamed.T, axis=0, return_inverse=True)
    joined = np.array([", ".join(name for name, on in zip(names, row, strict=True) if on) for row in patterns], dtype=object)
    return reason, joined[which.ravel()]


def _matched(scores: Sequence[TokenScores], rows: Sequence[np.ndarray], order: Sequence[Sequence[int]]) -> xr.Dataset:
    """Rewards and what is known of the tokens, given each model's shared tokens and prompts in one order."""
    held = [(one.data, index) for one, index in zip(scores, rows, strict=True)]
    reward = [d["reward"].values[np.ix_(at, index)] for (d, index), at in zip(held, order, strict=True)]
    of_each = {name: np.stack([d[name].values[index] for d, index in held]) for name in ("token_id", *FLAGS, "text")}
    of_each["own_text"] = of_each.pop("text")
    first, index = held[0]
    return xr.Dataset({"reward": (("model", "prompt", "token"), np.stack(reward))},
                      coords={"prompt": first["prompt"].values,
                              **{name: ("token", first[name].values[index]) for name in ("text", "bytes")},
                              **{name: (("model", "token"), values) for name, values in of_each.items()}})


def _dropped(scores: Sequence[TokenScores], names: Sequence[str], own: Sequence[np.ndarray], codes: Sequence[np.ndarray],
             told: np.ndarray, where: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """The variables of axis `dropped`."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("model", "id", "text", "bytes", "reason", "where")}
    for one, name, reason, code in zip(scores, names, own, codes, strict=True):
        said = np.where(reason != "", reason, told[code])
        blamed = np.where(reason != "", name, where[code])
        rows = np.flatnonzero(said != "")
        values = (np.full(len(rows), name, dtype=object), one.data["token_id"].values[rows], one.data["text"].values[rows],
                  one.data["bytes"].values[rows], said[rows], blamed[rows])
        for part, value in zip(parts.values(), values, strict=True):
            part.append(value)
    return {f"dropped_{name}": ("dropped", np.concatenate(part)) for name, part in parts.items()}
