"""Edits of queries, keys and values equal hooks on the projections that make them, with the rotary encoding done here."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.edits.drawing import ATTENTION, base_of, conversations, counterfactuals, model_of
from tests.edits.plain import Place, changed, hook, plain_run

pytestmark = pytest.mark.filterwarnings("ignore")
some = settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary encoding of [T, head, d_head]: x∘cos + (−x₂, x₁)∘sin."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


@contextmanager
def projections_changed(model, family: str, edits, length: int):
    """Hooks on what makes q, k and v: their result is encoded, edited, and decoded again."""
    order = sorted(edits, key=lambda edit: ("replace", "scale", "add").index(edit.mode))
    config = model.config
    with ExitStack() as stack:
        for edit in order:
            heads = config.num_attention_heads if edit.site.kind == "q" or family == "gpt2" else config.num_key_value_heads
            if family == "gpt2":  # one map makes all three; positions are learned, nothing is rotated
                which = ATTENTION.index(edit.site.kind)

                def change(fused, edit=edit, which=which, heads=heads):
                    parts = list(fused.chunk(3, -1))
                    parts[which] = changed(parts[which], edit, heads, length)
                    return torch.cat(parts, -1)

                hook(stack, Place(model.transformer.h[edit.site.layer].attn.c_attn, "output"), change)
                continue
            attention = model.model.layers[edit.site.layer].self_attn
            normed = family == "qwen3" and edit.site.kind != "v"  # q_norm and k_norm stand before the rotation
            module = getattr(attention, f"{edit.site.kind}_norm" if normed else f"{edit.site.kind}_proj")
            cos, sin = model.model.rotary_emb(torch.zeros(1, length, 1), torch.arange(length)[None])
            cos, sin = (cos[0, :, None], sin[0, :, None]) if edit.site.kind != "v" else (torch.ones(1), torch.zeros(1))

            def change(hidden, edit=edit, heads=heads, cos=cos, sin=sin):
                turned = rotate(hidden.reshape(length, heads, -1), cos, sin).flatten(1)
                turned = changed(turned, edit, heads, length).reshape(length, heads, -1)
                return rotate(turned, cos, -sin).reshape(hidden.shape)  # the rotation by −angle is its inverse

            hook(stack, Place(module, "output"), change)
        yield


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2"])
@some
@given(data=st.data())
def test_edits_of_q_k_v_equal_hooks_on_their_projections(family: str, data) -> None:
    rm = model_of(family)
    base = base_of(rm, data.draw(conversations()))
    rows = data.draw(counterfactuals(base, ATTENTION))
    ids, plain = base.encoded.ids.tolist(), []
    for row in rows:
        with projections_changed(rm.model, family, row, base.length):
            plain.append(plain_run(rm.model, family, ids)[0].numpy())
    np.testing.assert_allclose(rm.edit(base, rows), np.stack(plain), rtol=0, atol=1e-5 * max(1, np.abs(plain).max()),
                               err_msg=str(rows))


def test_recorded_keys_queries_and_values_are_the_projections_rotated() -> None:
    rm = model_of("llama")
    base = rm.base([{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "four five"}], ("q",))
    cos, sin = (x[0, :, None] for x in rm.model.model.rotary_emb(torch.zeros(1), torch.arange(base.length)[None]))
    for layer, block in enumerate(rm.model.model.layers):
        normed = block.input_layernorm(base.resid_pre[layer])
        for kind, width in (("q", 4), ("k", 2)):
            made = getattr(block.self_attn, f"{kind}_proj")(normed).unflatten(-1, (width, -1))
            torch.testing.assert_close(base.activation(kind, layer), rotate(made, cos, sin), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(base.activation("v", layer).flatten(1), block.self_attn.v_proj(normed), rtol=1e-5, atol=1e-5)
