"""The engine equals plain torch hooks on the families' own modules: sites, modes, positions, lengths, several edits at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import base_of, conversations, counterfactuals, edits, model_of, now
from tests.edits.plain import PATHS, kinds, plain_run
from tests.tokenizers_tiny import WORDS

from rewarden.edits import Edit, EditBatch, Site

TOLERANCE = 1e-5  # of max(1, |r|), fp32

pytestmark = pytest.mark.filterwarnings("ignore")
some = settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate],  # a failure is short enough as it is
                suppress_health_check=list(HealthCheck))


def close(mine: np.ndarray, theirs: np.ndarray, what: object = "") -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(theirs).max())), err_msg=str(what))


@pytest.mark.parametrize("family", PATHS)
@some
@given(data=st.data())
def test_engine_equals_plain_hooks(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    rows = data.draw(counterfactuals(base, kinds(family)))
    ids = base.encoded.ids.tolist()
    plain = np.stack([plain_run(rm.model, family, ids, row)[0].numpy() for row in rows])
    close(base.values.numpy(), plain_run(rm.model, family, ids)[0].numpy())
    close(rm.edit(base, rows), plain, rows)


def site(text: str, position=None) -> Site:
    kind, layer, *head = text.split(".")
    return Site(kind, int(layer), position, int(head[0]) if head else None)


V = torch.randn(6, 32, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gptj"])
@pytest.mark.parametrize(("name", "row"), [
    ("two scales", [Edit(site("mlp_out.1", 4), 0.5, "scale"), Edit(site("mlp_out.1", (4, 6)), 0.5, "scale")]),
    ("two adds", [Edit(site("mlp_out.1", 4), V[0], "add"), Edit(site("mlp_out.1", (6, 4)), V[:2], "add")]),
    ("the later replace", [Edit(site("attn_out.1"), V[0]), Edit(site("attn_out.1", 4), V[1])]),
    ("replace, scale, add", [Edit(site("z.1", 4), V[0], "add"), Edit(site("z.1", 4), 3.0, "scale"),
                             Edit(site("z.1", 4), V[1])]),
    ("a head, then all heads", [Edit(site("z.1.2", 4), V[0, :8]), Edit(site("z.1", 4), V[1])]),
    ("all heads, then a head", [Edit(site("z.1", 4), V[1]), Edit(site("z.1.2", 4), V[0, :8])]),
    ("after a layer and before the next", [Edit(site("resid_post.0", 4), 0.5, "scale"),
                                           Edit(site("resid_pre.1", 4), 3.0, "scale")]),
    ("embedding, scaled and replaced", [Edit(site("embed.0", 4), 0.5, "scale"), Edit(site("embed.0", 4), V[0])]),
    ("embedding, then the first residual", [Edit(site("embed.0", 4), V[0], "add"), Edit(site("resid_pre.0", 4), V[1])]),
    ("first residual scaled, embedding added", [Edit(site("resid_pre.0", 4), 0.5, "scale"),
                                                Edit(site("embed.0", 4), V[1], "add")]),
])
def test_edits_of_one_site_act_as_replace_scale_add_in_the_order_given(family: str, name: str, row: list[Edit]) -> None:
    rm = model_of(family)
    base = rm.base([{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "four five"}], ("embed",))
    plain = plain_run(rm.model, family, base.encoded.ids.tolist(), row)[0]
    other = [Edit(site("attn_out.1", 4), V[5])]
    for backend in ("auto", "hooks"):
        edited = rm.plan(base, [other, row[::-1], row], backend=backend).run()
        np.testing.assert_allclose(edited.values[2], plain, rtol=0, atol=1e-5, err_msg=f"{name}, {backend}")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_batch_is_the_list_of_its_edits(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    first = data.draw(edits(base, tuple(kind for kind in kinds(family) if kind != "embed"), 3))
    kind, layer, head, mode = first.site.kind, first.site.layer, first.site.head, first.mode
    n, T = data.draw(st.integers(1, 9)), base.length
    width = now(base, kind, layer)[0].numel() if head is None else now(base, kind, layer).shape[2]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    how = data.draw(st.sampled_from(["the site's", "one each", "all"]))
    positions = data.draw(st.lists(st.integers(-T, T - 1), min_size=n, max_size=n)) if how == "one each" else None
    heads = None if head is None else data.draw(st.lists(st.integers(0, now(base, kind, layer).shape[1] - 1), min_size=n,
                                                         max_size=n))
    where = {"the site's": (0, -2), "one each": None, "all": None}[how]
    rows = {"the site's": 2, "one each": 1, "all": T}[how]
    shape = data.draw(st.sampled_from([(n, width), (n, rows, width)]))
    values = torch.randn(shape, generator=generator) * now(base, kind, layer).float().std()
    batch = EditBatch(Site(kind, layer, where, head), values, mode, positions=positions, heads=heads)
    each = [Edit(Site(kind, layer, where if positions is None else positions[i], head if heads is None else heads[i]),
                 values[i], mode) for i in range(n)]
    ids = base.encoded.ids.tolist()
    plain = np.stack([plain_run(rm.model, family, ids, [edit])[0].numpy() for edit in each])
    close(rm.edit(base, each), plain)
    close(rm.edit(base, batch), plain)
    close(rm.edit(base, [each[0], batch, each[-1]])[1:-1], plain)  # among others, in place


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "gpt2", "mixtral", "gptj"])
def test_a_whole_sweep_of_a_long_conversation_equals_plain_hooks_where_it_is_looked_at(family: str) -> None:
    """Many waves and groups, suffixes of every length, all beside each other in one plan."""
    rm = model_of(family)
    talk = [{"role": "user", "content": " ".join(WORDS[:50])}, {"role": "assistant", "content": " ".join(WORDS[30:75])}]
    base = rm.base(talk, ("attn_out", "mlp_out"))
    T, generator = base.length, torch.Generator().manual_seed(0)
    assert T > 90
    noise = torch.randn(3, 3, T, 32, generator=generator)
    swept = ("resid_pre", "attn_out", "mlp_out")
    batches = [EditBatch(Site(kind, layer), noise[number, layer], positions=range(T))
               for number, kind in enumerate(swept) for layer in range(3)]
    edited = rm.plan(base, batches).run()
    values = edited.values.view(3, 3, T)
    assert edited.noise_floor < 5e-6
    rng = np.random.default_rng(0)
    for position in [0, 1, T - 34, T - 33, T - 32, T - 2, T - 1, *rng.integers(2, T - 2, 10)]:
        number, layer = rng.integers(3, size=2)
        edit = Edit(Site(swept[number], int(layer), int(position)), noise[number, layer, position])
        plain = plain_run(rm.model, family, base.encoded.ids.tolist(), [edit])[0]
        assert float(values[number, layer, position]) == pytest.approx(float(plain), abs=1e-5 * max(1, abs(float(plain))))
