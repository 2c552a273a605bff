"""An edit that changes nothing gives the base run's reward bit for bit, and costs nothing; own values freeze a site."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.drawing import base_of, kinds_of, model_of, now
from tests.families import DECODERS, ENCODERS

from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")

pytestmark = pytest.mark.filterwarnings("ignore")


def own_values(base, kind: str, layer: int, position: int | None, head: int | None) -> torch.Tensor:
    value = now(base, kind, layer)
    value = value if position is None else value[position]
    if head is not None:
        return value[..., head, :]
    return value.flatten(-2) if kind in ("z", "q", "k", "v", "neurons") else value


def nothing(base) -> list[Edit]:
    """Edits of every kind and layer that leave everything as it is: own values, plus zero, times one."""
    found = []
    layers = base.rm.architecture.n_layers
    for kind in kinds_of(base):
        for layer in range(1 if kind == "embed" else layers):
            for position in (None, 0, -1, base.length // 2):
                site = Site(kind, layer, position)
                width = own_values(base, kind, layer, 0, None).numel()
                found += [Edit(site, torch.zeros(width), "add"), Edit(site, 1.0, "scale"),
                          Edit(site, torch.ones(width), "scale")]
                if kind in ("attn_in", "mlp_in") or not base.has(kind):
                    continue
                found.append(Edit(site, own_values(base, kind, layer, position, None)))
                if kind in ("z", "q", "k", "v", "neurons"):
                    found.append(Edit(Site(kind, layer, position, 0), own_values(base, kind, layer, position, 0)))
    return found


@pytest.mark.parametrize("family", DECODERS + ENCODERS)
def test_edits_that_change_nothing_are_bitwise_the_base_run(family: str) -> None:
    rm = model_of(family)
    base = base_of(rm, TALK)
    normed = not torch.equal(base.resid_pre[0], sum(base.activation(k) for k in ("embed", "position") if base.has(k)))
    edits = [edit for edit in nothing(base) if not (normed and edit.site.kind == "embed" and edit.mode == "replace")]
    plan = rm.plan(base, edits)
    assert len(edits) > 30
    assert (len(plan.rows), plan.cost) == (0, 0)
    values = plan.run().values
    assert torch.equal(values, base.values.expand(len(edits), -1))
    together = rm.edit(base, [[edit for edit in edits if edit.mode != "replace"]])
    assert torch.equal(torch.as_tensor(together), base.values[None])


@pytest.mark.parametrize("family", ["bloom", "bert", "modernbert"])
def test_own_embedding_before_a_norm_changes_nothing_up_to_rounding(family: str) -> None:
    rm = model_of(family)
    base = base_of(rm, TALK)
    mine = rm.edit(base, [Edit(Site("embed"), base.activation("embed"))])
    np.testing.assert_allclose(mine[0], base.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "olmo2", "phi", "modernbert", "gptj"])
@pytest.mark.parametrize("kind", ["attn_in", "mlp_in"])
def test_the_stream_itself_as_a_sublayers_input_changes_nothing_up_to_rounding(family: str, kind: str) -> None:
    rm = model_of(family)
    base = rm.base(TALK, ("attn_out",))
    for layer in range(3):
        stream = base.activation("resid_pre", layer)
        if kind == "mlp_in" and family not in ("phi", "gptj"):  # parallel layers: the MLP reads the layer's input too
            stream = stream + base.activation("attn_out", layer)
        mine = rm.edit(base, [Edit(Site(kind, layer), stream), Edit(Site(kind, layer, -1), stream[-1])])
        np.testing.assert_allclose(mine, base.values.expand(2, -1), rtol=0, atol=2e-6)


def test_one_number_differs_by_one_bit_and_is_computed() -> None:
    rm = model_of("llama")
    base = rm.base(TALK, ("z",))
    value = base.activation("z", 1)[3, 2].clone()
    value[0] = torch.nextafter(value[0], torch.tensor(9.0))
    assert len(rm.plan(base, [Edit(Site("z", 1, 3, 2), value)]).rows) == 1


def test_without_the_recording_own_values_are_run_and_equal_up_to_rounding() -> None:
    rm = model_of("llama")
    base, kept = rm.base(TALK), rm.base(TALK, ("mlp_out",))
    edit = Edit(Site("mlp_out", 1), kept.activation("mlp_out", 1))
    assert (len(rm.plan(base, [edit]).rows), len(rm.plan(kept, [edit]).rows)) == (1, 0)
    np.testing.assert_allclose(rm.edit(base, [edit])[0], base.values, rtol=0, atol=1e-6)


def test_own_value_beside_another_edit_freezes_the_site() -> None:
    """Everything after layer 0 held at its own value: what layer 0 changes goes straight to the read-out."""
    rm = model_of("llama")
    base = rm.base(TALK, ("attn_out", "mlp_out"))
    delta = torch.randn(32, generator=torch.Generator().manual_seed(0))
    change = Edit(Site("attn_out", 0, -1), delta, "add")
    held = [Edit(Site("mlp_out", 0), base.activation("mlp_out", 0))]
    held += [Edit(Site(kind, layer), base.activation(kind, layer)) for layer in (1, 2) for kind in ("attn_out", "mlp_out")]
    direct = rm.readout.apply(base.resid_pre[3][None, -1] + delta, base.reading)
    mine = rm.edit(base, [[change, *held], [change]])
    np.testing.assert_allclose(mine[0], direct, rtol=0, atol=1e-5)
    assert abs(mine[1, 0] - mine[0, 0]) > 1e-3  # unfrozen, the later layers answer


def test_a_batch_mixes_rows_that_change_something_with_rows_that_do_not() -> None:
    rm = model_of("llama")
    base = rm.base(TALK)
    own = base.activation("resid_post", 1)
    other = own.roll(1, 0)
    values = torch.stack([own[2], other[2], own[5], other[5]])
    plan = rm.plan(base, EditBatch(Site("resid_post", 1), values, positions=[2, 2, 5, 5]))
    assert sorted(plan.rows.index.tolist()) == [1, 3]
    mine = plan.run().values
    assert torch.equal(mine[[0, 2]], base.values.expand(2, -1))
    assert (mine[[1, 3]] - base.values).abs().min() > 1e-5
