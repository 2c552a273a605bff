"""The history knows exactly the responses that were put in, whatever exchange leads to them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarden.tokens.search.history import History

ROUNDS = st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=3, max_size=3),
                            st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=8)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROUNDS)
def test_it_agrees_with_a_dictionary_of_responses(rounds: list) -> None:
    history, plain, count = History(3, 10), {}, 0.0
    for ids, exchanges in rounds:
        rows = []
        for position, token in exchanges:
            row = list(ids)
            row[position] = token
            rows.append(tuple(row))
        positions, tokens = np.asarray([p for p, _ in exchanges], np.int64), np.asarray([t for _, t in exchanges], np.int64)
        keys = history.exchanged(ids, positions, tokens)
        expected = [plain.get(row, np.nan) for row in rows]
        np.testing.assert_array_equal(history.look_up(keys), np.asarray(expected, np.float32))
        new = {row: n for n, row in enumerate(rows) if row not in plain}
        scores = count + np.arange(len(new), dtype=np.float32)
        history.add(keys[list(new.values())], scores)
        plain |= dict(zip(new, scores.tolist(), strict=True))
        count += len(new)
        assert len(history) == len(plain)
    for row, score in plain.items():
        assert history.look_up(np.asarray([history.key(list(row))]))[0] == score


def test_many_steps_leave_few_runs() -> None:
    history, rng = History(4, 50), np.random.default_rng(0)
    for _ in range(500):
        history.add(rng.integers(0, 2**63, 64, dtype=np.uint64), rng.random(64))
    assert len(history) == 32000
    assert len(history.runs) <= 10
