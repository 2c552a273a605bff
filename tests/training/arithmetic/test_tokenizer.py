"""Is every character one token, and a conversation exactly prompt ids, completion ids and the end?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarden.conversation import Conversation
from rewarden.demo import model_path
from rewarden.encoding import PROMPT, RESPONSE, TEMPLATE, Encoder
from rewarden.training.arithmetic.task import reverse_columns, sum_columns, train_pairs, worked_answer
from rewarden.training.arithmetic.tokenizer import CHARACTERS, LONGEST, build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module", params=["built", "bundled"])
def tokenizer(request):
    if request.param == "built":
        return TOKENIZER
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_path("policy")))


@given(st.text(CHARACTERS, max_size=60))
def test_one_token_a_character_and_back(text):
    ids = TOKENIZER(text)["input_ids"]
    assert [CHARACTERS[i - 3] for i in ids] == list(text)
    assert TOKENIZER.decode(ids) == text


def test_every_text_of_the_task_has_no_unknown_token(tokenizer):
    columns = sum_columns(train_pairs()[::40])
    texts = [*columns["prompt"], *columns["gold"], *reverse_columns(50, 0)["prompt"],
             *(worked_answer(a, b) for a, b in train_pairs()[::40])]
    rows = tokenizer(texts)["input_ids"]
    assert not any(tokenizer.unk_token_id in row for row in rows)
    assert [tokenizer.decode(row) for row in rows] == texts
    assert max(map(len, rows)) + len("12+34:") + 1 <= LONGEST


def test_other_characters_are_unknown_one_by_one(tokenizer):
    assert tokenizer("a\n\n é")["input_ids"] == [2] * 5
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id) == (0, 1, 2, None)


def test_a_conversation_is_prompt_completion_and_end(tokenizer):
    encoder = Encoder(tokenizer)
    for a, b in train_pairs()[::200]:
        (prompt,), response = sum_columns([(a, b)])["prompt"], worked_answer(a, b)
        ids, answer = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
        encoded = encoder(Conversation.of(prompt, response))
        assert encoded.ids.tolist() == [*ids, *answer, tokenizer.eos_token_id]
        assert encoded.spans.tolist() == [PROMPT] * len(ids) + [RESPONSE] * len(answer) + [TEMPLATE]
        assert "".join(encoded.tokens) == f"{prompt}{response}<eos>"


def test_a_prompt_alone_is_its_own_ids(tokenizer):
    """What a trainer that applies the template asks with is what one that tokenizes the prompt asks with."""
    messages = [{"role": "user", "content": "12+34:"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert asked == tokenizer("12+34:")["input_ids"] == [4, 5, 13, 6, 7, 15]


def test_batches_are_padded_on_the_left(tokenizer):
    assert tokenizer(["1", "12+"], padding=True)["input_ids"] == [[0, 0, 4], [4, 5, 13]]
