"""The scan puts each id into the slot and nothing else: equal to transformers' own logits on the same ids, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of
from tests.edits.test_readouts import REGRESSION, TRANSFORM, gate, with_head
from tests.families import DECODERS, build, config_of
from tests.tokenizers_tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM

import rewarden as rw
from rewarden.edits.inputs import LayerInputs
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.norms import Norm
from rewarden.readout import SequenceHead
from rewarden.readout.options import make_implicit
from rewarden.reward_model import RewardModel
from rewarden.tokens import score_vocabulary, token_scores
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.slot import find_slot
from rewarden.tokens.text_mode import score_as_text

PROMPT = "what is the capital of France?"
IDS = np.arange(300)  # every embedding row, those without a token too

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


def by_transformers(rm: RewardModel, prompt: str, ids: np.ndarray) -> np.ndarray:
    """The classifier's head on the last position's state, whole rows through the bare trunk: no mask, so no pooling by ids."""
    slot = find_slot(rm, prompt)
    rows = np.stack([np.concatenate([slot.before.ids, [i], slot.after.ids]) for i in ids])
    head = next(module for name, module in rm.model.named_children() if name in ("score", "classifier"))
    with torch.no_grad():
        hidden = rm.architecture.trunk(input_ids=torch.from_numpy(rows)).last_hidden_state[:, -1]
        return head(hidden)[:, 0].numpy()


@pytest.mark.parametrize("family", DECODERS)
def test_every_id_is_scored_as_itself_in_every_family(family: str) -> None:
    rm = model_of(family)
    ours = score_vocabulary(rm, PROMPT, ids=IDS)
    plain = by_transformers(rm, PROMPT, IDS)
    assert np.abs(ours.reward[0] - plain).max() <= 1e-4
    order = np.argsort(-plain, kind="stable")
    assert ours.top(100)["token_id"].tolist() == order[:100].tolist()
    assert ours.bottom(100)["token_id"].tolist() == np.argsort(plain, kind="stable")[:100].tolist()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
def test_the_order_of_candidates_changes_nothing(family: str) -> None:
    rm, shuffled = model_of(family), np.random.default_rng(0).permutation(IDS)
    straight = score_vocabulary(rm, PROMPT, ids=IDS).reward[0]
    assert np.abs(score_vocabulary(rm, PROMPT, ids=shuffled).reward[0] - straight[shuffled]).max() <= 1e-5


def test_pad_and_end_tokens_are_candidates_like_any_other() -> None:
    tokenizer = tiny_tokenizer(pad="<eos>")
    rm = RewardModel(build("llama", pad_token_id=tokenizer.pad_token_id), tokenizer, check=False)
    ids = np.asarray([0, 1, tokenizer.eos_token_id])
    ours = score_vocabulary(rm, PROMPT, ids=ids)
    assert np.abs(ours.reward[0] - by_transformers(rm, PROMPT, ids)).max() <= 1e-5
    assert len(set(ours.reward[0].tolist())) == 3
    assert ours.special.tolist() == [False, True, True]  # id 0 is an ordinary row of this tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_gate_that_reads_the_prompt(family: str) -> None:
    rm = with_head(family, "gated")
    ours = score_vocabulary(rm, PROMPT, ids=IDS)
    slot = find_slot(rm, PROMPT)
    rows = torch.from_numpy(np.stack([slot.filled([i]).ids for i in IDS]))
    with torch.no_grad():
        hidden = rm.architecture.trunk(input_ids=rows).last_hidden_state
        weight, objectives = gate()(hidden[:, slot.start - 1]), hidden[:, -1] @ REGRESSION.T
        score = (weight * (objectives @ TRANSFORM)).sum(-1)
    assert np.abs(ours.reward[0] - score.numpy()).max() <= 1e-4
    assert np.abs(ours.scalars[0, :, 1:] - objectives.numpy()).max() <= 1e-4


def test_implicit_rewards_read_the_candidates_own_probability() -> None:
    torch.manual_seed(0)
    policy, reference = (AutoModelForCausalLM.from_config(config_of("llama")).eval() for _ in range(2))
    rm = RewardModel(policy, tiny_tokenizer(), check=False,
                     readout=lambda m, t, a: make_implicit(m, t, a, reference=reference, beta=0.5))
    ids = np.arange(20, 60)
    ours = score_vocabulary(rm, PROMPT, ids=ids).reward[0]
    slot = find_slot(rm, PROMPT)
    expected = []
    for i in ids:
        row = torch.from_numpy(slot.filled([i]).ids)[None]
        terms = [model(row).logits[0].detach().log_softmax(-1) for model in (policy, reference)]
        at = torch.arange(slot.start, row.shape[1])  # the candidate and the end token
        expected.append(0.5 * float(sum((terms[0] - terms[1])[p - 1, row[0, p]] for p in at)))
    assert np.abs(ours - expected).max() <= 1e-5


def test_several_scalars_and_another_readout() -> None:
    rm = model_of("llama")
    direction = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    head = SequenceHead(direction, torch.zeros(2), Norm.identity(32), ("one", "two"))
    head.layer = 1
    scores = score_vocabulary(rm, PROMPT, ids=IDS[:40], readout=head)
    rows = [find_slot(rm, PROMPT).filled([i]) for i in IDS[:40]]
    states = torch.stack([rm.base(row).activation("resid_post", 1)[-1] for row in rows])
    assert np.abs(scores.scalars[0] - (states @ direction.T).numpy()).max() <= 1e-5
    assert scores.data["scalar"].values.tolist() == ["one", "two"]
    assert rm.names == ("score",)  # the model itself still reads its own head


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "bloom"])
def test_layer_inputs_are_the_models_own(family: str) -> None:
    base = model_of(family).base(find_slot(model_of(family), PROMPT).filled([9, 10]))
    at = np.arange(base.length)
    assert torch.equal(LayerInputs(base)(base.encoded.ids, at), base.activation("resid_pre", 0))
    swapped = model_of(family).base(find_slot(model_of(family), PROMPT).filled([77, 10])).activation("resid_pre", 0)
    start = base.length - 3
    assert torch.equal(LayerInputs(base)(np.asarray([77]), np.asarray([start]))[0], swapped[start])


def test_a_model_the_engine_does_not_fit_is_run_whole_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rm, ids = model_of("llama"), IDS[20:40]
    expected = by_transformers(rm, PROMPT, ids)
    right = Candidates._by_edits
    monkeypatch.setattr(Candidates, "_by_edits", lambda self, *args: right(self, *args) + 1.0)
    with pytest.warns(RewardenWarning, match="every candidate is run whole"):
        ours = score_vocabulary(rm, PROMPT, ids=ids)
    assert np.abs(ours.reward[0] - expected).max() <= 1e-5
    assert ours.noise_floor is not None
    assert ours.noise_floor <= 1e-5  # that of the way taken, not of the one given up


def test_the_published_path_is_a_literal_one() -> None:
    rm = rw.load()
    texts = [" Love", "Love", "\ufffd", "x", "", " \n"]
    tokenizer, expected = rm.tokenizer, []
    for text in texts:
        talk = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": text}]
        row = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), return_tensors="pt")
        with torch.no_grad():
            expected.append(float(rm.model(**row).logits[0, 0]))
    ours = score_as_text(rm, [{"role": "user", "content": PROMPT}], texts)[0][:, 0]
    assert np.abs(ours - expected).max() <= 1e-5


def test_prompts_systems_and_what_is_refused() -> None:
    rm = rw.load()
    both = score_vocabulary(rm, ["Hi", "Bye"], ids=[300, 301], system="Be brief.")
    alone = score_vocabulary(rm, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bye"}],
                             ids=[300, 301])
    assert np.array_equal(both.reward[1], alone.reward[0])
    assert both.data["prompt"].values.tolist() == ["Hi", "Bye"]
    for wrong in ({"prompt": ""}, {"prompt": []}, {"prompt": None}, {"prompt": [3]}, {"prompt": "\ud800"},
                  {"prompt": [{"content": "no role"}]}, {"prompt": [{"role": "assistant", "content": "x"}]},
                  {"prompt": "Hi", "mode": "both"}):
        with pytest.raises(RewardenError):
            score_vocabulary(rm, **wrong)
    for ids in ([], [10**6], [10**12], [-1], 9, ["the"], [5.7], np.asarray([True, False])):
        for mode in ("ids", "text"):
            with pytest.raises(RewardenError) as caught:
                score_vocabulary(rm, "Hi", ids=ids, mode=mode)  # type: ignore[arg-type]
            assert caught.value.where == "ids="
    with pytest.raises(RewardenError, match="leaves no room"):
        find_slot(rm, "word " * 600)


def test_an_ensemble_is_refused() -> None:
    rm = rw.load()
    with pytest.raises(RewardenError, match="no vocabulary to scan"):
        score_vocabulary(rw.Ensemble([rm, rm]), "Hi")  # type: ignore[arg-type]




@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_padding_moves_the_positions_of_some_encoders(family: str) -> None:
    tokenizer = tiny_tokenizer()
    rm = RewardModel(build(family, pad_token_id=1), tokenizer, name=family, check=False)
    ids = np.arange(150)
    ours = score_vocabulary(rm, PROMPT, ids=ids).reward[0]
    slot = find_slot(rm, PROMPT)
    whole = rm.reward_encoded([slot.filled([i]) for i in ids], batch_size=1)[:, 0]
    assert np.abs(ours - whole).max() <= 1e-6


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2", "llama"])
def test_the_floor_holds_in_half_precision(family: str) -> None:
    tokenizer = tiny_tokenizer()
    rm = RewardModel(build(family, pad_token_id=tokenizer.pad_token_id).bfloat16(), tokenizer, name=family, check=False)
    slot = find_slot(rm, PROMPT)
    whole = rm.reward_encoded([slot.filled([i]) for i in IDS], batch_size=1)[:, 0]
    texts = [word for word in tokenizer.get_vocab() if word.isalpha()][:120]
    together = rw.score_responses(rm, PROMPT, texts)
    alone = rm.reward([rw.Pair(PROMPT, text, "x").conversations[0] for text in texts], batch_size=1)[:, 0]
    for scores, right in ((score_vocabulary(rm, PROMPT, ids=IDS), whole), (together, alone)):
        off = scores.reward[0] - right
        between = np.abs(off[:, None] - off[None, :])  # how far the difference of two candidates is wrong
        assert scores.noise_floor > 0
        assert (between > scores.noise_floor).mean() < 0.02


def test_an_odd_embedding_row_is_its_own_trouble_only() -> None:
    tokenizer = tiny_tokenizer()
    model = build("llama", pad_token_id=tokenizer.pad_token_id)
    model.get_input_embeddings().weight.data[20] = float("nan")
    rm = RewardModel(model, tokenizer, check=False)
    ids = np.asarray([20, 21, 22, 23])  # the run that substitutions start from cannot be that of the first
    scores = score_vocabulary(rm, PROMPT, ids=ids)
    assert np.isnan(scores.reward[0]).tolist() == [True, False, False, False]
    assert np.abs(scores.reward[0, 1:] - by_transformers(rm, PROMPT, ids[1:])).max() <= 1e-5
    assert scores.warnings == ("1 rewards are not finite: they have no rank",)


@pytest.mark.parametrize("name", ["min", "gated"])
def test_the_published_path_refuses_heads_that_look_for_the_response(name: str) -> None:
    with pytest.raises(RewardenError, match="does not read a conversation at its last token"):
        score_vocabulary(with_head("llama", name), PROMPT, ids=[9], mode="text")


def test_labels_never_collide() -> None:
    scores = score_vocabulary(rw.load(), ["cat #2", "cat", "cat"], ids=[300])
    assert len(set(scores.data["prompt"].values.tolist())) == 3


def test_tokens_within_the_floor_of_another_are_counted() -> None:
    scores = token_scores([[0.0, 1.0, 1.1, 1.1, 5.0]], token_id=range(5), text=list("abcde"), prompts=["p"], noise_floor=0.2)
    assert scores.top(5)[["text", "ties", "near"]].values.tolist() == [
        ["e", 1, 1], ["c", 2, 3], ["d", 2, 3], ["b", 1, 3], ["a", 1, 1]]
