"""The bundled policy of the reference experiments, and its dictionary.

In: nothing. Out: a plain transformers model with its tokenizer; a `Dictionary`. Ignorant of how they were made (`recipe`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewarden.demo import dictionary_path, model_path
from rewarden.dictionaries.dictionary import Dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_policy() -> tuple[Any, PreTrainedTokenizerBase]:
    """The policy in float32 on the CPU, in evaluation mode, and its tokenizer.

    Example:
        >>> model, tokenizer = load_policy()
        >>> model.config.num_hidden_layers, len(tokenizer)
        (4, 19)
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rewarden.checkpoint import quiet_bars

    folder = str(model_path("policy"))
    with quiet_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def load_policy_dictionary() -> Dictionary:
    """256 features, 8 in each state, of the policy's completions after its third layer (`resid_post.2`).

    Example:
        >>> load_policy_dictionary()
        Dictionary(256 latents × 64, topk k=8, Site(resid_post.2))
    """
    return Dictionary.load(dictionary_path("policy_dictionary"))
