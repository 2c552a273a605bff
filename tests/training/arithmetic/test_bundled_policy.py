"""Are the bundled policy and its dictionary what the manifest says of them?"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rewarden.demo import dictionary_path, manifest, model_path
from rewarden.edits import Site
from rewarden.errors import RewardenError
from rewarden.statistics import wilson
from rewarden.training.arithmetic import (
    held_out_pairs,
    load_policy,
    load_policy_dictionary,
    reverse_columns,
    style_codes,
    sum_columns,
    train_pairs,
)
from rewarden.training.arithmetic.recipe import features
from rewarden.training.arithmetic.recipe.measures import answers

MEGABYTE = 10**6
ENTRIES = {name: manifest()["models"][name] for name in ("policy", "policy_dictionary")}
STATED = {row["set"]: row for row in ENTRIES["policy"]["held_out"]}
FRESH = 20  # seed of draws that the manifest's figures were not made of


@pytest.fixture(scope="module")
def policy():
    return load_policy()


def agrees(name: str, right: np.ndarray) -> bool:
    """Whether the stated share lies in the 99.9 % interval of a fresh sample."""
    fresh = wilson(right.sum(), len(right), level=0.999)
    return fresh.low <= STATED[name]["accuracy"] <= fresh.high


def test_files_are_those_of_the_manifest_and_small():
    folder, size = model_path("policy").parent, 0
    for name, entry in ENTRIES.items():
        assert set(entry["files"]) == {f"{name}/{path.name}" for path in (folder / name).iterdir()}
        for file, digest in entry["files"].items():
            content = (folder / file).read_bytes()
            size += len(content)
            assert hashlib.sha256(content).hexdigest() == digest
    assert size < 1.5 * MEGABYTE


def test_accuracy_by_style_and_of_the_unrelated_task_is_as_stated(policy):
    columns = sum_columns(held_out_pairs()[3::10])
    texts, right = answers(*policy, columns, FRESH)
    styles = style_codes(texts)
    assert len(texts) == 200
    assert agrees("sums", right)
    assert agrees("sums, direct answers", right[styles == 0])
    assert agrees("sums, worked answers", right[styles == 1])
    assert agrees("sums, greedy", answers(*policy, columns, FRESH, temperature=0.0)[1])
    assert agrees("reversed strings", answers(*policy, reverse_columns(200, FRESH), FRESH)[1])
    worked = wilson((styles == 1).sum(), 200, level=0.999)
    assert worked.low <= ENTRIES["policy"]["shares_of_sampled_sums"]["worked"] <= worked.high


def test_what_the_experiments_need_of_the_policy():
    """Room to improve, sums that it knows, two styles that differ, and a second task that it has down."""
    assert STATED["sums"]["high"] < 0.7
    assert STATED["sums, greedy"]["low"] > 0.95
    assert STATED["sums, worked answers"]["low"] > STATED["sums, direct answers"]["high"] + 0.1
    assert STATED["reversed strings"]["accuracy"] > 0.98
    assert 0.4 < ENTRIES["policy"]["shares_of_sampled_sums"]["worked"] < 0.6


def test_the_intervals_stated_are_wilsons():
    for row in STATED.values():
        found = wilson(row["accuracy"] * row["n"], row["n"])
        np.testing.assert_allclose([row["low"], row["high"]], [found.low, found.high], atol=2e-4)
        assert row["n"] >= 500


def test_the_dictionary_reconstructs_as_stated(policy):
    trunk, dictionary = features.open_policy(model_path("policy")), load_policy_dictionary()
    assert dictionary.provenance["weights_sha256"] == trunk.provenance()["weights_sha256"]
    assert (dictionary.d_sae, dictionary.k, dictionary.site) == (256, 8, Site("resid_post", 2))
    stated = ENTRIES["policy_dictionary"]["measured"]["completions of held-out sums"]
    found = features.fidelity(trunk, dictionary, features.completions(trunk, list(held_out_pairs()[::10]), FRESH))
    assert abs(found.fvu - stated["fvu"]) < 0.01
    assert stated["fve"] == pytest.approx(1 - stated["fvu"], abs=1e-4)
    assert stated["fve"] > 0.95
    assert found.l0 == pytest.approx(stated["l0"], abs=0.05)


def test_states_are_those_of_hidden_states(policy):
    """What the dictionary was trained on: resid_post 2 is transformers' hidden state 3, from the first answer token."""
    import torch

    trunk = features.open_policy(model_path("policy"))
    conversations = features.completions(trunk, list(train_pairs()[:3]), FRESH)
    rows = features.states(trunk, conversations, 2).rows()[:]
    wanted = []
    for conversation in conversations:
        ids = torch.from_numpy(trunk.encode(conversation).ids)[None]
        with torch.no_grad():
            wanted.append(policy[0](ids, output_hidden_states=True).hidden_states[3][0, 6:])
    torch.testing.assert_close(rows, torch.cat(wanted), atol=1e-5, rtol=1e-5)


def test_plain_transformers_reads_it():
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(model_path("policy"))), load_policy()[1]
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert sum(p.numel() for p in model.parameters()) == ENTRIES["policy"]["parameters"]
    asked = tokenizer("12+34:", return_tensors="pt")
    said = model.generate(**asked, do_sample=False, max_new_tokens=32)[0]
    assert tokenizer.decode(said).endswith("046<eos>")


def test_unknown_dictionaries_are_refused():
    with pytest.raises(RewardenError, match="no bundled dictionary is called 'policy'"):
        dictionary_path("policy")
    assert dictionary_path().name == "dictionary"
