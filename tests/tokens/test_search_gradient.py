"""What the search is promised: the gradient points the right way, up for the largest rewards and down for the smallest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of
from tests.tokens.small import PROMPT, SIZE, small

from rewarden.tokens.search.objective import make_objective
from rewarden.tokens.search.proposals import best_exchanges, draw_step

QUESTION = "what is the capital of France?"
RESPONSE = np.asarray([9, 33, 60])

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


def finite_differences(rm, row, positions: np.ndarray, ids: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """Slope of the reward along the way from each token's embedding to another's, by whole forwards."""
    embedding, out = rm.model.get_input_embeddings(), []
    with torch.no_grad():
        ways = embedding(torch.as_tensor(ids)) - embedding(torch.as_tensor(row.ids[positions]))
    for way, position in zip(ways, positions, strict=True):
        sides = []
        for size in (step, -step):
            def shifted(module, args, output, size=size, way=way, position=position):
                moved = output.clone()
                moved[..., position, :] += size * way
                return moved

            handle = embedding.register_forward_hook(shifted)
            sides.append(float(rm.reward_encoded([row])[0, 0]))
            handle.remove()
        out.append((sides[0] - sides[1]) / (2 * step))
    return np.asarray(out)


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("family", ["llama", "gemma", "gemma2", "gemma3_text", "gpt2", "opt", "bloom", "gpt_neox", "bert"])
def test_promises_are_slopes_of_the_reward_in_the_direction_searched(family: str, direction: str) -> None:
    rm, rng = model_of(family), np.random.default_rng(0)
    objective = make_objective(rm, QUESTION, 3, direction)  # type: ignore[arg-type]
    others = np.arange(150)
    slot = objective.members[0].slot
    promised = objective.promised(RESPONSE, others) - objective.at(RESPONSE)
    positions, ids = rng.integers(0, 3, 40), rng.integers(7, 150, 40)
    slopes = finite_differences(rm, slot.filled(RESPONSE), slot.start + positions, ids)
    slopes = slopes if direction == "max" else -slopes
    assert np.corrcoef(promised[positions, ids], slopes)[0, 1] > 0.99
    assert np.polyfit(promised[positions, ids], slopes, 1)[0] == pytest.approx(1, abs=0.05)
    assert np.abs(promised[np.arange(3), RESPONSE]).max() <= 1e-5  # the token that stands there changes nothing


def test_promises_are_the_gradient_at_a_one_hot_input() -> None:
    rm = small()
    objective = make_objective(rm, PROMPT, 3, "max")
    response, slot = np.asarray([20, 30, 40]), objective.members[0].slot
    ids, weight = torch.as_tensor(slot.filled(response).ids), rm.model.get_input_embeddings().weight
    hot = torch.nn.functional.one_hot(ids, SIZE).float().requires_grad_(True)
    hidden = rm.architecture.trunk(inputs_embeds=(hot @ weight)[None]).last_hidden_state
    (gradient,) = torch.autograd.grad(rm.model.score(hidden[0, -1])[0], hot)
    gradient = gradient[slot.start:slot.start + 3]
    expected = (gradient - gradient.gather(1, torch.as_tensor(response)[:, None])).numpy()
    ours = objective.promised(response, np.arange(SIZE)) - objective.at(response)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_what_is_proposed_beats_what_is_random(direction: str) -> None:
    """A search for the smallest reward that climbed would propose the worst exchanges: the published bug."""
    sign = 1 if direction == "max" else -1
    for seed in range(10):
        rm, rng = small(seed, 0.1), np.random.default_rng(seed)
        draw = draw_step(rm, PROMPT, 3, width=48, top_k=16, direction=direction, ids=rng.integers(10, SIZE, 3).tolist())  # type: ignore[arg-type]
        proposed = sign * draw.evaluate()[:, 0]
        at_random = sign * draw.candidates.substitute(draw.base, rng.integers(0, 3, 200), rng.integers(0, SIZE, 200))[:, 0]
        assert proposed.mean() > at_random.mean() + 0.4 * at_random.std()


def test_the_smallest_rewards_are_promised_by_the_gradient_turned_round() -> None:
    up, down = (make_objective(small(), PROMPT, 2, direction) for direction in ("max", "min"))
    response, others = np.asarray([20, 30]), np.arange(SIZE)
    assert np.array_equal(up.promised(response, others), -down.promised(response, others))
    assert up.at(response) == -down.at(response)


def test_several_prompts_promise_their_mean_and_their_worst() -> None:
    prompts, response, others = ["w1", "w2 w3"], np.asarray([20, 30]), np.arange(SIZE)
    for direction, worst in (("max", np.minimum), ("min", np.minimum)):  # of signed rewards the worst is the smallest
        single = [make_objective(small(), prompt, 2, direction).promised(response, others) for prompt in prompts]  # type: ignore[arg-type]
        mean = make_objective(small(), prompts, 2, direction).promised(response, others)  # type: ignore[arg-type]
        np.testing.assert_allclose(mean, (single[0] + single[1]) / 2, atol=1e-6)
        low = make_objective(small(), prompts, 2, direction, aggregate="worst").promised(response, others)  # type: ignore[arg-type]
        np.testing.assert_allclose(low, worst(*single), atol=1e-6)


def test_the_best_exchanges_of_each_position() -> None:
    rng = np.random.default_rng(0)
    promised, others, response = rng.standard_normal((4, 30)), np.arange(100, 130), np.asarray([101, 129, 110, 100])
    positions, ids = best_exchanges(promised, others, response, 5)
    for position in range(4):
        order = [i for i in others[np.argsort(-promised[position])] if i != response[position]]
        assert ids[positions == position].tolist() == order[:5]
    positions, ids = best_exchanges(promised, others, response, 100)
    assert len(ids) == 4 * 29
    assert not (ids == response[positions]).any()
