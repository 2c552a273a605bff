"""Next-token probabilities against HF logits, implicit rewards against their formula, comparison against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.families import build, config_of
from tests.tokenizers_tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM

from rewarden.errors import RewardenError
from rewarden.readout import make_judge
from rewarden.readout.options import make_implicit
from rewarden.result import Result
from rewarden.reward_model import RewardModel
from rewarden.tokens import next_token as next_token_module
from rewarden.tokens import token_scores
from rewarden.tokens.base_lm import compare_with_base, extreme_lifts, implicit_reward, implicit_scores
from rewarden.tokens.framing import framing_plane
from rewarden.tokens.next_token import next_token, next_token_log_probs
from rewarden.tokens.slot import find_slot

PROMPTS = ["what is the capital of France?", "Tell me a joke"]
TALK = [{"role": "user", "content": "a joke"}, {"role": "assistant", "content": "no"}]


def causal(family: str, seed: int = 0, **changes):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family, **changes)).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.ndim >= 2 else parameter + noise)
    return model.requires_grad_(False)


def by_hand(model, tokenizer, prompt: str) -> np.ndarray:
    """HF's own logits after the rendered prompt, as log-probabilities float64 [V]."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    return model(input_ids=ids[None]).logits[0, -1].double().log_softmax(-1).numpy()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "opt", "phi",
                                    "bloom", "mixtral", "olmo2", "cohere", "granite"])
def test_log_probabilities_are_hfs_own(family: str) -> None:
    model, tokenizer = causal(family), tiny_tokenizer()
    found = next_token_log_probs((model, tokenizer), PROMPTS)
    assert found.log_prob.dtype == np.float32
    for row, prompt in enumerate(PROMPTS):
        full = by_hand(model, tokenizer, prompt)
        np.testing.assert_allclose(found.log_prob[row], full[found.token_id], atol=5e-6)
        assert float(found.entropy[row]) == pytest.approx(stats.entropy(np.exp(full)), abs=1e-4)
    assert found.prompt.tolist() == PROMPTS
    assert np.exp(found.log_prob.astype(float)).sum(1).max() < 1  # rows of the unembedding without a token have their share


def test_the_vocabulary_in_chunks_is_the_vocabulary(monkeypatch) -> None:
    model, tokenizer = causal("gemma2"), tiny_tokenizer()
    whole = next_token_log_probs((model, tokenizer), PROMPTS[0])
    monkeypatch.setattr(next_token_module, "VOCABULARY_CHUNK", 7)
    np.testing.assert_allclose(next_token_log_probs((model, tokenizer), PROMPTS[0]).log_prob, whole.log_prob, atol=5e-6)


def test_any_read_out_of_a_causal_model_serves() -> None:
    model, tokenizer = causal("llama"), tiny_tokenizer()
    judge = RewardModel(model, tokenizer, readout=lambda m, t, a: make_judge(m, t, a.norm, good="yes", bad="no"))
    policy = RewardModel(model, tokenizer, readout=lambda m, t, a: make_implicit(m, t, a, reference=causal("llama", 3)))
    plain = RewardModel(model, tokenizer, readout=next_token)
    wanted = by_hand(model, tokenizer, PROMPTS[1])[[9, 8]]
    for lm in (judge, policy, plain):
        np.testing.assert_allclose(next_token_log_probs(lm, PROMPTS[1], ids=[9, 8]).log_prob[0], wanted, atol=5e-6)
    assert plain.health["hf_error"] < 1e-6
    assert judge.encode(TALK).text.endswith("<assistant>")  # the judge itself is left as it was


def test_system_message_and_conversation() -> None:
    model, tokenizer = causal("llama"), tiny_tokenizer()
    talk = [*TALK, {"role": "user", "content": "why?"}]
    found = next_token_log_probs((model, tokenizer), talk, system="be good")
    text = tokenizer.apply_chat_template([{"role": "system", "content": "be good"}, *talk], tokenize=False,
                                         add_generation_prompt=True)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    wanted = model(input_ids=ids[None]).logits[0, -1].log_softmax(-1).numpy()
    np.testing.assert_allclose(found.log_prob[0], wanted[found.token_id], atol=5e-6)
    assert found.provenance["system"] == "be good"


def test_models_without_an_unembedding_and_foreign_ids_are_refused() -> None:
    with pytest.raises(RewardenError, match="no language model"):
        next_token_log_probs(RewardModel(build("llama"), tiny_tokenizer()), "a joke")
    with pytest.raises(RewardenError, match="not all from 0 to 299"):
        next_token_log_probs((causal("llama"), tiny_tokenizer()), "a joke", ids=[3, 300])


def test_implicit_reward_is_its_formula_on_hf_logits() -> None:
    policy, reference, tokenizer = causal("llama"), causal("llama", 5), tiny_tokenizer()
    sides = [next_token_log_probs((model, tokenizer), PROMPTS) for model in (policy, reference)]
    ids = sides[0].token_id
    for row, prompt in enumerate(PROMPTS):
        log_1, log_2 = (by_hand(model, tokenizer, prompt)[ids] for model in (policy, reference))
        weighted = (np.exp(log_1) + np.exp(log_2)) / 2 * (log_1 - log_2)
        np.testing.assert_allclose(implicit_reward(sides[0].log_prob, sides[1].log_prob)[row], weighted, atol=1e-6)
        np.testing.assert_allclose(implicit_scores(*sides).at_prompt(row), weighted, atol=1e-6)
        plain = implicit_scores(*sides, weighted=False, beta=0.1).at_prompt(prompt)
        np.testing.assert_allclose(plain, 0.1 * (log_1 - log_2), atol=1e-6)


def test_implicit_reward_where_tokens_are_impossible() -> None:
    first, second = np.log([[0.5, 0.5]]), np.asarray([[np.log(0.25), -np.inf]])
    assert implicit_reward(first, second).tolist() == [[pytest.approx(0.375 * np.log(2)), np.inf]]
    nowhere = np.asarray([-np.inf])
    assert implicit_reward(nowhere, nowhere).tolist() == [0.0]
    assert np.isnan(implicit_reward(nowhere, nowhere, weighted=False)).all()
    assert implicit_reward(first, first).tolist() == [[0.0, 0.0]]
    with pytest.raises(RewardenError, match="shapes"):
        implicit_reward(first, second[0])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_dpo_pair_gives_the_first_tokens_part_of_its_reward(family: str) -> None:
    policy, reference, tokenizer = causal(family), causal(family, 5), tiny_tokenizer()
    rm = RewardModel(policy, tokenizer, readout=lambda m, t, a: make_implicit(m, t, a, reference=reference, beta=0.3))
    scores = implicit_scores(next_token_log_probs(rm, PROMPTS[0]), next_token_log_probs((reference, tokenizer), PROMPTS[0]),
                             weighted=False, beta=0.3)
    slot = find_slot(rm, PROMPTS[0])
    for token in (8, 20, 77):
        row = slot.filled([token])
        part = rm.readout.parts(rm.trace(row, ("final",), "read")["final"], rm.readout.read(row))["token"]
        assert scores.at_prompt(0)[scores.token_id == token][0] == pytest.approx(float(part[0]), abs=1e-5)


def test_implicit_scores_serve_other_analyses_and_refuse_other_vocabularies() -> None:
    tokenizer = tiny_tokenizer()
    sides = [next_token_log_probs((causal("llama", seed), tokenizer), PROMPTS) for seed in (0, 5)]
    scores = implicit_scores(*sides)
    plane = framing_plane(scores, [0], [1], n_resamples=20)
    assert plane.token_id.tolist() == sides[0].token_id.tolist()
    assert scores.data["special"].values[:7].all()
    fewer = next_token_log_probs((causal("llama", 5), tokenizer), PROMPTS, ids=range(9))
    with pytest.raises(RewardenError, match="differ in token_id"):
        implicit_scores(sides[0], fewer)
    with pytest.raises(RewardenError, match="differ in prompt"):
        implicit_scores(sides[0], next_token_log_probs((causal("llama", 5), tokenizer), PROMPTS[::-1]))


def scan(reward, **more):
    n = len(reward[0])
    return token_scores(reward, token_id=range(10, 10 + n), text=[f"t{i}" for i in range(n)],
                        prompts=[f"p{row}" for row in range(len(reward))], **more)


def base_result(log_p, ids, prompts) -> Result:
    frame = token_scores(log_p, token_id=ids, text=[f"t{i}" for i in ids], prompts=prompts)
    return Result("next_token", frame.data[["reward"]].rename(reward="log_prob"), {"model": "base"})


def test_comparison_equals_scipy_and_a_sort() -> None:
    rng = np.random.default_rng(0)
    reward, log_p = rng.integers(30, size=(2, 800)).astype(float), np.log(rng.dirichlet(np.ones(800), size=2))
    reward[0] += 8 * log_p[0]
    found = compare_with_base(scan(reward, noise_floor=0.5, provenance={"model": "rm"}), log_p, n_resamples=200)
    held = reward.astype(np.float32).astype(float)
    for row in range(2):
        rho, tau = stats.spearmanr(held[row], log_p[row]).statistic, stats.kendalltau(held[row], log_p[row]).statistic
        assert (float(found.rho[row]), float(found.tau[row])) == pytest.approx((rho, tau))
        lift = (stats.rankdata(-log_p[row]) - stats.rankdata(-held[row])) / 799
        np.testing.assert_allclose(found.lift[row], lift, atol=1e-12)
        for sunk in (False, True):
            table = extreme_lifts(found, 5, row, sunk=sunk)
            assert table["lift"].tolist() == (np.sort(lift) if sunk else -np.sort(-lift))[:5].tolist()
            assert table["text"].tolist() == [f"t{i - 10}" for i in table["token_id"]]
    assert found.rho_low[0] < found.rho[0] < found.rho_high[0]
    assert abs(found.rho[1]) < 0.1  # unrelated: the interval holds 0
    assert found.rho_low[1] < 0 < found.rho_high[1]
    assert (int(found.n), found.noise_floor, found.provenance["model"]) == (800, 0.5, "rm")


def test_base_is_joined_by_token_and_prompt(tmp_path) -> None:
    reward = np.asarray([[4.0, 3, 2, 1, 0], [0, 1, 2, 3, 4.0]])
    log_p = np.log([[0.1, 0.2, 0.3, 0.4], [0.25, 0.35, 0.15, 0.25]])
    base = base_result(log_p, [14, 12, 11, 10], ["p1", "p0"])  # id 13 was not asked
    found = compare_with_base(scan(reward), base, n_resamples=20)
    assert found.token_id.tolist() == [10, 11, 12, 14]
    np.testing.assert_allclose(np.exp(found.log_prob), [[0.25, 0.15, 0.35, 0.25], [0.4, 0.3, 0.2, 0.1]], rtol=1e-6)
    assert found.rank_reward.tolist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert found.rank_base.tolist() == [[2.5, 4, 1, 2.5], [1, 2, 3, 4]]
    assert found.warnings[0].startswith("1 tokens are left out")
    assert found.provenance["base"] == "base"
    one = compare_with_base(scan(reward), base_result(log_p[:1], [14, 12, 11, 10], ["anything"]), n_resamples=20)
    np.testing.assert_array_equal(one.log_prob[0], one.log_prob[1])
    assert Result.load(found.save(tmp_path / "base.nc")).data.identical(found.data)


def test_special_tokens_can_be_left_out() -> None:
    special = np.asarray([True, False, False, False, True])
    scores = scan([[9.0, 1, 2, 3, -9]], flags={"special": special})
    log_p = np.log([0.4, 0.1, 0.2, 0.3, 1e-9])
    assert compare_with_base(scores, log_p, special=False, n_resamples=20).token_id.tolist() == [11, 12, 13]
    assert float(compare_with_base(scores, log_p, special=False, n_resamples=20).rho[0]) == pytest.approx(1)
    assert int(compare_with_base(scores, log_p, n_resamples=20).n) == 5


@pytest.mark.parametrize(("base", "match"), [
    (np.zeros(3), r"log-probabilities \(3,\)"), (np.full(5, np.nan), "too few items"),
    (base_result(np.zeros((2, 5)), range(10, 15), ["p0", "q"]), "no log-probabilities under 'p1'"),
    (scan(np.zeros((1, 5))), "holds no log-probabilities"),
])
def test_bad_input(base, match: str) -> None:
    with pytest.raises(RewardenError, match=match):
        compare_with_base(scan([[1.0, 2, 3, 4, 5], [1, 2, 3, 4, 5]]), base)


def test_extremes_of_nothing_are_refused() -> None:
    found = compare_with_base(scan([[1.0, 2, 3, 4, 5]]), np.log([0.1, 0.2, 0.3, 0.2, 0.2]), n_resamples=20)
    with pytest.raises(RewardenError, match="0 tokens"):
        extreme_lifts(found, 0)
    with pytest.raises(RewardenError, match="prompt 1"):
        extreme_lifts(found, 3, 1)


def test_a_vocabulary_of_gpt_size_takes_seconds() -> None:
    """128,256 tokens: correlations equal scipy's, with intervals, for a prompt."""
    rng = np.random.default_rng(1)
    reward = rng.standard_normal((1, 128_256))
    log_p = 0.5 * reward[0] + rng.standard_normal(128_256)
    found = compare_with_base(scan(reward), log_p, n_resamples=100)
    held = reward[0].astype(np.float32)
    assert float(found.tau[0]) == pytest.approx(stats.kendalltau(held, log_p).statistic, abs=1e-12)
    assert found.rho_high[0] - found.rho_low[0] == pytest.approx(4 * 0.0022, rel=0.3)  # about 3.92 · .8 / √n
