"""The bad input table: each row is one error, and it says what is wrong, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.families import build, cached, config_of
from tests.tokenizers_tiny import tiny_tokenizer
from transformers import AutoModel, AutoModelForCausalLM

import rewarden as rw
from rewarden.conversation import Conversation, Pair
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel


def saved(folder: Path, model=None) -> Path:
    (build("llama") if model is None else model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def with_tensors(folder: Path, tensors: dict[str, torch.Tensor], drop: str = "\0") -> str:
    path = saved(folder) / "model.safetensors"
    state = {name: value for name, value in load_file(path).items() if not name.startswith(drop)}
    save_file({**state, **tensors}, path, metadata={"format": "pt"})
    return str(folder)


def with_config(folder: Path, **config) -> str:
    (saved(folder) / "config.json").write_text(json.dumps(config))
    return str(folder)


def truncated(folder: Path) -> str:
    path = saved(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return str(folder)


def without_tokenizer(folder: Path) -> str:
    build("llama").save_pretrained(folder)
    return str(folder)


def wrong_columns(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps({"question": "q", "good": "a", "evil": "b"}) + "\n")
    return path


def tiny(**options) -> RewardModel:
    return RewardModel(cached("llama"), tiny_tokenizer(), **options)


# name: (what is done in a folder, words of .what, of .why, of .fix)
TABLE: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "empty response": (lambda f: Pair("Hi", "", "No."), "the response is empty", "no token to attribute", "drop this row"),
    "blank response": (lambda f: tiny().reward([[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " \n"}]]),
                       "the response is empty", "no token to attribute", "drop this row"),
    "empty prompt": (lambda f: Pair(" ", "a", "b"), "the prompt is empty", "scores a response to something",
                     "at least one visible character"),
    "empty messages": (lambda f: Pair([{"role": "user", "content": ""}], "a", "b"), "the prompt is empty", "blank",
                       "at least one visible character"),
    "unknown column": (lambda f: rw.load_pairs(wrong_columns(f)), "column", "question", "columns="),
    "zero pairs": (lambda f: tiny().score([]), "no pairs", "the list is empty", "subset and limit"),
    "zero pairs lens": (lambda f: rw.reward_lens(tiny(), []), "no pairs", "the list is empty", "subset and limit"),
    "zero pairs ledger": (lambda f: rw.attribute(tiny(), []), "no pairs", "the list is empty", "subset and limit"),
    "NaN head": (lambda f: rw.load(with_tensors(f, {"score.weight": torch.full((1, 32), float("nan"))})),
                 "non-finite rewards on ordinary text", "nan", "check the weights"),
    "no head": (lambda f: rw.load(saved(f, AutoModelForCausalLM.from_config(config_of("llama")))),
                "language model without a reward head", "LlamaForCausalLM", "readout='judge'"),
    "no head, bare trunk": (lambda f: rw.load(saved(f, AutoModel.from_config(config_of("llama")))),
                            "lacks 1 weights: score.weight", "random numbers", "the reward model's own checkpoint"),
    "no head in memory": (lambda f: RewardModel(AutoModelForCausalLM.from_config(config_of("llama")), tiny_tokenizer()),
                          "LlamaForCausalLM has no reward head", "language model", "readout="),
    "head of another width": (lambda f: rw.load(with_tensors(f, {"score.weight": torch.ones(1, 40)})),
                              "cannot load", "mismatch", "config.json and the weights disagree"),
    "value head of another width": (
        lambda f: rw.load(with_config_of_lm(f, {"v_head.summary.weight": torch.ones(1, 40)})),
        "expects width 40, the model has 32", "", "the trunk the head was trained on"),
    "head removed": (lambda f: rw.load(with_tensors(f, {}, drop="score.")), "lacks 1 weights: score.weight", "random numbers",
                     "the reward model's own checkpoint"),
    "missing tokenizer": (lambda f: rw.load(without_tokenizer(f)), "no tokenizer in", "", "tokenizer="),
    "truncated safetensors": (lambda f: rw.load(truncated(f)), "cannot be read", "not fully covered", "download it again"),
    "unknown architecture": (lambda f: rw.load(with_config(f, model_type="brainfish", architectures=["Brainfish"])),
                             "cannot load", "brainfish", "transformers model"),
    "no layers found": (lambda f: RewardModel(NoLayers(), tiny_tokenizer()), "unknown architecture", "lists found",
                        "layers='dotted.path"),
    "no such folder": (lambda f: rw.load(str(f / "nowhere")), "there is no folder", "", "check the path"),
}


def with_config_of_lm(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    saved(folder, AutoModelForCausalLM.from_config(config_of("llama")))
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
    return str(folder)


class NoLayers(torch.nn.Module):
    """A model whose layers are not in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.config = config_of("llama")
        self.embedding = torch.nn.Embedding(300, 32)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(name: str, tmp_path: Path) -> None:
    act, what, why, fix = TABLE[name]
    with pytest.raises(RewardenError) as caught:
        act(tmp_path)
    error = caught.value
    assert what in error.what
    assert why in error.why
    assert fix in error.fix
    for line in (error.what, error.where, error.fix):
        assert line in str(error)


def poisoned(word: str) -> RewardModel:
    """A model whose reward is NaN for every text with this word, and for no other."""
    model = build("llama")
    tokenizer = tiny_tokenizer()
    model.model.embed_tokens.weight[tokenizer.get_vocab()[word]] = float("nan")
    return RewardModel(model, tokenizer)


def test_one_row_that_is_not_finite_is_set_apart() -> None:
    pairs = [Pair("what is red?", "the sun", "the moon", id="a"), Pair("what is red?", "the dog", "the moon", id="b"),
             Pair("Tell me a joke", "no", "yes, one", id="c")]
    rm = poisoned("dog")
    clean = tiny().score(pairs)
    for batch_size in (1, 6, "auto"):
        result = rm.score(pairs, batch_size=batch_size)
        assert result.finite.tolist() == [True, False, True]
        assert np.isnan(result.margin[1])
        np.testing.assert_allclose(result.margin[[0, 2]], clean.margin[[0, 2]], atol=1e-5)  # neighbours in the batch
        assert np.isnan(result.reward[1, 0, 0])
        np.testing.assert_allclose(result.reward[1, 1], clean.reward[1, 1], atol=1e-5)
        assert [w for w in result.warnings if "non-finite" in w] == [
            "1 of 3 pairs have a non-finite reward; they are set apart and count neither as a win nor as a loss"]


def test_a_head_in_memory_of_another_width() -> None:
    model = build("llama")
    model.score = torch.nn.Linear(40, 1, bias=False)
    with pytest.raises(RewardenError, match="the head expects width 40, the model's residual stream has 32") as error:
        RewardModel(model, tiny_tokenizer())
    assert error.value.why == "head and trunk do not belong together"
    assert "trunk" in error.value.fix


def test_errors_are_one_line_each_and_repeat_the_input(tmp_path: Path) -> None:
    with pytest.raises(RewardenError) as error:
        tiny().reward([Conversation.of("one", " ".join(["no"] * 200))])
    assert str(error.value).splitlines() == [
        "a conversation of 206 tokens exceeds max_length=128", "  where: conversation",
        "  why:   the end of a response is never cut silently; only 1 prompt tokens could be removed",
        "  fix:   raise max_length, shorten the response, or drop the row"]
