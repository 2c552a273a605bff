"""Loading: what was saved scores the same in every file format; what is broken is refused with its cause."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.families import cached, config_of
from tests.tokenizers_tiny import tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import rewarden as rw
from rewarden.batching import pad
from rewarden.checkpoint import weights_hash
from rewarden.conversation import Conversation
from rewarden.demo import model_path
from rewarden.errors import RewardenError, RewardenWarning
from rewarden.reward_model import RewardModel

CONVERSATIONS = [Conversation.of("what is red?", "the sun, and it is not a dog"), Conversation.of("Tell me a joke", "no"),
                 Conversation.of("one two three", "four five six seven eight")]
EXACT = {"rtol": 1e-5, "atol": 1e-5}
ROUNDING = {"rtol": 1e-6, "atol": 1e-7}  # the same weights elsewhere in memory may round the last bit otherwise


def save(model, folder: Path, **options) -> Path:
    model.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def randomized(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + (parameter.ndim == 1))
    return model.eval().requires_grad_(False)


def edit_config(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def rewards(folder: Path, **options) -> np.ndarray:
    return rw.load(str(folder), **options).reward(CONVERSATIONS)


def refusal(folder: Path | str, **options) -> RewardenError:
    with pytest.raises(RewardenError) as error:
        rw.load(str(folder), **options)
    assert error.value.fix
    return error.value


def hidden_of(trunk: torch.nn.Module, rm: RewardModel, conversation: Conversation) -> torch.Tensor:
    with torch.no_grad():
        return trunk(**pad([rm.encode(conversation)], 0, torch.device("cpu"))).last_hidden_state[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(cached("llama"), tmp_path / "model")


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    return RewardModel(cached("llama"), tiny_tokenizer()).reward(CONVERSATIONS)


# --- formats ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bert", "deberta-v2"])
def test_save_and_load_score_the_same(family: str, tmp_path: Path) -> None:
    memory = RewardModel(cached(family), tiny_tokenizer()).reward(CONVERSATIONS)
    np.testing.assert_allclose(rewards(save(cached(family), tmp_path)), memory, **ROUNDING)


def test_shards_and_pickles_of_tensors_score_the_same(folder: Path, tmp_path: Path, wanted: np.ndarray) -> None:
    sharded = save(cached("llama"), tmp_path / "sharded", max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    np.testing.assert_allclose(rewards(sharded), wanted, **ROUNDING)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    np.testing.assert_allclose(rewards(folder), wanted, **ROUNDING)


def test_paths_may_be_paths(folder: Path, wanted: np.ndarray) -> None:
    rm = rw.load(folder)
    np.testing.assert_allclose(rm.reward(CONVERSATIONS), wanted, **ROUNDING)
    assert rm.provenance()["model"] == str(folder)


def test_the_tokenizer_and_template_may_be_elsewhere(folder: Path, tmp_path: Path, wanted: np.ndarray) -> None:
    bare = tmp_path / "bare"
    cached("llama").save_pretrained(bare)
    np.testing.assert_allclose(rewards(bare, tokenizer=str(folder)), wanted, **ROUNDING)
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}")
    by_file, by_text = (rw.load(str(folder), chat_template=given) for given in (str(template), template.read_text()))
    np.testing.assert_array_equal(by_file.reward(CONVERSATIONS), by_text.reward(CONVERSATIONS))
    assert by_file.encode(Conversation.of("one", "two")).text == "one<eos>two<eos>"
    assert "neither a template nor a file" in refusal(folder, chat_template="nowhere.jinja").what


@pytest.mark.parametrize("name", ["reward_model", "reward_model_b"])
def test_bundled_models_are_plain_transformers_models(name: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(model_path(name), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    rm = rw.load(f"demo:{name}")
    for conversation in CONVERSATIONS:
        ids = tokenizer.apply_chat_template([dict(m) for m in conversation.messages], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            theirs = model(ids).logits
        np.testing.assert_allclose(rm.reward([conversation]), theirs.numpy(), **EXACT)


def test_dtypes(folder: Path, wanted: np.ndarray) -> None:
    assert rw.load(str(folder)).dtype == torch.float32
    half = rw.load(str(folder), dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.reward(CONVERSATIONS), wanted, atol=0.1 * np.abs(wanted).max())


# --- adapters ---------------------------------------------------------------------------------------------------------

def lora(base, folder: Path, **options):
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **options))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


def peft_scores(adapted, rm: RewardModel) -> np.ndarray:
    adapted.config.pad_token_id = None
    with torch.no_grad():
        return np.stack([adapted(**pad([rm.encode(c)], 0, rm.device)).logits[0].numpy() for c in CONVERSATIONS])


def test_a_merged_adapter_is_the_peft_model(tmp_path: Path, folder: Path, wanted: np.ndarray) -> None:
    adapted = lora(AutoModelForSequenceClassification.from_pretrained(folder), tmp_path / "adapter", task_type="SEQ_CLS")
    rm = rw.load(str(folder), adapter=str(tmp_path / "adapter"))
    np.testing.assert_allclose(rm.reward(CONVERSATIONS), peft_scores(adapted, rm), **EXACT)
    assert np.abs(rm.reward(CONVERSATIONS) - wanted).max() > 1e-2
    assert rm.provenance()["adapter"] == str(tmp_path / "adapter")


@pytest.mark.parametrize("labels", [1, 3])
def test_an_adapter_may_bring_the_head_of_a_language_model(tmp_path: Path, labels: int) -> None:
    base = save(randomized(AutoModelForCausalLM.from_config(config_of("llama"))), tmp_path / "base")
    start = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    adapted = lora(start, tmp_path / "adapter", task_type="SEQ_CLS", modules_to_save=["score"])
    rm = rw.load(str(base), adapter=str(tmp_path / "adapter"))
    assert len(rm.names) == labels
    np.testing.assert_allclose(rm.reward(CONVERSATIONS), peft_scores(adapted, rm), **EXACT)


def test_an_adapters_bytes_are_part_of_the_provenance(tmp_path: Path, folder: Path) -> None:
    lora(AutoModelForSequenceClassification.from_pretrained(folder), tmp_path / "adapter", task_type="SEQ_CLS")
    before = rw.load(str(folder), adapter=str(tmp_path / "adapter")).provenance()
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    state[sorted(state)[0]][0, 0] += 1
    old = path.read_bytes()
    save_file(state, path, metadata={"format": "pt"})
    after = rw.load(str(folder), adapter=str(tmp_path / "adapter")).provenance()
    assert before["weights_sha256"] == after["weights_sha256"]
    digests = [hashlib.sha256(hashlib.sha256(content).digest()).hexdigest() for content in (old, path.read_bytes())]
    assert [before["adapter_sha256"], after["adapter_sha256"]] == digests
    assert digests[0] != digests[1]
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read" in refusal(folder, adapter=str(tmp_path / "adapter")).what
    assert refusal(folder, adapter=str(tmp_path / "nowhere")).what.startswith("cannot load")


# --- heads beside the trunk -------------------------------------------------------------------------------------------

def add_tensors(folder: Path, tensors: dict[str, torch.Tensor], drop: tuple[str, ...] = ()) -> Path:
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith(drop or ("\0",))}
    save_file({**state, **tensors}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_gated_checkpoint_needs_no_remote_code(folder: Path) -> None:
    K, d, hidden = 4, 32, 16
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    head = {"regression_layer.weight": draw(K, d), "reward_transform_matrix": torch.eye(K) - 0.2 * draw(K, K),
            "gating.layers.0.weight": draw(hidden, d), "gating.layers.0.bias": draw(hidden),
            "gating.layers.1.weight": draw(hidden, hidden), "gating.layers.1.bias": draw(hidden),
            "gating.layers.2.weight": draw(K, hidden), "gating.logit_scale": torch.tensor([1.3])}
    add_tensors(folder, head, drop=("score.",))
    edit_config(folder, architectures=["LlamaForRewardModelWithGating"], gating_temperature=2.5)
    rm = rw.load(str(folder))
    assert rm.names == ("score", "objective_0", "objective_1", "objective_2", "objective_3")
    trunk = cached("llama").model
    for conversation in CONVERSATIONS:
        row = rm.encode(conversation)
        states = hidden_of(trunk, rm, conversation)
        x = states[row.response_start - 1]
        for i in (0, 1):
            x = torch.relu(head[f"gating.layers.{i}.weight"] @ x + head[f"gating.layers.{i}.bias"])
        gate = torch.softmax(head["gating.layers.2.weight"] @ x / 2.5, -1) * 1.3
        objectives = head["regression_layer.weight"] @ states[-1]
        score = gate @ (objectives @ head["reward_transform_matrix"])
        np.testing.assert_allclose(rm.reward([conversation])[0], torch.cat([score[None], objectives]).numpy(), **EXACT)


def test_a_gated_checkpoint_without_its_gate_is_refused(folder: Path) -> None:
    add_tensors(folder, {"regression_layer.weight": torch.ones(4, 32)}, drop=("score.",))
    edit_config(folder, architectures=["LlamaForRewardModelWithGating"])
    assert refusal(folder).what == "the gated head lacks gating.layers.0.weight, reward_transform_matrix"


def value_folder(tmp_path: Path, **tensors: torch.Tensor) -> Path:
    model = randomized(AutoModelForCausalLM.from_config(config_of("llama")))
    return add_tensors(save(model, tmp_path / "value"), tensors)


def test_a_value_head_of_trl(tmp_path: Path) -> None:
    weight, bias = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0.7])
    folder = value_folder(tmp_path, **{"v_head.summary.weight": weight, "v_head.summary.bias": bias})
    rm = rw.load(str(folder))
    trunk = AutoModelForCausalLM.from_pretrained(folder).model
    theirs = [(weight @ hidden_of(trunk, rm, c)[-1] + bias).detach().numpy() for c in CONVERSATIONS]
    np.testing.assert_allclose(rm.reward(CONVERSATIONS), theirs, **EXACT)


def test_a_value_head_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = value_folder(tmp_path, **{"v_head.summary.weight": torch.ones(1, 48), "v_head.summary.bias": torch.zeros(1)})
    assert refusal(folder).what == "the value head expects width 48, the model has 32"


@pytest.mark.parametrize("labels", [1, 2])
def test_a_token_classifier_is_read_at_step_ends(tmp_path: Path, labels: int) -> None:
    model = randomized(AutoModelForTokenClassification.from_config(config_of("llama", num_labels=labels)))
    rm = rw.load(str(save(model, tmp_path)))
    conversation = Conversation.of("one two", "three four\nfive six\nseven")
    row = rm.encode(conversation)
    steps = [row.tokens.index(word) for word in ("four", "six", "seven")]
    with torch.no_grad():
        logits = model(**pad([row], 0, rm.device)).logits[0, steps]
    values = logits[:, 0] if labels == 1 else logits.softmax(-1)[:, 1]
    np.testing.assert_allclose(rm.reward([conversation])[0, 0], float(values.min()), **EXACT)


# --- what is wrong is said --------------------------------------------------------------------------------------------

def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    error = refusal(save(randomized(AutoModelForCausalLM.from_config(config_of("llama"))), tmp_path))
    assert error.what == f"{tmp_path} is a language model without a reward head"
    assert "readout='judge'" in error.fix
    assert "reference=" in error.fix


def test_a_missing_head_is_not_filled_with_random_numbers(folder: Path) -> None:
    error = refusal(add_tensors(folder, {}, drop=("score.",)))
    assert error.what == f"{folder} lacks 1 weights: score.weight"
    assert "random" in error.why


@pytest.mark.parametrize(("changes", "fix"), [
    ({"id2label": {str(i): str(i) for i in range(3)}, "label2id": {str(i): i for i in range(3)}}, "num_labels"),
    ({"hidden_size": 16}, "hidden_size"), ({"vocab_size": 100}, "config.json and the weights disagree"),
])
def test_a_config_that_disagrees_with_the_weights(folder: Path, changes: dict, fix: str) -> None:
    assert fix in refusal(edit_config(folder, **changes)).fix


def test_a_head_of_another_width(folder: Path) -> None:
    add_tensors(folder, {"score.weight": torch.ones(1, 40)})
    error = refusal(folder)
    assert error.what == f"cannot load {str(folder)!r}"
    assert "config.json and the weights disagree" in error.fix


def test_weights_of_layers_that_the_config_does_not_have(folder: Path) -> None:
    assert "model.layers.3" in refusal(edit_config(folder, num_hidden_layers=4)).what
    with pytest.warns(RewardenWarning, match=r"9 weights of .* are not used: model\.layers\.2\.") as caught:
        rw.load(str(edit_config(folder, num_hidden_layers=2)))
    assert len(caught) == 1


def test_intact_checkpoints_load_without_a_warning(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RewardenWarning)
        rw.load(str(folder))
        rw.load()


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    cached("llama").save_pretrained(tmp_path)
    error = refusal(tmp_path)
    assert error.what == f"no tokenizer in {str(tmp_path)!r}"
    assert "tokenizer=" in error.fix


@pytest.mark.parametrize("keep", [0.0, 0.00005, 0.01, 0.5, 0.9999])
@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_truncated_weights(folder: Path, keep: float, format: str) -> None:
    path = folder / "model.safetensors"
    if format == "bin":
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()
        path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * keep)])
    error = refusal(folder)
    assert "truncated or damaged" in error.fix
    assert "download it again" in error.fix
    assert format == "bin" or error.where == str(path)


@pytest.mark.parametrize("start", [0, 4, 8, 30])
def test_a_damaged_header(folder: Path, start: int) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[start:start + 6] = b"\xff" * 6
    path.write_bytes(bytes(content))
    assert "download it again" in refusal(folder).fix


class Exploit:
    ran = False

    def __reduce__(self):
        return setattr, (Exploit, "ran", True)


def test_a_pickle_with_code_is_refused_and_not_run(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "extra": Exploit()}, folder / "pytorch_model.bin")
    error = refusal(folder)
    assert "cannot be read" in error.what
    assert "holds more than tensors" in error.fix
    assert Exploit.ran is False


@pytest.mark.parametrize(("text", "why"), [
    ("{", "not a valid JSON"), ('{"model_type": "nosuch"}', "nosuch"), ("{}", "model_type"),
    ('{"model_type": "llama", "num_hidden_layers": "three"}', "num_hidden_layers"),
    ('{"model_type": "llama", "num_attention_heads": 0}', "zero"),
])
def test_a_config_that_cannot_be_read(folder: Path, text: str, why: str) -> None:
    (folder / "config.json").write_text(text)
    error = refusal(folder)
    assert error.what == f"cannot load {str(folder)!r}"
    assert why in error.why


def test_no_such_folder_no_weights(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "nowhere").what
    assert "there is no folder" in refusal("./nowhere").what
    assert "there is no folder" in refusal("owner/name/typo").what
    assert "check the folder or Hub id" in refusal("nobody/nothing").fix
    only_config = save(cached("llama"), tmp_path / "half")
    (only_config / "model.safetensors").unlink()
    assert "cannot load" in refusal(only_config).what


@pytest.mark.parametrize(("option", "value", "what"), [
    ("device", "gpu7", "no device 'gpu7' here"), ("device", "meta9", "no device 'meta9' here"),
    ("dtype", "int4", "unknown dtype 'int4'"), ("bos", "never", "unknown BOS policy 'never'"),
    ("readout", "oracle", "unknown read-out 'oracle'"), ("output", "kindness", "no scalar is called 'kindness'"),
    ("layers", "no.such.list", "layers='no.such.list' is not a module of LlamaModel"),
    ("attn_implementation", "psychic", "cannot load"), ("where", "steps", "SequenceHead has no option where"),
    ("max_length", 3, "exceeds max_length=3"), ("batch", 3, "SequenceHead has no option batch"),
])
def test_unknown_options(folder: Path, option: str, value, what: str) -> None:
    assert what in refusal(folder, **{option: value}).what


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_this_machine_lacks(folder: Path) -> None:
    error = refusal(folder, device="cuda")
    assert error.what == "no device 'cuda' here"
    assert "cpu" in error.fix


def test_remote_code_needs_a_pinned_revision() -> None:
    error = refusal("someone/model", trust_remote_code=True)
    assert error.where == "trust_remote_code="
    assert "revision=" in error.fix


def test_the_hash_is_of_the_bytes(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    before = weights_hash(str(folder), None)
    assert rw.load(str(folder)).provenance()["weights_sha256"] == before
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert weights_hash(str(copy), None) == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert weights_hash(str(folder), None) != before


def test_loading_leaves_the_model_frozen_and_in_eval_mode(folder: Path) -> None:
    rm = rw.load(str(folder))
    assert not any(p.requires_grad for p in rm.model.parameters())
    assert not any(m.training for m in rm.model.modules())


