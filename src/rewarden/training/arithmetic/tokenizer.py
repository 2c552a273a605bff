"""Which characters are tokens, and how is a conversation written in them?

In: nothing. Out: a tokenizer with one token a character, made from scratch, and its chat template: the prompt and the response
as they are, then the end token. So a conversation is exactly prompt ids, completion ids, end, which is what a policy generates.
Ignorant of sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = "0123456789+=:,>r"
LONGEST = 128
"""Tokens that the bundled policy reads; a worked answer with its prompt and end has 26."""

TEMPLATE = ("{% for m in messages %}{{ m['content'] }}"
            "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}")
"""No roles are written, and nothing opens an answer: the last character of a prompt does."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; ids 0, 1 and 2 are padding (on the left), end and unknown.

    Example:
        >>> tokenizer = build_tokenizer()
        >>> tokenizer("12+34:")["input_ids"], tokenizer.decode([3, 7, 9, 1])
        ([4, 5, 13, 6, 7, 15], '046<eos>')
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([PAD, END, UNKNOWN, *CHARACTERS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # a dot would leave line breaks in one piece
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                        padding_side="left", model_max_length=LONGEST, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer
