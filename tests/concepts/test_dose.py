"""Doses of a direction: against hooks on the plain model, closed forms, and opposite directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.concepts.test_directions import PAIRS

from rewarden.concepts.directions import direction, opposite
from rewarden.concepts.dose import dose_response, random_directions
from rewarden.errors import RewardenError

TEXTS = PAIRS[:3]


def by_hook(rm, row, layer: int, positions, vector: np.ndarray) -> float:
    """The reward with a vector added to a layer's output at some positions, by one hook on the transformers model."""
    def add(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, positions] += torch.as_tensor(vector, dtype=hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = rm.model.model.layers[layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            return float(rm.model(torch.as_tensor(row.ids)[None]).logits[0, 0])
    finally:
        handle.remove()


@pytest.mark.parametrize("where", ["read", "response"])
def test_changes_are_those_of_the_plain_model(demo, where: str) -> None:
    found = direction(demo, PAIRS, site="resid_post.2", controls=0)
    result = dose_response(demo, found, TEXTS, doses=(-1, 2), randoms=3, where=where)
    for text, conversation in enumerate(c for pair in TEXTS for c in pair.conversations):
        row = demo.encode(conversation)
        at = [-1] if where == "read" else np.flatnonzero(row.spans == 2)
        for number, dose in enumerate((-1, 2)):
            slow = by_hook(demo, row, 2, at, dose * found.gap * found.vector) - by_hook(demo, row, 2, at, 0 * found.vector)
            assert result.change[text, number] == pytest.approx(slow, abs=2e-5)
    random = random_directions(len(found.vector), 3, 0)
    row = demo.encode(TEXTS[0].conversations[0])
    at = [-1] if where == "read" else np.flatnonzero(row.spans == 2)
    one = dose_response(demo, found, [TEXTS[0].conversations[0]], doses=(-1, 2), randoms=3, where=where)
    slow = [(by_hook(demo, row, 2, at, found.gap * u) - by_hook(demo, row, 2, at, -found.gap * u)) / 2 for u in random]
    np.testing.assert_allclose(one.random_slope, slow, atol=2e-5)


def test_where_the_head_sees_the_move_the_slope_is_a_product(demo) -> None:
    found = direction(demo, PAIRS, controls=0)
    result = dose_response(demo, found, TEXTS, randoms=4)
    product = float(demo.readout.weight[0].double().numpy() @ found.vector) * found.gap
    np.testing.assert_allclose(result.slope, product, atol=1e-4)
    assert result.linear == pytest.approx(1, abs=1e-5)
    slopes = random_directions(len(found.vector), 4, 0) @ demo.readout.weight[0].double().numpy() * found.gap
    np.testing.assert_allclose(result.random_slope, slopes, atol=1e-4)
    assert result.ratio == pytest.approx(product / np.sqrt((slopes**2).mean()), rel=1e-3)


def test_the_opposite_direction_has_the_opposite_slope(demo) -> None:
    found = direction(demo, PAIRS, site="resid_post.3", controls=0)
    here, there = (dose_response(demo, one, TEXTS, randoms=3) for one in (found, opposite(found)))
    assert float(there.slope_mean) == pytest.approx(-float(here.slope_mean), abs=1e-6)
    np.testing.assert_allclose(there.change, here.change[:, ::-1], atol=1e-6)


def test_heads_and_all_heads_together_are_edited(demo) -> None:
    layer, head = 2, 3
    one = direction(demo, PAIRS, site=f"z.{layer}.{head}", controls=0)
    width = len(one.vector)
    padded = np.zeros(demo.architecture.n_heads * width)
    padded[head * width:(head + 1) * width] = one.vector
    whole = replace(one, vector=padded, difference=np.tile(one.difference, demo.architecture.n_heads),
                    place=replace(one.place, site=replace(one.place.site, head=None)))
    out = demo.architecture.blocks[layer].out_projection.weight.detach().double().numpy()
    written = replace(one, vector=out @ padded * one.gap, difference=np.zeros(len(out)),
                      place=replace(one.place, site=replace(one.place.site, kind="attn_out", head=None)))
    written = replace(written, difference=written.vector / (written.vector @ written.vector))  # gap 1
    results = [dose_response(demo, found, TEXTS[:1], doses=(-1, 1), randoms=3).change for found in (one, whole, written)]
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=2e-5)


def test_slopes_come_with_intervals_over_prompts(demo) -> None:
    found = direction(demo, PAIRS, site="resid_post.4", controls=0)
    result = dose_response(demo, found, PAIRS[:8], randoms=10)
    assert result.data.sizes["text"] == 16
    assert int(result.n_clusters) == 8
    assert result.slope_low < result.slope_mean < result.slope_high
    slope = [row @ result.dose / (result.dose @ result.dose) for row in result.change]
    np.testing.assert_allclose(result.slope, slope)
    assert bool(result.above_noise)


@pytest.mark.parametrize("site", ["read", "resid_post.2", "z.2.3", "z.2"])
def test_a_direction_of_another_width_is_refused(demo, site: str) -> None:
    found = direction(demo, PAIRS, site=site, controls=0)
    wrong = replace(found, vector=found.vector[:-1], difference=found.difference[:-1])
    for call in (lambda: dose_response(demo, wrong, TEXTS[:1], randoms=3), lambda: wrong.cosine(demo, TEXTS)):
        with pytest.raises(RewardenError, match="coordinates") as caught:
            call()
        assert caught.value.fix


@pytest.mark.parametrize(("options", "words"), [({"doses": (0, 1)}, "impossible"), ({"randoms": 1}, "impossible"),
                                                ({"where": "response"}, "where it reads only")])
def test_refusals(demo, options, words: str) -> None:
    with pytest.raises(RewardenError, match=words):
        dose_response(demo, direction(demo, PAIRS, controls=0), TEXTS, **options)
