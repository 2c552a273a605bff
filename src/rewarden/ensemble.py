"""Several reward models read as one: mean, pessimistic minimum, or a quantile, members kept beside it.

In: loaded reward models (any tokenizers). Out: scores in the layout of one model. Ignorant of how members were made.
Source: Coste et al., arXiv 2310.02743 (mean and worst-case ensembles against over-optimisation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from rewarden.conversation import Conversation, Message, Pair
from rewarden.encoding import Encoded, Encoder
from rewarden.errors import RewardenError
from rewarden.readout.heads import reduce_scores
from rewarden.result import Result
from rewarden.reward_model import RewardModel
from rewarden.scores import score_pairs


class OneModelOnly(RewardenError, AttributeError):
    """An ensemble was asked for what a single model has; also an AttributeError, so that `hasattr` and `copy` work."""


@dataclass(frozen=True, eq=False)
class Shared(Encoded):
    """A text as the first member of an ensemble reads it, with what each member reads.

    Attributes:
        rows: one a member, in their order.
    """

    rows: tuple[Encoded, ...] = ()

    def key(self) -> str:
        """Hash of the ids of all members: texts that one tokenizer writes alike may be two texts to another."""
        return hashlib.sha256("".join(row.key() for row in self.rows).encode()).hexdigest()[:32]


class Ensemble:
    """Reward models whose rewards are reduced to one.

    It scores, also what the bias battery and the cascade ask. What looks inside (`trace`, `base`, `plan`, `edit`,
    `rewarden.patch`, ...) takes one model at a time.

    Args:
        models: two or more loaded reward models.
        reduce: "mean", "min" or "quantile".
        q: the quantile, 0 to 1.
        standardize: divide each member's reward by its self-check spread first, so that scales do not decide the minimum.

    Raises:
        RewardenError: no models, or an unknown reduction.

    Example:
        >>> import rewarden as rw
        >>> both = rw.Ensemble([rw.load(), rw.load("demo:reward_model_b")], reduce="min")
        >>> score = both.reward([rw.Pair("Hi", "Hello!", "No.").conversations[0]])
        >>> bool(score[0, 0] == score[0, 1:].min())
        True
    """

    main = 0

    def __init__(self, models: Sequence[RewardModel], reduce: Literal["mean", "min", "quantile"] = "mean", q: float = 0.25,
                 *, standardize: bool = False) -> None:
        if len(models) < 2 or reduce not in ("mean", "min", "quantile") or not 0 <= q <= 1:
            raise RewardenError(f"cannot reduce {len(models)} models by {reduce!r} (q={q})", where="Ensemble",
                                fix="give at least two models; reduce by 'mean', 'min' or 'quantile' with 0 <= q <= 1")
        self.models, self.reduce, self.q, self.standardize = tuple(models), reduce, q, standardize
        names = [f"{i}:{model.name}" for i, model in enumerate(models)]
        self.name = f"{reduce}({', '.join(names)})"
        self.names = ("score", *names)

    def __getattr__(self, name: str) -> NoReturn:
        # Only called for what an ensemble lacks; private names and a half-built object (copy, pickle) must fail at once.
        if name.startswith("_") or not hasattr(self.__dict__.get("models", (None,))[0], name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise OneModelOnly(f"{type(self).__name__} has no {name!r}: looking inside and editing take one model at a time",
                           where=f"ensemble.{name}", why="the members are different models; no run and no activation is common "
                           "to them", fix=f"call the analysis, or use model.{name}, for each model in ensemble.models")

    @property
    def encoder(self) -> Encoder:
        """The first member's; token counts are reported in its tokens."""
        return self.models[0].encoder

    @property
    def noise_floor(self) -> float:
        """The largest of the members'."""
        return max(model.noise_floor for model in self.models)

    def encode(self, conversation: Conversation | Sequence[Message]) -> Shared:
        """Tokens of the first member, with those of the others."""
        rows = tuple(model.encode(conversation) for model in self.models)
        return Shared(**{part.name: getattr(rows[0], part.name) for part in fields(Encoded)}, rows=rows)

    def provenance(self) -> dict[str, str | int | float | bool]:
        """The members' provenance, prefixed by their number."""
        joined = {f"{i}.{key}": value for i, model in enumerate(self.models) for key, value in model.provenance().items()}
        return {"model": self.name, "reduce": self.reduce, "q": self.q, "standardize": self.standardize, **joined}

    def reward(self, conversations: Iterable[Conversation | Sequence[Message]], *, batch_size: Any = "auto",
               progress: Any = None) -> np.ndarray:
        """float32 [n, 1 + members]: the reduced reward, then each member's own."""
        return self.reward_encoded([self.encode(one) for one in conversations], batch_size=batch_size, progress=progress)

    def reward_encoded(self, rows: Sequence[Encoded], *, batch_size: Any = "auto", progress: Any = None) -> np.ndarray:
        """`reward` of texts that `encode` wrote.

        Raises:
            RewardenError: rows of another origin, of which it is not known what each member reads.
        """
        read = [row.rows for row in rows if isinstance(row, Shared) and len(row.rows) == len(self.models)]
        if len(read) < len(rows):
            raise RewardenError(f"{len(rows) - len(read)} rows were not encoded by this ensemble",
                                where="ensemble.reward_encoded", why="each member reads a text in its own tokens",
                                fix="pass [ensemble.encode(text), ...]")
        members = []
        for place, model in enumerate(self.models):
            own = [each[place] for each in read]
            reward = model.reward_encoded(own, batch_size=batch_size, progress=progress)[:, model.main]
            members.append(reward / self._spread(model) if self.standardize else reward)
        values = torch.from_numpy(np.stack(members, 1))
        return torch.cat([reduce_scores(values, self.reduce, self.q)[:, None], values], 1).numpy()

    @staticmethod
    def _spread(model: RewardModel) -> float:
        if "score_sd" not in model.health:
            raise RewardenError(f"the spread of {model.name} is not known", where="Ensemble(standardize=True)",
                                why="the self-check measures it, and was off", fix="load the member with check=True")
        return float(model.health["score_sd"])

    def score(self, pairs: Pair | Sequence[Pair], *, batch_size: Any = "auto", progress: Any = None) -> Result:
        """Rewards and margins of pairs, as `RewardModel.score`."""
        return score_pairs(self, pairs, batch_size=batch_size, progress=progress)
