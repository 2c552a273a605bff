"""The score Result: rewards, margins and counts of pairs, and what is not finite set apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.families import cached
from tests.tokenizers_tiny import tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError
from rewarden.readout import SequenceHead
from rewarden.reward_model import RewardModel
from rewarden.scores import as_pairs, encode_pairs, pair_coordinates, score_result

PAIRS = [Pair("what is red?", "the sun", "a dog, and it is not red", id="a", subset="colours"),
         Pair("Tell me a joke", "no no no", "yes"), Pair("Tell me a joke", "one", "two", id="c")]


@pytest.fixture(scope="module")
def rm() -> RewardModel:
    return RewardModel(cached("llama"), tiny_tokenizer(), name="tiny")


def test_rewards_and_margins_are_those_of_the_conversations(rm: RewardModel) -> None:
    result = rm.score(PAIRS)
    alone = np.asarray([[rm.reward([c], batch_size=1)[0] for c in pair.conversations] for pair in PAIRS])
    np.testing.assert_allclose(result.reward, alone, atol=1e-5)
    np.testing.assert_allclose(result.margin, alone[:, 0, 0] - alone[:, 1, 0], atol=1e-5)
    assert result.data["reward"].dims == ("pair", "side", "scalar")
    assert result.reward.dtype == np.float32
    assert result.kind == "score"
    assert result.finite.all()
    assert result.warnings == ()


def test_counts_are_those_of_the_encodings(rm: RewardModel) -> None:
    result = rm.score(PAIRS)
    rows = [[rm.encode(c) for c in pair.conversations] for pair in PAIRS]
    np.testing.assert_array_equal(result.tokens, [[row.length for row in both] for both in rows])
    lengths = np.asarray([[(row.spans == RESPONSE).sum() for row in both] for both in rows])
    np.testing.assert_array_equal(result.chosen_longer, lengths[:, 0] - lengths[:, 1])
    assert result.truncated.sum() == 0


def test_truncations_are_counted_and_reported() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer(), max_length=12)
    pairs = [Pair("one two three four five six seven", "eight nine", "ten"), Pair("one", "two", "three")]
    result = rm.score(pairs)
    lengths = [[12 + cut for cut in row] for row in result.truncated.tolist()]
    full = RewardModel(cached("llama"), tiny_tokenizer())
    assert lengths[0] == [full.encode(c).length for c in pairs[0].conversations]
    assert result.truncated[1].tolist() == [0, 0]
    assert result.warnings == ("1 of 4 conversations lost prompt tokens from the left to fit 12 tokens",) or (
        result.warnings == ("2 of 4 conversations lost prompt tokens from the left to fit 12 tokens",))
    assert (result.truncated > 0).sum() == int(result.warnings[0].split()[0])


def test_one_pair_is_a_list_of_one(rm: RewardModel) -> None:
    np.testing.assert_array_equal(rm.score(PAIRS[0]).margin, rm.score(PAIRS[:1]).margin)
    assert as_pairs(iter(PAIRS)) == PAIRS


def test_coordinates() -> None:
    coordinates = pair_coordinates(PAIRS)
    assert coordinates["pair"] == ["a", "1", "c"]
    assert coordinates["subset"] == ("pair", ["colours", "", ""])
    assert coordinates["side"] == ["chosen", "rejected"]
    doubled = pair_coordinates([PAIRS[0], PAIRS[0], Pair("p", "x", "y", id="1")])["pair"]
    assert doubled == ["a#0", "a#1", "1#2"]


def test_the_chosen_output_makes_the_margin() -> None:
    head = SequenceHead(torch.eye(3, 32), torch.zeros(3), RewardModel(cached("llama"), tiny_tokenizer()).architecture.norm,
                        ("x", "y", "z"))
    rm = RewardModel(cached("llama"), tiny_tokenizer(), readout=head, output="z", check=False)
    result = rm.score(PAIRS)
    assert result.data["scalar"].values.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(result.margin, result.reward[:, 0, 2] - result.reward[:, 1, 2], rtol=0, atol=0)
    assert result.provenance["output"] == "z"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_set_apart(rm: RewardModel, bad: float) -> None:
    reward = np.asarray([[[1.0], [2.0]], [[bad], [0.5]], [[3.0], [1.0]]], dtype=np.float32)
    result = score_result(rm, PAIRS, encode_pairs(rm, PAIRS), reward)
    assert result.finite.tolist() == [True, False, True]
    np.testing.assert_array_equal(result.margin, [-1.0, np.nan, 2.0])
    np.testing.assert_array_equal(result.reward, reward)  # the raw value is kept
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("1 of 3 pairs have a non-finite reward")


@pytest.mark.parametrize(("pairs", "what"), [([], "no pairs to work on"), (iter([]), "no pairs to work on"),
                                             (["text"], "str is not a Pair"), ([PAIRS[0], None], "NoneType is not a Pair"),
                                             ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "dict is not a Pair")])
def test_what_is_no_list_of_pairs_is_refused(rm: RewardModel, pairs, what: str) -> None:
    with pytest.raises(RewardenError) as error:
        rm.score(pairs)
    assert error.value.what == what
    assert error.value.fix == ("check the data set, its split, subset and limit" if what.startswith("no pairs") else
                               "pass rewarden.Pair(prompt=..., chosen=..., rejected=...) objects")


def test_an_encoding_error_names_the_pair() -> None:
    rm = RewardModel(cached("llama"), tiny_tokenizer(), max_length=16)
    long = Pair("one", "yes", " ".join(["no"] * 30), id="too-long")
    with pytest.raises(RewardenError, match="exceeds max_length=16") as error:
        rm.score([PAIRS[1], long])
    assert error.value.where.startswith("pair too-long")
