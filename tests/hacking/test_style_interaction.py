"""Content, style and their interaction in a grid of styles, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.coverage import assert_null_rate

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.hacking.styles.interaction import (
    exchanged_styles,
    grid_prompts,
    grid_rewards,
    style_content,
    verdicts,
    version_rewards,
)


def planted(n=60, content=1.0, style=(0.0, 0.5, 1.0), hides=0.0, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    side = np.array([content / 2, -content / 2])[None, :, None]
    steps = np.arange(3)[None, None, :]
    return (rng.normal(size=(n, 1, 1)) + side * (1 - hides * steps / 2) + np.array(style)[None, None, :]
            + noise * rng.normal(size=(n, 2, 3)))


def test_planted_parts_come_back():
    found = style_content(planted(noise=0.0, hides=0.4)).data
    assert float(found["content_mean"]) == pytest.approx(0.8)
    np.testing.assert_allclose(found["style_mean"], [0.5, 1.0])
    np.testing.assert_allclose(found["interaction_mean"], [-0.2, -0.4])
    np.testing.assert_allclose(found["worth"], [0.5 / 0.8, 1.0 / 0.8])


def test_means_are_those_of_sums_written_out():
    rewards = planted(seed=2)
    found = style_content(rewards).data
    for item in range(3):
        good, bad = rewards[item]
        assert float(found["content"][item]) == pytest.approx(np.mean([good[s] - bad[s] for s in range(3)]))
        for step in (1, 2):
            assert float(found["style"][item, step - 1]) == pytest.approx((good[step] + bad[step] - good[0] - bad[0]) / 2)
            assert float(found["interaction"][item, step - 1]) == pytest.approx(good[step] - bad[step] - good[0] + bad[0])
    column = found["style"].values[:, 1]
    low, high = stats.t.interval(0.95, 59, column.mean(), stats.sem(column))
    assert float(found["style_low"][1]) == pytest.approx(low)
    assert float(found["style_high"][1]) == pytest.approx(high)


def test_style_is_flagged_where_it_is_and_nowhere_else():
    said = verdicts(style_content(planted()))
    assert {name for name, verdict in said.items() if verdict.flag} == {"style detailed", "style markdown"}
    said = verdicts(style_content(planted(style=(0, 0, 0), hides=0.8)))
    assert {name for name, verdict in said.items() if verdict.flag} == {"interaction detailed", "interaction markdown"}
    flags = [[verdict.flag for verdict in verdicts(style_content(planted(style=(0, 0, 0), seed=seed))).values()]
             for seed in range(100)]
    assert_null_rate(np.any(flags, axis=1), 0.05)


def test_items_of_one_prompt_are_one_cluster():
    rewards = np.repeat(planted(n=30), 2, axis=0)
    found = style_content(rewards, np.repeat(np.arange(30), 2)).data
    alone = style_content(rewards[::2]).data
    np.testing.assert_allclose(found["style_low"], alone["style_low"])
    assert int(found["n"]) == 30


def test_a_grid_of_pairs_becomes_items():
    rewards = planted(n=25)
    cells = [(item, i, j) for item in range(25) for i in range(3) for j in range(3)]
    pairs = [rw.Pair(f"{item}?", f"good {i}", f"bad {j}", metadata={
        "item": str(item), "candidates": [3, 3], "style_chosen": i, "style_rejected": j}) for item, i, j in cells]
    scores = np.array([[rewards[item, 0, i], rewards[item, 1, j]] for item, i, j in cells])
    np.testing.assert_array_equal(grid_rewards(scores, pairs), rewards)
    np.testing.assert_array_equal(grid_prompts(scores, pairs), np.arange(25))
    scores[3 * 9] = np.nan  # a whole item is left out, and so is its prompt
    np.testing.assert_array_equal(grid_prompts(scores, pairs), np.delete(np.arange(25), 3))
    assert len(grid_rewards(scores, pairs)) == 24
    with pytest.raises(RewardenError, match="not part of a style comparison"):
        grid_rewards([[1.0, 0.0]], [rw.Pair("a", "b", "c")])


def versions(number, sizes=(3, 3)):
    said = {side: [f"{side} {number} {style}" for style in range(size)]
            for side, size in zip(("chosen", "rejected"), sizes, strict=True)}
    return rw.Pair(f"{number}?", "yes", "no", metadata={"styles": said})


def test_versions_are_scored_each_for_itself(demo):
    pairs = [versions(0), rw.Pair("a?", "b", "c"), versions(2, (3, 2)), versions(3)]
    rewards, places = version_rewards(demo, pairs)
    assert places.tolist() == [0, 3]
    for item, place in enumerate(places):
        for side, name in enumerate(("chosen", "rejected")):
            talks = [rw.Conversation.of(pairs[place].prompt, text) for text in pairs[place].metadata["styles"][name]]
            np.testing.assert_allclose(rewards[item, side], demo.reward(talks)[:, demo.main], atol=1e-5)
    assert version_rewards(demo, pairs[1:3])[0].shape == (0, 2, 3)


def test_a_pair_with_a_version_that_cannot_be_read_is_passed_over(demo):
    long = versions(1)
    long.metadata["styles"]["rejected"][2] = "word " * 4000
    rewards, places = version_rewards(demo, [versions(0), long, versions(2)])
    assert places.tolist() == [0, 2]
    assert rewards.shape == (2, 2, 3)


def test_exchanged_styles_say_nothing_of_style_and_keep_the_answers():
    rewards, prompts = planted(n=40, hides=0.5), np.repeat(np.arange(20), 2)
    flags = []
    for seed in range(100):
        found = exchanged_styles(rewards, prompts, seed)
        flags.append([verdict.flag for verdict in verdicts(style_content(found, prompts)).values()])
    np.testing.assert_array_equal(np.sort(found, axis=2), np.sort(rewards, axis=2))
    order = np.argsort(rewards, axis=2)[:, 0], np.argsort(found, axis=2)[:, 0]
    moved = [np.flatnonzero((rewards[i, 0][:, None] == found[i, 0]).T) % 3 for i in range(40)]
    assert all((moved[2 * k] == moved[2 * k + 1]).all() for k in range(20)), "one order a prompt"
    assert all((rewards[i, 1][moved[i]] == found[i, 1]).all() for i in range(40)), "the same for both sides"
    assert (order[0] != order[1]).any()
    assert_null_rate(np.any(flags, axis=1), 0.05)
    assert any(verdict.flag for verdict in verdicts(style_content(rewards, prompts)).values())


def test_refusals():
    with pytest.raises(RewardenError, match="19 usable, at least 20"):
        style_content(planted(n=19))
    with pytest.raises(RewardenError, match="wrong shape"):
        style_content(np.zeros((30, 3, 3)))
    rewards = planted(n=30)
    rewards[4, 0, 0] = np.nan
    found = style_content(rewards, noise_floor=1e3)
    assert found.warnings == ("1 items without finite rewards are left out",)
    assert not found.data["style_flagged"].values.any()
    assert 4 not in found.data["item"].values


def test_rm_bench_is_such_a_grid(shared_data):
    pairs = rw.load_pairs(str(shared_data / "preferences" / "rmbench_chat_safety.jsonl.gz"))
    length = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs], dtype=float)
    rewards = grid_rewards(length, pairs)
    assert rewards.shape == (len(pairs) // 9, 2, 3)
    found = style_content(rewards)
    assert found.data["step"].values.tolist() == ["detailed", "markdown"]
    assert bool(found.data["style_flagged"].values.all()), "what rewards length rewards style"
    assert float(found.data["style_mean"][0]) == pytest.approx(np.diff(rewards, axis=2)[:, :, 0].mean())
