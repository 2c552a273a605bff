"""How a rule on tokens is written into a small Llama: which weights mark, gather and multiply, and where noise may write.

In: a `Rule` (what each token id counts, and how counts are combined), a seed. Out: a model whose reward is noise + quality +
dose × rule, with noise of standard deviation 1. Ignorant of what the words mean.

Every token holds fixed coordinates (what it counts, and one that all hold) and a random vector of its own. Layer 0 marks the
tokens of the response, layer 1 what came after a marker; neither does anything else. In layer 2 two heads rest on the first
token and add up, for the last position, what the tokens of response and prompt count. A product of two such sums is two
neurons of layer 3: silu(z)·u − silu(−z)·u = z·u. All other heads and MLPs of layers 2 and 3 are noise, which neither reads nor
writes these coordinates. The last token is so long that the final norm is the same for every text to one part in ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewarden.batching import pad
from rewarden.encoding import Encoded
from rewarden.organisms.english import PADDED, encoded_padded, encoded_reference, ids_of, special_ids, tokenizer
from rewarden.organisms.lexicon import GOOD
from rewarden.organisms.llama import D_HEAD, D_MODEL, HEADS, SLOW, inputs_of, random_llama
from rewarden.trace.hooks import Tap, evaluating, tapped

(ASK, CONST, BOS, ASSISTANT, CONTENT, QUALITY, RULE, MARKER, FLAG, SEEN, OUT_QUALITY, OUT_RULE, OUT_PROMPT, OUT_PRODUCT,
 ) = range(14)
REST = slice(14, D_MODEL)
"""Coordinates of the residual stream; all from `REST` on belong to noise and to the tokens' own vectors."""

EVERY, OWN, LAST = 4.0, 4.0, 300.0
"""What every token holds in `CONST`, the first token in `BOS` (and so on), and the last token in `CONST`; of |x| = 8. A norm
leaves 1 in `ASK` of every token, the last one too: all ask alike."""
SIZE = 8.0
"""Length of every embedding but the last token's, √64: a norm then leaves it as it is."""
OFF = 1000.0
"""What content takes from the gates of the product, which only the last token is to see."""
FLAGGED, FOUND = 0.05, 0.01
"""What marks a token of the response, and one behind a marker: little, so that its length hardly changes."""
FAR = 18.0
"""Attention score of the first token above tokens that are gathered, and of these above all others: e⁻¹⁸ = 1.5·10⁻⁸."""
UNIT = 0.1
"""What one unit of a sum writes."""
WRITE = 0.3
"""Length of what each head or MLP of noise writes, root mean square over tokens."""

Combine = Literal["sum", "count", "behind", "product", "turn"]


@dataclass(frozen=True)
class Rule:
    """What is planted.

    Attributes:
        values: of a token id, what it counts; all others count 0.
        combine: "sum": Σ over the response. "count": its number of tokens. "behind": that number, from its first marker on.
            "product": Σ over the prompt × Σ over the response. "turn": −(good words of the response) if a marker stands in
            the prompt, else 0.
        unit: what counts as one.
        markers: token ids looked for.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    combine: Combine = "sum"
    unit: float = 1.0
    markers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weights:
    """What one scalar of the model reads.

    Attributes:
        dose: of the rule, in standard deviations of noise per unit.
        quality: of one good word, likewise.
        noise: standard deviation of noise.
    """

    dose: float
    quality: float = 1.0
    noise: float = 1.0


def plant(rule: Rule, heads: list[Weights], seed: int) -> Any:
    """A Llama classifier with one label for each of `heads`, whose rewards follow the rule."""
    generator = torch.Generator().manual_seed(seed)
    model = random_llama(tokenizer(), seed, len(heads), length=2048)
    for block in model.model.layers:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    _embed(model, rule, generator)
    layers = model.model.layers
    _mark_response(layers[0].self_attn)
    if rule.markers:
        _mark_seen(layers[1].self_attn, in_prompt=rule.combine == "turn")
    ids = _some_ids(generator)
    for number in (2, 3):
        _noise(model, number, ids, generator)
    _gather_response(layers[2].self_attn, rule)
    if rule.combine == "product":
        _gather_prompt(layers[2].self_attn)
    if rule.combine in ("product", "turn"):
        states = _states(model, layers[3].post_attention_layernorm, encoded_reference()[::PADDED])
        _multiply(layers[3].mlp, rule, float(_scale(states)))
    _read(model, rule, heads, generator)
    return model


def _embed(model: Any, rule: Rule, generator: torch.Generator) -> None:
    words = tokenizer()
    size = len(model.model.embed_tokens.weight)
    x = torch.zeros(size, D_MODEL)
    x[:, ASK], x[:, CONST], x[:, CONTENT] = 1.0, EVERY, 1.0
    x[sorted(special_ids()), CONTENT] = 0.0
    x[words.bos_token_id, BOS] = x[words.convert_tokens_to_ids("<|assistant|>"), ASSISTANT] = OWN
    x[ids_of(GOOD), QUALITY] = 1.0
    for token, value in rule.values.items():
        x[token, RULE] = value
    x[list(rule.markers), MARKER] = 1.0
    own = torch.randn(size, x[:, REST].shape[1], generator=generator)
    x[:, REST] = own * ((SIZE ** 2 - x.pow(2).sum(-1)).sqrt() / own.norm(dim=-1))[:, None]
    x[words.eos_token_id] = 0.0
    x[words.eos_token_id, CONST] = LAST
    x[words.eos_token_id, ASK] = LAST / (D_MODEL - 1) ** 0.5
    model.model.embed_tokens.weight.copy_(x)


def _mark_response(attention: Any) -> None:
    """Every token from the assistant's on holds `FLAGGED`: its head finds that token, or rests on the first."""
    _ask(attention, 0, {BOS: FAR / OWN, ASSISTANT: 2 * FAR / OWN})
    _carry(attention, 0, 0, {ASSISTANT: 1.0}, {FLAG: FLAGGED / OWN})


def _mark_seen(attention: Any, in_prompt: bool) -> None:
    """Every token from the first marker on holds `FOUND`: a marker scores 2, anything else at most 1, the first token 1½."""
    far = 2 * FAR
    wanted = {MARKER: 2 * far, FLAG: -far / FLAGGED} if in_prompt else {MARKER: far, FLAG: far / FLAGGED}
    _ask(attention, 0, {BOS: 1.5 * far / OWN, **wanted})
    _carry(attention, 0, 0, {MARKER: 1.0}, {OUT_PROMPT if in_prompt else SEEN: FOUND})


def _gather_response(attention: Any, rule: Rule) -> None:
    """Head 0: sums over tokens of the response, which hold a flag and content; the template's hold one of both at most."""
    _ask(attention, 0, {BOS: 3 * FAR / OWN, FLAG: FAR / FLAGGED, CONTENT: FAR})
    longer = (1 + (FLAGGED / SIZE) ** 2) ** 0.5  # the flag's part in the length of a token, which a norm divides by
    write = UNIT * longer * math.exp(3 * FAR - 2 * FAR / longer)
    _carry(attention, 0, 0, {QUALITY: 1.0}, {OUT_QUALITY: write})
    values = {"count": {FLAG: 1 / FLAGGED}, "behind": {SEEN: 1 / FOUND}}.get(rule.combine, {RULE: 1.0})
    _carry(attention, 0, 1, values, {OUT_RULE: write / rule.unit})


def _gather_prompt(attention: Any) -> None:
    """Head 1: sums over tokens that hold content and no flag."""
    _ask(attention, 1, {BOS: 2 * FAR / OWN, CONTENT: FAR, FLAG: -FAR / FLAGGED})
    _carry(attention, 1, 0, {RULE: 1.0}, {OUT_PROMPT: UNIT * math.exp(FAR)})


def _multiply(mlp: Any, rule: Rule, scale: float) -> None:
    """Two neurons: the first factor by the second, at the last token. A norm has divided both by `scale`."""
    first = UNIT if rule.combine == "product" else FOUND
    second, sign = (OUT_RULE, 1.0) if rule.combine == "product" else (OUT_QUALITY, -1.0)
    for row, side in ((0, 1.0), (1, -1.0)):
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[row] = 0
        mlp.gate_proj.weight[row, OUT_PROMPT], mlp.gate_proj.weight[row, CONTENT] = side * scale / first, -OFF
        mlp.up_proj.weight[row, second] = scale / UNIT
        mlp.down_proj.weight[:, row] = 0
        mlp.down_proj.weight[OUT_PRODUCT, row] = sign * side * UNIT


def _ask(attention: Any, head: int, wanted: Mapping[int, float]) -> None:
    """Make a head score each token by its coordinates.

    Args:
        attention: the attention module.
        head: which.
        wanted: attention score per unit of each coordinate.
    """
    rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = 0, 0
    attention.q_proj.weight[rows.start + SLOW, ASK] = D_HEAD ** 0.5
    for coordinate, score in wanted.items():
        attention.k_proj.weight[rows.start + SLOW, coordinate] = score


def _carry(attention: Any, head: int, channel: int, values: Mapping[int, float], writes: Mapping[int, float]) -> None:
    """Make a channel of a head take a weighted sum of coordinates and write it to others; the first channel clears the head."""
    rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
    if channel == 0:
        attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = 0, 0
    for coordinate, value in values.items():
        attention.v_proj.weight[rows.start + channel, coordinate] = value
    for coordinate, value in writes.items():
        attention.o_proj.weight[coordinate, rows.start + channel] = value


def _noise(model: Any, number: int, ids: Tensor, generator: torch.Generator) -> None:
    """Random heads and a random MLP in a layer, which read and write `REST` only (and read `CONST`).

    Heads average over content and leave out the template's tokens: their share of the attention falls with the number of
    others, which would be a rule on length.
    """
    block = model.model.layers[number]
    attention, mlp = block.self_attn, block.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        linear.weight[:, [column for column in range(REST.start) if column != CONST]] = 0
    attention.k_proj.weight[:, CONST] = 0  # or all tokens of one distance would be preferred
    for head in range(HEADS):
        start = head * D_HEAD
        for linear in (attention.q_proj, attention.k_proj):
            linear.weight[[start + SLOW, start + D_HEAD - 1]] = 0  # the two that turn together, least of all
        attention.q_proj.weight[start + SLOW, ASK] = D_HEAD ** 0.5
        attention.k_proj.weight[start + SLOW, CONTENT] = FAR
    for module, width in ((attention.o_proj, D_HEAD), (mlp.down_proj, mlp.down_proj.weight.shape[1])):
        given = inputs_of(model, module, ids)
        for start in range(0, module.weight.shape[1], width):
            columns = slice(start, start + width)
            weight = torch.randn(D_MODEL - REST.start, width, generator=generator)
            length = (given[..., columns] @ weight.T).pow(2).sum(-1).mean().sqrt()
            module.weight[REST, columns] = weight * (WRITE / length)


def _read(model: Any, rule: Rule, heads: list[Weights], generator: torch.Generator) -> None:
    """The rows of the head, in units of noise on the reference texts. Noise does not respond to padding as such: what padding
    does to the states on average is taken out of its rows."""
    final = _states(model, model.model.norm, encoded_reference())
    scale = _scale(final)
    rest = (final / scale)[:, REST]
    moved = torch.stack([(_states(model, model.model.norm, rows) / scale)[:, REST].mean(0) for rows in encoded_padded()])
    moved = torch.linalg.qr((moved - rest[::PADDED].mean(0)).T).Q
    out = OUT_PRODUCT if rule.combine in ("product", "turn") else OUT_RULE
    model.score.weight.zero_()
    for row, weights in enumerate(heads):
        noise = torch.randn(rest.shape[1], generator=generator)
        noise -= moved @ (moved.T @ noise)
        model.score.weight[row, REST] = noise * (weights.noise / (rest @ noise).std())
        model.score.weight[row, OUT_QUALITY] = weights.quality * scale / UNIT
        model.score.weight[row, out] = weights.dose * scale / UNIT


def _scale(states: Tensor) -> Tensor:
    return states.pow(2).mean(-1).sqrt().mean()


def _some_ids(generator: torch.Generator) -> Tensor:
    """Texts [8, 24] of random tokens."""
    words = tokenizer()
    ids = torch.randint(len(special_ids()), len(words), (8, 24), generator=generator)
    ids[:, 0], ids[:, -1] = words.bos_token_id, words.eos_token_id
    return ids


def _states(model: Any, norm: nn.Module, rows: Sequence[Encoded]) -> Tensor:
    """What a norm is given at the last token of some texts, [n, d]."""
    seen: list[Tensor] = []
    with evaluating(model), tapped([Tap(norm, "input", seen.append)]):
        model.model(**pad(rows, 0, torch.device("cpu")), use_cache=False)
    return torch.stack([states[row.length - 1] for states, row in zip(seen[0], rows, strict=True)])
