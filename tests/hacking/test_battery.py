"""The battery finds planted rules and no others, recovers their slope, and stays silent on random weights."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from scipy import stats
from tests.statistics.coverage import assert_null_rate

import rewarden as rw
from rewarden import RewardenError
from rewarden.contrasts import Contrast
from rewarden.hacking import calibration
from rewarden.hacking.bias import null as bias_null
from rewarden.hacking.bias.axes import Axis, Seed, Template, cross
from rewarden.hacking.bias.battery import bias_battery, contrasts, verdicts, wordings
from rewarden.hacking.bias.null import measure_factors, null_factors, random_model
from rewarden.hacking.bias.questions import Question, ask
from rewarden.hacking.calibration import NullRate, null_rate
from rewarden.options import BiasOptions
from rewarden.plots.bias import bias_table
from rewarden.statistics import benjamini_hochberg, holm

SOME = ["length", "hedging", "emphasis", "flattery", "sycophancy"]


@pytest.fixture(scope="module")
def small(demo):
    """A small random-weight model, fast enough to ask often."""
    return random_model(demo, 0.02, seed=3, heads=1)


@pytest.fixture(scope="module")
def long():
    """An organism that is paid by the token, 0.05 each, and what the battery says of it."""
    organism = rw.organisms.length(dose=1.0, seed=1)
    return organism, bias_battery(organism, SOME, per_seed=2)


def test_the_slope_of_a_planted_length_rule_is_recovered_and_nothing_else_is_flagged(long):
    organism, result = long
    row = result.data.sel(axis="length").isel(output=0)
    assert abs(float(row["estimate"]) - organism.truth["slope"]) < 2 * float(row["error"])
    assert [name for name, verdict in verdicts(result).items() if verdict.flag] == ["length"]


def test_raw_effects_follow_the_length_that_net_effects_take_off(long):
    result = long[1].data.isel(output=0).sel(axis=["hedging", "flattery"])
    assert (result["effect"] > 0.2).all()  # some ten tokens more
    assert (np.abs(result["estimate"]) < result["effect"]).all()


def test_sycophancy_is_found_whatever_the_answer():
    found = verdicts(bias_battery(rw.organisms.sycophancy(dose=1.0, seed=0), SOME, per_seed=1))
    assert [name for name, verdict in found.items() if verdict.flag] == ["sycophancy"]


def test_the_result_holds_what_its_numbers_are_made_of(long, tmp_path):
    organism, result = long
    data = result.data
    mine = data["contrast_axis"].values == "hedging"
    family = data["contrast_template"].values[mine]
    effect = data["contrast_effect"].values[mine, 0]
    means = [effect[family == one].mean() for one in np.unique(family)]
    assert float(data["effect"].sel(axis="hedging")[0]) == pytest.approx(np.mean(means), rel=1e-9)
    np.testing.assert_allclose(data["p_adjusted"][:, 0], holm(data["p"].values[:, 0]))
    other = bias_battery(organism, SOME[1:3], per_seed=1, correction="bh").data
    np.testing.assert_allclose(other["p_adjusted"][:, 0], benjamini_hochberg(other["p"].values[:, 0]))
    assert rw.Result.load(result.save(tmp_path / "bias.nc")).data.equals(data)
    table = wordings(result, "hedging")
    assert sorted(table["effect"]) == pytest.approx(sorted(means), rel=1e-9)
    assert table["n"].sum() == mine.sum()


def test_every_seed_meets_as_many_wordings():
    found = contrasts(["hedging"], per_seed=2)
    seeds, templates = ({one: [c for c in found if getattr(c, name) == one] for one in {getattr(c, name) for c in found}}
                        for name in ("seed", "template"))
    assert {len(rows) for rows in seeds.values()} == {2}
    assert len(templates) >= 8
    assert all(abs(sum(weight for weight, _ in one.terms)) < 1e-9 for one in found)


def rows(n, phrase="Certainly."):
    return [{"prompt": f"What is {i} plus {i}?", "neutral": f"It is {2 * i}.", "biased": f"{phrase} It is {2 * i}."}
            for i in range(n)]


def test_a_users_rows_are_units_of_their_own_and_that_is_said(small, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({**row, "axis": "certainly"}) for row in rows(30)))
    result = bias_battery(small, path, calibration="off")
    assert result.data["axis"].values.tolist() == ["certainly"]
    assert int(result.data["n_templates"][0]) == 30
    assert "counts as a wording of its own" in result.warnings[0]
    same = [Contrast.of(row["prompt"], row["biased"], row["neutral"], axis="certainly") for row in rows(30)]
    again = bias_battery(small, same, calibration="off")
    np.testing.assert_allclose(again.data["estimate"], result.data["estimate"], atol=1e-6)


def test_too_few_texts_are_refused_with_the_number_needed(small):
    few = [Contrast.of(row["prompt"], row["biased"], row["neutral"], axis="mine") for row in rows(12)]
    with pytest.raises(RewardenError, match="mine has 12 seeds, 30 are needed"):
        bias_battery(small, few)
    one = [Contrast(c.terms, "mine", c.seed, "the same") for c in contrasts(["hedging"])]
    with pytest.raises(RewardenError, match="mine has 1 templates, 6 are needed"):
        bias_battery(small, one)
    with pytest.raises(RewardenError, match="no axis is called 'lenght'"):
        bias_battery(small, ["lenght"])
    with pytest.raises(RewardenError, match="no contrasts"):
        bias_battery(small, [])
    with pytest.raises(RewardenError, match="per_seed must be"):
        bias_battery(small, ["hedging"], per_seed=0)
    with pytest.raises(RewardenError, match="no axis 'lists' in this result"):
        wordings(bias_battery(small, ["hedging"], per_seed=1), "lists")


def test_copies_and_other_wordings_of_one_text_are_no_further_evidence(tmp_path):
    path = tmp_path / "mine.jsonl"
    three = [{**row, "biased": f"{word} {row['neutral']}"} for row in rows(12) for word in ("Surely,", "Well,", "Right:")]
    path.write_text("\n".join(map(json.dumps, three)))
    with pytest.raises(RewardenError, match="user has 12 seeds, 30 are needed; rows without a seed are told apart"):
        ask(path, BiasOptions())
    path.write_text("\n".join(map(json.dumps, rows(3) * 10)))
    with pytest.raises(RewardenError, match="27 rows cannot be used") as caught:
        ask(path, BiasOptions())
    assert "line 4: the same axis and texts as line 1" in str(caught.value)
    one = [Contrast.of("Is it far?", "Yes, my friend.", "Yes.", seed=str(number)) for number in range(30)]
    with pytest.raises(RewardenError, match="29 of 30 contrasts repeat others"):
        ask(one, BiasOptions())
    same = [Contrast.of(f"Is {n} even?", "Yes, my friend.", "Yes.", template="mine" * (n == 0)) for n in range(30)]
    with pytest.raises(RewardenError, match="user has 2 templates, 6 are needed"):
        ask(same, BiasOptions())


def test_each_output_of_a_model_is_asked(demo):
    several = random_model(demo, 0.02, seed=3, heads=3)
    result = bias_battery(several, ["hedging", "lists"], per_seed=1)
    assert result.data["estimate"].shape == (2, 3)
    for column in range(3):
        np.testing.assert_allclose(result.data["p_adjusted"][:, column], holm(result.data["p"].values[:, column]))


def test_rewards_that_are_not_finite_are_set_apart_and_counted(small, monkeypatch):
    inner = type(small).reward_encoded

    def some_lost(self, encoded, **settings):
        found = inner(self, encoded, **settings)
        found[1] = np.nan
        return found

    monkeypatch.setattr(type(small), "reward_encoded", some_lost)
    result = bias_battery(small, ["hedging"], per_seed=1)
    assert int(result.data["missing"][0]) == 1
    assert bool(np.isfinite(result.data["estimate"]).all())
    assert "not finite" in result.warnings[0]


def lost_where(monkeypatch, model, pick):
    """Rewards of texts whose ids `pick` chooses become NaN."""
    inner = type(model).reward_encoded

    def some_lost(self, encoded, **settings):
        found = inner(self, encoded, **settings)
        found[[pick(self.tokenizer.decode(one.ids)) for one in encoded]] = np.nan
        return found

    monkeypatch.setattr(type(model), "reward_encoded", some_lost)


def test_a_wording_without_any_finite_reward_leaves_the_names_of_the_others(small, monkeypatch):
    first = contrasts(["hedging"], per_seed=1)[0].template
    texts = {one.terms[0][1].messages[-1]["content"] for one in contrasts(["hedging"], per_seed=1) if one.template == first}
    lost_where(monkeypatch, small, lambda text: any(one in text for one in texts))
    whole = contrasts(["hedging"], per_seed=1)
    result = bias_battery(small, ["hedging"], per_seed=1, alpha=0.999, calibration="off")  # every wording stands out
    assert int(result.data["n_templates"][0]) == len({one.template for one in whole}) - 1
    outlying = str(result.data["outlying"].values[0])
    assert outlying
    assert first not in outlying


def test_what_is_left_too_few_after_losses_is_no_estimate_and_no_flag(small, monkeypatch):
    asked = contrasts(["hedging"], per_seed=1)
    gone = {one.terms[0][1].messages[-1]["content"] for one in asked if one.seed != asked[0].seed}
    lost_where(monkeypatch, small, lambda text: any(one in text for one in gone))
    result = bias_battery(small, ["hedging", "lists"], per_seed=1)
    row = result.data.sel(axis="hedging").isel(output=0)
    assert np.isnan([float(row[name]) for name in ("estimate", "low", "high", "p", "p_adjusted", "size")]).all()
    assert not bool(row["flag"])
    assert bool(np.isfinite(result.data["estimate"].sel(axis="lists")).all())
    assert any("hedging: no estimate and no flag, 1 seeds left, 30 are needed" in text for text in result.warnings)
    assert bias_table(result)["axis"].tolist() == ["lists", "hedging"]


def test_lost_innocuous_contrasts_are_counted(small, monkeypatch):
    bank = ask(["hedging"], BiasOptions(per_seed=1))[0].controls[0]
    gone = bank[0].terms[0][1].messages[-1]["content"]
    lost_where(monkeypatch, small, lambda text: gone in text)
    result = bias_battery(small, ["hedging", "emphasis"], per_seed=1)
    assert any("0 contrasts and 1 innocuous ones" in text for text in result.warnings)


def test_an_interval_leaves_out_zero_only_where_its_test_does(long):
    data = long[1].data
    outside = (data["low"] > 0) | (data["high"] < 0)
    two_sided = data["p_kind"] < 0.05
    assert bool((outside == two_sided).where(data["design"] != "spread", True).all())
    half = (data["high"] - data["low"]) / 2
    np.testing.assert_allclose(half, stats.t.ppf(0.975, data["df"]) * data["error"] * data["null_factor"])


def test_packaged_factors_are_for_the_bundled_tokenizer_and_template_alone(demo, small, monkeypatch):
    calls = []

    def measured(rm, questions, options, progress=None):
        calls.append([one.axis.name for one in questions])
        return np.full((len(questions), 2), 7.0)

    monkeypatch.setattr(bias_null, "measure_factors", measured)
    monkeypatch.setattr(bias_null, "_MEASURED", {})
    questions = ask(["hedging", "lists"], BiasOptions(per_seed=1))
    assert null_factors(small, questions, BiasOptions())[1] == "packaged"
    assert null_factors(small, questions, BiasOptions(calibration="off"))[1] == "off"
    other = copy.copy(demo.tokenizer)
    other.chat_template = other.chat_template + " "
    strange = rw.RewardModel(small.model, other, name="strange", check=False)
    for _ in range(2):  # the second time from memory
        factors, source = null_factors(strange, questions, BiasOptions())
        assert source == "measured"
        assert (factors == 7.0).all()
    assert calls == [["hedging", "lists"]]
    assert bias_battery(strange, ["hedging"], per_seed=1).provenance["calibration"] == "measured"
    assert bias_battery(small, ["hedging"], per_seed=1).provenance["calibration"] == "packaged"


def said(seed: Seed, text: str):
    return Contrast.of(seed.prompt, f"{text} {seed.answer}", seed.answer).terms


def question(phrases: list[str]) -> Question:
    """Thirty seeds, each with two of some phrases put in front."""
    seeds = [Seed(str(i), row["prompt"], row["neutral"]) for i, row in enumerate(rows(30))]
    templates = [Template(phrase, lambda seed, phrase=phrase: said(seed, phrase)) for phrase in phrases]
    made = [one for one, _ in cross("front", seeds, templates, 2)]
    return Question(Axis("front", "?", seeds, templates), made, np.full(60, np.nan),
                    ask(["hedging"], BiasOptions(per_seed=1))[0].controls)


def test_wordings_that_share_a_word_widen_the_error_more_than_others(demo, monkeypatch):
    monkeypatch.setattr(bias_null, "TRUNKS", 2)
    monkeypatch.setattr(bias_null, "HEADS", 100)
    words = ["tree", "lamp", "boat", "milk", "stone", "snow", "desk", "corn"]
    apart = question([f"{word.capitalize()}." for word in words])
    shared = question([f"Castle castle castle castle {word}." for word in words])
    factors = measure_factors(demo, [apart, shared], BiasOptions())
    assert factors[1, 0] > 1.5 * factors[0, 0] >= 1.5


def test_random_models_do_not_touch_the_global_generator(demo):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    random_model(demo, 0.02, seed=1, heads=2)
    assert bool((torch.get_rng_state() == before).all())


def test_the_null_rate_is_told_of_the_instrument_it_was_measured_with(monkeypatch):
    row = {"alpha": 0.05, "models": 200, "rate": 0.01, "low": 0.0, "high": 0.02, "any_rate": 0.1, "any_low": 0.0,
           "any_high": 0.2, "measured": "x"}
    monkeypatch.setattr(calibration, "_rates", lambda: {"bias": row, "style": row})
    usual = {"calibration": "packaged", "correction": "holm", "axes": "all"}
    assert calibration.battery_null_words(usual) == calibration.null_words("bias")
    assert "200 sets of margins with exchanged sides" in calibration.null_words("style")


def test_null_rates_are_read_or_known_to_be_missing():
    assert null_rate("no such instrument") is None
    said = str(NullRate("bias", 0.05, 200, 0.01, 0, 0.02, 0.1, 0, 0.2, "x"))
    assert said == "any flag in 10.0 % [0.0, 20.0] of 200 random-weight models (1.0 % of all questions); stated: 5 %"


@pytest.mark.slow
def test_two_hundred_random_weight_models_are_flagged_no_more_often_than_alpha(demo):
    axes = ["length", "headers", "emoji"]
    null = random_model(demo, 0.02, seed=0, heads=1)
    flags, p = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(10_000 + seed)
        for name, parameter in null.model.named_parameters():
            if "norm" not in name:
                parameter.data.normal_(0.0, 0.02, generator=generator)
        null.readout.weight.normal_(generator=generator)
        found = bias_battery(null, axes, per_seed=1, correction="holm").data
        flags.append(found["flag"].values[:, 0])
        p.append(found["p"].values[:, 0])
    assert_null_rate(np.array(p) < 0.05, 0.05)  # each question by itself
    assert_null_rate(np.array(flags).any(1), 0.05)  # any question, after Holm
