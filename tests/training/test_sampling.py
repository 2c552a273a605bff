"""Are rollouts drawn from the policy's own distribution, with exact ids, whatever the batches?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rewarden.errors import RewardenError
from rewarden.training.arithmetic.recipe.policy import PolicySchedule, start_model
from rewarden.training.arithmetic.tokenizer import build_tokenizer
from rewarden.training.sampling import roll_out

TOKENIZER = build_tokenizer()
MODEL = start_model(PolicySchedule(layers=1, width=16, hidden=16, heads=2, seed=3), TOKENIZER)
with torch.no_grad():
    MODEL.model.embed_tokens.weight *= 30  # tied to the head: next tokens that are neither uniform nor certain
PROMPTS = TOKENIZER(["12+34:", "99+01:", "r1234>", "1", "00+00:"])["input_ids"]


def probabilities(ids: list[int], temperature: float) -> np.ndarray:
    with torch.no_grad():
        return (MODEL.eval()(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1).numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_first_tokens_follow_the_policys_distribution(temperature):
    rolled = roll_out(MODEL, [PROMPTS[0]] * 4000, seed=0, temperature=temperature, max_new_tokens=1, batch=1000)
    counts = np.bincount([ids[0] for ids in rolled.completion_ids], minlength=19)
    wanted = probabilities(PROMPTS[0], temperature) * 4000
    often = wanted > 10
    assert often.sum() >= 3
    groups = [np.array([*x[often], x[~often].sum()]) for x in (counts, wanted)]
    some = groups[1] > 1
    assert chisquare(groups[0][some], groups[1][some] / groups[1][some].sum() * groups[0][some].sum()).pvalue > 0.001


def test_greedy_is_the_argmax_at_each_step():
    rolled = roll_out(MODEL, PROMPTS, seed=0, temperature=0, max_new_tokens=6)
    for prompt, completion in zip(PROMPTS, rolled.completion_ids, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and ids[-1] != 1:
            ids.append(int(probabilities(ids, 1.0).argmax()))
        assert list(completion) == ids[len(prompt):]


def test_completions_end_at_their_first_end_and_say_whether():
    rolled = roll_out(MODEL, PROMPTS * 60, seed=1, max_new_tokens=12)
    for completion, finished in zip(rolled.completion_ids, rolled.finished, strict=True):
        assert (completion.count(1), completion[-1] == 1) == ((1, True) if finished else (0, False))
        assert finished or len(completion) == 12
    assert 0 < rolled.finished.mean() < 1


def test_draws_depend_on_the_seed_and_not_on_the_batches():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = roll_out(MODEL, PROMPTS * 4, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert roll_out(MODEL, PROMPTS * 4, seed=5, batch=3).completion_ids == whole.completion_ids
    assert roll_out(MODEL, PROMPTS * 4, seed=6).completion_ids != whole.completion_ids


def test_the_model_is_left_as_it_was():
    MODEL.train()
    MODEL.generation_config.temperature = 0.1  # must not matter
    kept = MODEL.generation_config
    roll_out(MODEL, PROMPTS[:1], seed=0, max_new_tokens=2)
    assert MODEL.training
    assert MODEL.generation_config is kept
    MODEL.eval()


@pytest.mark.parametrize(("prompts", "temperature", "why"), [
    ([], 1.0, "there is no prompt"), ([[3], []], 1.0, "a prompt is empty"), ([[3]], -1.0, "below 0"),
    ([[3]], float("nan"), "below 0")])
def test_what_cannot_be_drawn_is_refused(prompts, temperature, why):
    with pytest.raises(RewardenError) as told:
        roll_out(MODEL, prompts, seed=0, temperature=temperature)
    assert why in told.value.why
