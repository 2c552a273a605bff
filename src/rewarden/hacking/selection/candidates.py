"""Which samples belong to one prompt, and what do a reward model and a judge of it say of each?

In: a JSONL file, a data frame, rows, arrays [prompt, sample] or a Result. Out: a `ScoreTable`, checked once, here.
Ignorant of models and of what is computed from it. Letters: N samples, P prompts, C further scorings, B reference read-outs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.conversation import as_messages
from rewarden.errors import RewardenError
from rewarden.result import Result

KIND = "score_table"
PROXY, GOLD = ("proxy", "reward", "score"), ("gold", "gold_reward", "label")
"""Names that a column of the reward and one of its judge may have."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Samples of prompts with two numbers each: the reward that would be optimised, and what it should stand for.

    Attributes:
        prompts: one text a prompt [P].
        of: int64 [N], number of the prompt of each sample.
        proxy: float64 [N], the reward; NaN for a sample that could not be scored.
        gold: float64 [N], of a second model or of labels; None where there is none.
        responses: text of each sample [N]; None where not known.
        copies: float64 [N, C], scorings of the same samples repeated with independent noise; `proxy` is their mean.
        references: float64 [N, B], the same samples under random read-outs of the model: what any read-out would say.
        noise: standard deviation of the arithmetic noise of `proxy`, in its units; 0 where none is known.
        provenance: where the numbers come from.

    Example:
        >>> table = ScoreTable.read([{"prompt": "Hi", "reward": 1.0, "label": 0}, {"prompt": "Hi", "reward": 2.0, "label": 1}])
        >>> table.proxy.tolist(), table.gold.tolist(), table.sizes.tolist()
        ([1.0, 2.0], [0.0, 1.0], [2])
    """

    prompts: tuple[str, ...]
    of: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray | None = None
    responses: tuple[str, ...] | None = None
    copies: np.ndarray | None = None
    references: np.ndarray | None = None
    noise: float = 0.0
    provenance: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.proxy)
        lengths = {name: len(value) for name in ("of", "gold", "responses", "copies", "references")
                   if (value := getattr(self, name)) is not None and len(value) != n}
        if lengths or not n:
            raise RewardenError("a score table needs one entry a sample", where="ScoreTable",
                                why=f"{n} rewards" + "".join(f", {count} of {name}" for name, count in lengths.items()),
                                fix="give arrays of one length, at least one sample")
        if not ((self.of >= 0) & (self.of < len(self.prompts))).all():
            raise RewardenError("samples of unknown prompts", where="ScoreTable.of",
                                why=f"there are {len(self.prompts)} prompts", fix="number the prompt of each sample from 0")

    @property
    def sizes(self) -> np.ndarray:
        """Samples a prompt, int64 [P]."""
        return np.bincount(self.of, minlength=len(self.prompts))

    @property
    def scored(self) -> np.ndarray:
        """Which samples have finite numbers everywhere, bool [N]."""
        parts = [part for part in (self.proxy, self.gold, self.copies, self.references) if part is not None]
        return np.logical_and.reduce([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts])

    def rows(self, kept: np.ndarray) -> ScoreTable:
        """The table of some samples, by their numbers or a mask; prompts without a sample left are dropped."""
        kept = np.flatnonzero(kept) if kept.dtype == bool else kept
        prompts, of = np.unique(self.of[kept], return_inverse=True)
        cut = {name: None if (value := getattr(self, name)) is None else value[kept]
               for name in ("gold", "copies", "references")}
        texts = None if self.responses is None else tuple(self.responses[row] for row in kept)
        return replace(self, prompts=tuple(self.prompts[p] for p in prompts), of=of.ravel(), proxy=self.proxy[kept],
                       responses=texts, **cut)

    def noted(self, **facts: str | int | float | bool) -> ScoreTable:
        """The table with more said of where it comes from."""
        return replace(self, provenance={**self.provenance, **facts})

    def members(self) -> list[np.ndarray]:
        """Sample numbers of each prompt, in order [P]."""
        return np.split(np.argsort(self.of, kind="stable"), np.cumsum(self.sizes)[:-1])

    def result(self) -> Result:
        """As a Result of kind "score_table", which `read` takes back; the random read-outs are not kept."""
        variables: dict[str, Any] = {"of": ("sample", self.of), "proxy": ("sample", self.proxy)}
        if self.gold is not None:
            variables["gold"] = ("sample", self.gold)
        if self.responses is not None:
            variables["response"] = ("sample", np.array(self.responses, dtype=object))
        if self.copies is not None:
            variables["copy_of_proxy"] = (("sample", "copy"), self.copies)
        data = xr.Dataset(variables, coords={"prompt": np.array(self.prompts, dtype=object)})
        return Result(KIND, data, self.provenance, noise_floor=self.noise)

    @classmethod
    def read(cls, source: Any) -> ScoreTable:
        """A table from whatever holds one.

        Args:
            source: a `ScoreTable`; a path of JSON lines, CSV or Parquet; a data frame or an iterable of mappings with one row a
                sample (`prompt`; `proxy`, `reward` or `score`; optionally `gold`, `gold_reward` or `label`; `response`; columns
                `proxy_1`, `proxy_2`, … hold repeated scorings; rows with a response may come without a reward, for
                `table_again`); a Result of `ScoreTable.result`; or a mapping or pair of
                arrays [P, m], the proxy and the gold.

        Raises:
            RewardenError: nothing of that, columns that are missing, cells that are no numbers, or rows without a prompt or,
                where others have one, a response.
        """
        if isinstance(source, ScoreTable):
            return source
        if isinstance(source, Result):
            return cls._of_result(source)
        if isinstance(source, str | os.PathLike):
            return cls._of_frame(_rows(Path(source)), where=str(source))
        if isinstance(source, Mapping) or (isinstance(source, tuple) and 1 <= len(source) <= 2):
            return cls._of_arrays(source)
        if isinstance(source, np.ndarray):
            return cls._of_arrays((source,))
        return cls._of_frame(source if isinstance(source, pd.DataFrame) else _listed(source), where="rows")

    @classmethod
    def _of_result(cls, result: Result) -> ScoreTable:
        if result.kind != KIND:
            raise RewardenError(f"a result of kind {result.kind!r} is no score table", where="best_of_n(table)",
                                why="one number a sample is needed, several samples a prompt",
                                fix="make one with rewarden.hacking.score_table(rm, gold, prompts, responses)")
        data = result.data
        held = {name: data[key].values if key in data else None for name, key in
                (("gold", "gold"), ("copies", "copy_of_proxy"))}
        texts = tuple(map(str, data["response"].values)) if "response" in data else None
        return cls(tuple(map(str, data["prompt"].values)), data["of"].values, data["proxy"].values, responses=texts,
                   noise=float(result.noise_floor or 0.0), provenance=result.provenance, **held)

    @classmethod
    def _of_arrays(cls, source: Any) -> ScoreTable:
        if isinstance(source, Mapping):
            source = tuple(_first(source, names) for names in (PROXY, GOLD))
        parts = [None if part is None else _numbers(part, "best_of_n(table)") for part in source]
        proxy, gold = parts[0], parts[1] if len(parts) > 1 else None
        if proxy is None or proxy.ndim != 2 or (gold is not None and gold.shape != proxy.shape):
            raise RewardenError("rewards of samples stand in an array [prompt, sample]", where="best_of_n(table)",
                                why=f"got shapes {[None if part is None else part.shape for part in parts]}",
                                fix="pass (proxy, gold), both of shape [prompts, samples], NaN where there is no sample")
        here = ~np.isnan(proxy)  # shorter pools are filled up with NaN; what is infinite is a sample, counted as unusable
        return cls(tuple(map(str, range(len(proxy)))), np.nonzero(here)[0], proxy[here], None if gold is None else gold[here])

    @classmethod
    def _of_frame(cls, frame: pd.DataFrame, where: str) -> ScoreTable:
        repeated = sorted(name for name in map(str, frame.columns) if name.startswith("proxy_") and name[6:].isdigit())
        proxy, gold = (_first(frame, names) for names in (PROXY, GOLD))
        if "prompt" not in frame or (proxy is None and not repeated and "response" not in frame):
            raise RewardenError("a score table needs the columns 'prompt' and 'proxy' or 'response'", where=where,
                                why=f"found {', '.join(map(str, frame.columns)) or 'no columns'}",
                                fix=f"one row a sample; rewards are called {' or '.join(PROXY)}, the gold {' or '.join(GOLD)}")
        copies = np.stack([_numbers(frame[name], where) for name in repeated], 1) if repeated else None
        keys: dict[str, int] = {}
        of = [keys.setdefault(prompt, len(keys)) for prompt in _texts(frame["prompt"], where, "prompt", _prompt_text)]
        texts = tuple(_texts(frame["response"], where, "response", _text)) if "response" in frame else None
        unscored = np.full(len(frame), np.nan)  # responses that wait for a model
        rewards = copies.mean(axis=1) if copies is not None else unscored if proxy is None else _numbers(proxy, where)
        golds = None if gold is None else _numbers(gold, where)
        return cls(tuple(keys), np.array(of, dtype=np.int64), rewards, golds, texts, copies)


def _first(source: Any, names: Sequence[str]) -> Any:
    return next((source[name] for name in names if name in source), None)


def _numbers(values: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RewardenError("a column or array of rewards holds what is no number", where=where, why=str(error),
                            fix="write numbers, and null where there is none; fill shorter rows of an array up with NaN"
                            ) from error


def _text(cell: Any) -> str | None:
    """A text, or a number as one; None for anything else."""
    if isinstance(cell, str):
        return cell
    return str(cell) if isinstance(cell, int | float | np.number) and np.isfinite(cell) else None


def _prompt_text(cell: Any) -> str | None:
    """A prompt as one text: messages as JSON; None where there is none."""
    if not isinstance(cell, list | tuple | np.ndarray):
        text = _text(cell)
        return text if text and text.strip() else None
    try:
        return json.dumps(as_messages(list(cell)), sort_keys=True)
    except RewardenError:
        return None


def _texts(column: pd.Series, where: str, name: str, text_of: Callable[[Any], str | None]) -> list[str]:
    """A column of texts; every row must have one."""
    texts = [text_of(cell) for cell in column]
    bad = [str(row) for row, text in zip(column.index, texts, strict=True) if text is None]
    if bad:
        raise RewardenError(f"{len(bad)} rows have no {name} that can be read", where=where,
                            why=f"rows {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}",
                            fix=f"give every row a {name}: a text" + (", or messages" if name == "prompt" else ""))
    return [text for text in texts if text is not None]


def _listed(source: Any) -> pd.DataFrame:
    try:
        return pd.DataFrame(list(source))
    except (TypeError, ValueError) as error:
        raise RewardenError(f"{type(source).__name__} holds no samples", where="best_of_n(table)", why=str(error),
                            fix="pass a path, a data frame, rows of prompt and reward, or arrays [prompt, sample]") from error


def _rows(path: Path) -> pd.DataFrame:
    from rewarden.preferences.files import read_rows

    rows = list(read_rows(path))  # counted as the file counts them
    bad = [f"row {row.number}: {row.problem}" for row in rows if row.problem]
    if bad:
        raise RewardenError(f"{len(bad)} rows of {path.name!r} cannot be read", where=str(path), why="; ".join(bad[:5]),
                            fix="mend or remove these rows")
    return pd.DataFrame([row.values for row in rows], index=[row.number for row in rows])
