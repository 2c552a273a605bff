"""Matching the tokens of several models, against hand counts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rewarden.errors import RewardenError
from rewarden.tokens.comparison.shared import SharedScores, shared_vocabulary
from rewarden.tokens.scores import token_scores

PROMPTS = ["best?", "worst?"]


def scan(texts, *, bytes_=None, special=(), byte=(), first_id=0, prompts=PROMPTS, **rest):
    """Rewards that tell prompt, id and model apart: 100 · prompt + id."""
    ids = np.arange(len(texts)) + first_id
    flags = {"special": np.isin(np.arange(len(texts)), special), "byte": np.isin(np.arange(len(texts)), byte)}
    reward = np.stack([100.0 * PROMPTS.index(prompt) + ids for prompt in prompts])
    return token_scores(reward, token_id=ids, text=texts, prompts=prompts, bytes_=bytes_, flags=flags, **rest)


@pytest.fixture
def three() -> list:
    #         0      1      2     3      4      5     6        7
    a = scan(["<s>", "love", " love", "x", "only", "dup", "dup", "\0"], special=[0])
    b = scan(["x", "<s>", "love", "dup", "\0", " love", "<t>"], special=[1, 6], first_id=10)
    c = scan(["love", "x", "Love", "dup", "\0", " love", "<t>"], first_id=20, prompts=PROMPTS[::-1])
    return [a, b, c]


def listed(shared: SharedScores) -> list[tuple]:
    return [tuple(row) for row in shared.dropped()[["model", "token_id", "reason", "where"]].values.tolist()]


def test_hand_counted_matching_by_bytes(three):
    shared = shared_vocabulary(three, names=["a", "b", "c"])
    assert shared.text.tolist() == ["love", " love", "x", "\0"]
    assert shared.token_id.tolist() == [[1, 2, 3, 7], [12, 15, 10, 14], [20, 25, 21, 24]]
    # Prompts in the first model's order, though the third scanned them the other way round.
    assert shared.reward[:, 0].tolist() == shared.token_id.tolist()
    assert shared.reward[:, 1].tolist() == (shared.token_id + 100).tolist()
    assert listed(shared) == [
        ("a", 0, "special", "a"), ("a", 4, "absent", "b, c"), ("a", 5, "duplicate", "a"), ("a", 6, "duplicate", "a"),
        ("b", 11, "special", "b"), ("b", 13, "duplicate", "a"), ("b", 16, "special", "b"),
        ("c", 22, "absent", "a, b"), ("c", 23, "duplicate", "a"), ("c", 26, "special", "b")]
    assert shared.counts().to_dict("index") == {
        "a": {"vocabulary": 8, "shared": 4, "special": 1, "no bytes": 0, "no text": 0, "duplicate": 2, "absent": 1},
        "b": {"vocabulary": 7, "shared": 4, "special": 2, "no bytes": 0, "no text": 0, "duplicate": 1, "absent": 0},
        "c": {"vocabulary": 7, "shared": 4, "special": 1, "no bytes": 0, "no text": 0, "duplicate": 1, "absent": 1}}


def test_normalised_texts_that_a_model_has_twice_are_dropped(three):
    both = shared_vocabulary(three, "text", names=["a", "b", "c"], strip=True, casefold=True)
    assert both.key.tolist() == ["x", "\0"]  # love and " love" of one model are now one key
    assert ("b", 12, "duplicate", "a, b, c") in listed(both)
    folded = shared_vocabulary(three, "text", names=["a", "b", "c"], casefold=True)
    assert folded.key.tolist() == [" love", "x", "\0"]  # love and Love of c
    assert ("a", 1, "duplicate", "c") in listed(folded)


def test_control_tokens_can_be_matched(three):
    shared = shared_vocabulary(three[:2], names=["a", "b"], special=True)
    assert shared.text.tolist() == ["<s>", "love", " love", "x", "\0"]


def test_bytes_tell_apart_what_texts_do_not():
    a = scan(["�", "�", "y"], bytes_=["c3", "e2", "79"], byte=[0, 1])
    b = scan(["�", "�", "y", "z"], bytes_=["e2", "ff", "79", ""], byte=[0, 1])
    by_bytes = shared_vocabulary([a, b], names=["a", "b"])
    assert by_bytes.bytes.tolist() == ["e2", "79"]
    assert by_bytes.token_id.tolist() == [[1, 2], [0, 2]]
    assert listed(by_bytes) == [("a", 0, "absent", "b"), ("b", 1, "absent", "a"), ("b", 3, "no bytes", "b")]
    by_text = shared_vocabulary([a, b], "text", names=["a", "b"])
    assert by_text.key.tolist() == ["y"]
    assert listed(by_text) == [("a", 0, "no text", "a"), ("a", 1, "no text", "a"), ("b", 0, "no text", "b"),
                               ("b", 1, "no text", "b"), ("b", 3, "absent", "a")]


def test_every_token_is_either_shared_or_listed_once():
    rng = np.random.default_rng(0)
    models = [scan([str(word) for word in rng.integers(100, size=60)], special=rng.integers(60, size=3)) for _ in range(3)]
    shared = shared_vocabulary(models, names=list("abc"))
    assert shared.data.sizes["token"] > 0
    for name, model, kept in zip("abc", models, shared.token_id, strict=True):
        dropped = shared.dropped()
        told = dropped.loc[dropped["model"] == name, "token_id"].tolist()
        assert sorted([*kept.tolist(), *told]) == model.token_id.tolist()
        assert [model.text[i] for i in kept] == shared.text.tolist()


def test_one_model_and_one_prompt(three):
    shared = shared_vocabulary(three, names=["a", "b", "c"])
    own = shared.of("c")
    assert own.reward.tolist() == shared.reward[2].tolist()
    assert own.top(1, "worst?")["token_id"].tolist() == [25]
    assert own.provenance["model"] == "c"
    assert shared.at_prompt("worst?").tolist() == shared.reward[:, 1].tolist()
    folded = shared_vocabulary(three[1:], "text", names=["b", "c"], strip=True)
    assert folded.of("c").bytes.tolist() == [text.encode().hex() for text in folded.of("c").text]


def test_saved_and_loaded(three, tmp_path):
    shared = shared_vocabulary(three, names=["a", "b", "c"])
    back = SharedScores.load(shared.save(tmp_path / "shared.nc"))
    assert isinstance(back, SharedScores)
    assert back.data.identical(shared.data)
    assert back.dropped().equals(shared.dropped())
    assert back.of("b").reward.tolist() == shared.of("b").reward.tolist()


def test_provenance_floors_and_warnings_of_every_model_are_kept():
    a = scan(["x"], provenance={"model": "m/a", "seed": 1}, noise_floor=1e-3, warnings=["half precision"], exact=False)
    b = scan(["x"], provenance={"model": "m/b"}, noise_floor=1e-5)
    shared = shared_vocabulary([a, b])
    assert shared.model.tolist() == ["m/a", "m/b"]
    assert shared.provenance["m/a.seed"] == 1
    assert (shared.noise_floor, shared.floor.tolist(), shared.exact) == (1e-3, [1e-3, 1e-5], False)
    assert shared.warnings == ("m/a: half precision",)
    assert shared.of("m/b").noise_floor == 1e-5
    assert shared_vocabulary([a, scan(["x"])], names=["a", "c"]).noise_floor is None


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda a, b: shared_vocabulary([a]), "at least two models"),
    (lambda a, b: shared_vocabulary([a, b]), "different names are needed"),
    (lambda a, b: shared_vocabulary([a, b], names=["a", "a"]), "different names are needed"),
    (lambda a, b: shared_vocabulary([a, b], "piece", names=["a", "b"]), "cannot match by='piece'"),
    (lambda a, b: shared_vocabulary([a, b], names=["a", "b"], strip=True), "bytes are compared as they are"),
    (lambda a, b: shared_vocabulary([a, scan(["z"])], names=["a", "b"]), "share no token"),
    (lambda a, b: shared_vocabulary([a, scan(["x"], prompts=["best?"])], names=["a", "b"]), "b scanned other prompts than a"),
    (lambda a, b: shared_vocabulary([a, b], names=["a", "b"]).of("c"), "no model 'c'"),
    (lambda a, b: shared_vocabulary([a, b], names=["a", "b"]).at_prompt("why?"), "no prompt 'why\\?'"),
])
def test_what_cannot_be_matched_is_refused(wrong, message):
    with pytest.raises(RewardenError) as error:
        wrong(scan(["x", "y"]), scan(["y", "x"]))
    assert re.search(message, str(error.value))
    assert error.value.fix
