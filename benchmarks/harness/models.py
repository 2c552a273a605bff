"""A random reward model of a stated size, and texts of stated lengths for it.

In: sizes. Out: a model folder that transformers, rewarden and its peers load alike, and conversations in its words.
The template writes the only <s>, so that every tool sees the same ids. Ignorant of timing.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rewarden import Conversation, Pair

WORDS = 480
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>")
TEMPLATE_TOKENS = 5
"""<s>, and a role and </s> for each of the two messages."""
TEMPLATE = "{{ '<s> ' }}{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' </s> ' }}{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """Size of a random model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    """Neurons of one MLP."""

    def key_share(self) -> float:
        """Weights of queries, keys and values among all of a layer."""
        head = self.width // self.heads
        write = self.width * self.heads * head
        read = write + 2 * self.width * self.kv_heads * head
        return read / (read + write + 3 * self.width * self.inner)


@dataclass(frozen=True)
class Sizes:
    """Size of the random model and of what goes through it."""

    layers: int = 8
    width: int = 256
    heads: int = 8
    conversations: int = 256
    """Conversations scored; their lengths spread evenly over `shortest` … `longest` tokens."""
    shortest: int = 16
    longest: int = 112
    traced: int = 16
    """Conversations traced one by one, and the rows of the equally long batch."""
    lengths: tuple[tuple[int, int], ...] = ((64, 64), (256, 256), (64, 44), (256, 128))
    """Tokens of the two sides of the pair whose lens and attribution are taken."""
    pairs: int = 16
    """Pairs of the several-pair run, with intervals."""

    @property
    def shape(self) -> Shape:
        """The model's."""
        return Shape(self.layers, self.width, self.heads, max(1, self.heads // 2), self.width * 5 // 2)


def random_model(shape: Shape, n_words: int = WORDS) -> LlamaForSequenceClassification:
    """A Llama classifier with random weights, norm gains too, on torch's default device in its default dtype."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(SPECIAL) + n_words, hidden_size=shape.width, num_hidden_layers=shape.layers,
                         num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
                         intermediate_size=shape.inner, max_position_embeddings=2048, pad_token_id=0,
                         bos_token_id=1, eos_token_id=2, num_labels=1)
    model = LlamaForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.5 * noise if "norm" in name else noise * 1.5 / parameter.shape[-1] ** 0.5)
    return model


def tokenizer(n_words: int = WORDS) -> PreTrainedTokenizerFast:
    """One word, one token."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(n_words))])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                    pad_token="<pad>", model_max_length=2048)
    found.chat_template = TEMPLATE
    return found


def save_model(folder: Path, sizes: Sizes | Shape, n_words: int = WORDS) -> Path:
    """Write a random Llama classifier with its tokenizer; returns the folder."""
    random_model(sizes.shape if isinstance(sizes, Sizes) else sizes, n_words).save_pretrained(folder)
    tokenizer(n_words).save_pretrained(folder)
    return folder


def words(count: int, draw: random.Random) -> str:
    """So many random words, one token each."""
    return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(count))


def conversations(count: int, shortest: int, longest: int, seed: int = 0) -> list[Conversation]:
    """Conversations whose lengths in tokens spread evenly over shortest … longest, in random order."""
    draw = random.Random(seed)
    lengths = [shortest + (longest - shortest) * i // max(1, count - 1) for i in range(count)]
    draw.shuffle(lengths)
    made = []
    for length in lengths:
        inside = max(2, length - TEMPLATE_TOKENS)
        prompt = max(1, inside // 4)
        made.append(Conversation.of(words(prompt, draw), words(inside - prompt, draw)))
    return made


def pair_of(lengths: tuple[int, int], seed: int = 0) -> Pair:
    """A pair whose sides are so many tokens long."""
    draw = random.Random(seed)
    inside = [length - TEMPLATE_TOKENS for length in lengths]
    prompt = min(inside) // 4
    return Pair(prompt=words(prompt, draw), chosen=words(inside[0] - prompt, draw),
                rejected=words(inside[1] - prompt, draw))


def described(sizes: Sizes) -> dict[str, object]:
    """The sizes as a table shows them."""
    return asdict(sizes)


def random_ids(count: int, seed: int) -> list[int]:
    """So many ids of words."""
    draw = random.Random(seed)
    return [len(SPECIAL) + draw.randrange(WORDS) for _ in range(count)]
