"""One component against all others: organisms with one, random weights without, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.hacking.instruments import instrument
from rewarden.organisms import decisive_head, noise
from rewarden.patching import deciding
from rewarden.statistics.spacings import outlier_p

SITES = ("mlp_out", "z")


@pytest.mark.parametrize("seed", range(4))
def test_the_planted_head_and_no_other_is_flagged(seed):
    organism = decisive_head(seed, dose=1.0)
    found = instrument("deciding")(organism)
    assert [name for name, verdict in found.items() if verdict.flag] == [organism.truth["question"]]
    assert len(found) == 4 * 4 + 4


def test_random_weights_have_no_deciding_component():
    flagged = [any(verdict.flag for verdict in instrument("deciding")(noise(seed)).values()) for seed in range(20)]
    assert sum(flagged) <= 4  # of 20 at alpha .05: P(5 or more) = .003


def test_estimates_are_those_of_the_patch_and_p_is_that_of_the_largest():
    organism = noise(3)
    result = rw.patch(organism, organism.pairs(12), sites=SITES, positions="read_out", resamples=200)
    found = deciding(result)
    assert found["head.2.1"].estimate == result.data["mean_heads"].sel(layer=2, head=1)
    assert found["mlp.3"].low == result.data["low"].sel(site="mlp_out", layer=3)
    sizes = np.abs([verdict.estimate for verdict in found.values()])
    p = [verdict.p for verdict in found.values()]
    assert p[sizes.argmax()] == outlier_p(sizes, 1, 10, result.noise_floor)[0]
    assert sorted(p)[1:] == [1.0] * 19


@pytest.mark.parametrize(("count", "options", "why"), [
    (8, {"sites": SITES, "positions": "each"}, "heads at the read-out"),
    (8, {"sites": ("mlp_out",), "positions": "read_out"}, "heads at the read-out"),
    (3, {"sites": SITES, "positions": "read_out"}, "tested")])
def test_what_cannot_be_compared_is_refused(count, options, why):
    organism = decisive_head(0)
    with pytest.raises(RewardenError, match=why):
        deciding(rw.patch(organism, organism.pairs(count), resamples=100, **options))
