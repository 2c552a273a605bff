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
from rewarden.tokens import score_vocabulary
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


def test_the_published_path_is_a_literal_one() -> None:
    rm = rw.load()
    texts = [" Love", "Love", "\ufffd", "x", "", " \n"]
    tokenizer, expected = rm.tokenizer, []
    for text in texts:
        talk = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": text}]
        row = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), return_tensors="pt")
        with torch.no_grad():
            expected.append(float(rm.model(**row).logits[0, 0]))
    ours = score_as_text(rm, [{"role": "user", "content": PROMPT}], texts)[:, 0]
    assert np.abs(ours - expected).max() <= 1e-5


def test_prompts_systems_and_what_is_refused() -> None:
    rm = rw.load()
    both = score_vocabulary(rm, ["Hi", "Bye"], ids=[300, 301], system="Be brief.")
    alone = score_vocabulary(rm, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bye"}],
                             ids=[300, 301])
    assert np.array_equal(both.reward[1], alone.reward[0])
    assert both.data["prompt"].values.tolist() == ["Hi", "Bye"]
    for wrong in ({"prompt": ""}, {"prompt": []}, {"prompt": "Hi", "ids": []}, {"prompt": "Hi", "ids": [10**6]},
                  {"prompt": "Hi", "mode": "both"}, {"prompt": [{"role": "assistant", "content": "x"}]}):
        with pytest.raises(RewardenError):
            score_vocabulary(rm, **wrong)
    with pytest.raises(RewardenError, match="leaves no room"):
        find_slot(rm, "word " * 600)


def test_an_ensemble_is_refused() -> None:
    rm = rw.load()
    with pytest.raises(RewardenError, match="no vocabulary to scan"):
        score_vocabulary(rw.Ensemble([rm, rm]), "Hi")  # type: ignore[arg-type]


