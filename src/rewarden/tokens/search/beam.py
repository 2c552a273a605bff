"""Which two tokens does a reward model love or hate most? Exact for every pair that begins with one of the best first tokens.

In: models, prompts, a width. Out: `Bigrams`. First tokens are the best ones alone and the best ones before some other tokens;
after each of them every allowed token is evaluated. Ignorant of longer responses (see `search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens.scores import texts
from rewarden.tokens.search.constraints import Constraints
from rewarden.tokens.search.exchange import Space
from rewarden.tokens.search.objective import Direction, make_objective
from rewarden.tokens.search.restarts import make_space
from rewarden.tokens.slot import Prompt

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

PROBES = 4
"""Random second tokens that a first token's potential is tried with."""


@dataclass(frozen=True, repr=False)
class Bigrams(Result):
    """The best second token after each of some first tokens.

    Variables by `first`, best pair first: `ids` (first, position), `objective` of the best pair, `alone` (the first token as
    the whole response), `potential` (the best of its pairs with some random tokens); coordinate `response`. NaN where no
    second token satisfies the constraints. `firsts` in the provenance says how many of the allowed tokens were tried first:
    where it is all of them, the best pair is the best of all pairs.
    """

    @property
    def response(self) -> str:
        """Text of the best pair."""
        return str(self.data["response"].values[0])

    @property
    def ids(self) -> list[int]:
        """Token ids of the best pair."""
        return self.data["ids"].values[0].tolist()

    @property
    def reward(self) -> float:
        """Reward of the best pair under the first prompt and model, from a whole forward."""
        return float(self.data["rewards"].values[0])

    @property
    def objective(self) -> float:
        """Mean reward of the best pair over prompts and models."""
        return float(self.data["objective"].values[0])


def beam(rm: RewardModel | Sequence[RewardModel], prompt: Prompt | Sequence[Prompt], width: int = 100,
         direction: Direction = "max", *, constraints: Constraints | None = None, system: str | None = None, seed: int = 0,
         progress: Callable[[int], object] | None = None) -> Bigrams:
    """The best responses of two tokens whose first token is among the most promising ones.

    Args:
        rm: the reward model, or several with one vocabulary.
        prompt: the user's text, a conversation, or several of them.
        width: first tokens by their score alone, and as many by potential: the best score of the token before each of
            `PROBES` random ones. Between `width` and twice as many are tried; the number of allowed tokens tries all.
        direction: "max" for the largest reward, "min" for the smallest.
        constraints: what a pair must be; None allows every token.
        system: text of a system message put before each prompt.
        seed: of the random second tokens.
        progress: called with the number of responses evaluated.

    Returns:
        `Bigrams`: `.response`, `.ids`, `.reward`; `objective` (first), exact within the set of first tokens.

    Raises:
        RewardenError: a width below 1, or nothing satisfies the constraints.

    Example:
        >>> import rewarden as rw
        >>> from rewarden.tokens.search import Constraints, beam
        >>> pairs = beam(rw.load(), "Hi", width=2, constraints=Constraints(allowed=range(300, 320)))
        >>> pairs.objective == float(pairs.data["objective"].values.max()), len(pairs.ids)
        (True, 2)
    """
    if width < 1:
        raise RewardenError(f"a beam of width {width}", where="width=", fix="use at least 1")
    space = make_space(rm, prompt, 2, direction, constraints, system, progress=progress)
    objective, allowed = space.objective, space.allowed
    single = make_objective(rm, prompt, 1, direction, system=system)
    there = np.zeros(len(allowed), np.int64)
    alone = single.exchanged(allowed[:1], there, allowed, progress)
    probes = np.random.default_rng(seed).choice(allowed, min(PROBES, len(allowed)), replace=False)
    potential = np.max([objective.exchanged(np.asarray([allowed[0], probe]), there, allowed, progress) for probe in probes], 0)
    firsts = np.union1d(*(np.argsort(-values, kind="stable")[:width] for values in (alone, potential)))
    found = [_best_second(space, int(allowed[first])) for first in firsts]
    ids, scores = np.stack([allowed[firsts], [second for second, _ in found]], 1), np.asarray([score for _, score in found])
    if not np.isfinite(scores).any():
        raise RewardenError("nothing satisfies the constraints: no pair of tokens passes", where="constraints=",
                            why=f"{len(firsts)} first tokens were tried with {len(allowed)} second ones",
                            fix="raise width= or relax the constraints")
    order = np.argsort(-scores, kind="stable")
    columns = {"alone": alone[firsts[order]], "potential": potential[firsts[order]]}
    provenance = {"firsts": len(firsts), "width": width, "seed": seed}
    return _assembled(space, ids[order], scores[order], columns, provenance, single.floor)


def _best_second(space: Space, first: int) -> tuple[int, float]:
    """The best allowed second token, and the pair's score; −inf where none passes."""
    ids = np.asarray([first, space.allowed[0]])
    there = np.ones(len(space.allowed), np.int64)
    scores = space.objective.exchanged(ids, there, space.allowed, space.progress)
    best = space.best_of(ids, there, space.allowed, scores)
    return (int(ids[1]), -np.inf) if best is None else (int(space.allowed[best]), float(scores[best]))


def _assembled(space: Space, ids: np.ndarray, scores: np.ndarray, columns: dict[str, np.ndarray],
               provenance: dict[str, int], floor: float) -> Bigrams:
    objective, sign, firsts = space.objective, space.objective.sign, provenance["firsts"]
    rm, rewards, kept = objective.members[0].rm, objective.rewards(ids), np.isfinite(scores)
    apart = np.abs(objective.scores(rewards) - scores)[kept]
    data = xr.Dataset(
        {"ids": (("first", "position"), ids), "objective": ("first", np.where(kept, sign * scores, np.nan)),
         "rewards": ("first", np.where(kept, rewards[:, 0], np.nan)),
         **{name: ("first", sign * values.astype(np.float64)) for name, values in columns.items()}},
        coords={"response": ("first", texts(rm.tokenizer.batch_decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)))})
    notes = () if firsts == len(space.allowed) else (
        f"exact for pairs that begin with one of {firsts} of {len(space.allowed)} allowed tokens; other pairs were not tried",)
    return Bigrams("beam", data, {**rm.provenance(), "direction": "max" if sign > 0 else "min", "length": 2, **provenance,
                                  "allowed": len(space.allowed), "constraints": space.checks.constraints.describe()},
                   True, max(objective.floor, floor, float(apart.max(initial=0.0))), notes)
