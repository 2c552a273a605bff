"""A beam over first tokens is exact inside its set, and brute force where the set is everything."""

from __future__ import annotations

import numpy as np
import pytest
from tests.tokens.small import PROMPT, SIZE, every_pair, small

from rewarden.errors import RewardenError
from rewarden.tokens import score_vocabulary
from rewarden.tokens.search import Bigrams, Constraints, beam


@pytest.mark.parametrize("direction", ["max", "min"])
def test_with_every_first_token_it_is_brute_force(direction: str) -> None:
    table = every_pair(small(1))
    pairs = beam(small(1), PROMPT, SIZE, direction)  # type: ignore[arg-type]
    best = np.unravel_index(table.argmax() if direction == "max" else table.argmin(), table.shape)
    assert pairs.ids == [int(i) for i in best]
    assert pairs.reward == pytest.approx(table[best], abs=1e-5)
    assert not pairs.warnings
    order = np.argsort(pairs.data["ids"].values[:, 0])
    rows = table.max(1) if direction == "max" else table.min(1)
    np.testing.assert_allclose(pairs.data["objective"].values[order], rows, atol=1e-5)


def test_a_narrow_beam_is_exact_for_the_first_tokens_it_says() -> None:
    rm, table = small(2), every_pair(small(2))
    pairs = beam(rm, PROMPT, 10, seed=3)
    firsts = pairs.data["ids"].values[:, 0]
    alone = score_vocabulary(rm, PROMPT).reward[0]
    probes = np.random.default_rng(3).choice(np.arange(SIZE), 4, replace=False)
    potential = table[:, probes].max(1)
    assert set(firsts.tolist()) == {*np.argsort(-alone)[:10].tolist(), *np.argsort(-potential)[:10].tolist()}
    np.testing.assert_allclose(pairs.data["objective"].values, table[firsts].max(1), atol=1e-5)
    np.testing.assert_allclose(pairs.data["alone"].values, alone[firsts], atol=1e-5)
    np.testing.assert_allclose(pairs.data["potential"].values, potential[firsts], atol=1e-5)
    assert pairs.objective == pairs.data["objective"].values.max()
    assert f"exact for pairs that begin with one of {len(firsts)} of 200" in pairs.warnings[0]


def test_pairs_satisfy_the_constraints(tmp_path) -> None:
    table, allowed = every_pair(small(3)), np.arange(50, 80)
    pairs = beam(small(3), PROMPT, 30, "min", constraints=Constraints(allowed=allowed))
    inside = table[np.ix_(allowed, allowed)]
    assert pairs.reward == pytest.approx(inside.min(), abs=1e-5)
    assert tuple(pairs.ids) == tuple(int(allowed[i]) for i in np.unravel_index(inside.argmin(), inside.shape))
    again = Bigrams.load(pairs.save(tmp_path / "pairs.nc"))
    assert (again.response, again.ids, again.reward) == (pairs.response, pairs.ids, pairs.reward)
    with pytest.raises(RewardenError, match="width 0"):
        beam(small(3), PROMPT, 0)
