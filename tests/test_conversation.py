"""Conversations and pairs: what they accept, what they refuse, and that they do not change."""

from __future__ import annotations

import dataclasses

import pytest

from rewarden.conversation import Conversation, Pair
from rewarden.errors import RewardenError

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello!"}


def test_a_string_prompt_is_one_user_turn() -> None:
    of_string = Conversation.of("Hi", "Hello!")
    assert of_string.messages == (USER, ASSISTANT)
    assert of_string == Conversation([USER, ASSISTANT]) == Conversation.of([USER], "Hello!")
    assert (of_string.prompt, of_string.response) == ((USER,), "Hello!")


def test_several_turns_keep_their_order_and_roles() -> None:
    system = {"role": "system", "content": "Be brief."}
    conversation = Conversation.of([system, USER, ASSISTANT, USER], "Again!")
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.prompt == (system, USER, ASSISTANT, USER)


def test_a_conversation_is_not_changed_by_changing_what_it_was_made_of() -> None:
    message = dict(USER)
    conversation = Conversation([message, ASSISTANT])
    message["content"] = "changed"
    assert conversation.prompt == (USER,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        conversation.messages = ()  # type: ignore[misc]


def test_a_pair_has_two_conversations() -> None:
    pair = Pair([USER], "a", "b", id="7", subset="s", metadata={"k": 1})
    assert [c.response for c in pair.conversations] == ["a", "b"]
    assert pair.conversations[0].prompt == pair.conversations[1].prompt == (USER,)
    other = Pair("x", "a", "b", rejected_prompt="y")
    assert [c.prompt[0]["content"] for c in other.conversations] == ["x", "y"]


FIXES = {
    "no messages": "give at least one user message",
    "the last message is from": "append {'role': 'assistant', 'content': ...}",
    "is not a chat message": "pass [{'role': 'user', 'content': '...'}, ...] or a plain string",
    "has content of type": "pass the content as one string",
    "the prompt is empty": "give a prompt with at least one visible character",
    "the prompt is ": "give a string, or [{'role': 'user', 'content': '...'}, ...]",
    "the response is empty": "drop this row, or give the response at least one visible character",
    "the response is ": "pass the response as one string",
}
"""What is wrong with a conversation → the next step; the first that fits."""


@pytest.mark.parametrize(("messages", "what"), [
    ([], "no messages"),
    ([USER], "the last message is from 'user'"),
    ([USER, {"role": "assistant", "content": " \n\t"}], "the response is empty"),
    ([{"role": "user"}, ASSISTANT], "message 0 is not a chat message"),
    ([USER, "Hello!"], "message 1 is not a chat message"),
    ([{"role": "user", "content": [{"type": "image"}]}, ASSISTANT], "message 0 has content of type list"),
    ([USER, {"role": "assistant", "content": None}], "message 1 has content of type NoneType"),
    ([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}], "the prompt is empty"),
    (None, "the prompt is NoneType"),
    (float("nan"), "the prompt is float"),
])
def test_malformed_conversations_are_refused(messages, what: str) -> None:
    with pytest.raises(RewardenError) as error:
        Conversation(messages)
    assert what in error.value.what
    assert error.value.fix == next(fix for told, fix in FIXES.items() if told in what)


@pytest.mark.parametrize(("arguments", "what"), [
    (("", "a", "b"), "the prompt is empty"), ((" \n", "a", "b"), "the prompt is empty"),
    (([], "a", "b"), "the prompt has no messages"), (("p", "", "b"), "the response is empty"),
    (("p", "a", "  "), "the response is empty"), (("p", None, "b"), "the response is NoneType"),
    (("p", "a", float("nan")), "the response is float"), ((None, "a", "b"), "the prompt is NoneType"),
])
def test_malformed_pairs_name_their_row(arguments: tuple, what: str) -> None:
    with pytest.raises(RewardenError) as error:
        Pair(*arguments, id="row-9")
    assert what in error.value.what
    assert "row-9" in error.value.where
    assert error.value.fix == next(fix for told, fix in FIXES.items() if told in what)
