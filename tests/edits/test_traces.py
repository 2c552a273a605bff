"""Traces after an edit equal what plain hooks see in the edited run, at every layer, also where the edit is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import base_of, conversations, counterfactuals, model_of
from tests.edits.plain import kinds, plain_run

from rewarden.conversation import Conversation
from rewarden.edits import Edit, Site
from rewarden.errors import RewardenError
from rewarden.readout import SequenceHead
from rewarden.reward_model import RewardModel

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")
WATCHED = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "mixtral", "gptj", "bloom", "modernbert", "bert"])
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_traces_equal_those_of_hooked_runs(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    rows = data.draw(counterfactuals(base, kinds(family), rows=3))
    watched = data.draw(st.lists(st.sampled_from(WATCHED if family != "bert" else WATCHED[:2]), min_size=1, unique=True))
    some = st.lists(st.integers(-base.length, base.length - 1), min_size=1, max_size=4)
    where = data.draw(st.one_of(st.just("all"), st.just("read"), some))
    edited = rm.plan(base, rows, trace=watched, trace_positions=where).run()
    kept = {"all": list(range(base.length)), "read": base.reading.positions.tolist()}.get(where, where) if isinstance(
        where, str) else where
    for number, row in enumerate(rows):
        logits, plain = plain_run(rm.model, family, base.encoded.ids.tolist(), row, watch=watched)
        np.testing.assert_allclose(edited.values[number], logits, rtol=0, atol=1e-5 * max(1, float(logits.abs().max())))
        for site in watched:
            theirs = plain[site][:, kept]
            mine = edited.traces[site][number]
            assert mine.shape[:2] == theirs.shape[:2]
            if site == "z":
                assert mine.shape[2] == rm.architecture.n_heads
            np.testing.assert_allclose(mine.flatten(2), theirs, rtol=0, atol=1e-5 * max(1, float(theirs.abs().max())),
                                       err_msg=f"{site} after {[edit.site for edit in row]}")


def test_rows_that_cannot_matter_have_the_base_runs_trace() -> None:
    rm = model_of("llama")
    base = rm.base(TALK, ("mlp_out",))
    edits = [Edit(Site("resid_pre", 1, 2), base.activation("resid_pre", 1)[2]), Edit(Site("mlp_out", 2, 0), torch.ones(32))]
    edited = rm.plan(base, edits, trace=("resid_post", "mlp_out"), trace_positions=[-1]).run()
    for site in ("resid_post", "mlp_out"):
        own = torch.stack([base.activation(site, layer)[-1:] for layer in range(3)])
        assert torch.equal(edited.traces[site], own.expand(2, -1, -1, -1))


def test_what_a_traced_position_sees_is_computed_though_the_readout_does_not() -> None:
    """The last layer's write at an early position changes no reward, but is asked for."""
    rm = model_of("llama")
    base = rm.base(TALK)
    edit = Edit(Site("mlp_out", 2, 3), torch.ones(32), "add")
    assert len(rm.plan(base, [edit]).rows) == 0
    assert len(rm.plan(base, [edit], trace=["resid_post"], trace_positions="all").rows) == 1
    edited = rm.plan(base, [edit], trace=["resid_post"], trace_positions=[2, 3, 4]).run()
    change = edited.traces["resid_post"][0, 2] - base.activation("resid_post", 2)[2:5]
    torch.testing.assert_close(change, torch.tensor([0.0, 1.0, 0.0])[:, None].expand(3, 32), rtol=0, atol=1e-6)


def test_traces_go_up_to_the_layer_that_is_read() -> None:
    full = model_of("llama")
    head = SequenceHead(full.readout.weight, full.readout.bias, full.readout.norm)
    head.layer = 1
    rm = RewardModel(full.model, full.tokenizer, readout=head, check=False)
    edit = Edit(Site("attn_out", 0, 4), torch.ones(32))
    traces = rm.plan(TALK, [edit], trace=["resid_post"], trace_positions="all").run().traces["resid_post"]
    whole = full.plan(TALK, [edit], trace=["resid_post"], trace_positions="all").run().traces["resid_post"]
    torch.testing.assert_close(traces, whole[:, :2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("site", ["resid_mid", "neurons", "q"])
def test_unknown_trace_sites_are_refused(site: str) -> None:
    with pytest.raises(RewardenError, match=f"trace=\\['{site}'\\]") as error:
        model_of("llama").plan(TALK, [Edit(Site("z", 0, 1), torch.ones(32))], trace=[site])
    assert "attn_out" in error.value.why
    assert error.value.fix


def test_a_trace_needs_the_base_runs_own() -> None:
    rm = model_of("llama")
    with pytest.raises(RewardenError, match="no site 'mlp_out' to compare with") as error:
        rm.plan(rm.base(TALK), [Edit(Site("z", 0, 1), torch.ones(32))], trace=["mlp_out"])
    assert "sites=('mlp_out',)" in error.value.fix
