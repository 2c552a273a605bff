"""Which response of a given length does a reward model love or hate most, of all responses that satisfy some constraints?

In: models, prompts, a length, constraints. Out: `Found`. Gradient-guided steps from random starts, then exact scans that end
with a certificate. Ignorant of how responses are evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rewarden.errors import RewardenError
from rewarden.options import SearchOptions, resolve
from rewarden.tokens.search.constraints import Constraints, make_checks
from rewarden.tokens.search.exchange import Space
from rewarden.tokens.search.found import Found, assemble
from rewarden.tokens.search.history import History
from rewarden.tokens.search.moves import climb, polish
from rewarden.tokens.search.objective import Aggregate, Direction, make_objective, standardise
from rewarden.tokens.search.starts import random_start
from rewarden.tokens.search.state import open_record
from rewarden.tokens.slot import Prompt

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def search(rm: RewardModel | Sequence[RewardModel], prompt: Prompt | Sequence[Prompt], length: int,
           direction: Direction = "max", *, constraints: Constraints | None = None, system: str | None = None,
           options: SearchOptions | None = None, folder: str | os.PathLike[str] | None = None,
           progress: Callable[[int], object] | None = None, **overrides: Any) -> Found:
    """Responses of `length` tokens with the largest or smallest reward, from several starts, with certificates.

    Every restart begins at a random response, moves along gradient-guided exchanges of one token (GCG) that are evaluated
    exactly, and ends with exact scans: all allowed tokens at one position after another, until a whole sweep improves nothing.
    It is then certified: no single exchange is better by more than the noise floor. That is a local optimum; the best of
    several restarts is likely, not certain, to be the global one.

    Args:
        rm: the reward model, or several with one vocabulary.
        prompt: the user's text, a conversation, or several of them (a list of message dicts is one conversation).
        length: tokens of the response.
        direction: "max" for the largest reward, "min" for the smallest.
        constraints: what a response must be; None allows every token, control tokens too.
        system: text of a system message put before each prompt.
        options: see `SearchOptions`; single fields can be given by name (restarts=, steps=, width=, top_k=, patience=,
            polish=, sweeps=, aggregate=, scale=, seed=, ...).
        folder: keep every move there: the same call goes on after a kill and ends with the same result.
        progress: called with the number of responses evaluated.

    Returns:
        `Found`: `.response`, `.ids`, `.reward` (first prompt and model), `.objective`, `.certified`, `.table()` of all
        restarts; `path` (restart, move) for a figure. `noise_floor` is in units of the objective.

    Raises:
        RewardenError: nothing satisfies the constraints, vocabularies that differ, a prompt that leaves no room.

    Source: GCG, Zou et al. 2023 (arXiv 2307.15043); reward models as the target as in arXiv 2506.07326, §6.

    Example:
        >>> import rewarden as rw
        >>> from rewarden.tokens.search import Constraints, search
        >>> words = Constraints(allowed=range(300, 340))
        >>> found = search(rw.load(), "Hi", 2, "min", constraints=words, restarts=2, steps=3, width=16)
        >>> found.certified, len(found.ids), bool(found.reward <= found.data["start"].values.min())
        (True, 2, True)
    """
    if not isinstance(constraints, Constraints | None):
        raise RewardenError(f"a {type(constraints).__name__} is no constraint", where="constraints=",
                            fix="pass Constraints(allowed=[...]), of rewarden.tokens")
    chosen = resolve(SearchOptions, options, overrides)
    space = make_space(rm, prompt, length, direction, constraints, system, chosen.aggregate, progress)
    if chosen.scale == "z":
        standardise(space.objective, space.allowed, length, chosen.reference_sample, chosen.seed)
    record, walks = open_record(folder, space, length, chosen), []
    for number in range(chosen.restarts):
        walk = record.start(number, lambda number=number: random_start(space, length, number, chosen.seed))
        climb(space, walk, chosen, record)
        if chosen.polish == "every":
            polish(space, walk, chosen, record)
        walks.append(walk)
    if chosen.polish == "best":
        polish(space, max(walks, key=lambda walk: walk.score), chosen, record)
    return assemble(space, walks, chosen)


def make_space(rm: RewardModel | Sequence[RewardModel], prompt: Prompt | Sequence[Prompt], length: int, direction: Direction,
               constraints: Constraints | None = None, system: str | None = None, aggregate: Aggregate = "mean",
               progress: Callable[[int], object] | None = None) -> Space:
    """What is searched: the objective, the allowed ids, the checks of a response, and nothing known yet."""
    objective = make_objective(rm, prompt, length, direction, system=system, aggregate=aggregate)
    constraints = constraints or Constraints()
    models = {member.model: member.rm for member in objective.members}
    allowed = constraints.ids(list(models.values()))
    history = History(length, int(allowed.max()) + 1)
    return Space(objective, allowed, make_checks(constraints, objective, history, allowed), history, progress)
