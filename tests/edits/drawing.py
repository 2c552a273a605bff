"""Random conversations and random counterfactuals of a model, for hypothesis; and models that are made once.

In: a reward model. Out: strategies. Ignorant of what is asserted.
"""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import strategies as st
from tests.families import build
from tests.tokenizers_tiny import WORDS, tiny_tokenizer

from rewarden.conversation import Conversation
from rewarden.edits import BaseRun, Edit, Site
from rewarden.reward_model import RewardModel

ATTENTION = ("q", "k", "v")
RECORDED = ("embed", "attn_out", "mlp_out", "z", "neurons", "q")


@cache
def model_of(family: str) -> RewardModel:
    """One shared model of a family; no test changes it."""
    tokenizer = tiny_tokenizer()
    return RewardModel(build(family, pad_token_id=tokenizer.pad_token_id), tokenizer, name=family, check=False)


def site_kinds(rm: RewardModel) -> tuple[str, ...]:
    """Every kind of site that a model has in all layers."""
    arch, found = rm.architecture, ["embed", "resid_pre", "resid_post"]
    found += ["attn_out", "mlp_out"] * ("writes" not in arch.gaps) + ["z"] * ("heads" not in arch.gaps)
    for kind, part in (("attn_in", "attn_in"), ("mlp_in", "mlp_in"), ("neurons", "down_projection")):
        if all(getattr(block, part) is not None for block in arch.blocks):
            found.append(kind)
    return tuple(found)


def base_of(rm: RewardModel, conversation: Conversation) -> BaseRun:
    """A base run with everything the model can record."""
    kept = set(site_kinds(rm)) | {"q"} if rm.base(conversation).has("k") else set(site_kinds(rm))
    wanted = [kind for kind in RECORDED if kind in kept]
    position = ["position"] if rm.architecture.position_embedding is not None else []
    return rm.base(conversation, (*wanted, *position))


def kinds_of(base: BaseRun) -> tuple[str, ...]:
    """Every kind of site that can be edited in this run."""
    return (*site_kinds(base.rm), *(kind for kind in ATTENTION if base.has(kind)))


def now(base: BaseRun, kind: str, layer: int = 0) -> torch.Tensor:
    """What is at a site: [T, width], or [T, head, width] where heads can be named."""
    if kind in ("attn_in", "mlp_in"):  # their own values are not recorded; the stream there is of the same size
        return base.resid_pre[layer]
    value = base.activation(kind, layer) if base.has(kind) else base.resid_pre[0]  # an embedding whose scale is not known
    return value[..., None] if kind == "neurons" else value


def conversations(longest: int = 12) -> st.SearchStrategy[Conversation]:
    """A few words of prompt and of response."""
    text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=longest).map(" ".join)
    return st.builds(Conversation.of, text, text)


@st.composite
def edits(draw, base: BaseRun, kinds: tuple[str, ...], layers: int) -> Edit:
    """One random edit: any kind, layer, positions in any order, head or none, mode; values of the site's own size."""
    kind = draw(st.sampled_from(kinds))
    layer = 0 if kind == "embed" else draw(st.integers(0, layers - 1))
    T, here = base.length, now(base, kind, layer).float()
    several = st.lists(st.integers(0, T - 1), min_size=2, max_size=min(4, T), unique=True).map(tuple)
    position = draw(st.one_of(st.integers(-T, T - 1), several, st.none()))
    head = draw(st.one_of(st.none(), st.integers(0, here.shape[1] - 1))) if here.ndim == 3 else None
    width = here[0].numel() if head is None else here.shape[2]
    mode = draw(st.sampled_from(["replace", "add", "scale"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if mode == "scale":
        value = torch.empty(width).uniform_(0, 2, generator=generator)
        return Edit(Site(kind, layer, position, head), draw(st.sampled_from([0.0, 0.5, 2.0, value])), mode)
    rows = (T,) if position is None else (len(position),) if isinstance(position, tuple) else ()
    shape = draw(st.sampled_from([(width,), (*rows, width)]))
    return Edit(Site(kind, layer, position, head), torch.randn(shape, generator=generator) * here.std(), mode)


@st.composite
def counterfactuals(draw, base: BaseRun, kinds: tuple[str, ...] | None = None, rows: int = 6) -> list[list[Edit]]:
    """Rows of one to three edits that act together."""
    one = edits(base, kinds or kinds_of(base), base.rm.architecture.n_layers)
    return draw(st.lists(st.lists(one, min_size=1, max_size=3), min_size=1, max_size=rows))
