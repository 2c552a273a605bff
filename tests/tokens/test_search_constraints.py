"""What is found satisfies what was asked, and is certified among the responses that do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.families import build, config_of
from tests.tokens.small import FOREIGN, PROMPT, SIZE, SPECIAL, every_pair, language_model, small, tokenizer_of_200
from transformers import AutoModelForCausalLM

import rewarden as rw
from rewarden.conversation import Conversation
from rewarden.errors import RewardenError
from rewarden.readout.options import make_implicit
from rewarden.reward_model import RewardModel
from rewarden.tokens.scan import score_vocabulary
from rewarden.tokens.search import Constraints, Found, Naturalness, beam, search
from rewarden.tokens.search.constraints import round_trips
from rewarden.tokens.search.naturalness import Likelihood
from rewarden.tokens.slot import find_slot
from rewarden.tokens.vocabulary import describe_ids, every_id

FEW = {"restarts": 4, "steps": 5, "width": 32, "top_k": 16}

pytestmark = pytest.mark.filterwarnings("ignore::rewarden.errors.RewardenWarning")


def pair_likelihoods(context: np.ndarray) -> np.ndarray:
    """Mean log-probability [first, second] of every pair after a context, one plain forward a first token."""
    model, rows = language_model(), torch.arange(SIZE)[:, None]
    with torch.no_grad():
        logs = model(torch.cat([torch.as_tensor(context).expand(SIZE, -1), rows], 1)).logits.log_softmax(-1)
    return ((logs[0, -2][:, None] + logs[:, -1]) / 2).numpy()


def is_optimum(rewards: np.ndarray, passes: np.ndarray, ids: list[int], slack: float) -> bool:
    """No passing pair that differs in one token is better."""
    a, b = ids
    near = np.concatenate([rewards[:, b][passes[:, b]], rewards[a][passes[a]]])
    return bool(passes[a, b]) and near.max() <= rewards[a, b] + slack


def slack(found: Found) -> float:
    """By how much rounding may make a neighbour better."""
    return (found.noise_floor or 0.0) + 1e-5


@pytest.mark.parametrize(("allowed", "out"), [
    ("text", SPECIAL), ("printable", SPECIAL), ("ascii", [*SPECIAL, *FOREIGN]), (("ascii", "stable"), [*SPECIAL, *FOREIGN]),
    (lambda known: np.asarray([text.endswith("7") for text in known.text]), None), (range(20, 60), None)])
def test_only_allowed_tokens_are_used(allowed, out) -> None:
    names = tokenizer_of_200().convert_ids_to_tokens(list(range(SIZE)))
    if out is not None:
        expected = [i for i, name in enumerate(names) if name not in out]
    else:
        expected = [i for i, name in enumerate(names) if name.endswith("7")] if callable(allowed) else list(allowed)
    assert Constraints(allowed=allowed).ids([small()]).tolist() == expected
    table = every_pair(small())[np.ix_(expected, expected)]
    passes = np.ones_like(table, bool)
    found = search(small(), PROMPT, 2, constraints=Constraints(allowed=allowed), **FEW)  # type: ignore[arg-type]
    for ids in found.data["ids"].values.tolist():
        assert is_optimum(table, passes, [expected.index(i) for i in ids], slack(found))
    assert found.provenance["allowed"] == len(expected)


def test_special_tokens_are_used_unless_they_are_excluded() -> None:
    rm = small(next(seed for seed in range(40) if score_vocabulary(small(seed), PROMPT).bottom(1)["token_id"].iloc[0] < 7))
    assert search(rm, PROMPT, 1, "min", restarts=1).ids[0] < len(SPECIAL)
    assert search(rm, PROMPT, 1, "min", restarts=1, constraints=Constraints(allowed="text")).ids[0] >= len(SPECIAL)


def test_the_text_of_what_is_found_is_read_as_these_ids() -> None:
    rm = rw.load()
    known = describe_ids(rm, every_id(rm))
    rng = np.random.default_rng(0)
    spaced = [i for i, text in zip(known.token_id, known.text, strict=True) if text.startswith(" ") and text.strip().isalpha()]
    bare = [i for i, text in zip(known.token_id, known.text, strict=True) if len(text) <= 2 and text.isalpha()]
    allowed = np.sort(np.concatenate([rng.choice(spaced, 12, replace=False), rng.choice(bare, 18, replace=False)]))
    slot, pairs = find_slot(rm, "Hi"), [(int(a), int(b)) for a in allowed for b in allowed]

    def same(pair: tuple[int, int]) -> bool:
        text = rm.tokenizer.decode(list(pair))
        return rm.encode(Conversation.of("Hi", text)).ids.tolist() == slot.filled(pair).ids.tolist()

    passes = np.asarray([same(pair) for pair in pairs])
    assert np.array_equal(round_trips(rm, slot, np.asarray(pairs)), passes)
    assert 0.05 < passes.mean() < 0.95  # both kinds occur
    rewards = rm.reward_encoded([slot.filled(pair) for pair in pairs])[:, 0].reshape(30, 30)
    passes = passes.reshape(30, 30)
    for direction, sign in (("max", 1), ("min", -1)):
        found = search(rm, "Hi", 2, direction, constraints=Constraints(allowed=allowed, round_trip=True), **FEW)  # type: ignore[arg-type]
        assert found.data["round_trip"].values.all()
        assert not found.warnings
        for ids in found.data["ids"].values.tolist():
            assert is_optimum(sign * rewards, passes, [allowed.tolist().index(i) for i in ids], slack(found))
        pairs_found = beam(rm, "Hi", 30, direction, constraints=Constraints(allowed=allowed, round_trip=True))  # type: ignore[arg-type]
        assert pairs_found.reward == pytest.approx(sign * (sign * rewards)[passes].max(), abs=1e-5)


def test_a_reward_of_ids_that_no_text_gives_is_said_to_be_one() -> None:
    rm = rw.load()
    split = rm.tokenizer.encode("hel", add_special_tokens=False) + rm.tokenizer.encode("lo", add_special_tokens=False)
    found = search(rm, "Hi", len(split), constraints=Constraints(allowed=split), restarts=1, steps=0)
    text = rm.encode(Conversation.of("Hi", found.response)).ids.tolist()
    stable = text == find_slot(rm, "Hi").filled(found.ids).ids.tolist()
    assert found.data["round_trip"].values.tolist() == [stable]
    assert any("tokenised into other ids" in note for note in found.warnings) == (not stable)
    assert not stable


def test_the_bound_on_naturalness_holds_and_certificates_are_true_inside_it() -> None:
    rm, model = small(11), language_model()
    likely = pair_likelihoods(find_slot(rm, PROMPT).before.ids)
    bound = float(np.quantile(likely, 0.95))
    passes, table = likely >= bound, every_pair(rm)
    for direction, sign in (("max", 1), ("min", -1)):
        found = search(rm, PROMPT, 2, direction, constraints=Constraints(naturalness=(model, bound)), **FEW)  # type: ignore[arg-type]
        assert found.data["certified"].values.all()
        for ids, mean in zip(found.data["ids"].values.tolist(), found.data["log_probability"].values, strict=True):
            assert mean == pytest.approx(likely[tuple(ids)], abs=1e-5)
            assert mean >= bound - 1e-5
            assert is_optimum(sign * table, passes, ids, slack(found))
        pairs = beam(rm, PROMPT, SIZE, direction, constraints=Constraints(naturalness=(model, bound)))  # type: ignore[arg-type]
        assert pairs.reward == pytest.approx(sign * (sign * table)[passes].max(), abs=1e-5)


def test_likelihoods_are_the_models_own_after_each_context() -> None:
    rng = np.random.default_rng(0)
    contexts, rows = [rng.integers(0, SIZE, 5), rng.integers(0, SIZE, 9)], rng.integers(0, SIZE, (30, 4))
    expected = []
    for context in contexts:
        with torch.no_grad():
            wholes = [torch.as_tensor(np.concatenate([context, row]))[None] for row in rows]
            logs = [language_model()(whole).logits[0].log_softmax(-1) for whole in wholes]
        expected.append([float(np.mean([log[len(context) - 1 + t, token] for t, token in enumerate(row)]))
                         for log, row in zip(logs, rows, strict=True)])
    ours = Likelihood(language_model(), contexts)
    np.testing.assert_allclose(ours(rows), np.min(expected, axis=0), atol=1e-5)
    positions, others = rng.integers(0, 4, 200), rng.integers(0, SIZE, 200)
    exchanged = np.repeat(rows[:1], 200, 0)
    exchanged[np.arange(200), positions] = others
    most = ours.best_mean(rows[0], positions, others)
    assert (most >= ours(exchanged) - 1e-6).all()  # a bound, and at the last position the value itself
    np.testing.assert_allclose(most[positions == 3], ours(exchanged)[positions == 3], atol=1e-6)


def test_draws_follow_the_language_model() -> None:
    rng, context, allowed = np.random.default_rng(0), np.asarray([3, 50, 20]), np.asarray([30, 31, 40, 55])
    ours = Likelihood(language_model(), [context])
    drawn = ours.draw(1, allowed, 1.0, 4000, rng)[:, 0]
    with torch.no_grad():
        p = language_model()(torch.as_tensor(context)[None]).logits[0, -1][torch.as_tensor(allowed)].softmax(-1).numpy()
    share = np.asarray([(drawn == i).mean() for i in allowed])
    assert np.abs(share - p).max() <= 4 * np.sqrt(0.25 / 4000)
    cold = ours.draw(2, np.arange(SIZE), 0.0, 3, rng)
    with torch.no_grad():
        first = language_model()(torch.as_tensor(context)[None]).logits[0, -1].argsort(descending=True)[:3]
        second = [int(language_model()(torch.as_tensor([*context, int(i)])[None]).logits[0, -1].argmax()) for i in first]
    assert cold.tolist() == [[int(i), j] for i, j in zip(first, second, strict=True)]


def test_a_language_model_may_come_inside_a_reward_model() -> None:
    torch.manual_seed(1)
    reference = AutoModelForCausalLM.from_config(config_of("llama", vocab_size=SIZE)).eval()
    policy = RewardModel(language_model(), tokenizer_of_200(), check=False,
                         readout=lambda m, t, a: make_implicit(m, t, a, reference=reference))
    bound = float(np.quantile(pair_likelihoods(find_slot(small(12), PROMPT).before.ids), 0.9))
    plain, inside = (search(small(12), PROMPT, 2, constraints=Constraints(naturalness=Naturalness(lm, bound)), **FEW)  # type: ignore[arg-type]
                     for lm in (language_model(), policy))
    assert plain.data.identical(inside.data)
    elsewhere = Constraints(naturalness=Naturalness(policy, bound, context="w9 w9"))
    other = search(small(12), PROMPT, 2, constraints=elsewhere, **FEW)  # type: ignore[arg-type]
    context = np.asarray(tokenizer_of_200()("w9 w9")["input_ids"])
    assert other.data["log_probability"].values[0] == pytest.approx(
        pair_likelihoods(context)[tuple(other.data["ids"].values[0])], abs=1e-5)


def test_nothing_satisfies_the_constraints() -> None:
    rm, model = small(), language_model()
    with pytest.raises(RewardenError, match="nothing satisfies the constraints: no token is allowed"):
        search(rm, PROMPT, 2, constraints=Constraints(allowed=lambda known: np.zeros(len(known.text), bool)))
    with pytest.raises(RewardenError, match="no response of 3 tokens was found") as refused:
        search(rm, PROMPT, 3, constraints=Constraints(naturalness=(model, -1e-6)))
    assert "the bound is -1e-06" in refused.value.why
    parts = rw.load()
    known = describe_ids(parts, every_id(parts))
    broken = known.token_id[known.byte & ~known.round_trip]
    with pytest.raises(RewardenError, match="no response of 1 tokens was found") as refused:  # no text is half a character
        search(parts, "Hi", 1, constraints=Constraints(allowed=broken, round_trip=True))
    assert "none gives its ids again" in refused.value.why
    with pytest.raises(RewardenError, match="no pair of tokens passes"):
        beam(rm, PROMPT, 5, constraints=Constraints(naturalness=(model, -1e-6)))


def test_constraints_that_make_no_sense_are_refused() -> None:
    rm = small()
    for wrong, said in ((lambda: Constraints(allowed="pretty"), "no set of tokens"),
                        (lambda: search(rm, PROMPT, 1, constraints=Constraints(allowed=[5, 300])), "token id 300"),
                        (lambda: search(rm, PROMPT, 1, constraints=Constraints(allowed=[])), "are no token ids"),
                        (lambda: search(rm, PROMPT, 1, constraints=Constraints(naturalness=(build("llama"), -3.0))),
                         "predicts no tokens"),
                        (lambda: search(rm, PROMPT, 1, constraints=Constraints(naturalness=(
                            AutoModelForCausalLM.from_config(config_of("llama", vocab_size=150)), -3.0))), "other tokens"),
                        (lambda: search(rm, PROMPT, 1, constraints=Constraints(naturalness=(rw.load(), -3.0))),
                         "different vocabularies")):
        with pytest.raises(RewardenError, match=said):
            wrong()
