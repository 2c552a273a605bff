"""Several prompts and models at once: the mean or the worst of the single rewards, raw or standardised."""

from __future__ import annotations

import numpy as np
import pytest
from tests.edits.drawing import model_of
from tests.tokens.small import PROMPT, SIZE, small

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.tokens import score_vocabulary
from rewarden.tokens.search import search
from rewarden.tokens.search.objective import make_objective
from rewarden.tokens.slot import find_slot

PROMPTS = ["w1", "w2 w4", "w6 w7 w8"]
ONE = {"restarts": 1, "steps": 0}

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


@pytest.mark.parametrize(("direction", "aggregate", "best"), [
    ("max", "mean", lambda r: r.mean(0).argmax()), ("min", "mean", lambda r: r.mean(0).argmin()),
    ("max", "worst", lambda r: r.min(0).argmax()), ("min", "worst", lambda r: r.max(0).argmin())])
def test_the_best_token_over_prompts_is_that_of_the_single_scans(direction: str, aggregate: str, best) -> None:
    rm = small(1)
    scans = score_vocabulary(rm, PROMPTS).reward.astype(np.float64)
    expected = int(best(scans))
    found = search(rm, PROMPTS, 1, direction, aggregate=aggregate, **ONE)  # type: ignore[arg-type]
    assert found.ids == [expected]
    np.testing.assert_allclose(found.data["rewards"].values[0, :, 0], scans[:, expected], atol=1e-5)
    of = {"mean": np.mean, "worst": np.min if direction == "max" else np.max}[aggregate]
    assert found.objective == pytest.approx(of(scans[:, expected]), abs=1e-5)
    assert found.reward == pytest.approx(scans[0, expected], abs=1e-5)  # that of the first prompt
    assert found.data["prompt"].values.tolist() == PROMPTS


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_score_of_several_prompts_is_the_mean_of_single_scores(direction: str) -> None:
    rm, response, rng = small(2), np.asarray([20, 30, 40]), np.random.default_rng(0)
    positions, ids = rng.integers(0, 3, 50), rng.integers(0, SIZE, 50)
    single = [make_objective(rm, prompt, 3, direction) for prompt in PROMPTS]  # type: ignore[arg-type]
    together = make_objective(rm, PROMPTS, 3, direction)  # type: ignore[arg-type]
    expected = np.mean([one.exchanged(response, positions, ids) for one in single], axis=0)
    np.testing.assert_allclose(together.exchanged(response, positions, ids), expected, atol=1e-6)
    assert together.at(response) == pytest.approx(np.mean([one.at(response) for one in single]), abs=1e-6)


def test_two_models_standardised_by_their_rewards_of_random_responses() -> None:
    models, scores = [small(3), small(4, 0.1)], []
    for model in models:
        slots = [find_slot(model, prompt) for prompt in PROMPTS]
        drawn = np.random.default_rng([7, 2**31]).choice(np.arange(SIZE), (50, 1))
        reference = np.concatenate([model.reward_encoded([slot.filled(row) for row in drawn])[:, 0] for slot in slots])
        scan = score_vocabulary(model, PROMPTS).reward.astype(np.float64)
        scores.append((scan - reference.mean(dtype=np.float64)) / reference.std(dtype=np.float64, ddof=1))
    total = np.concatenate(scores).mean(0)
    found = search(models, PROMPTS, 1, scale="z", reference_sample=50, seed=7, **ONE)  # type: ignore[arg-type]
    assert found.ids == [int(total.argmax())]
    assert found.objective == pytest.approx(total.max(), abs=1e-4)
    assert found.data["rewards"].shape == (1, 3, 2)
    assert found.data["rewards"].values[0, 1, 1] == pytest.approx(
        score_vocabulary(models[1], PROMPTS[1]).reward[0, found.ids[0]], abs=1e-5)
    raw = search(models, PROMPTS, 1, **ONE)  # type: ignore[arg-type]
    scans = [score_vocabulary(model, PROMPTS).reward.mean(0, dtype=np.float64) for model in models]
    assert raw.ids == [int(np.mean(scans, axis=0).argmax())]
    assert raw.data["model"].values.tolist() == ["small-3", "small-4"]


def test_a_system_message_and_messages_are_prompts() -> None:
    rm = small(5)
    one = search(rm, PROMPT, 1, system="w9", **ONE)  # type: ignore[arg-type]
    other = search(rm, [{"role": "system", "content": "w9"}, {"role": "user", "content": PROMPT}], 1, **ONE)  # type: ignore[arg-type]
    assert (one.ids, one.reward) == (other.ids, other.reward)
    assert one.reward != search(rm, PROMPT, 1, **ONE).reward  # type: ignore[arg-type]


def test_models_of_other_vocabularies_are_refused() -> None:
    with pytest.raises(RewardenError, match="different vocabularies") as refused:
        search([small(), model_of("llama")], PROMPT, 1)
    assert "id 7 is 'é' and 'the'" in refused.value.why
    with pytest.raises(RewardenError, match="different vocabularies"):
        search([rw.load(), small()], PROMPT, 1)


def test_models_without_a_spread_cannot_be_standardised(monkeypatch: pytest.MonkeyPatch) -> None:
    rm = small(6)
    monkeypatch.setattr(type(rm), "reward_encoded", lambda self, rows, **kw: np.ones((len(rows), 1), np.float32))
    with pytest.raises(RewardenError, match="one reward"):
        search(rm, PROMPT, 1, scale="z", **ONE)  # type: ignore[arg-type]


def test_rewards_that_are_not_finite_are_never_the_best() -> None:
    objective = make_objective(small(), ["w1", "w2"], 1, "max")
    rewards = np.asarray([[1.0, 2.0], [np.inf, 3.0], [np.nan, 0.0], [-np.inf, 1.0]])
    assert objective.scores(rewards).tolist() == [1.5, -np.inf, -np.inf, -np.inf]
    objective.sign = -1.0
    assert objective.scores(rewards).tolist() == [-1.5, -np.inf, -np.inf, -np.inf]
