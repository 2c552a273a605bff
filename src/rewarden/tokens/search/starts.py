"""Where does a restart begin? At a random response that satisfies the constraints.

In: a space, a restart's number, a seed. Out: ids, or one clear error. Ignorant of rewards.
"""

from __future__ import annotations

import numpy as np

from rewarden.errors import RewardenError
from rewarden.tokens.search.exchange import Space

ATTEMPTS, TRIED, BLOCK = 10, 1024, 32
"""Responses grown before giving up; tokens tried at each place of one; tokens tried together."""

DRAWN = 16
"""Responses drawn from the language model at each temperature."""

TEMPERATURES = (1.0, 0.7, 0.4, 0.2, 0.0)


def random_start(space: Space, length: int, number: int, seed: int) -> np.ndarray:
    """A random response, int64 [length], the same one for a restart's number and seed.

    Allowed tokens at random; with a round trip asked for, grown token by token so that every beginning makes it; with a
    bound on naturalness, drawn from the language model, ever colder until one passes.

    Raises:
        RewardenError: none was found that satisfies the constraints.
    """
    rng, checks = np.random.default_rng([seed, number, 0]), space.checks
    if checks.likelihood is not None:
        for temperature in TEMPERATURES:
            rows = checks.likelihood.draw(length, space.allowed, temperature, DRAWN, rng)
            good = np.flatnonzero(checks.passed(rows))
            if len(good):
                return rows[good[0]]
        means = checks.likelihood(rows)
        raise _nothing(space, length, f"of {DRAWN * len(TEMPERATURES)} responses drawn from the language model at temperatures "
                       f"{TEMPERATURES} none passes; the best of the coldest has a mean log-probability of {means.max():.2f} "
                       f"(the bound is {checks.bound:g})")
    if not checks.constraints.round_trip:
        return rng.choice(space.allowed, length)
    for _ in range(ATTEMPTS):
        ids = _grown(space, length, rng)
        if ids is not None:
            return ids
    raise _nothing(space, length, f"{ATTEMPTS} responses were grown token by token, {min(TRIED, len(space.allowed))} tokens "
                   "tried at each place; none gives its ids again when written as text")


def _grown(space: Space, length: int, rng: np.random.Generator) -> np.ndarray | None:
    ids = np.empty(0, np.int64)
    while len(ids) < length:
        order = rng.permutation(space.allowed)[:TRIED]
        for start in range(0, len(order), BLOCK):
            part = order[start:start + BLOCK]
            rows = np.concatenate([np.repeat(ids[None], len(part), 0), part[:, None]], 1)
            good = np.flatnonzero(space.checks.round_trip(rows))
            if len(good):
                ids = rows[good[0]]
                break
        else:
            return None
    return ids


def _nothing(space: Space, length: int, why: str) -> RewardenError:
    return RewardenError(f"no response of {length} tokens was found that satisfies the constraints", where="constraints=",
                         why=why, fix="lower the bound, allow more tokens, or change length=")
