"""Many responses at once are what each is alone, in every family; and a tree holds each beginning once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.edits.drawing import model_of
from tests.edits.test_readouts import with_head
from tests.families import DECODERS
from tests.tokenizers_tiny import WORDS

import rewarden as rw
from rewarden.edits.tree import branches, score_rows
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.tokens import score_responses
from rewarden.tokens.slot import find_slot

PROMPT = "what is the capital of France?"
DRAW = np.random.default_rng(5)
PHRASES = [" ".join(DRAW.choice(WORDS[:12], size=n)) for n in DRAW.integers(1, 9, size=60)]

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


@pytest.mark.parametrize("family", [*DECODERS, "bert"])
def test_together_as_alone_in_every_family(family: str) -> None:
    rm = model_of(family)
    found = score_responses(rm, PROMPT, PHRASES)
    alone = [float(rm.reward([rw.Pair(PROMPT, text, "x").conversations[0]])[0, rm.main]) for text in PHRASES]
    assert np.abs(found.reward[0] - alone).max() <= 1e-4


@pytest.mark.parametrize("name", ["gated", "min", "product", "layer 1"])
def test_every_readout_reads_its_own_positions(name: str) -> None:
    rm = with_head("gemma2", name)
    rows = [find_slot(rm, PROMPT).filled(ids) for ids in ([9, 10], [9, 11, 12], [9], [30, 31, 32, 33], [9, 10, 40])]
    assert np.abs(score_rows(rm, rows) - rm.reward_encoded(rows)).max() <= 1e-5


def test_a_gate_far_before_what_the_rows_share() -> None:
    rm = with_head("llama", "gated")
    rm = rm.reading(replace(rm.readout, pattern=(4, 9)))  # type: ignore[type-var]
    rows = [rm.encoder(rw.Conversation.of("the cat can see the dog and the moon", text)) for text in
            ("so", "no", "yes", "good", "bad cat")]
    rows = [Encoded(np.concatenate([[1, 4, 9], row.ids[1:]]), np.concatenate([[0, 0, 1], row.spans[1:]]), np.zeros(
        (row.length + 2, 2), np.int64), "") for row in rows]
    assert rm.readout.read(rows[0]).positions[0] == 1
    assert np.abs(score_rows(rm, rows) - rm.reward_encoded(rows)).max() <= 1e-5


@pytest.mark.parametrize("size", [1, 5, 40, 10_000])
def test_trees_hold_every_row_and_each_beginning_once(size: int) -> None:
    rows = [DRAW.integers(0, 3, size=n) for n in DRAW.integers(1, 6, size=80)]
    parts = branches(rows, size)
    assert sorted(number for part in parts for number in part.rows) == list(range(80))
    for part in parts:
        for number, path in zip(part.rows, part.paths, strict=True):
            assert part.ids[path].tolist() == rows[number].tolist()
            assert part.parent[path].tolist() == [-1, *path[:-1].tolist()]
            assert part.depth[path].tolist() == list(range(len(path)))
        beginnings = {tuple(rows[number][:end]) for number in part.rows for end in range(1, len(rows[number]) + 1)}
        assert len(part.ids) == len(beginnings)
        assert len(part.ids) <= size or len(part.rows) == 1 or len(set(map(bytes, (rows[n] for n in part.rows)))) == 1


def test_ids_and_texts_repeats_and_order() -> None:
    rm = rw.load()
    ids = rm.tokenizer.encode("love and peace", add_special_tokens=False)
    found = score_responses(rm, ["Hi", "Bye"], ["war", ids, "war", "love and peace", "a"])
    assert found.reward[0, 0] == found.reward[0, 2]
    assert abs(found.reward[1, 1] - found.reward[1, 3]) <= 1e-5
    assert found.data["response"].values.tolist()[1] == "love and peace"
    assert found.data["tokens"].values.tolist()[1] == len(ids)
    assert found.ties[0].tolist()[0] == 2


def test_what_is_refused_names_the_response() -> None:
    rm = rw.load()
    second = "response 1"
    refused = ([], "responses"), ("cat", "responses"), ([5, 6], "response 0"), (["a", ""], second), (["a", []], second)
    for wrong, where in (*refused, (["a", [10**7]], second)):
        with pytest.raises(RewardenError) as caught:
            score_responses(rm, "Hi", wrong)
        assert where in caught.value.where
