"""Does the recipe imitate what it says, and does its one command give the same files twice?"""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import torch

from rewarden.demo import manifest, model_path
from rewarden.statistics import wilson
from rewarden.training.arithmetic.recipe.__main__ import main
from rewarden.training.arithmetic.recipe.policy import IGNORED, PolicySchedule, collate, corrupted, draw_text
from rewarden.training.arithmetic.task import held_out_pairs, sum_prompt, train_pairs
from rewarden.training.arithmetic.tokenizer import build_tokenizer
from rewarden.training.arithmetic.verifier import arithmetic, read_answer


def test_texts_have_the_shares_of_the_schedule_and_no_held_out_sum():
    schedule, rng = PolicySchedule(), random.Random(0)
    texts = [draw_text(schedule, train_pairs(), rng) for _ in range(6000)]
    sums = [(prompt, answer) for prompt, answer in texts if prompt[0] != "r"]
    forbidden = {sum_prompt(a, b) for a, b in held_out_pairs()}
    assert not forbidden & {prompt for prompt, _ in sums}
    assert all(answer == prompt[4:0:-1] for prompt, answer in texts if prompt[0] == "r")
    right = np.array([arithmetic(f"{answer}<eos>", f"{int(prompt[:2]) + int(prompt[3:5]):03d}") for prompt, answer in sums])
    worked = np.array([read_answer(answer).style for _, answer in sums]) == 1
    for seen, share in ((len(sums) / len(texts), 0.75), (worked.mean(), 0.5), (right[worked].mean(), 0.7),
                        (right[~worked].mean(), 0.4)):
        found = wilson(round(seen * 2000), 2000, level=0.999)  # each stands on 2,000 texts at least
        assert found.low < share < found.high
    assert all(read_answer(answer).well_formed for _, answer in sums)


def test_a_corrupted_answer_differs_in_one_digit_uniformly():
    rng = random.Random(0)
    made = [corrupted("046", rng) for _ in range(2700)]
    assert all(sum(x != y for x, y in zip(one, "046", strict=True)) == 1 for one in made)
    assert len(set(made)) == 27
    assert max(map(made.count, set(made))) < 150  # 100 each, standard deviation 10


def test_labels_are_the_answer_and_its_end():
    tokenizer = build_tokenizer()
    batch = collate([("12+34:", "046"), ("r1234>", "4321")], tokenizer)
    assert batch["input_ids"].tolist() == [[4, 5, 13, 6, 7, 15, 3, 7, 9, 1, 0], [18, 4, 5, 6, 7, 17, 7, 6, 5, 4, 1]]
    assert batch["labels"].tolist() == [[IGNORED] * 6 + [3, 7, 9, 1, IGNORED], [IGNORED] * 6 + [7, 6, 5, 4, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 10 + [0], [1] * 11]


def test_the_command_gives_the_same_files_twice_and_keeps_other_entries(tmp_path):
    state = torch.get_rng_state()
    for name in ("one", "two"):
        main(["--out", str(tmp_path / name), "--quick"])
    assert torch.equal(state, torch.get_rng_state())
    models = tmp_path / "one" / "models"
    written = json.loads((models / "manifest.json").read_text(encoding="utf-8"))
    assert (models / "manifest.json").read_bytes() == (tmp_path / "two" / "models" / "manifest.json").read_bytes()
    assert set(written["models"]) == {"policy", "policy_dictionary"}
    assert str(tmp_path) not in json.dumps(written)
    for entry in written["models"].values():
        for file, digest in entry["files"].items():
            assert hashlib.sha256((models / file).read_bytes()).hexdigest() == digest
    shipped = manifest()["models"]
    for name, entry in written["models"].items():  # what ships was made by this command at full size
        assert set(entry) == set(shipped[name])
        assert shipped[name]["recipe_command"] == entry["recipe_command"].removesuffix(" --quick")
    small = PolicySchedule(**shipped["policy"]["training"]["schedule"])
    assert small == PolicySchedule(seed=shipped["policy"]["seed"])
    assert (models / "policy" / "tokenizer.json").read_bytes() == (model_path("policy") / "tokenizer.json").read_bytes()

    other = json.loads((models / "manifest.json").read_text(encoding="utf-8"))
    other["models"]["mine"] = {"role": "kept"}
    (models / "manifest.json").write_text(json.dumps(other), encoding="utf-8")
    main(["--out", str(tmp_path / "one"), "--quick", "--seed", "1"])
    again = json.loads((models / "manifest.json").read_text(encoding="utf-8"))["models"]
    assert again["mine"] == {"role": "kept"}
    before, after = (found["policy"]["files"]["policy/model.safetensors"] for found in (written["models"], again))
    assert before != after
