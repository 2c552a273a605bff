"""Extremes are those of the scan with its ranks, ties and flags; violins hold the rewards, and labels the moments' numbers."""

from __future__ import annotations

import html
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.report.hostile import HOSTILE

from rewarden import plots, tokens
from rewarden.errors import RewardenError
from rewarden.plots.token_examples import MODELS, moments_result, scan_result, shared_result
from rewarden.plots.tokens_names import token_names
from rewarden.result import Result
from rewarden.tokens import TokenScores


def violins(drawn: go.Figure) -> list[go.Violin]:
    return [trace for trace in drawn.data if isinstance(trace, go.Violin)]


def lines(drawn: go.Figure) -> list[str]:
    return [html.unescape(note.text) for note in drawn.layout.annotations]


def scores_of(result: Result) -> TokenScores:
    return TokenScores(result.kind, result.data, result.provenance, result.exact, result.noise_floor)


# --- extremes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt", [0, 1])
def test_extremes_are_those_of_the_scan(prompt):
    result = scan_result(300)
    result.data["reward"].values[:] = np.round(result.data["reward"].values, 1)  # many ties
    table, scores = plots.token_extremes(result, prompt, 25), scores_of(result)
    for end, expected in (("best", scores.top(25, prompt)), ("worst", scores.bottom(25, prompt))):
        assert table[f"{end} rank"].tolist() == expected["rank"].tolist()
        np.testing.assert_array_equal(table[f"{end} reward"], expected["reward"].astype(np.float64))
        names = dict(zip(result.data["token_id"].values.tolist(), token_names(result.data), strict=True))
        assert table[f"{end} token"].tolist() == [names[token] for token in expected["token_id"]]
        reward = result.data["reward"].values[prompt]
        for note, value in zip(table[f"{end} notes"], table[f"{end} reward"], strict=True):
            others = int((reward == np.float32(value)).sum()) - 1
            assert (f"tied with {others}" in note) == (others > 0)


def test_flags_are_words_and_rewards_that_are_not_finite_have_no_rank():
    result = scan_result(40)
    result.data["reward"].values[0] = np.linspace(-1, 1, 40)
    result.data["reward"].values[0, -1] = np.nan
    table = plots.token_extremes(result, 0, 50)
    assert len(table) == 39
    assert table["worst notes"].tolist()[:2] == ["special", "bytes, not itself as text"]
    assert table["best reward"][0] == pytest.approx(np.linspace(-1, 1, 40)[-2], abs=1e-6)


# --- distribution ------------------------------------------------------------------------------------------------------

def test_violins_hold_the_rewards_of_their_prompt():
    result = scan_result(500)
    result.data["reward"].values[1, 7] = np.nan
    for trace, reward in zip(violins(plots.token_distribution(result)), result.data["reward"].values, strict=True):
        np.testing.assert_array_equal(trace.x, np.sort(reward[np.isfinite(reward)]))


def test_models_are_drawn_in_their_own_standard_deviations():
    result = shared_result()
    drawn = plots.token_distribution(result)
    assert len(violins(drawn)) == len(MODELS)
    for trace, reward in zip(violins(drawn), result.data["reward"].values[:, 0], strict=True):
        np.testing.assert_allclose(trace.x, np.sort((reward - reward.mean()) / reward.std()), atol=1e-5)
    assert drawn.layout.xaxis.title.text == "reward (standard deviations from the model's mean)"


def test_a_vocabulary_is_thinned_with_both_ends():
    result = scan_result(30_000)
    for trace, reward in zip(violins(plots.token_distribution(result)), result.data["reward"].values, strict=True):
        assert len(trace.x) == 2000
        assert (trace.x[0], trace.x[-1]) == (reward.min(), reward.max())


def test_labels_say_what_the_moments_say():
    result = scan_result(400)
    found = moments_result(result)
    for row, (prompt, line) in enumerate(zip(result.data["prompt"].values, lines(plots.token_distribution(result, found)),
                                             strict=True)):
        value = float(found.data["value"].sel(moment="skewness").values[row])
        numbers = [f"{'−' if item < 0 else ''}{abs(item):.2f}" for item in (value, value - 0.2, value + 0.2)]
        assert line.startswith(f"{prompt} · skewness {numbers[0]} [{numbers[1]}, {numbers[2]}] · log ratio of the outer 1 % "
                               "tails 0.10 [−0.10, 0.30]")


@pytest.mark.parametrize(("shift", "words"), [(2.0, "2 of 2 prompts skewed to high rewards"),
                                              (-2.0, "2 of 2 prompts skewed to low rewards"),
                                              (0.0, "no skew in any of 2 prompts")])
def test_the_title_is_the_finding(shift, words):
    scan = scan_result(2000)
    found = moments_result(scan)
    values = found.data["value"].values
    values[:, 2] = shift  # skewness
    for end, name in ((-0.2, "low"), (0.2, "high")):
        found.data[name].values[:, 2] = shift + end
    assert plots.token_distribution(scan, found).layout.title.text == f"Rewards of 2000 tokens: {words}"
    assert plots.token_distribution(scan).layout.title.text == "How are the rewards of 2000 tokens distributed?"


def test_moments_of_other_scores_are_refused():
    with pytest.raises(RewardenError, match="these moments are of other scores"):
        plots.token_distribution(scan_result(50), moments_result(scan_result(50, ["other", "prompts"])))


@pytest.mark.parametrize("models", [False, True])
def test_it_takes_what_the_analyses_give(models):
    scans = [scores_of(scan_result(400, seed=seed)) for seed in range(2)]
    scores = tokens.shared_vocabulary(scans, names=["a", "b"]) if models else scans[0]
    found = tokens.moments(scores, n_resamples=50)
    drawn = plots.token_distribution(scores, found, prompt=1 if models else 0)
    skew = found.data["value"].sel(moment="skewness").values
    skew = skew[:, 1] if models else skew
    for line, value in zip(lines(drawn), skew, strict=True):
        assert f"skewness {'−' if value < 0 else ''}{abs(value):.2f} [" in line


def test_the_outermost_tokens_are_written_out():
    result = scan_result(300)
    drawn = plots.token_distribution(result)
    names, reward = token_names(result.data), result.data["reward"].values[0]
    order = np.argsort(reward)
    marks = next(trace for trace in drawn.data if isinstance(trace, go.Scatter))
    assert marks.text[0] == ", ".join(names[row] for row in order[:3])
    assert marks.text[-1] == ", ".join(names[row] for row in order[:-4:-1])
    np.testing.assert_array_equal(np.sort(marks.x), reward[order][[0, 1, 2, -3, -2, -1]])


def test_rows_have_room_for_what_is_written_on_them():
    drawn = plots.token_distribution(scan_result(100, [f"prompt {row}" for row in range(5)]))
    places = [note.y for note in drawn.layout.annotations]
    low, high = drawn.layout.yaxis.range
    pixels = drawn.layout.height / (high - low)
    tallest = max(trace.width for trace in violins(drawn)) / 2
    assert all((above - below) * pixels > 90 for above, below in pairwise(places))
    assert all(note - trace.y0 >= tallest for note, trace in zip(places, violins(drawn), strict=True))


def test_hostile_tokens_and_prompts_stay_text():
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    drawn = plots.token_distribution(scan_result(len(texts), texts[:4], texts=texts))
    shown = [note.text for note in drawn.layout.annotations]
    shown += [text for trace in drawn.data if isinstance(trace, go.Scatter) for text in (*trace.text, *trace.hovertext)]
    shown += [trace.name for trace in violins(drawn)]
    assert all("<" not in text.replace("<br>", "") for text in shown)
