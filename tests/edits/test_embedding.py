"""An embedding put in another's place is the other token: with learned positions, a scale, or a norm before the first layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of
from tests.edits.plain import plain_run

from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")
OTHERS = (8, 21, 40, 77)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("family", "cheap"), [
    ("llama", True), ("gpt2", True), ("opt", True), ("gemma2", True), ("gemma3_text", True), ("qwen3", True),
    ("bloom", False), ("bert", False), ("modernbert", False)])
def test_an_embedding_edit_is_a_token_swap(family: str, cheap: bool) -> None:
    rm = model_of(family)
    embed, recorded = rm.model.get_input_embeddings(), ["embed", *(["position"] if family in ("gpt2", "opt") else [])]
    base = rm.base(TALK, recorded)
    edits, swapped = [], []
    for number, token in enumerate(OTHERS):
        position = (3 + 4 * number) % base.length
        ids = base.encoded.ids.copy()
        ids[position] = token
        swapped.append(plain_run(rm.model, family, ids)[0].numpy())
        edits.append(Edit(Site("embed", position=position), embed(torch.tensor(token))))
    plan = rm.plan(base, edits)
    mine = plan.run().values.numpy()
    np.testing.assert_allclose(mine, np.stack(swapped), rtol=0, atol=1e-5 * max(1, np.abs(swapped).max()))
    assert np.abs(mine - base.values.numpy()).min() > 1e-6  # every swap was seen
    assert len(plan.by_hooks) == (0 if cheap else 4)  # a norm after the embedding leaves whole forwards only


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_all_embeddings_at_once_are_the_other_conversation(family: str) -> None:
    rm, other = model_of(family), Conversation.of("Tell me a joke no, not", "the sun is cold day two")
    base, target = rm.base(TALK), rm.base(other, ("embed",))
    assert base.length == target.length
    all_of_it = Edit(Site("embed"), target.activation("embed"))
    np.testing.assert_allclose(rm.edit(TALK, [all_of_it])[0], target.values, rtol=0, atol=1e-5)


def test_a_vocabulary_is_one_batch() -> None:
    rm = model_of("llama")
    ids = rm.encode(TALK).ids
    weight = rm.model.get_input_embeddings().weight
    mine = rm.edit(TALK, EditBatch(Site("embed", position=5), weight[:40]))
    for token in range(40):
        other = ids.copy()
        other[5] = token
        np.testing.assert_allclose(mine[token], plain_run(rm.model, "llama", other)[0], rtol=0, atol=1e-5)
