"""Aggregates against sums written out; shares are their gradients and sum back to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewarden.errors import RewardenError
from rewarden.training.aggregation import KINDS, Aggregation

QUERY = torch.tensor([0.5, -1.0, 0.2])


def made(kind: str, **settings) -> Aggregation:
    return Aggregation(kind, **settings, **({"query": QUERY} if kind == "attention" else {}))


def by_hand(kind: str, values: np.ndarray, states: np.ndarray) -> np.ndarray:
    ordered = np.sort(values, axis=0)[::-1]
    weight = np.exp(states @ QUERY.numpy())
    return {"mean": values.mean(0), "sum": values.sum(0), "max": values.max(0), "last": values[-1:].mean(0),
            "top": ordered[: int(np.ceil(0.25 * len(values)))].mean(0),
            "attention": (weight[:, None] * values).sum(0) / weight.sum()}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_each_kind_is_the_sum_written_out(kind, count):
    rng = np.random.default_rng(count)
    values, states = rng.normal(size=(count, 2)), rng.normal(size=(count, 3))
    found = made(kind)(torch.tensor(values), torch.tensor(states))
    np.testing.assert_allclose(found.numpy(), by_hand(kind, values, states), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(1, 12), seed=st.integers(0, 99))
def test_shares_of_tokens_sum_back_to_the_aggregate(kind, count, seed):
    torch.manual_seed(seed)
    values, states = torch.randn(count, 3), torch.randn(count, 3)
    shares = made(kind).shares(values, states)
    torch.testing.assert_close((shares * values).sum(0), made(kind)(values, states), atol=1e-5, rtol=1e-4)
    if kind != "sum":
        torch.testing.assert_close(shares.sum(0), torch.ones(3), atol=1e-5, rtol=1e-5)


def test_a_mean_is_diluted_and_a_maximum_is_not():
    loud = torch.cat([torch.full((2, 1), 5.0), torch.zeros(98, 1)])
    assert made("mean")(loud).item() == pytest.approx(0.1)
    assert made("max")(loud).item() == 5.0
    assert made("top")(loud).item() == pytest.approx(10 / 25)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_token_there_is_no_number(kind):
    assert made(kind)(torch.empty(0, 2), torch.empty(0, 3)).isnan().tolist() == [True, True]


@pytest.mark.parametrize(("settings", "match"), [
    ({"kind": "median"}, "kind is one of"), ({"kind": "last", "k": 0}, "k must be a whole number"),
    ({"kind": "top", "share": 0.0}, "share lies above 0"), ({"kind": "attention"}, "needs a query")])
def test_impossible_ones_are_refused(settings, match):
    with pytest.raises(RewardenError, match="impossible aggregation") as refused:
        Aggregation(**settings)
    assert match in refused.value.why
