"""What a user can break: errors leave the model as it was, threads do not mix, and bad input is refused with a next step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tests.edits.drawing import model_of
from tests.families import build
from tests.tokenizers_tiny import tiny_tokenizer

import rewarden as rw
from rewarden.conversation import Conversation
from rewarden.edits import Edit, EditBatch, Site
from rewarden.errors import RewardenError
from rewarden.reward_model import RewardModel

TALK = Conversation.of("what is the capital of France?", "Paris. it is not red")
OTHER = Conversation.of("Tell me a joke", "no, the dog is very early")
V = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore")


def sweep(kinds=("resid_pre", "attn_out", "mlp_out")) -> list[Edit]:
    return [Edit(Site(kind, layer, position), V[layer]) for kind in kinds for layer in range(3) for position in (0, 3, 9, -1)]


def state(model: torch.nn.Module) -> tuple:
    """Everything a run could leave behind."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks, model.config._attn_implementation, [m.training for m in model.modules()]


@contextmanager
def raising(module: torch.nn.Module, after: int):
    """The module fails from its n-th call on."""
    calls = [0]
    forward = module.forward

    def broken(*args, **kwargs):
        calls[0] += 1
        if calls[0] > after:
            raise RuntimeError("broken on purpose")
        return forward(*args, **kwargs)

    module.forward = broken
    try:
        yield
    finally:
        del module.forward


@pytest.mark.parametrize("backend", ["auto", "hooks"])
@pytest.mark.parametrize("family", ["llama", "gptj", "bloom", "bert"])
def test_an_error_inside_the_model_leaves_it_as_it_was(family: str, backend: str) -> None:
    rm = RewardModel(build(family), tiny_tokenizer(), check=False)
    edits = sweep(("resid_pre",) if family == "bert" else ("resid_pre", "attn_out"))
    rm.model.train()
    rm.architecture.blocks[0].layer.eval()  # parts may be frozen: each module keeps its own mode
    base, before = rm.base(TALK), state(rm.model)
    assert before[0] == 0
    values = rm.plan(base, edits, backend=backend).run().values
    for layer in range(3):
        inside = [m for m in rm.architecture.blocks[layer].layer.modules() if not list(m.children())]
        for module in (inside[0], inside[-1], rm.architecture.blocks[layer].layer):
            with raising(module, after=1 if layer == 2 else 0):
                try:
                    rm.plan(base, edits, backend=backend, trace=("resid_post",)).run()
                except RuntimeError as error:
                    assert str(error) == "broken on purpose"  # noqa: PT017  # a module may have been called too seldom to fail
            assert state(rm.model) == before
    with raising(rm.architecture.blocks[1].layer, after=0), pytest.raises(RuntimeError, match="broken on purpose"):
        rm.base(TALK)
    assert state(rm.model) == before
    assert torch.equal(rm.plan(base, edits, backend=backend).run().values, values)


def test_the_error_is_raised_at_every_depth_of_the_cone() -> None:
    """Inside attention, in the call that stops at the keys, and in the points that edits enter by."""
    rm = RewardModel(build("llama"), tiny_tokenizer(), check=False)
    base, before = rm.base(TALK), state(rm.model)
    for layer in (1, 2):
        for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"):
            with raising(rm.model.model.layers[layer].get_submodule(name), after=0):
                with pytest.raises(RuntimeError, match="broken on purpose"):
                    rm.edit(base, [Edit(Site("attn_out", 1, 4), V[0])])
            assert state(rm.model) == before
    clean = RewardModel(build("llama"), tiny_tokenizer(), check=False)
    assert np.array_equal(rm.edit(base, sweep()), clean.edit(clean.base(TALK), sweep()))


def test_a_progress_callback_that_raises_stops_the_run_cleanly() -> None:
    rm = RewardModel(build("llama"), tiny_tokenizer(), check=False)
    base, before = rm.base(TALK), state(rm.model)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rm.edit(base, sweep(), progress=stop)
    assert state(rm.model) == before
    with ThreadPoolExecutor(1) as pool:  # the lock is free again for another thread
        pool.submit(rm.edit, base, sweep()).result(timeout=60)


def test_threads_on_one_model_and_on_several_get_the_bits_they_get_alone() -> None:
    def fresh() -> list[RewardModel]:
        return [RewardModel(build(family), tiny_tokenizer(), name=family, check=False)
                for family in ("llama", "gemma2", "gptj", "gpt_oss")]

    def job(models: list[RewardModel], number: int) -> np.ndarray:
        rm, talk = models[number % 4], (TALK, OTHER)[number // 4 % 2]
        if number % 3 == 0:
            return rm.plan(talk, sweep()[number:], trace=("resid_post",)).run().traces["resid_post"].numpy()
        if number % 3 == 1:
            return rm.reward([talk, TALK])
        return rm.edit(talk, sweep()[number:])

    models = fresh()
    alone = [job(models, number) for number in range(16)]
    for _ in range(2):
        models = fresh()  # backends are found, and attention is registered, by threads that run together
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda number, models=models: job(models, number), range(16)))
        for number, (mine, theirs) in enumerate(zip(alone, together, strict=True)):
            assert np.array_equal(mine, theirs), number
        assert all(state(rm.model)[0] == 0 for rm in models)


def test_two_reward_models_around_one_module_may_run_in_two_threads() -> None:
    model, tokenizer = build("llama"), tiny_tokenizer()
    rms = [RewardModel(model, tokenizer, check=False) for _ in range(4)]
    alone = [rms[0].edit((TALK, OTHER)[number % 2], sweep()) for number in range(2)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: rms[number % 4].edit((TALK, OTHER)[number % 2], sweep()), range(24)))
    for number, values in enumerate(together):
        assert np.array_equal(values, alone[number % 2]), number
    assert state(model)[:2] == (0, "sdpa")


def test_inputs_are_not_changed() -> None:
    rm = model_of("llama")
    base = rm.base(TALK, ("z", "mlp_out"))
    kinds = ("resid_pre", "z", "mlp_out", "k", "v")
    held = {kind: [base.activation(kind, layer).clone() for layer in range(3)] for kind in kinds}
    values = V.clone()
    edits = [*sweep(), *[Edit(Site("z", 1, 2, 1), V[0, :8], "add"), Edit(Site("mlp_out", 1, 5), 2.0, "scale"),
                         Edit(Site("k", 1, 2, 1), V[0, :8]), Edit(Site("v", 0), V[0, :16])]]
    first = rm.edit(base, edits)
    assert torch.equal(values, V)
    for kind, layers in held.items():
        assert all(torch.equal(base.activation(kind, layer), before) for layer, before in enumerate(layers))
    assert np.array_equal(rm.edit(base, edits), first)  # and the base run serves again, bit for bit


@pytest.mark.parametrize(("edits", "what", "why"), [
    (lambda: Edit(Site("resid_pre", 3), V[0]), "no layer 3", "layers 0 to 2"),
    (lambda: Edit(Site("resid_pre", -1), V[0]), "no layer -1", "layers 0 to 2"),
    (lambda: Edit(Site("resid_pre", 0, 18), V[0]), "position 18 outside", "18 tokens"),
    (lambda: Edit(Site("resid_pre", 0, (2, -19)), V[0]), "outside the conversation", "18 tokens"),
    (lambda: Edit(Site("resid_pre", 0, (2, -16)), V[0]), "the same position twice", "not be defined"),
    (lambda: EditBatch(Site("z", 0), V, positions=[0, 1, 2, 3, 4, 5, 6, 99]), "outside the conversation", "18 tokens"),
    (lambda: Edit(Site("resid_pre", 0, ()), V[0]), "is no position", ""),
    (lambda: Edit(Site("z", 0, 2, 4), V[0, :8]), "no head 4", "there are 4"),
    (lambda: Edit(Site("k", 0, 2, 2), V[0, :8]), "no head 2", "there are 2"),
    (lambda: EditBatch(Site("z", 0, 2), V[:2, :8], heads=[0, 7]), "no head 7", "there are 4"),
    (lambda: Edit(Site("mlp_out", 0, 2, 0), V[0]), "has no heads", ""),
    (lambda: EditBatch(Site("mlp_out", 0, 2), V, heads=range(8)), "has no heads", ""),
    (lambda: Edit(Site("z", 0, 2, 1), V[0]), "has shape", "width 8"),
    (lambda: Edit(Site("mlp_out", 0, 2), V[0, :31]), "has shape", "width 32"),
    (lambda: Edit(Site("k", 0, 2), V[0]), "has shape", "width 16"),
    (lambda: Edit(Site("mlp_out", 0, (2, 3)), V[:3]), "has shape", "2 positions"),
    (lambda: Edit(Site("mlp_out", 0), V[:3]), "has shape", "18 positions"),
    (lambda: Edit(Site("mlp_out", 0, 2), V[0].clone().fill_(float("nan"))), "not finite", ""),
    (lambda: Edit(Site("mlp_out", 0, 2), V[0] / 0), "not finite", ""),
    (lambda: Edit(Site("mlp_out", 0, 2), float("inf"), "scale"), "not finite", ""),
    (lambda: Edit(Site("mlp_out", 0, 2), 1.0), "has shape", "one number only scales"),
    (lambda: Edit(Site("mlp_out", 0, 2), V[None]), "has shape", ""),
    (lambda: Edit(Site("mlp_mid", 0, 2), V[0]), "unknown site 'mlp_mid'", ""),
    (lambda: Edit(Site("mlp_out", 0, 2), V[0], "swap"), "unknown mode 'swap'", ""),
    (lambda: EditBatch(Site("mlp_out", 0, 2), V[:0]), "an edit batch with values \\(0, 32\\)", "at least 1"),
    (lambda: EditBatch(Site("mlp_out", 0), V, positions=[1, 2]), "an edit batch with values \\(8, 32\\)", "positions"),
    (lambda: [], "no edits", ""),
    (lambda: [[]], "is not an edit", ""),
    (lambda: [[EditBatch(Site("mlp_out", 0, 2), V)]], "is not an edit", ""),
    (lambda: ["mlp_out"], "is not an edit", ""),
])
def test_bad_edits_are_refused_with_a_next_step(edits, what: str, why: str) -> None:
    rm = model_of("llama")
    assert rm.encode(TALK).length == 18

    def make_and_run() -> None:
        made = edits()
        rm.edit(TALK, made if isinstance(made, (list, EditBatch)) else [made])

    with pytest.raises(RewardenError, match=what) as error:
        make_and_run()
    assert why in error.value.why
    assert error.value.fix
    assert error.value.where


@pytest.mark.parametrize(("family", "site", "what"), [
    ("bert", Site("attn_out", 0, 1), "is not defined for this model"), ("bert", Site("z", 0, 1, 0), "is not defined"),
    ("bert", Site("mlp_in", 0, 1), "no site 'mlp_in'"),
    ("mixtral", Site("neurons", 0, 1), "no single down-projection"),
    ("gptj", Site("k", 0, 1), "'k' cannot be edited"), ("bert", Site("q", 0, 1), "'q' cannot be edited")])
def test_sites_a_model_does_not_have_are_refused(family: str, site: Site, what: str) -> None:
    with pytest.raises(RewardenError, match=what) as error:
        model_of(family).edit(TALK, [Edit(site, torch.ones(32))])
    assert error.value.fix


def test_other_mistakes() -> None:
    rm, other = model_of("llama"), model_of("gemma2")
    with pytest.raises(RewardenError, match="of another model") as error:
        rm.edit(other.base(TALK), sweep())
    assert "rm.base" in error.value.fix
    with pytest.raises(RewardenError, match="backend='gpu'"):
        rm.plan(TALK, sweep(), backend="gpu")
    with pytest.raises(RewardenError, match="no site 'z'") as error:
        rm.base(TALK).activation("z", 0)
    assert "sites=('z',)" in error.value.fix
    with pytest.raises(RewardenError):
        rm.base(TALK, ("everything",))
    for where in ([40], [-19], [], "last"):
        with pytest.raises(RewardenError):
            rm.plan(TALK, sweep(), trace=("resid_post",), trace_positions=where)
    broken = rm.base(TALK)
    broken.values = torch.tensor([float("nan")])
    with pytest.raises(RewardenError, match="not finite"):
        rm.edit(broken, sweep())


def test_public_names() -> None:
    assert (rw.Edit, rw.EditBatch, rw.Site) == (Edit, EditBatch, Site)


def test_two_models_of_one_config_may_run_in_two_threads() -> None:
    first = build("llama")
    second = type(first)(first.config).eval().requires_grad_(False)
    models = [RewardModel(model, tiny_tokenizer(), check=False) for model in (first, second)]
    before, alone = first.config._attn_implementation, [rm.edit(TALK, sweep()) for rm in models]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: models[number % 2].edit(TALK, sweep()), range(24)))
    for number, values in enumerate(found):
        np.testing.assert_allclose(values, alone[number % 2], atol=1e-5)
    assert second.config is first.config
    assert first.config._attn_implementation == before
