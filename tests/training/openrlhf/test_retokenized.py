"""Ids made from text against the ids that the text was made of, with a tokenizer that merges and one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.training.worlds import rollouts
from tests.training.worlds import tokenizer as characters

from rewarden.training.openrlhf.retokenized import retokenize


@pytest.fixture(scope="module")
def merging():
    """Byte-level BPE whose only merges are "a"+"b" and "ab"+"c"."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = {**letters, "ab": len(letters), "abc": len(letters) + 1}
    made = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", clean_up_tokenization_spaces=False)


def test_ids_of_written_rollouts_come_back():
    prompts, completions = rollouts(50)
    tokenizer = characters()
    prompts_text = [tokenizer.decode(ids) for ids in prompts]
    queries = [tokenizer.decode([*a, *b], skip_special_tokens=False) for a, b in zip(prompts, completions, strict=True)]
    found = retokenize(tokenizer, prompts_text, queries)
    assert [list(ids) for ids in found.prompt_ids] == prompts
    assert [list(ids) for ids in found.completion_ids] == completions
    assert found.unsplit == {}
    assert not found.drifted.any()
    assert found.sizes.tolist() == [len(a) + len(b) for a, b in zip(prompts, completions, strict=True)]


def test_a_token_across_the_boundary_cannot_be_split(merging):
    found = retokenize(merging, ["xa", "x", "x<eos>a"], ["xab", "xab<eos>", "x<eos>abc"])
    assert "are one" in found.unsplit[0]
    assert "are one" in found.unsplit[2]
    assert list(found.unsplit) == [0, 2]
    assert [merging.decode(ids) for ids in found.completion_ids] == ["", "ab<eos>", ""]


def test_bytes_that_are_no_character_are_counted_as_drift(merging):
    half = merging("é", add_special_tokens=False)["input_ids"][:1]  # what a policy writes when it stops inside a character
    query = merging.decode([*merging("x")["input_ids"], *half])
    found = retokenize(merging, ["x", "x"], [query, "xé"])
    assert found.drifted.tolist() == [True, False]
    assert list(found.completion_ids[0]) != half


def test_a_text_that_does_not_come_back_is_counted_as_drift():
    found = retokenize(characters(), ["1+2:", "1+2:"], ["1+2:three", "1+2:3"])
    assert found.drifted.tolist() == [True, False]


def test_unknown_characters_do_not_make_two_prompts_one():
    found = retokenize(characters(), ["zz"], ["yy1"])  # ids of both begin with two unknown tokens
    assert found.unsplit == {0: "the query does not begin with the prompt"}


def test_a_prompt_of_no_token_is_not_split(merging):
    assert retokenize(merging, [""], ["ab"]).unsplit == {0: "the prompt has no token"}
    assert np.array_equal(retokenize(merging, ["ab"], ["ab"]).sizes, [1])
