"""Several base runs from one padded forward are what each is alone, and so are edits of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.contracts.test_families import CONVERSATIONS, model_of
from tests.families import DECODERS

import rewarden as rw
from rewarden.edits import backend_of, plan
from rewarden.edits.arguments import Extent, extents, of_row

ALONE = ("gpt_neo", "gptj", "bloom", "falcon", "mpt", "qwen3_next")  # without a light cone, runs are made one by one

pytestmark = pytest.mark.filterwarnings("ignore")


def both_ways(rm, rows, monkeypatch, sites=("attn_out", "mlp_out", "z", "embed", "q")):
    monkeypatch.setattr(plan, "PADDED", 100.0)
    together = rm.bases(rows, sites)
    monkeypatch.setattr(plan, "PADDED", 0.0)
    return together, rm.bases(rows, sites)


@pytest.mark.parametrize("family", [family for family in DECODERS if family not in ALONE])
def test_runs_that_share_a_forward_are_those_alone(family: str, monkeypatch) -> None:
    rm = model_of(family)
    assert backend_of(rm).together
    rows = [rm.encode(conversation) for conversation in CONVERSATIONS[:3]]
    size = max(1.0, float(np.abs(rm.reward(CONVERSATIONS[:3])).max()))
    generator = torch.Generator().manual_seed(0)
    for shared, alone in zip(*both_ways(rm, rows, monkeypatch), strict=True):
        assert (shared.length, shared.encoded.key()) == (alone.length, alone.encoded.key())
        torch.testing.assert_close(shared.values, alone.values, rtol=0, atol=1e-5 * size)
        for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v"):
            for layer in range(rm.architecture.n_layers):
                mine, theirs = (run.activation(kind, layer) for run in (shared, alone))
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        head = shared.activation("k", 1).shape[-1]
        kv = shared.activation("k", 1).shape[1] - 1
        sites = {rw.Site("resid_pre", 1, 3): shared.resid_pre[0].shape[-1], rw.Site("k", 1, 3, kv): head}
        edits = [rw.Edit(site, torch.randn(width, generator=generator)) for site, width in sites.items()]
        hooks = rm.plan(alone, edits, backend="hooks").run().values.numpy()
        np.testing.assert_allclose(rm.edit(shared, edits), hooks, atol=1e-5 * size)


@pytest.mark.parametrize("family", [*ALONE, "bert", "modernbert"])
def test_other_families_run_one_by_one(family: str, monkeypatch) -> None:
    rm = model_of(family)
    rows = [rm.encode(conversation) for conversation in CONVERSATIONS[:2]]
    assert not backend_of(rm).together
    forwards: list[int] = []
    original = rm.forward
    monkeypatch.setattr(rm, "forward", lambda rows, *a, **k: forwards.append(len(rows)) or original(rows, *a, **k))
    runs = rm.bases(rows)
    assert forwards == [1, 1]
    np.testing.assert_allclose([run.reward for run in runs], rm.reward(CONVERSATIONS[:2])[:, 0], atol=1e-5)


def test_little_padding_shares_a_forward_and_much_does_not(monkeypatch) -> None:
    rm = model_of("llama")
    talk = rm.encode(CONVERSATIONS[0])
    longer = rm.encode(CONVERSATIONS[1])
    assert longer.length > 1.5 * talk.length
    backend_of(rm)
    forwards: list[int] = []
    original = rm.forward
    monkeypatch.setattr(rm, "forward", lambda rows, *a, **k: forwards.append(len(rows)) or original(rows, *a, **k))
    rm.bases([talk, talk])
    rm.bases([talk, longer])
    assert forwards == [2, 1, 1]


def test_extents_tell_tokens_from_rows_and_a_row_is_cut_by_them() -> None:
    rm = model_of("llama")
    from rewarden.edits.base import record

    rows = [rm.encode(conversation) for conversation in CONVERSATIONS[:2]]
    calls = [record(rm, some).calls for some in ([rows[0]], [rows[1]], [rows[0], rows[0]])]
    axes = extents(*calls)
    layer = rm.architecture.blocks[0].layer
    assert axes[layer, ("attention_mask",)] == Extent(tokens=(2, 3), rows=(0,))
    both = record(rm, rows).calls[layer]
    alone = calls[0][layer].tensors()
    for path, tensor in of_row(both, axes, 0, rows[0].length).tensors().items():
        torch.testing.assert_close(tensor, alone[path])


def test_asked_for_twice_is_recorded_once() -> None:
    rm = model_of("llama")
    run = rm.base(CONVERSATIONS[0], sites=("resid_pre", "resid_post", "mlp_out", "mlp_out"))
    assert len(run.resid_pre) == rm.architecture.n_layers + 1
    assert run.reward == pytest.approx(float(rm.reward([CONVERSATIONS[0]])[0, 0]), abs=1e-5)
