"""What a plan says it will cost is what is computed: counted on the modules, and by the formula of one edit."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import base_of, conversations, counterfactuals, model_of

from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")
KEYS = (32 * 32 + 2 * 32 * 16) / (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
"""q, k and v's share of a tiny Llama layer's parameters: all that the last layer does for tokens that are not read."""

pytestmark = pytest.mark.filterwarnings("ignore")
some = settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))


@contextmanager
def counting(modules):
    """Tokens that pass each module."""
    counts = dict.fromkeys(modules, 0)

    def count(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        counts[module] += hidden.shape[:-1].numel()

    handles = [module.register_forward_pre_hook(count, with_kwargs=True) for module in modules]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("layer", "position"), [(0, 0), (0, 7), (1, 3), (2, 5), (2, 0)])
def test_one_residual_edit_costs_its_light_cone(layer: int, position: int) -> None:
    """(L − 1 − l)·n + κ·n + 1 token-layers for n = T − p tokens, and as much for the unedited row beside it."""
    rm = model_of("llama")
    base = rm.base(TALK)
    n = base.length - position
    plan = rm.plan(base, [Edit(Site("resid_pre", layer, position), torch.ones(32))])
    assert plan.cost == pytest.approx(2 * ((3 - 1 - layer) * n + KEYS * n + 1))
    assert plan.forwards == pytest.approx(plan.cost / (3 * base.length))


def test_one_write_at_the_readout_costs_one_token_a_layer() -> None:
    """One token through its own layer and each later one, twice with the control row."""
    rm = model_of("llama")
    for layer in range(3):
        plan = rm.plan(TALK, [Edit(Site("mlp_out", layer, -1), torch.ones(32))])
        assert plan.cost == 2 * (3 - layer)


@some
@given(data=st.data())
def test_cost_on_the_cone_is_what_the_modules_count(data) -> None:
    rm = model_of("llama")
    base = base_of(rm, data.draw(conversations()))
    kinds = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "mlp_in", "attn_in", "q", "k", "v")
    plan = rm.plan(base, data.draw(counterfactuals(base, kinds, rows=12)))
    layers = rm.model.model.layers
    with counting([m for layer in layers for m in (layer.self_attn.q_proj, layer.mlp)]) as counts:
        plan.run()
    work = sum(KEYS * counts[layer.self_attn.q_proj] + (1 - KEYS) * counts[layer.mlp] for layer in layers)
    assert plan.cost == pytest.approx(work)


@pytest.mark.parametrize("family", ["gptj", "bert"])
@some
@given(data=st.data())
def test_cost_without_a_cone_is_whole_sequences_from_the_edited_layer(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    plan = rm.plan(base, data.draw(counterfactuals(base, ("resid_pre", "resid_post"), rows=5)))
    with counting([block.layer for block in rm.architecture.blocks]) as counts:
        plan.run()
    assert plan.cost == sum(counts.values())


def test_cost_by_hooks_is_whole_forwards_and_one_more() -> None:
    rm = model_of("bloom")
    edits = [Edit(Site("resid_pre", layer, 3), torch.ones(32)) for layer in range(3)]
    plan = rm.plan(TALK, edits)
    with counting([block.layer for block in rm.architecture.blocks]) as counts:
        plan.run()
    assert plan.forwards == pytest.approx(4)
    assert plan.cost == sum(counts.values())


def test_sites_before_the_first_difference_are_free() -> None:
    """Of two conversations with one beginning, the other's activations are the base's own up to the first new token."""
    rm = model_of("llama")
    base = rm.base(TALK, ("mlp_out",))
    other = rm.base(Conversation.of("what is the capital of France?", "Paris. it is a red"), ("mlp_out",))
    first = int(np.flatnonzero(base.encoded.ids != other.encoded.ids)[0])
    assert (base.length, other.length) == (first + 3, first + 3)
    for kind in ("resid_post", "mlp_out"):
        batch = EditBatch(Site(kind, 1), other.activation(kind, 1), positions=range(base.length))
        plan = rm.plan(base, batch)
        assert plan.rows.index.tolist() == list(range(first, base.length))
        assert plan.rows.start.tolist() == list(range(first, base.length))


def test_describe_says_what_will_be_computed() -> None:
    rm = model_of("llama")
    base = rm.base(TALK)
    one = torch.ones(32)
    edits = [Edit(Site("resid_pre", 1, 3), one), Edit(Site("mlp_out", 2, 3), one), Edit(Site("attn_out", 0, 3), one, "add")]
    text = rm.plan(base, edits).describe()
    assert text.splitlines()[:2] == ["3 counterfactuals, 1 of them cannot change the read-out", "backend: light cone"]
    assert f"{rm.plan(base, edits).forwards:.3g} forwards of {base.length} tokens × 3 layers" in text
    assert "one forward per counterfactual would be 3" in text
    slow = model_of("bloom").plan(TALK, edits).describe()
    assert "backend: hooks on whole forwards (light cone: " in slow
    assert "0 groups of suffixes, 2 rows by hooks" in slow


@pytest.mark.parametrize("family", ["llama", "gptj", "bloom"])
def test_progress_counts_every_row_once(family: str) -> None:
    rm = model_of(family)
    told: list[int] = []
    edits = [Edit(Site("resid_pre", layer, position), torch.ones(32)) for layer in range(3) for position in range(18)]
    free = [Edit(Site("resid_post", 2, position), torch.ones(32)) for position in range(5)]
    rm.edit(TALK, [*edits, *free], progress=told.append)
    assert sum(told) == len(edits) + len(free)
    assert min(told) > 0


@pytest.mark.parametrize("family", ["llama", "gptj", "bloom", "bert"])
def test_the_noise_floor_is_twice_what_an_unedited_row_deviates_by(family: str) -> None:
    rm = model_of(family)
    base = rm.base(TALK)
    edit = Edit(Site("resid_pre", 0, 2), torch.ones(32))
    assert 0 <= rm.plan(base, [edit]).run().noise_floor < 1e-6
    base.values = base.values + 0.25  # as if the base run had been another
    assert rm.plan(base, [edit]).run().noise_floor == pytest.approx(0.5, abs=1e-6)
    assert rm.plan(base, [Edit(Site("resid_pre", 0, 2), torch.zeros(32), "add")]).run().noise_floor == 0.0


def test_a_read_out_sweep_of_everything_costs_little_more_than_one_forward() -> None:
    rm = model_of("llama")
    base = rm.base(Conversation.of(" ".join(["one two three four"] * 8), " ".join(["five six seven eight"] * 8)), ("z",))
    noise = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    edits = [Edit(Site(kind, layer, -1), noise[layer]) for kind in ("resid_post", "attn_out", "mlp_out") for layer in range(3)]
    edits += [Edit(Site("z", layer, -1, head), noise[head, :8]) for layer in range(3) for head in range(4)]
    plan = rm.plan(base, edits)
    assert plan.forwards < 0.25  # of a conversation of 69 tokens
    hooks = rm.plan(base, edits, backend="hooks")
    assert hooks.forwards == pytest.approx(len(edits) + 1)  # and the control row
    np.testing.assert_allclose(plan.run().values, hooks.run().values, rtol=0, atol=1e-5)
