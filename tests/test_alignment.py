"""Alignment: a partial one-to-one increasing map, equal to a slow independent one, read-out always to read-out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarden.alignment import Alignment
from rewarden.errors import RewardenError

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=14)
RULES = ("diff", "suffix", "prefix", "read_out")
COMMON = settings(max_examples=300, deadline=None)


def slow_blocks(a: list[int], b: list[int], i0: int = 0, j0: int = 0) -> list[tuple[int, int]]:
    """Longest common block (leftmost in a, then in b), then the same on both sides of it."""
    best = (0, 0, 0)
    for i in range(len(a)):
        for j in range(len(b)):
            n = 0
            while i + n < len(a) and j + n < len(b) and a[i + n] == b[j + n]:
                n += 1
            if n > best[0]:
                best = (n, i, j)
    n, i, j = best
    if n == 0:
        return []
    middle = [(i0 + i + k, j0 + j + k) for k in range(n)]
    return (slow_blocks(a[:i], b[:j], i0, j0) + middle
            + slow_blocks(a[i + n:], b[j + n:], i0 + i + n, j0 + j + n))


def slow_diff(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    prefix = 0
    while prefix < min(len(a), len(b)) and a[prefix] == b[prefix]:
        prefix += 1
    suffix = 0
    while suffix < min(len(a), len(b)) - prefix and a[-1 - suffix] == b[-1 - suffix]:
        suffix += 1
    pairs = [(i, i) for i in range(prefix)]
    pairs += slow_blocks(a[prefix:len(a) - suffix], b[prefix:len(b) - suffix], prefix, prefix)
    pairs += [(len(a) - k, len(b) - k) for k in range(suffix, 0, -1)]
    ends = (len(a) - 1, len(b) - 1)
    return [pair for pair in pairs if pair[0] != ends[0] and pair[1] != ends[1]] + [ends]


@COMMON
@given(IDS, IDS)
def test_diff_equals_the_slow_diff(a: list[int], b: list[int]) -> None:
    assert [tuple(pair) for pair in Alignment.of(a, b).pairs.tolist()] == slow_diff(a, b)


@COMMON
@given(IDS, IDS, st.sampled_from(RULES))
def test_every_rule_is_an_increasing_partial_injection_ending_at_the_read_out(a: list[int], b: list[int], rule: str) -> None:
    alignment = Alignment.of(a, b, rule)
    pairs = alignment.pairs
    assert (np.diff(pairs, axis=0) > 0).all()  # increasing on both sides: nothing used twice, nothing crossed
    assert pairs.min() >= 0
    assert (pairs.max(0) < [len(a), len(b)]).all()
    assert pairs[-1].tolist() == [len(a) - 1, len(b) - 1]
    assert alignment.target_of(len(a) - 1) == len(b) - 1
    assert (alignment.source_length, alignment.target_length, alignment.rule) == (len(a), len(b), rule)


@COMMON
@given(IDS, IDS)
def test_shared_prefix_and_suffix_have_equal_ids(a: list[int], b: list[int]) -> None:
    alignment = Alignment.of(a, b)
    prefix, suffix = alignment.prefix, alignment.suffix
    assert a[:prefix] == b[:prefix]
    assert prefix == min(len(a), len(b)) or a[prefix] != b[prefix]
    assert a[len(a) - suffix:] == b[len(b) - suffix:]
    assert prefix + suffix <= min(len(a), len(b))
    for i, j in alignment.pairs[:-1].tolist():  # the last pair is the read-out, whatever its ids
        assert a[i] == b[j]


@COMMON
@given(IDS, IDS, st.sampled_from(RULES))
def test_inverse_swaps_the_sides_and_undoes_itself(a: list[int], b: list[int], rule: str) -> None:
    alignment = Alignment.of(a, b, rule)
    back = alignment.inverse()
    assert (back.source_length, back.target_length) == (len(b), len(a))
    for source in range(len(a)):
        target = alignment.target_of(source)
        assert target is None or back.target_of(target) == source
    twice = back.inverse()
    np.testing.assert_array_equal(twice.pairs, alignment.pairs)
    assert (twice.source_length, twice.target_length) == (len(a), len(b))


@COMMON
@given(IDS)
def test_a_sequence_aligns_to_itself_position_by_position(a: list[int]) -> None:
    for rule in ("diff", "suffix", "prefix", "equal_only"):
        np.testing.assert_array_equal(Alignment.of(a, a, rule).pairs, np.repeat(np.arange(len(a))[:, None], 2, 1))


@COMMON
@given(IDS, IDS)
def test_suffix_keeps_what_is_shared_and_counts_the_rest_from_the_end(a: list[int], b: list[int]) -> None:
    alignment = Alignment.of(a, b, "suffix")
    prefix, ends = alignment.prefix, (len(a) - 1, len(b) - 1)
    shared = [(i, i) for i in range(prefix) if i not in ends]
    rest = [(len(a) - k, len(b) - k) for k in range(min(len(a), len(b)) - prefix, 0, -1)]
    assert [tuple(pair) for pair in alignment.pairs.tolist()] == [*shared, *(rest or [ends])]


@pytest.mark.parametrize(("rule", "pairs"), [
    ("suffix", [(0, 0), (2, 1), (3, 2)]), ("prefix", [(0, 0), (1, 1), (3, 2)]), ("read_out", [(3, 2)]),
    ("diff", [(0, 0), (3, 2)]),
])
def test_each_rule_on_a_worked_example(rule: str, pairs: list) -> None:
    alignment = Alignment.of([1, 2, 3, 9], [1, 4, 9], rule)
    assert [tuple(pair) for pair in alignment.pairs.tolist()] == pairs
    assert alignment.target_of(2) == dict(pairs).get(2)


def test_equal_only_is_index_by_index() -> None:
    assert Alignment.of([5, 6, 7], [8, 6, 9], "equal_only").pairs.tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(("a", "b", "rule", "what", "fix"), [
    ([1, 2], [1], "equal_only", "'equal_only' of 2 and 1 tokens", "use 'diff' or 'suffix', or drop pairs of unequal length"),
    ([], [1], "diff", "cannot align an empty sequence", "drop the empty response"),
    ([1], [], "suffix", "cannot align an empty sequence", "drop the empty response"),
    ([1], [1], "sideways", "unknown alignment 'sideways'",
     "use one of ['diff', 'equal_only', 'prefix', 'read_out', 'suffix']"),
])
def test_refusals(a: list[int], b: list[int], rule: str, what: str, fix: str) -> None:
    with pytest.raises(RewardenError) as error:
        Alignment.of(a, b, rule)  # type: ignore[arg-type]
    assert what in error.value.what
    assert error.value.fix == fix
