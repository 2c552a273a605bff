"""What fires in each conversation, against one run and one encoding at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.dictionaries.contrast.formatted import organism_of, planted
from tests.dictionaries.random_dictionaries import by_hand, random_dictionary

from rewarden.conversation import Pair
from rewarden.dictionaries.contrast import fired
from rewarden.dictionaries.contrast.fired import firing, sides_of
from rewarden.dictionaries.prompts import prompts_of
from rewarden.edits import Site
from rewarden.encoding import RESPONSE
from rewarden.errors import RewardenError

WHERE = {"read": lambda row: [row.length - 1], "response": lambda row: np.flatnonzero(row.spans == RESPONSE).tolist(),
         "second": lambda row: [1, 2]}


def slowly(rm, row, dictionary, positions: list[int], pool: str) -> np.ndarray:
    """[M], one token at a time."""
    site = dictionary.site
    held = rm.trace(row, (site.kind,))[site.kind][site.layer].flatten(1).numpy()
    dense = np.zeros((len(positions), dictionary.d_sae))
    for number, position in enumerate(positions):
        for latent, value in by_hand(dictionary, held[position])[0].items():
            dense[number, latent] = value
    return {"mean": dense.mean(0), "sum": dense.sum(0), "max": dense.max(0)}[pool]


@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "mlp_out", "z"])
@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_firing_is_that_of_one_token_at_a_time(kind: str, activation: str) -> None:
    organism = organism_of()
    rm = organism
    rows = [rm.encode(side) for pair in organism.pairs(4) for side in pair.conversations]
    dictionary = random_dictionary(64, site=Site(kind, 1), activation=activation, standardised=activation == "topk", size=0.3)
    asked = (("read", "mean"), ("response", "mean"), ("response", "sum"), ("response", "max"), ("second", "sum"))
    for positions, pool in asked:
        chosen = (lambda row: [1, 2]) if positions == "second" else positions
        found = firing(rm, rows, dictionary, positions=chosen, pool=pool, batch_size=3).toarray()
        for row, values in zip(rows, found, strict=True):
            np.testing.assert_allclose(values, slowly(rm, row, dictionary, WHERE[positions](row), pool), atol=2e-4)


def test_rows_do_not_depend_on_how_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    organism = organism_of()
    rows = [organism.encode(side) for pair in organism.pairs(6) for side in pair.conversations]
    whole = firing(organism, rows, planted(organism), positions="response").toarray()
    monkeypatch.setattr(fired, "NUMBERS", 2048)
    np.testing.assert_allclose(firing(organism, rows, planted(organism), positions="response").toarray(), whole, atol=1e-5)
    nothing = firing(organism, rows, planted(organism), positions=lambda row: [] if row is rows[0] else [3]).toarray()
    assert not nothing[0].any()
    assert nothing[1].any()


def test_rounding_between_batches_is_no_difference() -> None:
    """The same response on both sides, in batches padded differently, differs in nothing."""
    organism = organism_of()
    pairs = [Pair(pair.prompt, pair.chosen, pair.chosen) for pair in organism.pairs(12)]
    both = sides_of(organism, pairs, planted(organism), positions="response", batch_size=5)
    assert both.difference.nnz == 0
    real = sides_of(organism, organism.pairs(12), planted(organism), positions="response", pool="sum")
    dense = (real.chosen - real.rejected).toarray()[:, real.features]
    largest = np.maximum(real.chosen.toarray(), real.rejected.toarray())[:, real.features].max(0)
    np.testing.assert_allclose(real.difference.toarray(), np.where(np.abs(dense) > 1e-4 * largest, dense, 0))
    assert set(real.features) == set(np.flatnonzero((real.chosen + real.rejected).sum(axis=0)))


def test_prompts_are_what_clusters() -> None:
    assert prompts_of([Pair("a", "b", "c"), Pair("d", "b", "c"), Pair("a", "e", "f")]).tolist() == [0, 1, 0]


def test_what_cannot_be_looked_at_is_refused() -> None:
    organism = organism_of()
    dictionary = planted(organism)
    with pytest.raises(RewardenError, match="no pairs"):
        sides_of(organism, [], dictionary)
    with pytest.raises(RewardenError, match="no feature fires") as error:
        sides_of(organism, organism.pairs(2), planted(organism, threshold=1e6), positions="response")
    assert error.value.fix
    with pytest.raises(RewardenError, match="width"):
        sides_of(organism, organism.pairs(2), random_dictionary(32, site=Site("resid_post", 0)))
    with pytest.raises(RewardenError, match="unknown positions"):
        firing(organism, [organism.encode(organism.pairs(1)[0].conversations[0])], dictionary, positions="everywhere")
    assert torch.isfinite(torch.tensor(firing(organism, [], dictionary).toarray())).all()
