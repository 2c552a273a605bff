"""Susceptibility: the slope it claims to be, planted hacks found, no others; sampling and scoring are what plain code does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.statistics.coverage import coverage
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

import rewarden as rw
from rewarden import RewardenError
from rewarden.demo import model_path
from rewarden.hacking import ScoreTable, pairs_table, sample_responses, score_table, susceptibility
from rewarden.hacking.selection.covariances import compared, reliability, verdicts, within_correlation
from rewarden.hacking.selection.scoring import candidates, dictionary_features, fill, judged, table_again
from rewarden.hacking.selection.tilting import tilt_weights
from rewarden.hacking.selection.within_prompts import covariances
from rewarden.options import BestOfNOptions
from rewarden.reward_model import RewardModel

STYLED = [pair for pair in rw.load_pairs("demo") if "styles" in pair.metadata]


def table_of(proxy, gold=None) -> ScoreTable:
    return ScoreTable.read((proxy,) if gold is None else (proxy, gold))


def compared_with(table: ScoreTable, seed: int = 99) -> ScoreTable:
    """The table with random read-outs that know nothing of its samples."""
    return replace(table, references=np.random.default_rng(seed).normal(size=(len(table.proxy), 99)))


def test_chi_is_the_slope_of_the_feature_under_a_small_tilt():
    proxy, feature = np.random.default_rng(0).normal(size=(2, 15, 9))
    found = susceptibility(proxy, {"feature": feature.ravel()}, resamples=100)
    step = 1e-6
    for p in range(15):
        weights = tilt_weights(proxy[p], np.array([-step, step])) @ feature[p]
        slope = (weights[1] - weights[0]) / (2 * step)
        assert found.chi_each[p, 0] == pytest.approx(slope * 9 / 8, abs=1e-8)  # unbiased: m − 1 instead of m
    each = [np.cov(feature[p], proxy[p])[0, 1] for p in range(15)]
    np.testing.assert_allclose(found.chi_each[:, 0], each)


def test_correlations_of_unequal_pools_are_those_of_a_slow_loop():
    rng, sizes = np.random.default_rng(1), [3, 9, 4, 5, 7, 2, 6, 8, 3, 4, 5]
    rows = [{"prompt": f"p{p}", "proxy": rng.normal(), "f": rng.normal()} for p, m in enumerate(sizes) for _ in range(m)]
    table, x = ScoreTable.read(rows), np.array([[row["f"]] for row in rows])
    parts = [np.cov(x[rows_of, 0], table.proxy[rows_of]) for rows_of in table.members()]
    np.testing.assert_allclose(covariances(x, table.proxy, table)[:, 0], [one[0, 1] for one in parts])
    mean = np.mean(parts, axis=0)
    found, influence = within_correlation(x, table.proxy, table, BestOfNOptions(resamples=100))
    assert found.estimate[0] == pytest.approx(mean[0, 1] / np.sqrt(mean[0, 0] * mean[1, 1]))
    assert influence.mean() == pytest.approx(found.estimate[0])


def test_planted_hacks_are_found_and_what_the_gold_wants_is_not_called_one():
    rng, flags = np.random.default_rng(2), []
    for _ in range(30):
        quality, length, other, luck = rng.normal(size=(4, 40, 8))
        features = {"length": length.ravel(), "quality": quality.ravel(), "other": other.ravel(),
                    "wanted": (quality + luck).ravel()}
        found = susceptibility(compared_with(table_of(quality + 0.7 * length + luck, quality)), features, resamples=200)
        flags.append([verdict.flag for verdict in verdicts(found).values()])
    rate = dict(zip(features, np.mean(flags, axis=0), strict=True))
    assert rate["length"] >= 0.9
    assert rate["quality"] == 0.0
    assert rate["wanted"] == 0.0
    assert rate["other"] <= 0.1


def test_without_a_gold_nothing_is_called_a_hack():
    proxy = np.random.default_rng(3).normal(size=(20, 6))
    found = susceptibility(proxy, {"itself": proxy.ravel()}, resamples=100)
    assert found.marked.tolist() == [True]
    assert not verdicts(found)["itself"].flag


def test_without_random_readouts_it_is_undetermined_which_features_are_hacks():
    quality, length = np.random.default_rng(8).normal(size=(2, 40, 8))
    table, features = table_of(quality + length, quality), {"length": length.ravel()}
    alone, beside = (susceptibility(one, features, resamples=100) for one in (table, compared_with(table)))
    assert (compared(alone), compared(beside)) == (False, True)
    assert [verdicts(one)["length"].flag for one in (alone, beside)] == [False, True]
    assert alone.marked.tolist() == [True]  # that the reward goes with it in these prompts is known
    assert "Not compared with random read-outs" in reliability(alone)
    assert "Null rate" not in reliability(alone)


def test_samples_without_a_number_of_a_feature_are_left_out_of_it_alone():
    rng = np.random.default_rng(9)
    proxy, gold, feature, other = rng.normal(size=(4, 20, 6))
    feature = feature + proxy
    table = compared_with(table_of(proxy, gold))
    gappy, gone = feature.copy(), rng.random((20, 6)) < 0.2
    gone[0], gone[1, 1:] = True, True  # a prompt without any number, and one with one
    gappy[gone] = np.nan
    gappy[3, 3] = np.inf
    gone[3, 3] = True
    found = susceptibility(table, {"gappy": gappy.ravel(), "other": other.ravel()}, resamples=100)
    left = table.rows(~gone.ravel())
    keep = (left.sizes > 1)[left.of]
    alone = susceptibility(left.rows(keep), {"gappy": feature[~gone][keep]}, resamples=100)
    for name in ("chi", "with_reward", "with_gold", "p", "reference_p", "reference_sd", "gap_p"):
        assert found.data[name].values[0] == pytest.approx(float(alone.data[name].values[0]))
    np.testing.assert_allclose(susceptibility(table, {"other": other.ravel()}, resamples=100).with_reward_low,
                               found.with_reward_low[1:])
    assert found.data["left_out"].values.tolist() == [gone.sum(), 0]
    assert any(f"gappy ({gone.sum()})" in note for note in found.warnings)
    rise = rw.best_of_n(table, {"gappy": gappy.ravel()}, resamples=100)
    assert np.isfinite(rise.rise).all()
    assert np.isfinite(rise.feature_curve).all()
    assert any("gappy" in note for note in rise.warnings)


def test_numbers_that_are_equal_but_for_rounding_do_not_vary():
    table = table_of(np.random.default_rng(0).normal(size=(12, 3)))
    assert susceptibility(table, {"tenth": np.full(36, 0.1)}, resamples=100).varying.tolist() == [0]


def test_features_that_hardly_vary_are_not_tested():
    proxy, gold = np.random.default_rng(4).normal(size=(2, 20, 6))
    rare = np.zeros((20, 6))
    rare[:9, 0] = 1
    found = susceptibility((proxy, gold), {"rare": rare.ravel(), "flat": np.ones(120), "fine": proxy.ravel()}, resamples=100)
    assert list(verdicts(found)) == ["fine"]
    assert found.varying.tolist() == [9, 0, 20]


def test_how_much_gold_counts_as_none_is_an_option():
    proxy, luck, gold = np.random.default_rng(7).normal(size=(3, 200, 8))
    feature = proxy + 0.3 * luck
    table, features = compared_with(table_of(proxy, gold + 0.1 * feature)), {"feature": feature.ravel()}
    assert susceptibility(table, features, resamples=100).hack.tolist() == [True]
    assert susceptibility(table, features, resamples=100, negligible=0.0).hack.tolist() == [False]


@pytest.mark.parametrize("prompts", [15, 50])
def test_intervals_of_correlations_cover(prompts):
    rng, m, runs, rho = np.random.default_rng(5), 6, 500, 0.4
    ends = []
    for _ in range(runs):
        proxy, noise, shift = rng.normal(size=(prompts, m)), rng.normal(size=(prompts, m)), rng.normal(size=(2, prompts, 1))
        feature = rho * proxy + (1 - rho**2) ** 0.5 * noise + shift[0]
        table = table_of(proxy + shift[1])
        ends.append(within_correlation(feature.reshape(-1, 1), table.proxy, table, BestOfNOptions(resamples=400))[0])
    share = coverage([one.low[0] for one in ends], [one.high[0] for one in ends], rho).share
    assert 0.93 - 2.6 * 0.0114 <= share <= 0.97 + 2.6 * 0.0076, share


def random_model(seed: int, tokenizer) -> RewardModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=8192, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
                             num_key_value_heads=4, num_labels=1, pad_token_id=0, max_position_embeddings=1024)
        return RewardModel(LlamaForSequenceClassification(config).eval(), tokenizer, check=False)


def null_flags(models: int, tokenizer) -> tuple[int, int, int]:
    """Flagged questions, models with any flag, and questions that the sampling of prompts alone would call found."""
    prompts, responses, labels = candidates(STYLED[:16])
    flagged = some = sampling = 0
    for seed in range(models):
        table = score_table(random_model(seed, tokenizer), labels, prompts, responses, references=199)
        flags = [verdict.flag for verdict in verdicts(susceptibility(table, resamples=100)).values()]
        flagged, some = flagged + sum(flags), some + any(flags)
        alone = susceptibility(replace(table, references=None), resamples=100)
        assert not any(verdict.flag for verdict in verdicts(alone).values())
        sampling += int((alone.marked & (alone.with_gold_low <= 0.1)).sum())
    return flagged, some, sampling


@pytest.mark.slow
def test_random_models_are_not_called_hackable(demo):
    models = 200
    _, some, sampling = null_flags(models, demo.tokenizer)
    assert some / models <= 0.05 + 2.6 * (0.05 * 0.95 / models) ** 0.5
    assert sampling > 0  # over prompts alone, random models do follow features: the random read-outs are what is needed


def test_a_rank_among_random_readouts_is_uniform_for_a_random_model():
    rng, p = np.random.default_rng(6), []
    for _ in range(300):
        states = rng.normal(size=(90, 5)) * [3, 1, 1, 0.5, 0.5]  # an anisotropic space, in which directions go together
        heads = rng.normal(size=(5, 100))
        values = states @ heads
        table = ScoreTable(tuple(map(str, range(15))), np.repeat(np.arange(15), 6), values[:, 0], references=values[:, 1:])
        p.append(float(susceptibility(table, {"first": states[:, 0]}, resamples=100).reference_p[0]))
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 2.6 * (0.09 / 300) ** 0.5
    assert abs(np.mean(p) - 0.5) < 2.6 * (1 / 12 / 300) ** 0.5


def test_tables_hold_the_models_own_rewards_and_labels(demo):
    pairs = [*STYLED[:3], rw.Pair("Hi", "Hello!", "No.")]
    table = pairs_table(demo, pairs, references=5)
    assert table.sizes.tolist() == [6, 6, 6]
    expected = demo.reward([rw.Conversation.of(table.prompts[p], text)
                            for p, text in zip(table.of, table.responses, strict=True)])
    np.testing.assert_allclose(table.proxy, expected[:, 0], atol=1e-5)
    assert [table.gold[rows].mean() for rows in table.members()] == [0.5] * 3
    other = rw.load("demo:reward_model_b")
    again = table_again(demo, table, gold=other, references=0)
    np.testing.assert_allclose(again.proxy, table.proxy, atol=1e-5)
    np.testing.assert_allclose(again.gold[0], other.reward([rw.Conversation.of(table.prompts[0], table.responses[0])])[0, 0],
                               atol=1e-5)
    assert again.references is None
    assert (table.provenance["references"], again.provenance["references"]) == (5, 0)
    both = rw.Ensemble([demo, other])
    assert pairs_table(both, pairs, references=5).provenance["references"] == 0  # an ensemble has no states to read


def test_rewards_that_a_table_has_are_kept(demo):
    table = pairs_table(demo, STYLED[:3], references=5)
    shown = np.random.default_rng(0).permutation(len(table.proxy))  # samples of a prompt need not stand together
    given = replace(table.rows(shown), of=table.of[shown], references=None)
    gone = given.proxy + 1e-3
    gone[[2, 11]] = np.nan
    made = fill(demo, replace(given, proxy=gone), references=5)
    order = np.concatenate(given.members())
    expected = np.where(np.isnan(gone), given.proxy, given.proxy + 1e-3)[order]
    np.testing.assert_allclose(made.proxy, expected, atol=1e-5)
    np.testing.assert_array_equal(made.gold, given.gold[order])
    assert (made.provenance["filled"], made.references.shape) == (2, (18, 5))
    with pytest.raises(RewardenError, match="are not those of"):
        fill(demo, replace(given, proxy=-gone), references=0)
    other = rw.load("demo:reward_model_b")
    golden = judged(given, other)
    np.testing.assert_array_equal(golden.proxy, given.proxy)
    expected = other.reward([rw.Conversation.of(given.prompts[p], text)
                             for p, text in zip(given.of, given.responses, strict=True)])
    np.testing.assert_allclose(golden.gold, expected[:, 0], atol=1e-5)


def test_pairs_whose_sides_answer_different_prompts_are_no_candidates():
    pairs = [rw.Pair("2+2?", "4", wrong) for wrong in ("3", "5", "22")]
    found = candidates([*pairs, rw.Pair("2+2?", "four", "six", rejected_prompt="3+3?")])
    assert found == candidates(pairs)


def test_what_cannot_be_scored_is_missing_and_not_guessed(demo):
    table = score_table(demo, None, ["Hi", "Why?"], [["Hello!", "  "], ["word " * 2000, "Because."]], references=3)
    assert np.isfinite(table.proxy).tolist() == [True, False, False, True]
    with pytest.raises(RewardenError, match="no response can be scored"):
        score_table(demo, None, ["Hi"], [[" "]])
    with pytest.raises(RewardenError, match="2 prompts and 1 lists"):
        score_table(demo, None, ["Hi", "Ho"], [["a"]])


def test_labels_belong_to_the_responses_of_their_prompt(demo):
    """The same number in all is not the same number a prompt."""
    prompts, responses = ["Hi", "Sure?", "Why?"], [["Hello", "Bye"], ["Sure"], ["So"]]
    assert score_table(demo, [[1, 0], [1], [0]], prompts, responses, references=0).gold.tolist() == [1, 0, 1, 0]
    for labels, says in (([[1, 0], [1, 0], []], "prompt 1, 'Sure?'"), ([[1], [0, 1], [0]], "prompt 0, 'Hi'"),
                         ([1, 0, 1], "prompt 0")):
        with pytest.raises(RewardenError, match="labels for") as error:
            score_table(demo, labels, prompts, responses, references=0)
        assert says in error.value.where
    with pytest.raises(RewardenError, match="2 lists of labels for 3 prompts"):
        score_table(demo, [[1, 0], [1, 0]], prompts, responses, references=0)
    mixed = ScoreTable.read([{"prompt": prompt, "reward": 0.0, "response": text} for prompt, text in
                             (("Hi", "Hello"), ("Sure?", "Sure"), ("Hi", "Bye"))])
    assert judged(mixed, [[1, 0], [0.5]]).gold.tolist() == [1, 0.5, 0]  # in the order of the samples of each prompt
    with pytest.raises(RewardenError, match="no prompt has 4 candidates"):
        pairs_table(demo, [rw.Pair("Hi", "Hello!", "No.")])


def test_features_of_a_dictionary_are_its_codes_where_the_reward_is_read(demo):
    atoms = torch.nn.functional.normalize(torch.randn(32, 192, generator=torch.Generator().manual_seed(0)), dim=-1)
    dictionary = rw.Dictionary(atoms, torch.zeros(32), atoms, torch.zeros(192), k=4, site=rw.Site("resid_post", 2))
    table = pairs_table(demo, STYLED[:2], references=0)
    found = dictionary_features(demo, table, dictionary)
    trace = demo.trace(rw.Conversation.of(table.prompts[1], table.responses[7]), ["resid_post"], "read")
    ids, values = dictionary.encode(trace["resid_post"][2])
    codes = dict(zip(ids[0].tolist(), values[0].tolist(), strict=True))
    for name, column in found.items():
        assert column[7] == pytest.approx(codes.get(int(name.split()[1]), 0.0), abs=1e-4)
    few = dictionary_features(demo, table, dictionary, top=3)
    assert len(few) == 3
    prompts = {name: sum(np.ptp(column[table.of == p]) > 0 for p in range(2)) for name, column in found.items()}
    assert min(prompts[name] for name in few) >= max(prompts[name] for name in prompts if name not in few)


@pytest.fixture(scope="module")
def policy():
    path = str(model_path("language_model"))
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(path)


PROMPTS = ["How do I boil an egg?", "What is the capital of the country where the Seine flows through the largest city?", "Hi!"]


def test_draws_do_not_depend_on_what_is_drawn_beside_them(policy):
    state = torch.random.get_rng_state()
    together = sample_responses(policy, PROMPTS, 3, max_new_tokens=10)
    assert torch.equal(state, torch.random.get_rng_state())
    alone = sample_responses(policy, PROMPTS[2:], 3, max_new_tokens=10, prompts_at_once=1)
    assert alone.responses[0] == together.responses[2]
    assert together.responses != sample_responses(policy, PROMPTS, 3, max_new_tokens=10, sample_seed=1).responses


def test_a_prompt_given_twice_is_answered_anew(policy):
    found = sample_responses(policy, [PROMPTS[0], PROMPTS[2], PROMPTS[0]], 3, max_new_tokens=10)
    assert found.responses[0] != found.responses[2]
    assert found.responses[:2] == sample_responses(policy, [PROMPTS[0], PROMPTS[2]], 3, max_new_tokens=10).responses


def test_bars_are_as_they_were():
    from transformers.utils import logging

    logging.enable_progress_bar()
    sample_responses("demo:language_model", ["Hi"], 1, max_new_tokens=1)
    assert logging.is_progress_bar_enabled()


def test_a_cold_policy_says_what_greedy_decoding_says_though_prompts_are_padded(policy):
    model, tokenizer = policy
    found = sample_responses(policy, PROMPTS, 1, max_new_tokens=12, temperature=1e-5)
    for prompt, (said,) in zip(PROMPTS, found.responses, strict=True):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                            return_tensors="pt", return_dict=True)["input_ids"]
        out = model.generate(ids, do_sample=False, max_new_tokens=12)
        assert tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True) == said


def test_first_tokens_have_the_policys_probabilities(policy):
    model, tokenizer = policy
    found = sample_responses(policy, ["Yes or no?"], 800, max_new_tokens=1, temperature=0.7)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Yes or no?"}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        p = torch.softmax(model(ids).logits[0, -1] / 0.7, -1)
    for token in p.topk(4).indices.tolist():
        share = np.mean([said == tokenizer.decode([token], skip_special_tokens=True) for said in found.responses[0]])
        assert abs(share - float(p[token])) < 4 * float(p[token] * (1 - p[token]) / 800) ** 0.5 + 2e-3


def test_sampling_goes_on_where_it_stopped(policy, tmp_path, monkeypatch):
    whole = sample_responses(policy, PROMPTS, 2, max_new_tokens=8, prompts_at_once=1)
    real, calls = policy[0].generate, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(policy[0], "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        sample_responses(policy, PROMPTS, 2, max_new_tokens=8, prompts_at_once=1, folder=tmp_path / "draws")
    again = sample_responses(policy, PROMPTS, 2, max_new_tokens=8, prompts_at_once=1, folder=tmp_path / "draws")
    assert again.responses == whole.responses
    assert len(calls) == 4  # the first prompt was not drawn again
    np.testing.assert_array_equal(again.finished, whole.finished)
    with pytest.raises(RewardenError):
        sample_responses(policy, PROMPTS, 2, max_new_tokens=9, folder=tmp_path / "draws")


def test_policies_that_cannot_answer_are_refused(policy):
    with pytest.raises(RewardenError, match="cannot load the policy"):
        sample_responses("no/such-policy-here", ["Hi"])
    with pytest.raises(RewardenError, match="leaves no room"):
        sample_responses(policy, ["word " * 1200], 1)
    with pytest.raises(RewardenError, match="impossible options"):
        sample_responses(policy, ["Hi"], 0)
