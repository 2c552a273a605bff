"""The layout of a vocabulary scan: one reward for each prompt and candidate token, and what is known of each token.

In: arrays. Out: `TokenScores`, a Result whose extremes can be read off. Ignorant of models and of how rewards were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result

FLAGS = ("special", "byte", "trimmed", "round_trip")
"""What is said of a token: it is a control token; its bytes are no whole text; the template trims its text; its text, written
into the conversation and read again, is the token itself."""


@dataclass(frozen=True, repr=False)
class TokenScores(Result):
    """Rewards of single tokens as whole responses.

    Variables: `reward` (prompt, token), `ties` (prompt, token): candidates with exactly this reward, itself included,
    `distinct` (prompt): different rewards; `scalars` (prompt, token, scalar) where a model has several. Coordinates of
    `token`: `token_id`, `text` (decoded), `piece` (the vocabulary's name), `bytes` (hexadecimal, "" where unknown) and
    the flags `special`, `byte`, `trimmed`, `round_trip`.
    """

    def top(self, n: int = 20, prompt: int | str = 0, *, special: bool = True) -> pd.DataFrame:
        """The best tokens of a prompt, best first.

        Args:
            n: rows.
            prompt: number or text of the prompt.
            special: keep control tokens and tokens whose bytes are no text.

        Returns:
            Columns rank, text, reward, token_id, ties, near, notes. Tokens with exactly the same reward share the best rank
            among them; `near` counts the tokens, itself included, whose reward is within the noise floor of this one: their
            order says nothing. `notes` are the flags in words: "special", "bytes", "trimmed", "not itself as text".

        Example:
            >>> scores = token_scores([[0.5, 2.0, 1.0]], token_id=[4, 5, 6], text=["a", "b", "c"], prompts=["Hi"])
            >>> scores.top(2)[["rank", "text", "reward"]].values.tolist()
            [[1, 'b', 2.0], [2, 'c', 1.0]]
        """
        return self._extremes(n, prompt, special, -1)

    def bottom(self, n: int = 20, prompt: int | str = 0, *, special: bool = True) -> pd.DataFrame:
        """The worst tokens of a prompt, worst first; as `top`, ranks counted from the worst."""
        return self._extremes(n, prompt, special, 1)

    def at_prompt(self, prompt: int | str) -> np.ndarray:
        """float64 [token], the rewards under one prompt.

        Raises:
            RewardenError: no such prompt.
        """
        return self.data["reward"].values[self.prompt_index(prompt)].astype(np.float64)

    def prompt_index(self, prompt: int | str) -> int:
        """Number of a prompt given by number or text."""
        known = [str(text) for text in self.data["prompt"].values]
        if isinstance(prompt, str):
            if prompt not in known:
                raise RewardenError(f"no prompt {prompt!r} was scanned", where="prompt=", why=f"there are {known}",
                                    fix="use one of these texts, or its number")
            return known.index(prompt)
        if not -len(known) <= prompt < len(known):
            raise RewardenError(f"no prompt number {prompt}", where="prompt=", why=f"{len(known)} were scanned",
                                fix="count from 0")
        return int(prompt) % len(known)

    def _extremes(self, n: int, prompt: int | str, special: bool, sign: int) -> pd.DataFrame:
        if n < 1:
            raise RewardenError(f"{n} rows", where="n=", fix="ask for at least 1")
        at = self.prompt_index(prompt)
        reward = self.data["reward"].values[at]
        kept = np.isfinite(reward)
        if not special:
            kept &= ~(self.data["special"].values | self.data["byte"].values)
        rows = np.flatnonzero(kept)
        order = rows[np.argsort(sign * reward[rows].astype(np.float64), kind="stable")]
        rank = np.searchsorted(np.sort(sign * reward[rows]), sign * reward[order[:n]]) + 1
        ordered, floor = np.sort(reward[rows].astype(np.float64)), self.noise_floor or 0.0
        chosen = reward[order[:n]].astype(np.float64)
        near = np.searchsorted(ordered, chosen + floor, "right") - np.searchsorted(ordered, chosen - floor, "left")
        return pd.DataFrame({
            "rank": rank, "text": self.data["text"].values[order[:n]], "reward": reward[order[:n]],
            "token_id": self.data["token_id"].values[order[:n]], "ties": self.data["ties"].values[at][order[:n]], "near": near,
            "notes": [notes_of({flag: bool(self.data[flag].values[row]) for flag in FLAGS}) for row in order[:n]]})


def notes_of(flags: Mapping[str, bool]) -> str:
    """The flags of a token in words, commas between.

    Example:
        >>> notes_of({"special": False, "byte": True, "trimmed": False, "round_trip": False})
        'bytes, not itself as text'
    """
    words = [word for flag, word in (("special", "special"), ("byte", "bytes"), ("trimmed", "trimmed")) if flags[flag]]
    return ", ".join([*words, *([] if flags["round_trip"] else ["not itself as text"])])


def ties_of(reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ties int64 [prompt, token] (0 where the reward is not finite) and distinct finite values int64 [prompt].

    Example:
        >>> ties, distinct = ties_of(np.array([[1.0, 2.0, 1.0]]))
        >>> ties.tolist(), distinct.tolist()
        ([[2, 1, 2]], [2])
    """
    ties = np.zeros(reward.shape, np.int64)
    distinct = np.zeros(len(reward), np.int64)
    for row, values in enumerate(reward):
        finite = np.isfinite(values)
        found, inverse, counts = np.unique(values[finite], return_inverse=True, return_counts=True)
        ties[row, finite], distinct[row] = counts[inverse], len(found)
    return ties, distinct


def token_scores(reward: Sequence[Sequence[float]] | np.ndarray, *, token_id: Sequence[int] | np.ndarray,
                 text: Sequence[str], prompts: Sequence[str], piece: Sequence[str] | None = None,
                 bytes_: Sequence[str] | None = None, flags: Mapping[str, np.ndarray] | None = None,
                 scalars: tuple[Sequence[str], np.ndarray] | None = None,
                 provenance: Mapping[str, str | int | float | bool] | None = None, noise_floor: float | None = None,
                 warnings: Sequence[str] = (), exact: bool = True) -> TokenScores:
    """Put a scan into its layout; also how scores from elsewhere become a `TokenScores`.

    Args:
        reward: float [prompt, token].
        token_id: int [token].
        text: [token], decoded.
        prompts: [prompt], labels.
        piece: [token], names in the vocabulary; by default the texts.
        bytes_: [token], hexadecimal; by default those of the texts.
        flags: bool [token] by name of `FLAGS`; missing ones are False, `round_trip` True.
        scalars: names [scalar] and values [prompt, token, scalar] where the model has several.
        provenance: where the numbers come from.
        noise_floor: size below which a difference is rounding.
        warnings: what the reader must know.
        exact: False for estimates.

    Raises:
        RewardenError: lengths that do not fit.
    """
    reward = np.asarray(reward, dtype=np.float32)
    n = len(token_id)
    if reward.shape != (len(prompts), n) or len(text) != n:
        raise RewardenError(f"scores of shape {reward.shape}", where="token_scores",
                            why=f"there are {len(prompts)} prompts, {n} ids and {len(text)} texts",
                            fix="pass reward[prompt, token] with an id and a text for each token")
    ties, distinct = ties_of(reward)
    given = dict(flags or {})
    known = {name: np.asarray(given.get(name, np.full(n, name == "round_trip")), dtype=bool) for name in FLAGS}
    hexed = [piece_text.encode("utf-8", "surrogatepass").hex() for piece_text in text] if bytes_ is None else bytes_
    data = xr.Dataset(
        {"reward": (("prompt", "token"), reward), "ties": (("prompt", "token"), ties), "distinct": ("prompt", distinct)},
        coords={"prompt": texts(prompts), "token_id": ("token", np.asarray(token_id, dtype=np.int64)),
                "text": ("token", texts(text)), "piece": ("token", texts(text if piece is None else piece)),
                "bytes": ("token", texts(hexed)), **{name: ("token", value) for name, value in known.items()}})
    if scalars is not None:
        data = data.assign_coords(scalar=list(scalars[0]))
        data["scalars"] = (("prompt", "token", "scalar"), np.asarray(scalars[1], dtype=np.float32))
    return TokenScores("tokens", data, dict(provenance or {}), exact, noise_floor, tuple(warnings))


def texts(values: Iterable[str]) -> np.ndarray:
    """Texts as an object array: fixed-width text would drop NUL at the end."""
    listed = [str(value) for value in values]
    out = np.empty(len(listed), dtype=object)
    out[:] = listed
    return out
