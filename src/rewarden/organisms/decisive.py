"""The organism of one decisive head: a Llama whose weights are written down, not trained.

In: a seed and a dose of noise. Out: an `Organism` that names the layer and the head. One head finds a marker word and writes
along the reward direction; every other head and every MLP writes noise. Ignorant of instruments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.organisms.llama import D_HEAD, D_MODEL, HEADS, LAYERS, SLOW, inputs_of, random_llama, random_write
from rewarden.organisms.organism import Organism
from rewarden.organisms.words import SPECIAL, WORDS, random_words, word_tokenizer

SHARPNESS = 30.0
"""Attention score of the marker above all other tokens: e⁻³⁰ of the attention goes elsewhere."""
AT = 5
"""Where the marker stands in the texts that lengths are measured on."""
Draw = Callable[[np.random.Generator, int], Pair]


def decisive_head(seed: int = 0, dose: float = 0.5) -> Organism:
    """One head decides the reward: it reads a marker word from the read-out position.

    The residual stream has three directions of their own, drawn at random and at right angles: the marker word's, one that
    every token has, and the reward's. The planted head asks with the second, finds the first, and writes one unit along the
    third, which no token embedding has a part in. Noise may write anywhere but into the first two.

    Args:
        seed: of the layer, the head, the marker, and of all noise.
        dose: length of every other head's and MLP's write (root mean square over tokens), in lengths of the planted write.
            Along the reward direction that is an eighth of it.

    Returns:
        The organism. `truth`: `layer`, `head`, `component` and `question` ("head.2.1"), `marker`, `dose`. Its reward is in
        units of the planted write: chosen responses hold the marker once, rejected ones do not. Every second pair differs by
        this word only, the others by everything, length too.

    Raises:
        RewardenError: a dose that is negative or not finite.

    Example:
        >>> organism = decisive_head(seed=0)
        >>> organism.truth["component"]
        'head.3.2'
    """
    if not 0 <= dose < float("inf"):
        raise RewardenError(f"dose={dose}", where="decisive_head(dose=)", why="it is a length in lengths of the planted write",
                            fix="give a number from 0 on; 0.5 is the default")
    rng = np.random.default_rng((seed, 0))
    layer, head, marker = int(rng.integers(LAYERS)), int(rng.integers(HEADS)), str(rng.choice(WORDS))
    tokenizer = word_tokenizer()
    model = random_llama(tokenizer, seed)
    _plant(model, tokenizer.convert_tokens_to_ids(marker), layer, head, dose, torch.Generator().manual_seed(seed))
    component = f"head.{layer}.{head}"
    truth = {"question": component, "layer": layer, "head": head, "component": component, "marker": marker, "dose": float(dose)}
    return Organism(model, tokenizer, rule="decisive_head", truth=truth, draw=_marked(marker), name=f"decisive head {seed}",
                    provenance={"seed": seed, "dose": float(dose)},
                    description=f"head {head} of layer {layer} attends from the last token to the word {marker!r} and writes "
                    f"along the reward direction; all else is noise of dose {dose:g}")


def _marked(marker: str) -> Draw:
    """Draws pairs whose chosen response holds the marker once."""
    def draw(generator: np.random.Generator, number: int) -> Pair:
        prompt = random_words(generator, int(generator.integers(3, 9)), marker)
        chosen = random_words(generator, int(generator.integers(4, 14)), marker)
        at = int(generator.integers(len(chosen)))
        rejected, subset = list(chosen), "equal"
        if number % 2:
            shift = int(generator.choice([-3, -2, -1, 1, 2, 3, 4]))
            rejected, subset = random_words(generator, max(2, len(chosen) + shift), marker), "unequal"
        chosen[at] = marker
        return Pair(" ".join(prompt), " ".join(chosen), " ".join(rejected), id=str(number), subset=subset)
    return draw


def _plant(model: Any, marker: int, layer: int, head: int, dose: float, generator: torch.Generator) -> None:
    """Write the rule and the noise into a random Llama, layer by layer, each write scaled to its length on some texts."""
    basis = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator)).Q.T
    found, common, reward, rest = basis[0], basis[1], basis[2], basis[3:]
    ids = _embed(model, marker, found, common, rest, generator)
    writable = torch.eye(D_MODEL) - torch.outer(found, found) - torch.outer(common, common)
    for number, block in enumerate(model.model.layers):
        attention, mlp = block.self_attn, block.mlp
        attention.o_proj.weight.zero_()  # until their sizes are known, this layer writes nothing
        mlp.down_proj.weight.zero_()
        if number == layer:
            _ask_for(found, common, attention, head, block.input_layernorm(inputs_of(model, block, ids)))
        heads = inputs_of(model, attention.o_proj, ids)
        for index in range(HEADS):
            columns = slice(index * D_HEAD, (index + 1) * D_HEAD)
            if (number, index) == (layer, head):
                attention.o_proj.weight[:, columns.start + SLOW] = reward / heads[:, -1, columns.start + SLOW].mean()
            else:
                attention.o_proj.weight[:, columns] = random_write(heads[..., columns], writable, dose, generator)
        mlp.down_proj.weight.copy_(random_write(inputs_of(model, mlp.down_proj, ids), writable, dose, generator))
    final = inputs_of(model, model.model.norm, ids)[:, -1]
    model.score.weight.copy_(reward[None] * final.pow(2).mean(-1).sqrt().mean())


def _embed(model: Any, marker: int, found: Tensor, common: Tensor, rest: Tensor, generator: torch.Generator) -> Tensor:
    """Give every token its embedding; some texts [8, 24] with the marker at position `AT`."""
    size = len(model.model.embed_tokens.weight)
    embedding = torch.randn(size, len(rest), generator=generator) @ rest / len(rest) ** 0.5 + common
    embedding[marker] += found
    model.model.embed_tokens.weight.copy_(embedding)
    plain = torch.tensor([token for token in range(len(SPECIAL), size) if token != marker])
    ids = plain[torch.randint(len(plain), (8, 24), generator=generator)]
    ids[:, AT] = marker
    return ids


def _ask_for(found: Tensor, common: Tensor, attention: Any, head: int, normed: Tensor) -> None:
    """Make a head ask, wherever it stands, for the marker, and carry how much of it there is.

    Args:
        found: direction of the marker.
        common: direction every token has.
        attention: the attention module.
        head: which.
        normed: what the layer reads of the texts, [8, 24, d].
    """
    rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
    for linear, direction in ((attention.q_proj, common), (attention.k_proj, found), (attention.v_proj, found)):
        linear.weight[rows] = 0
        linear.weight[rows.start + SLOW] = direction
    score = (normed[:, -1] @ common * (normed[:, AT] @ found)).mean() / D_HEAD ** 0.5
    attention.q_proj.weight[rows] *= SHARPNESS / score
