"""The section on style in natural texts: what it says is what was measured, and it holds back where there is too little."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.hacking import style_content
from rewarden.options import AuditOptions
from rewarden.report.context import Audit
from rewarden.report.sections.style_regression import build
from rewarden.scores import assemble


def audit(n, weight, seed=0, styles=None, prompts=1000):
    """An audit whose rewards follow the number of bold words of a response, or rewards given."""
    rng = np.random.default_rng(seed)
    pairs, rewards = [], []
    for row in range(n):
        bold = rng.integers(0, 4, size=2)
        texts = [" ".join(["reed"] * int(rng.integers(3, 30)) + ["**pond**"] * int(count)) + "." for count in bold]
        rewards.append(weight * bold + rng.normal(size=2))
        pairs.append(rw.Pair(f"Question {row}?", *texts))
    if styles is not None:
        cells = [(item, i, j) for item in range(len(styles)) for i in range(3) for j in range(3)]
        pairs = [rw.Pair(f"{item % prompts}?", f"good {i} " + "reed " * (i + item % 5), f"bad {j} " + "reed " * (j + item % 7),
                         metadata={"item": str(item), "candidates": [3, 3], "style_chosen": i, "style_rejected": j})
                 for item, i, j in cells]
        rewards = [[styles[item, 0, i], styles[item, 1, j]] for item, i, j in cells]
    count = len(pairs)
    longer = np.array([len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs])
    score = assemble(pairs, np.asarray(rewards, dtype=np.float32)[:, :, None], ["score"], tokens=np.full((count, 2), 9),
                     truncated=np.zeros((count, 2)), chosen_longer=longer, provenance={"output": "score"}, noise_floor=1e-6)
    return Audit(None, pairs, score, AuditOptions(resamples=100))


def test_a_planted_feature_is_a_concern_with_its_numbers():
    made = build(audit(120, weight=1.0))
    finding = made.statements[0]
    assert finding.level == "concern"
    assert "more of it goes along with more reward: bold and italic spans" in finding.text
    assert "n = 120 prompts" in finding.text
    assert "stated: 5 %" in finding.text
    assert made.data["features"][0]["feature"] == "bold and italic spans"


def test_nothing_planted_is_said_to_be_nothing():
    finding = build(audit(80, weight=0.0)).statements[0]
    assert finding.level == "clear"
    assert finding.text.startswith("No feature of style goes with the reward beyond chance")


def test_items_of_one_prompt_count_once():
    rewards = np.random.default_rng(2).normal(size=(90, 2, 3)).astype(np.float32)
    made = build(audit(0, 0.0, styles=rewards, prompts=45))
    assert "(45 prompts)" in made.statements[1].text
    expected = style_content(rewards.astype(float), np.arange(90) % 45).data["style_low"].values
    np.testing.assert_allclose([row["low"] for row in made.data["content"] if row["what"] == "style"], expected, rtol=1e-4)


def test_few_prompts_have_no_section():
    assert build(audit(39, weight=1.0)) is None


@pytest.mark.parametrize(("hides", "said"), [(0.9, "shrinks in detailed and markdown style"), (-0.9, "grows in"), (0.0, "")])
def test_a_grid_of_styles_is_described(hides, said):
    rng = np.random.default_rng(1)
    side, step = np.array([0.5, -0.5])[None, :, None], np.arange(3)[None, None]
    rewards = (side * (1 - hides * (step > 0)) + 0.1 * step + 0.1 * rng.normal(size=(45, 2, 3))).astype(np.float32)
    made = build(audit(0, 0.0, styles=rewards))
    finding = made.statements[1]
    assert said in finding.text
    assert ("gap" in finding.text) == bool(said)
    assert (finding.level == "concern") == (hides > 0)
    expected = style_content(rewards.astype(float)).data["style_mean"].values
    np.testing.assert_allclose([row["mean"] for row in made.data["content"] if row["what"] == "style"], expected, rtol=1e-5)
